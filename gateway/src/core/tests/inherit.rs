//! Rights and holds of earlier lives: what the hub counts as promised already counts no more.

use proto::chunk::{Position, Sealer};
use proto::wire::record::Of;
use proto::wire::{Body, EarlierRights, Hold, HoldEnd, HoldEnded, MovementKind, Rights, RightsEntry, RightsHeld};

use super::takeover::{OLD, Old, event, moved, number, said};
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
        assert_eq!(store.stands(), (2, 0, 0, 2), "nobody knows what the box did with it before it was gone");
        assert_eq!(store.collect("open", 3)["hold"]["covered"], 2);
        assert_eq!(store.stands(), (3, 0, 0, 1));
    }
}

/// Its units may have been sold to another in what was lost with the box.
#[test]
fn a_hold_that_only_the_hub_knows_to_be_open_takes_a_right_of_this_life() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    old.chunk(vec![event("", vec![hold("a", 2), hold("b", 1), hold("c", 1), rights(4, 0, 4)])]);
    store.grant(1, 0);
    store.asks();
    store.past(0, 0, &old.chunks, None);
    let refused = store.end("commit", "a");
    let found = (&refused["code"], &refused["hold"]["state"], &refused["hold"]["available"]);
    assert_eq!(found, (&json!("no_rights"), &json!("open"), &json!(1)), "{refused}");
    let Some(UpOf::RightsWanted(wanted)) = store.asks() else { panic!("the hub is asked for them") };
    assert_eq!(wanted.wants[0].turned_away, 2);
    assert_eq!(store.end("release", "c")["status"], "ok");
    assert_eq!(store.stands(), (0, 0, 0, 1));
    // In hand is in hand, whatever is left.
    assert_eq!(store.collect("a", 2)["hold"]["covered"], 2);
    assert_eq!(store.stands(), (2, 0, 0, -1));
    let late: Vec<_> = store.ends().into_iter().map(|(id, how, _)| (id, how)).collect();
    let both = [("c", HoldEnd::Released), ("a", HoldEnd::CommittedLate), ("a", HoldEnd::Collected)];
    assert_eq!(late, both.map(|(id, how)| (id.to_owned(), how)));
    store.grant(3, 0);
    assert_eq!(store.end("commit", "b")["hold"]["state"], "committed");
    assert_eq!(store.stands(), (3, 0, 0, 0));
}

/// A hold of the life before the last one: that one's box took it over and still has it, so nothing is lost of it.
#[test]
fn the_journal_at_hand_makes_sure_of_a_hold() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let first = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(3) };
    let body = Body { base_ms: 1_000, events: vec![event("", vec![hold("a", 1), hold("b", 1)])], ..Body::default() };
    let shown = Bytes::from(Sealer::default().seal(&first, Position::default(), &body).bytes);
    let taken_over =
        Hold { id: "a".into(), gtin: number(), units: 1, seconds: 600, inherited: true, ..Hold::default() };
    old.chunk(vec![event("", vec![Of::Hold(taken_over)])]);
    store.here(old.at);
    store.past(0, 0, &[shown], None);
    store.own(0, 1);
    let effects = store.followed(0);
    store.read_fork(&old, effects);
    assert_eq!(store.end("commit", "a")["hold"]["state"], "committed");
    assert_eq!(store.end("commit", "b")["code"], "no_rights");
    assert_eq!(store.stands(), (0, 0, 0, 0));
}

