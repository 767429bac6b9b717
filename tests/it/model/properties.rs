//! What must always hold, and what must be seen to happen. Safety only: stateright's `eventually` misses counterexamples
//! on paths that come back to a state or join another, and here every lost message makes such a path.

use stateright::Property;

use super::Protocol;
use super::state::{Mark, Site, State, records};

pub(super) const ONCE: &str = "no record is applied twice at the hub";
pub(super) const PREFIX: &str = "what is applied of a replica is the beginning of what one ledger of it wrote";
pub(super) const DOT: &str = "a dot names one record, unless its ledger was rolled back";
pub(super) const DURABLE: &str = "no site believes applied what the hub has not on disk";
pub(super) const KEPT: &str = "what was acknowledged is at its site, at the hub, or lost for a cause that is allowed";
pub(super) const COUNTED: &str = "the watermark passes nothing that is neither applied nor counted";
pub(super) const TRIM: &str = "trim removes nothing that no hub holds";
pub(super) const BACK: &str = "a site does not go back to an incarnation that is over";
pub(super) const RETIRED: &str = "nothing is applied of a replica that another has followed";

pub(super) const NEEDED: &str = "a site whose journal goes on from what the hub holds does not rejoin";

pub(super) const APPLIED: &str = "all of both sites is applied";
pub(super) const FORK: &str = "a fork is recognised";
pub(super) const REJOINED: &str = "a rejoin is completed";
pub(super) const RESENT: &str = "a restored hub gets again what it lacks";
pub(super) const BRIDGED: &str = "a restored hub is told what was trimmed";

pub(super) fn all() -> Vec<Property<Protocol>> {
    let always = Property::<Protocol>::always;
    let sometimes = Property::<Protocol>::sometimes;
    vec![
        always(ONCE, |_, state| each(state, |_, marks| once(marks))),
        always(PREFIX, |_, state| each(state, prefix)),
        always(DOT, |_, state| each(state, one_name)),
        always(DURABLE, |_, state| each(state, |site, marks| durable(site, marks, state))),
        always(KEPT, |_, state| each(state, kept)),
        always(COUNTED, |_, state| each(state, counted)),
        always(TRIM, |_, state| state.sites.iter().all(|site| !site.ghost.seen.trimmed_too_much)),
        always(BACK, |_, state| state.sites.iter().all(|site| !site.ghost.seen.went_back)),
        always(RETIRED, |_, state| state.sites.iter().all(|site| !site.ghost.seen.retired_grew)),
        always(NEEDED, |_, state| state.sites.iter().all(|site| !site.ghost.seen.needless)),
        sometimes(APPLIED, |model, state| model.all_applied(state)),
        sometimes(FORK, |_, state| state.sites.iter().any(|site| site.ledger.follows.is_some())),
        sometimes(REJOINED, |_, state| state.sites.iter().zip(&state.hub.disk).any(|(s, m)| rejoined(s, m))),
        sometimes(RESENT, |_, state| state.sites.iter().zip(&state.hub.disk).any(|(s, m)| resent(s, m))),
        sometimes(BRIDGED, |_, state| state.sites.iter().any(|site| site.ghost.seen.bridged)),
    ]
}

fn each(state: &State, holds: impl Fn(&Site, &[Mark]) -> bool) -> bool {
    state.sites.iter().zip(&state.hub.disk).all(|(site, marks)| holds(site, marks))
}

fn once(marks: &[Mark]) -> bool {
    let mut seen = 0;
    marks.iter().flat_map(|mark| mark.contents().collect::<Vec<_>>()).all(|content| {
        let new = seen & content.record() == 0;
        seen |= content.record();
        new
    })
}

fn prefix(site: &Site, marks: &[Mark]) -> bool {
    (0..).zip(marks).all(|(epoch, mark)| {
        let own = site.ledger.epoch == epoch && mark.watermark.begins(site.ledger.journal);
        own || mark.watermark.seq() == 0
            || site.ghost.written.iter().any(|(of, chain)| *of == epoch && mark.watermark.begins(*chain))
    })
}

fn one_name(site: &Site, marks: &[Mark]) -> bool {
    site.ghost.held.iter().all(|(epoch, then)| {
        let now = marks.get(usize::from(*epoch)).map(|mark| mark.watermark).unwrap_or_default();
        site.ghost.rolled_back >> epoch & 1 == 1 || now.begins(*then) || then.begins(now)
    })
}

/// But for what a restore of the hub took back and the site has not heard of.
fn durable(site: &Site, marks: &[Mark], state: &State) -> bool {
    let held = marks.get(usize::from(site.ledger.epoch)).map(|mark| mark.watermark.seq()).unwrap_or_default();
    site.ledger.told_by < state.hub_restores || site.ledger.applied <= held
}

fn kept(site: &Site, marks: &[Mark]) -> bool {
    let ghost = &site.ghost;
    let somewhere = site.ledger.holds() | records(marks);
    let allowed = ghost.overwritten | (ghost.given_up & ghost.taken_back);
    ghost.acknowledged & !(somewhere | allowed) == 0
}

fn counted(site: &Site, marks: &[Mark]) -> bool {
    let told = marks.iter().all(|mark| {
        let passed = ((1u16 << mark.watermark.seq()) - 1) as u8;
        mark.has | mark.lost | mark.left_out == passed
    });
    // Of ledgers that were given up, what lies before the fork is applied or counted too, once the hub knows the new one.
    let known = marks.len() > site.ledger.epoch.into();
    let before_fork =
        site.ledger.lineage.iter().zip(marks).all(|(fork, mark)| {
            fork.is_none_or(|fork| fork.seq() - fork.fork(mark.watermark).seq() <= mark.lost_after)
        });
    told && (!known || before_fork)
}

fn rejoined(site: &Site, marks: &[Mark]) -> bool {
    let Some(old) = &site.ledger.follows else { return false };
    let own = old.journal.seq() > old.fork.seq();
    let now = marks.get(usize::from(site.ledger.epoch)).map(|mark| mark.watermark).unwrap_or_default();
    own && !site.carrying() && now == site.ledger.journal && marks[usize::from(old.epoch)].retired
}

fn resent(site: &Site, marks: &[Mark]) -> bool {
    let ghost = &site.ghost;
    ghost.seen.resent && ghost.taken_back & records(marks) != 0
}
