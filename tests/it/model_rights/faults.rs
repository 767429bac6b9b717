//! Rules taken away, one by one: each time a property must break, so the properties are seen to see.

use stateright::{Checker, HasDiscoveries, Model};

use super::Pool;
use super::properties::{ALWAYS, ASKED, BOUNDED, REPORTED, SPENDABLE};
use super::rules::{Bounds, Rules};

/// One site is promised from, and the hub's own channel.
const ONE: Bounds = Bounds { events: [2, 0], connections: [1, 0], online: 3, ..Bounds::QUIET };

/// This property must break, or the weaker ones that say so sooner. Depth first: the way there is longer, and found
/// sooner.
fn breaks(rules: Rules, bounds: Bounds, expected: &[&str]) {
    let checker =
        Pool { rules, bounds }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let broken: Vec<_> = ALWAYS.into_iter().filter(|name| checker.discovery(name).is_some()).collect();
    assert!(!broken.is_empty(), "nothing broke: {rules:?}");
    for name in broken {
        assert!(expected.contains(&name), "{name}: {:#?}", checker.discovery(name).map(|path| path.into_actions()));
    }
}

const OVERSOLD: &[&str] = &[BOUNDED, REPORTED, SPENDABLE];

#[test]
fn a_hub_that_looks_at_what_is_promised_grants_the_same_unit_twice() {
    let bounds = Bounds { events: [2, 2], ..Bounds::QUIET };
    breaks(Rules { exposure: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn what_a_retired_life_did_not_report_is_not_free() {
    let bounds = Bounds { swaps: 1, connections: [2, 0], ..ONE };
    breaks(Rules { over_is_spent: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

/// Its sale beyond the rights was covered, and is not any more.
#[test]
fn the_holds_of_a_life_that_is_over_are_still_promised() {
    let bounds = Bounds { holds: [true, false], sales: 1, losts: 1, ..ONE };
    breaks(Rules { held_of_over: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_restored_hub_that_does_not_wait_grants_what_it_forgot() {
    let bounds = Bounds { hub_restores: 1, ..ONE };
    breaks(Rules { wait_for_reports: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

/// After the backup it went on under a new life, which the hub has forgotten.
#[test]
fn a_restored_hub_waits_for_a_site_whose_last_life_was_over() {
    let bounds = Bounds { events: [1, 0], hub_restores: 1, losts: 1, connections: [2, 0], ..ONE };
    breaks(Rules { wait_for_sites: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

/// Hello and RightsHeld come once more, to another incarnation than they were said to.
#[test]
fn a_late_report_is_of_a_site_that_has_more_by_now() {
    let bounds = Bounds { hub_restores: 1, wire: 2, ..ONE };
    breaks(Rules { report_to_incarnation: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

/// The box was swapped after the backup: of the life before, the hub has forgotten what it had.
#[test]
fn a_report_of_the_last_life_alone_leaves_out_what_the_first_one_promised() {
    let bounds = Bounds { hub_restores: 1, swaps: 1, connections: [2, 0], ..ONE };
    breaks(Rules { report_earlier: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_hub_that_adds_up_counts_a_return_twice() {
    let bounds = Bounds { asks: 1, ..ONE };
    breaks(Rules { replace: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_site_that_answers_twice_gives_back_more_than_it_was_asked_for() {
    let bounds = Bounds { asks: 1, ..ONE };
    breaks(Rules { answer_once: false, ..Rules::SOUND }, bounds, &[ASKED]);
}

/// What a site had and was told less of by a hub that forgot it, it does not report.
#[test]
fn granted_that_another_incarnation_lowers_is_not_reported() {
    let bounds = Bounds { events: [1, 0], hub_restores: 1, connections: [2, 0], wire: 2, ..ONE };
    breaks(Rules { granted_grows: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_grant_of_an_earlier_session_is_of_a_hub_that_is_no_more() {
    let bounds = Bounds { events: [1, 0], hub_restores: 1, connections: [2, 0], wire: 2, ..ONE };
    breaks(Rules { own_session: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_grant_that_is_said_before_its_commit_is_granted_again() {
    breaks(Rules { commit_then_speak: false, ..Rules::SOUND }, ONE, OVERSOLD);
}

#[test]
fn an_inherited_hold_that_brings_its_right_is_in_two_lives() {
    let bounds = Bounds { holds: [true, false], swaps: 1, connections: [2, 0], ..ONE };
    breaks(Rules { inherited_no_right: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

/// In the box that is gone it had expired, and its unit was promised to another.
#[test]
fn a_hold_that_a_new_box_believes_open_may_be_over() {
    let bounds = Bounds { holds: [true, false], swaps: 1, connections: [2, 0], ..ONE };
    breaks(Rules { inherited_needs_right: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_hold_that_the_fork_says_is_over_is_over() {
    let bounds = Bounds { holds: [true, false], losts: 1, connections: [2, 0], ..ONE };
    breaks(Rules { fork_end_first: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn a_sale_beyond_the_rights_of_a_fork_is_told_under_the_new_life() {
    let bounds = Bounds { sales: 1, losts: 1, connections: [2, 0], ..ONE };
    breaks(Rules { uncovered_again: false, ..Rules::SOUND }, bounds, &[REPORTED, SPENDABLE]);
}

/// A box that is put back to before its rejoin journals its fork again.
#[test]
fn a_refund_that_two_lives_tell_is_one_unit() {
    let bounds = Bounds { sales: 1, refunds: 1, losts: 1, site_restores: 1, connections: [4, 0], online: 0, ..ONE };
    breaks(Rules { once: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn an_expired_hold_is_committed_with_a_right_alone() {
    let bounds = Bounds { holds: [true, false], ..ONE };
    breaks(Rules { late_needs_right: false, ..Rules::SOUND }, bounds, OVERSOLD);
}

#[test]
fn what_is_reclaimed_of_a_life_that_goes_on_is_promised_twice() {
    breaks(Rules { reclaim_over: false, ..Rules::SOUND }, Bounds { reclaims: 1, ..ONE }, OVERSOLD);
}

#[test]
fn a_pool_from_which_more_is_withdrawn_than_is_free_is_oversold() {
    breaks(Rules { withdraw_free: false, ..Rules::SOUND }, Bounds { withdrawals: 1, ..ONE }, OVERSOLD);
}
