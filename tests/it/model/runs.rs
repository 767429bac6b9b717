//! The sound rules within some bounds: nothing that must hold is broken, and what must be seen is seen.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use super::Protocol;
use super::properties::{APPLIED, BRIDGED, FORK, REJOINED, RESENT};
use super::rules::{Bounds, Rules};

impl Bounds {
    /// Nothing happens at the second site, and no fault.
    pub(super) const QUIET: Bounds = Bounds {
        records: [2, 0],
        connections: [2, 0],
        wire: 1,
        trims: 0,
        unacknowledged: 0,
        hub_crashes: 0,
        hub_restores: 0,
        site_restores: 0,
        groups: false,
    };
}

fn check(name: &str, bounds: Bounds, seen: &[&str]) {
    holds(name, Protocol { rules: Rules::SOUND, bounds }, seen);
}

/// Checks that all of it holds, and that of what should be seen, exactly this is. Says how many states there are.
pub(crate) fn holds<M>(name: &str, model: M, seen: &[&str])
where
    M: Model<
            State: Debug + Clone + PartialEq + Hash + Send + Sync + 'static,
            Action: Debug + Clone + PartialEq + Send + Sync,
        > + Send
        + Sync
        + 'static,
{
    let (began, properties) = (Instant::now(), model.properties());
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} steps, {:?}", checker.unique_state_count(), checker.state_count(), began.elapsed());
    for property in properties {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Sometimes => assert_eq!(found.is_some(), seen.contains(&property.name), "{}", property.name),
            _ => assert!(found.is_none(), "{name}: {}: {:#?}", property.name, found.map(|path| path.into_actions())),
        }
    }
}

pub(crate) fn large() -> bool {
    std::env::var("MODEL").is_ok_and(|size| size == "large")
}

/// Two different messages at once, so that they overtake each other: 32,322 states.
#[test]
fn messages_that_come_late_or_twice() {
    let bounds = Bounds { wire: 2, trims: 1, hub_crashes: 1, groups: true, ..Bounds::QUIET };
    check("late", bounds, &[APPLIED]);
}

/// Both sites, and the hub goes back: 386,531 states.
#[test]
fn two_sites_and_a_restored_hub() {
    let bounds = Bounds { records: [1, 1], connections: [2, 1], trims: 1, hub_restores: 1, ..Bounds::QUIET };
    check("two sites", bounds, &[APPLIED, RESENT, BRIDGED]);
}

/// A box goes back twice, the second time to before its rejoin: 301,151 states.
#[test]
fn a_site_that_forks_and_forks_again() {
    let bounds = Bounds { connections: [5, 0], trims: 1, unacknowledged: 1, site_restores: 2, ..Bounds::QUIET };
    check("forks", bounds, &[APPLIED, FORK, REJOINED]);
}

/// A box and the hub go back: 95,708 states.
#[test]
fn a_restored_site_and_a_restored_hub() {
    let bounds = Bounds { connections: [4, 0], trims: 1, hub_restores: 1, site_restores: 1, ..Bounds::QUIET };
    check("both", bounds, &[APPLIED, FORK, REJOINED, RESENT, BRIDGED]);
}

/// Minutes, and gigabytes: with `MODEL=large`.
#[test]
fn further_bounds() {
    if !large() {
        return;
    }
    let all = &[APPLIED, FORK, REJOINED, RESENT, BRIDGED];
    let newer =
        Bounds { records: [3, 0], connections: [3, 0], trims: 2, hub_restores: 2, site_restores: 1, ..Bounds::QUIET };
    check("the hub goes back and forth", newer, all);
    let late = Bounds { connections: [3, 0], wire: 2, trims: 1, hub_restores: 1, site_restores: 1, ..Bounds::QUIET };
    check("late, and both go back", late, all);
    let two =
        Bounds { records: [1, 1], connections: [2, 2], trims: 1, hub_restores: 1, site_restores: 1, ..Bounds::QUIET };
    check("two sites, and both go back", two, &[APPLIED, FORK, RESENT, BRIDGED]);
    let again =
        Bounds { records: [3, 0], connections: [5, 0], trims: 1, hub_restores: 1, site_restores: 2, ..Bounds::QUIET };
    check("a site goes back twice and the hub once", again, all);
}
