//! Rights and holds of earlier lives: what the hub counts as promised already counts no more.

use proto::wire::record::Of;
use proto::wire::{Hold, HoldEnd, HoldEnded, MovementKind, Rights};

use super::takeover::{Old, event, moved, number};
use super::*;

fn hold(id: &str, units: u64) -> Of {
    Of::Hold(Hold { id: id.into(), gtin: number(), units, seconds: 600, ..Hold::default() })
}

fn ended(id: &str, how: HoldEnd, units: u64) -> Of {
    Of::HoldEnded(HoldEnded { id: id.into(), how: how.into(), gtin: number(), units, reference: String::new() })
}

fn rights(granted: u64, promised: u64, held: u64) -> Of {
    Of::Rights(Rights { gtin: number(), granted, promised, held, ..Rights::default() })
}

fn sale(units: i64) -> Of {
    moved(-units, MovementKind::Sale)
}

fn state(store: &mut Store, hold: &str) -> Value {
    // Naming it in a sale of something else tells how it stands and changes nothing.
    let other = json!({ "hold": hold, "lines": [{ "gtin": "96385074", "qty": 1 }] });
    store.ask("sale", other)["hold"]["state"].clone()
}

/// The holds of the box before, by the hub's copy, newest part first, with a crash between any two.
#[test]
fn open_holds_go_on_beside_this_lifes_rights_and_ended_ones_stay_ended() {
    for crashes in [false, true] {
        let (mut store, mut old) = (Store::with_hub(), Old::new());
        old.chunk(vec![event("", vec![hold("open", 2), rights(9, 0, 2)]), event("", vec![hold("gone", 1)])]);
        old.chunk(vec![event("", vec![hold("paid", 3), rights(9, 0, 6)])]);
        old.chunk(vec![
            event("", vec![ended("gone", HoldEnd::Released, 1), rights(9, 0, 5)]),
            event("", vec![ended("paid", HoldEnd::Committed, 3), rights(9, 3, 2)]),
        ]);
        store.grant(4, 0);
        store.asks();
        for (below, next, chunk) in [(0, 70, 2), (70, 60, 1), (60, 0, 0)] {
            store.past(below, next, &old.chunks[chunk..=chunk], None);
            if crashes {
                store.begin_again();
                store.asks();
            }
        }
        let states = ["open", "gone", "paid", "none"].map(|hold| state(&mut store, hold));
        assert_eq!(states, ["open", "released", "committed", "unknown"].map(Value::from), "crashes: {crashes}");
        assert_eq!(store.stands(), (0, 0, 0, 4), "they are not of this life's rights");
        assert_eq!(store.collect("paid", 3)["hold"]["covered"], 3);
        assert_eq!(store.end("commit", "open")["hold"]["state"], "committed");
        assert_eq!(store.collect("open", 3)["hold"]["covered"], 2);
        assert_eq!(store.stands(), (1, 0, 0, 3), "only what was sold beyond them is");
    }
}

#[test]
fn an_inherited_hold_ends_at_its_time_and_needs_a_right_then() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    old.chunk(vec![event("", vec![hold("a", 2), hold("b", 2), hold("own", 2), rights(9, 0, 6)])]);
    store.grant(3, 0);
    store.hold("own", 1);
    store.asks();
    store.past(0, 0, &old.chunks, None);
    assert_eq!(store.stands(), (0, 0, 1, 2), "what this life made under the name stays");
    store.powered = 601;
    store.tick();
    assert_eq!(store.stands(), (0, 0, 0, 3));
    assert_eq!(store.end("commit", "a")["hold"]["state"], "committed");
    assert_eq!(store.stands(), (2, 0, 0, 1));
    assert_eq!(store.end("commit", "b")["code"], "hold_expired");
}

/// The journal of the life before, beyond what the hub has of it.
#[test]
fn of_what_only_the_fork_has_counts_what_was_not_covered_there_and_what_came_back() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![event("", vec![hold("a", 2), rights(5, 0, 2)]), event("", vec![hold("b", 1)])]);
    // Within its rights; from a hold; beyond them by 2, then all beyond; back; shelf stock of that time.
    old.chunk(vec![event("s1", vec![sale(1), rights(5, 1, 3)])]);
    old.chunk(vec![event(
        "s2",
        vec![sale(2), ended("a", HoldEnd::Committed, 2), ended("a", HoldEnd::Collected, 2), rights(5, 3, 1)],
    )]);
    old.chunk(vec![event("", vec![hold("c", 1), rights(5, 3, 2)]), event("s3", vec![sale(2), rights(5, 5, 2)])]);
    old.chunk(vec![event("s4", vec![sale(3), rights(5, 8, 2)]), event("", vec![ended("b", HoldEnd::Expired, 1)])]);
    old.chunk(vec![event("r1", vec![moved(1, MovementKind::Refund), rights(5, 8, 1)])]);
    store.here(old.at);
    store.past(0, 0, &old.chunks[..1], Some(common));
    // As far as the hub knows: the box sold it to another since.
    for op in ["commit", "release"] {
        let unsure = store.end(op, "a");
        assert_eq!((&unsure["code"], &unsure["hold"]["state"]), (&json!("hold_unsure"), &json!("open")), "{unsure}");
    }
    store.own(0, 1);
    let effects = store.followed(common.seq.0);
    store.read_fork(&old, effects);
    let found = store.rights();
    assert_eq!((found.promised, found.refunded, found.held, found.granted), (2 + 3, 1, 0, 0));
    let states = ["a", "b", "c"].map(|hold| state(&mut store, hold));
    assert_eq!(states, ["collected", "expired", "open"].map(Value::from));
    // Every sale of an item with a pool says so, or the hub takes it for shelf stock and counts it.
    let events: Vec<_> = store.ledger.events.iter().filter(|(_, _, event)| event.rejoined_of > 0).collect();
    let silent = events.iter().filter(|(_, _, event)| {
        let has = |is: fn(&Of) -> bool| event.records.iter().filter_map(|record| record.of.as_ref()).any(is);
        has(|of| matches!(of, Of::Movement(_))) && !has(|of| matches!(of, Of::Rights(_)))
    });
    assert_eq!(
        (silent.count(), store.ask("sale", json!({ "id": "s0", "lines": [] }))["code"].clone()),
        (0, json!("lines_missing"))
    );
    // Once, though the box is killed and reads it again.
    store.begin_again();
    assert!(matches!(store.here(old.at)[..], [Effect::ForkDone]));
    assert_eq!(store.rights().promised, 5);
}

#[test]
fn what_another_life_has_answered_changes_no_rights() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![event("", vec![moved(9, MovementKind::Receive)])]);
    let mut other = Old { at: common, chunks: vec![old.chunks[0].clone()] };
    let sold = || event("both", vec![sale(4), rights(1, 4, 0)]);
    other.chunk(vec![sold()]);
    old.chunk(vec![sold(), event("", vec![ended("x", HoldEnd::Committed, 1)])]);
    store.here(old.at);
    store.past(0, 0, &other.chunks, Some(common));
    store.own(5, 2);
    let effects = store.followed(2);
    store.read_fork(&old, effects);
    assert_eq!((store.rights().promised, state(&mut store, "x")), (0, json!("committed")));
}