/// For a hub that is restored when neither the old life nor the old hub are there any more.
#[test]
fn what_the_fork_had_is_reported_once_it_is_read() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![event("", vec![moved(9, MovementKind::Receive)])]);
    old.chunk(vec![event("s1", vec![sale(1), rights(2, 1, 0)]), event("s2", vec![sale(4), rights(5, 5, 2)])]);
    old.chunk(vec![event("", vec![rights(5, 5, 0)])]);
    let reports = |effects: Vec<Effect>| -> Vec<RightsHeld> {
        let of = effects.into_iter().filter_map(said);
        let held = of.filter_map(|of| if let UpOf::RightsHeld(held) = of { Some(held) } else { None });
        held.collect()
    };
    store.here(old.at);
    store.grant(3, 0);
    store.takes_in(Input::Link(LinkState::Connected));
    let welcome = FromHub::Applied { incarnation: 7, position: Position::default(), hub_ms: 0, awaits_rights: false };
    assert!(reports(store.takes_in(Input::FromHub(welcome))).is_empty());
    store.past(0, 0, &old.chunks[..1], Some(common));
    store.own(9, 1);
    assert!(reports(store.tick()).is_empty(), "a restored hub would take it for all there is");
    let effects = store.followed(1);
    store.read_fork(&old, effects);
    let own = RightsEntry { gtin: number(), granted: 3, asked: 0, epoch: 0 };
    let rights = vec![own, RightsEntry { granted: 5, epoch: super::takeover::OLD.0, ..own }];
    assert_eq!(reports(store.tick()), [RightsHeld { rights, incarnation: 7, part: 0, last: true }]);
    assert!(reports(store.tick()).is_empty());
    assert_eq!(store.rights().promised, 2, "what it sold beyond them is this life's");
}

/// The events of the fork say to the hub how far its life had used its rights; one of a time when nobody knew of the pool
/// says nothing, and the hub counts it.
#[test]
fn what_is_journalled_again_says_what_the_earlier_life_said() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    store.grant(1, 0);
    old.chunk(vec![event("s0", vec![sale(2)]), event("s1", vec![sale(1), rights(2, 1, 0)])]);
    old.chunk(vec![event("", vec![rights(3, 1, 0)])]);
    store.here(old.at);
    store.past(0, 0, &[], None);
    store.own(0, 0);
    let effects = store.followed(0);
    store.read_fork(&old, effects);
    let events: Vec<_> = store.ledger.events.iter().filter(|(_, _, event)| event.rejoined_of > 0).collect();
    let of = |n: usize| -> Vec<&Of> { events[n].2.records.iter().filter_map(|record| record.of.as_ref()).collect() };
    assert!(matches!(of(0)[..], [Of::Movement(_)]), "{:?}", of(0));
    let Of::Rights(then) = rights(2, 1, 0) else { panic!("they are rights") };
    let earlier = EarlierRights { epoch: super::takeover::OLD.0, rights: Some(then) };
    assert!(of(1).contains(&&Of::EarlierRights(earlier)), "{:?}", of(1));
    assert!(of(1).iter().any(|of| matches!(of, Of::Rights(rights) if rights.promised == 0 && rights.granted == 1)));
    assert_eq!(events.len(), 2, "an answer to an old hub's ask is none of this life's");
}

/// A box that was put back to before its own rejoin: what that one journalled again is not counted once more.
#[test]
fn a_refund_that_another_rejoin_brought_comes_back_once() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let back = || event("", vec![moved(1, MovementKind::Refund), rights(5, 9, 0)]);
    let common = old.chunk(vec![event("", vec![moved(9, MovementKind::Receive)])]);
    old.chunk(vec![back(), event("", vec![sale(2), rights(5, 11, 0)])]);
    let rejoin = |store: &mut Store, shown: &[Bytes]| {
        store.here(old.at);
        store.welcomed_by(7);
        store.past(0, 0, shown, Some(common));
        store.own(9, 1);
        let effects = store.followed(1);
        store.read_fork(&old, effects);
        (store.rights().refunded, store.rights().promised)
    };
    assert_eq!(rejoin(&mut store, &old.chunks[..1]), (1, 2));
    let events = store.ledger.events.iter().filter(|(_, _, event)| event.rejoined_of > 0);
    let events: Vec<Event> = events.map(|(_, _, event)| event.clone()).collect();
    let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(10) };
    let body = Body { base_ms: 1_000, events, ..Body::default() };
    let brought = Bytes::from(Sealer::default().seal(&replica, Position::default(), &body).bytes);
    let mut store = Store::with_hub();
    assert_eq!(rejoin(&mut store, &[brought, old.chunks[0].clone()]), (0, 0));
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
    assert_eq!((store.end("commit", "c")["status"].clone(), store.rights().promised), (json!("ok"), 5));
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
    let mut other = Old { epoch: OLD, at: common, chunks: vec![old.chunks[0].clone()] };
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
