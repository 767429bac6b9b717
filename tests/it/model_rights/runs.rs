//! The sound rules within some bounds: nothing that must hold is broken, and what must be seen is seen.

use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use super::Pool;
use super::properties::{self, BACK, COVERED, INHERITED, LATE, MOVED, OUTSIDE, SHORT, SPENT, SURE};
use super::rules::{Bounds, Rules};

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

/// Checks that all of it holds, and that of what should be seen, exactly this is. Says how many states there are.
fn check(name: &str, bounds: Bounds, seen: &[&str]) {
    let began = Instant::now();
    let checker = Pool { rules: Rules::SOUND, bounds }.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} steps, {:?}", checker.unique_state_count(), checker.state_count(), began.elapsed());
    for property in properties::all() {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Sometimes => assert_eq!(found.is_some(), seen.contains(&property.name), "{}", property.name),
            _ => assert!(found.is_none(), "{name}: {}: {:#?}", property.name, found.map(|path| path.into_actions())),
        }
    }
}

pub(super) fn large() -> bool {
    std::env::var("MODEL").is_ok_and(|size| size == "large")
}

#[test]
fn quiet() {
    check("quiet", Bounds { ..Bounds::QUIET }, &[SPENT]);
}
