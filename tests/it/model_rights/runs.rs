//! The sound rules within some bounds: nothing that must hold is broken, and what must be seen is seen.

use super::Pool;
use super::properties::{BACK, COVERED, INHERITED, LATE, MOVED, OUTSIDE, SHORT, SPENT, SURE};
use super::rules::{Bounds, Rules};
use crate::model::runs::{holds, large};

impl Bounds {
    /// Two sites that are promised from, and no fault.
    pub(super) const QUIET: Bounds = Bounds {
        events: [2, 2],
        sales: 0,
        refunds: 0,
        holds: [false, false],
        connections: [1, 1],
        wire: 1,
        asks: 0,
        withdrawals: 0,
        online: 1,
        hub_crashes: 0,
        hub_restores: 0,
        site_restores: 0,
        swaps: 0,
        losts: 0,
        reclaims: 0,
    };
}

fn check(name: &str, bounds: Bounds, seen: &[&str]) {
    holds(name, Pool { rules: Rules::SOUND, bounds }, seen);
}

/// One site, and the hub's own channel: what the other site is to it.
const ONE: Bounds = Bounds { events: [2, 0], connections: [2, 0], ..Bounds::QUIET };
const HOLD: [bool; 2] = [true, false];

#[test]
fn units_that_one_site_gives_back_and_the_other_promises() {
    let bounds = Bounds { events: [1, 2], asks: 1, online: 0, withdrawals: 1, ..Bounds::QUIET };
    check("moved", bounds, &[SPENT, MOVED]);
}

/// Two different messages at once, so that they overtake each other.
#[test]
fn messages_that_come_late_or_twice() {
    check("late", Bounds { connections: [1, 0], wire: 2, asks: 1, ..ONE }, &[MOVED]);
}

#[test]
fn holds_at_one_of_two_sites() {
    check("holds", Bounds { events: [2, 1], holds: HOLD, online: 0, ..Bounds::QUIET }, &[SPENT, LATE]);
}

#[test]
fn a_site_that_goes_back_twice() {
    check("a site goes back", Bounds { site_restores: 2, online: 2, ..ONE }, &[OUTSIDE]);
}

#[test]
fn a_new_box_that_inherits_a_hold() {
    check("new box", Bounds { holds: HOLD, swaps: 1, online: 0, ..ONE }, &[LATE, INHERITED]);
}

#[test]
fn a_restored_hub_and_a_new_box() {
    let bounds = Bounds { events: [1, 0], hub_restores: 1, swaps: 1, online: 2, ..ONE };
    check("the hub goes back", bounds, &[SURE]);
}

#[test]
fn a_box_that_was_lost_and_was_not() {
    let bounds = Bounds { holds: HOLD, sales: 1, losts: 1, reclaims: 1, online: 0, connections: [1, 0], ..ONE };
    check("lost", bounds, &[LATE, INHERITED, COVERED]);
}

/// Minutes, and gigabytes: with `MODEL=large`.
#[test]
fn further_bounds() {
    if !large() {
        return;
    }
    let lost = Bounds { holds: HOLD, sales: 1, losts: 1, reclaims: 1, online: 1, ..ONE };
    check("lost, and comes back", lost, &[LATE, INHERITED, COVERED, SHORT, BACK]);
    let hub = Bounds { events: [1, 1], connections: [2, 1], hub_restores: 1, online: 0, ..Bounds::QUIET };
    check("two sites, and the hub goes back", hub, &[SURE]);
    let forgotten = Bounds { events: [1, 0], losts: 1, reclaims: 1, hub_restores: 1, ..ONE };
    check("lost, and the hub goes back", forgotten, &[SURE, SHORT, BACK]);
    let both = Bounds { events: [1, 0], connections: [3, 0], hub_restores: 1, site_restores: 1, ..ONE };
    check("both go back", both, &[SURE]);
    let site = Bounds { holds: HOLD, site_restores: 1, online: 0, ..ONE };
    check("a site with a hold goes back", site, &[LATE, INHERITED]);
    let late = Bounds { events: [1, 0], wire: 2, hub_restores: 1, online: 2, ..ONE };
    check("late, and the hub goes back", late, &[SURE]);
}
