//! What must always hold, and what must be seen to happen. Safety only, as in `model`.

use stateright::Property;

use super::state::{Buyer, Hold, Over, SITES, Site, State};
use super::{Pool, hub};

pub(super) const BOUNDED: &str =
    "promises are within the pool, but for in-hand sales without a right and what is outside the promise";
pub(super) const REPORTED: &str =
    "promises are within the pool, but for what the hub sees, has not heard of yet, and what is outside the promise";
pub(super) const SPENDABLE: &str = "what may still be promised without a further word is within the pool too";
pub(super) const ASKED: &str = "no site gives back more than it was asked for";

pub(super) const ALWAYS: [&str; 4] = [BOUNDED, REPORTED, SPENDABLE, ASKED];

pub(super) const SPENT: &str = "all is promised, none of it by the hub";
pub(super) const MOVED: &str = "what a site gave back is promised elsewhere";
pub(super) const LATE: &str = "an expired hold is committed with a right";
pub(super) const INHERITED: &str = "a hold of an earlier life is committed";
pub(super) const COVERED: &str = "a sale beyond the rights is covered by a grant";
pub(super) const SHORT: &str = "the hub sees an oversell";
pub(super) const SURE: &str = "a restored hub grants again";
pub(super) const OUTSIDE: &str = "as much is oversold as is outside the promise";
pub(super) const BACK: &str = "a box that was declared lost goes on under a new life";

pub(super) fn all() -> Vec<Property<Pool>> {
    let always = Property::<Pool>::always;
    let sometimes = Property::<Pool>::sometimes;
    vec![
        always(BOUNDED, |_, state| promised(state) <= pool(state) + beyond(state, |_, _| true) + i(state.outside)),
        always(REPORTED, |model, state| promised(state) <= said(model, state)),
        always(SPENDABLE, |model, state| promised(state) + spendable(model, state) <= said(model, state)),
        always(ASKED, |_, state| state.sites.iter().all(|site| site.ledger.rights.returned <= site.ledger.asked)),
        sometimes(SPENT, |_, state| state.online == 0 && promised(state) == pool(state)),
        sometimes(MOVED, |_, state| moved(state)),
        sometimes(LATE, |_, state| state.seen.late),
        sometimes(INHERITED, |_, state| state.seen.inherited),
        sometimes(COVERED, |_, state| {
            state.sites.iter().any(|site| site.ghost.beyond != 0 && site.ledger.rights.available() >= 0)
        }),
        sometimes(SHORT, |model, state| hub::free(&state.hub.disk, &state.sites, &model.rules) < 0),
        sometimes(SURE, |model, state| state.hub.incarnation > 0 && hub::may_spend(state, &model.rules)),
        sometimes(OUTSIDE, |_, state| state.outside > 0 && promised(state) == pool(state) + i(state.outside)),
        sometimes(BACK, |_, state| {
            state.sites.iter().zip(&state.hub.disk.lives).any(|(site, lives)| {
                lives.iter().any(|life| life.over == Over::Lost) && lives.len() > 1 && site.ledger.epoch > 0
            })
        }),
    ]
}

fn i(units: u8) -> i16 {
    units.into()
}

/// What buyers were promised or took along, everywhere.
fn promised(state: &State) -> i16 {
    state.sites.iter().map(|site| i(site.ghost.promised())).sum::<i16>() + i(state.online)
}

/// What there is: units that came back are there again.
fn pool(state: &State) -> i16 {
    i(state.pool) + state.sites.iter().map(|site| i(site.ghost.refunded)).sum::<i16>()
}

/// In-hand sales without a right, those of some origins.
fn beyond(state: &State, of: impl Fn(usize, u8) -> bool) -> i16 {
    let count = |n: usize, site: &Site| (0..32).filter(|at| site.ghost.beyond >> at & 1 == 1 && of(n, *at)).count();
    state.sites.iter().enumerate().map(|(n, site)| count(n, site) as i16).sum()
}

/// The pool, what the hub sees is missing, what it has not heard of, and what is outside the promise.
fn said(model: &Pool, state: &State) -> i16 {
    let heard: Vec<u32> = (0..SITES)
        .map(|n| state.hub.disk.lives[n].iter().fold(0, |all, life| all | state.sites[n].origins(life.applied)))
        .collect();
    let unheard = beyond(state, |n, origin| heard[n] >> origin & 1 == 0);
    let short = (-hub::free(&state.hub.disk, &state.sites, &model.rules)).max(0);
    pool(state) + unheard + i16::from(short) + i(state.outside)
}

fn spendable(model: &Pool, state: &State) -> i16 {
    let at_sites = state.sites.iter().map(|site| i16::from(site.ledger.rights.available().max(0))).sum::<i16>();
    let at_hub = if hub::is_sure(&state.hub, &model.rules) {
        hub::free(&state.hub.disk, &state.sites, &model.rules).max(0)
    } else {
        0
    };
    at_sites + i16::from(at_hub)
}

fn moved(state: &State) -> bool {
    let [one, other] = &state.sites;
    let back = one.ledger.rights.returned > 0 || other.ledger.rights.returned > 0;
    back && promised(state) == i(state.pool)
        && state.sites.iter().all(|site| site.ledger.hold != Hold::Open)
        && state.sites.iter().all(|site| site.ghost.buyer != Buyer::Waits)
}
