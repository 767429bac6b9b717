//! Rules taken away, one by one: each time a property must break, so the properties are seen to see. Some of these rules
//! are in the code, some are what a rejoin needs beyond "a new epoch, what the fork had, journalled again": those are
//! what the model was made for.

use stateright::{Checker, HasDiscoveries, Model};

use super::Protocol;
use super::properties::{BACK, COUNTED, DOT, DURABLE, KEPT, NEEDED, ONCE, PREFIX, RETIRED, TRIM};
use super::rules::{Bounds, Rules};
use super::runs::large;

/// At least one property must break, and none but these. Depth first: the way there is longer, and found sooner.
fn breaks(rules: Rules, bounds: Bounds, expected: &[&str]) {
    let checker =
        Protocol { rules, bounds }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let always = [BACK, COUNTED, DOT, DURABLE, KEPT, NEEDED, ONCE, PREFIX, RETIRED, TRIM];
    let broken: Vec<_> = always.into_iter().filter(|name| checker.discovery(name).is_some()).collect();
    assert!(!broken.is_empty(), "nothing broke: {rules:?}");
    for name in broken {
        assert!(expected.contains(&name), "{name}: {:#?}", checker.discovery(name).map(|path| path.into_actions()));
    }
}

#[test]
fn a_batch_applied_by_its_seq_alone_mixes_forks() {
    let bounds = Bounds { records: [3, 0], site_restores: 1, ..Bounds::QUIET };
    breaks(Rules { hash_test: false, ..Rules::SOUND }, bounds, &[PREFIX]);
}

#[test]
fn what_is_trimmed_when_it_was_sent_may_be_nowhere() {
    breaks(Rules { trim_applied: false, ..Rules::SOUND }, Bounds { trims: 1, ..Bounds::QUIET }, &[TRIM, KEPT]);
}

#[test]
fn applied_of_an_earlier_life_of_the_hub_is_believed_without_the_incarnation() {
    let bounds = Bounds { records: [1, 0], wire: 2, trims: 1, hub_restores: 1, ..Bounds::QUIET };
    breaks(Rules { incarnation_test: false, ..Rules::SOUND }, bounds, &[DURABLE, TRIM]);
}

/// As it is coded: the incarnation is in the ledger, so a restored folder has the old one.
#[test]
fn a_restored_hub_with_its_old_incarnation_is_not_noticed() {
    let bounds = Bounds { records: [1, 0], wire: 2, trims: 1, hub_restores: 1, ..Bounds::QUIET };
    breaks(Rules { new_incarnation: false, ..Rules::SOUND }, bounds, &[DURABLE, TRIM]);
}

#[test]
fn applied_that_is_said_before_the_commit_is_a_lie() {
    let bounds = Bounds { hub_crashes: 1, groups: true, ..Bounds::QUIET };
    breaks(Rules { commit_then_speak: false, ..Rules::SOUND }, bounds, &[DURABLE]);
}

#[test]
fn a_bridged_span_that_is_not_counted_is_lost_in_silence() {
    let bounds = Bounds { trims: 1, hub_restores: 1, ..Bounds::QUIET };
    breaks(Rules { count_lost: false, ..Rules::SOUND }, bounds, &[COUNTED]);
}

/// Late messages of the old ledger are applied after those of the new one.
#[test]
fn a_ledger_that_is_followed_but_not_retired_grows_on() {
    let bounds = Bounds { connections: [3, 0], wire: 3, site_restores: 1, ..Bounds::QUIET };
    breaks(Rules { follows: false, ..Rules::SOUND }, bounds, &[RETIRED]);
}

/// A box restored to before its rejoin, twice at the same epoch: with a hub that was restored too, one dot names two
/// records. Without that the hash test holds.
#[test]
fn an_epoch_that_is_counted_up_is_used_twice() {
    let bounds = Bounds { records: [3, 0], connections: [5, 0], hub_restores: 1, site_restores: 2, ..Bounds::QUIET };
    breaks(Rules { fresh_epoch: false, ..Rules::SOUND }, bounds, &[DOT]);
}

/// A device that had no answer sends again to a box that was restored meanwhile: the fork has the record once more, and
/// journals it again at the rejoin.
#[test]
fn a_rejoin_that_looks_at_dots_alone_applies_a_record_twice() {
    let bounds = Bounds { connections: [3, 0], unacknowledged: 1, site_restores: 1, ..Bounds::QUIET };
    breaks(Rules { once: false, ..Rules::SOUND }, bounds, &[ONCE]);
}

/// A box that is restored to before its rejoin rejoins again, and journals the same fork again.
#[test]
fn a_second_rejoin_of_the_same_fork_applies_it_twice() {
    let bounds = Bounds { connections: [5, 0], site_restores: 2, ..Bounds::QUIET };
    breaks(Rules { once: false, ..Rules::SOUND }, bounds, &[ONCE]);
}

/// The hub is restored to before the rejoin: nobody tells it again what the old ledger had.
#[test]
fn a_rejoin_that_is_told_once_is_forgotten_by_a_restored_hub() {
    let bounds = Bounds { connections: [4, 0], hub_restores: 1, site_restores: 1, ..Bounds::QUIET };
    breaks(Rules { follows_again: false, ..Rules::SOUND }, bounds, &[COUNTED]);
}

/// The same after two rejoins, of the first of three ledgers. With `MODEL=large`: it takes a while to come by.
#[test]
fn a_rejoin_that_names_the_last_ledger_alone_forgets_the_first() {
    if !large() {
        return;
    }
    let bounds = Bounds { records: [3, 0], connections: [5, 0], hub_restores: 1, site_restores: 2, ..Bounds::QUIET };
    breaks(Rules { follows_all: false, ..Rules::SOUND }, bounds, &[COUNTED]);
}

/// As it is coded: after a silence it says Hello under the nonce that it has, and takes any Welcome to it.
#[test]
fn a_late_welcome_takes_a_site_back_to_a_hub_that_is_no_more() {
    let bounds = Bounds { records: [1, 0], wire: 2, hub_restores: 1, ..Bounds::QUIET };
    breaks(Rules { fresh_nonce: false, ..Rules::SOUND }, bounds, &[BACK, DURABLE]);
}

/// As it is coded, of what is remembered: of a trimmed span only its end is known.
#[test]
fn a_bridge_over_a_forgotten_span_joins_two_forks() {
    let bounds =
        Bounds { records: [3, 0], connections: [3, 0], trims: 2, hub_restores: 2, site_restores: 1, ..Bounds::QUIET };
    breaks(Rules { remember_hashes: false, ..Rules::SOUND }, bounds, &[PREFIX]);
}

/// A Hello that comes late looks like a ledger that lost its end.
#[test]
fn a_late_hello_makes_a_sound_site_rejoin() {
    let bounds = Bounds { wire: 2, ..Bounds::QUIET };
    breaks(Rules { own_check: false, ..Rules::SOUND }, bounds, &[NEEDED]);
}
