//! What the hub grants and asks back, and what it hears.

use proptest::prelude::*;
use proto::wire::record::Of;
use proto::wire::{Rights, RightsEntry, RightsHeld, RightsWanted, StockEntry, Want};

use super::*;

fn connect(store: &mut Store) -> Vec<RightsHeld> {
    connect_to(store, 7)
}

fn connect_to(store: &mut Store, incarnation: u64) -> Vec<RightsHeld> {
    let now = store.now();
    let step = store.gateway.input(Input::Link(LinkState::Connected), &now, &store.ledger).unwrap();
    assert!(held(store.commit(step)).is_empty(), "nobody knows yet which hub it is");
    let welcome =
        FromHub::Applied { incarnation, position: Position::default(), hub_ms: store.wall, awaits_rights: false };
    let step = store.gateway.input(Input::FromHub(welcome), &now, &store.ledger).unwrap();
    held(store.commit(step))
}

fn last(rights: Vec<RightsEntry>, incarnation: u64) -> RightsHeld {
    RightsHeld { rights, last: true, incarnation, part: 0 }
}

fn held(effects: Vec<Effect>) -> Vec<RightsHeld> {
    let held = effects.into_iter().filter_map(|effect| match effect {
        Effect::Say(UpOf::RightsHeld(held)) => Some(held),
        _ => None,
    });
    held.collect()
}

fn wanted(effects: Vec<Effect>) -> Option<Vec<Want>> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::Say(UpOf::RightsWanted(RightsWanted { wants })) => Some(wants),
        _ => None,
    })
}

fn want(available: u64, turned_away: u64) -> Option<Vec<Want>> {
    Some(vec![Want { gtin: Store::number(), available, turned_away }])
}

#[test]
fn a_grant_only_grows_also_by_a_hub_that_was_restored() {
    let mut store = Store::open();
    store.grant(5, 0);
    store.grant(3, 0);
    store.grant_by(8, 2, 0);
    store.killed();
    assert_eq!(store.rights().granted, 5);
    let held = connect_to(&mut store, 8);
    let entry = RightsEntry { gtin: Store::number(), granted: 5, asked: 0, epoch: 0 };
    assert_eq!(held, [last(vec![entry], 8)], "which hears of it");
    store.grant_by(8, 9, 0);
    assert_eq!(store.rights().granted, 9);
}

#[test]
fn what_is_asked_back_is_answered_once_with_what_is_free() {
    let mut store = Store::open();
    store.grant(10, 0);
    store.hold("a", 4);
    store.grant(10, 3);
    assert_eq!((store.rights().returned, store.rights().answered), (3, 3));
    store.grant(10, 9);
    assert_eq!((store.rights().returned, store.rights().answered, store.stands().3), (6, 9, 0), "no more than is free");
    let events = store.ledger.events.len();
    store.end("release", "a");
    store.grant(10, 9);
    store.killed();
    store.grant_by(8, 10, 9);
    assert_eq!((store.rights().returned, store.stands().3), (6, 4), "what becomes free later is not returned");
    assert_eq!(store.ledger.events.len(), events + 1);
    // Sold beyond its rights: nothing is free, and the answer says so.
    store.ask("sale", lines(9));
    store.grant(12, 11);
    assert_eq!((store.rights().returned, store.rights().answered, store.stands().3), (6, 11, -3));
}

#[test]
fn the_hub_hears_what_is_held_after_each_welcome_in_parts() {
    let mut store = Store::open();
    assert_eq!(connect(&mut store), [last(vec![], 7)]);
    let numbers = (0..18_500).map(|n| Gtin::with_check_digit(400_638_000_000 + n).unwrap().number());
    let rights: Vec<_> = numbers.map(|gtin| RightsEntry { gtin, granted: 1, asked: 0, epoch: 0 }).collect();
    let feed = Feed { prev: 0, upto: 9, stream: "rights".into(), rights, ..Feed::default() };
    store.hear(feed);
    connect(&mut store);
    let parts = connect(&mut store);
    let sizes = |parts: &[RightsHeld]| parts.iter().map(|part| (part.rights.len(), part.last)).collect::<Vec<_>>();
    assert_eq!(sizes(&parts), [(1_000, false); 16], "not more at once than the uplink takes");
    let rest = held(store.tick());
    assert_eq!(sizes(&rest), [(1_000, false), (1_000, false), (500, true)]);
    assert!(parts.iter().chain(&rest).map(|part| part.part).eq(0..19));
    assert!(held(store.tick()).is_empty());
}

/// A part of it was lost on the way: the hub goes on saying that it waits.
#[test]
fn what_is_held_is_said_again_until_the_hub_has_it() {
    let mut store = Store::open();
    store.grant(5, 0);
    assert_eq!(connect(&mut store).len(), 1);
    let mut applied = |after_ms: u64, incarnation, awaits_rights| {
        store.mono += after_ms;
        let (now, position) = (store.now(), Position::default());
        let heard = FromHub::Applied { incarnation, position, hub_ms: store.wall, awaits_rights };
        let step = store.gateway.input(Input::FromHub(heard), &now, &store.ledger).unwrap();
        held(store.commit(step)).len()
    };
    assert_eq!(applied(9_000, 7, true), 0, "it may be on its way");
    assert_eq!(applied(1_000, 7, false), 0, "it was heard");
    assert_eq!(applied(0, 8, true), 0, "who says so is another hub");
    assert_eq!(applied(0, 7, true), 1);
    for pause_ms in [20_000, 40_000, 60_000, 60_000] {
        assert_eq!(applied(pause_ms - 1, 7, true), 0, "before {pause_ms}");
        assert_eq!(applied(1, 7, true), 1, "after {pause_ms}");
    }
}

fn told_anew(store: &mut Store) -> Vec<Rights> {
    let before = store.ledger.events.len();
    store.tick();
    let records = store.ledger.events[before..].iter().flat_map(|(_, _, event)| &event.records);
    records.filter_map(|record| if let Some(Of::Rights(rights)) = record.of { Some(rights) } else { None }).collect()
}

/// Its answer to an ask may be trimmed here, and the hub gone back to before it.
#[test]
fn another_incarnation_is_told_anew_how_rights_were_used() {
    let mut store = Store::open();
    store.grant(10, 4);
    store.hold("a", 3);
    connect(&mut store);
    store.tick();
    connect(&mut store);
    assert_eq!(told_anew(&mut store), [], "it has heard it as it was journalled");
    store.grant_by(8, 10, 0);
    assert_eq!(told_anew(&mut store), [], "the grants go first");
    connect_to(&mut store, 8);
    let rights = store.rights();
    assert_eq!((rights.returned, rights.answered, rights.held), (4, 4, 3));
    assert_eq!(told_anew(&mut store), [rights]);
    assert_eq!((told_anew(&mut store), store.rights()), (vec![], rights));
    store.killed();
    connect_to(&mut store, 8);
    assert_eq!(told_anew(&mut store), [], "once for each");
    // What else a tick journals of rights goes first.
    connect_to(&mut store, 9);
    store.powered += 100_000;
    let [ended] = told_anew(&mut store)[..] else { panic!("the hold expired") };
    assert_eq!(ended.held, 0);
    assert_eq!(told_anew(&mut store), [ended]);
}

#[test]
fn many_items_are_told_anew_in_parts() {
    let mut store = Store::open();
    connect(&mut store);
    store.tick();
    let numbers = (0..1_500).map(|n| Gtin::with_check_digit(400_638_000_000 + n).unwrap().number());
    let rights: Vec<_> = numbers.map(|gtin| RightsEntry { gtin, granted: 2, asked: 1, epoch: 0 }).collect();
    store.hear(Feed { prev: 0, upto: 9, stream: "rights".into(), rights, ..Feed::default() });
    connect_to(&mut store, 8);
    let mut told = vec![told_anew(&mut store), told_anew(&mut store), told_anew(&mut store)];
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [1_024, 476, 0]);
    // Another hub in the middle of it: from the beginning.
    connect_to(&mut store, 9);
    told_anew(&mut store);
    connect_to(&mut store, 10);
    told = vec![told_anew(&mut store), told_anew(&mut store)];
    assert_eq!(told.concat().len(), 1_500);
}

#[test]
fn what_runs_out_is_said_and_said_again_while_it_does() {
    let mut store = Store::open();
    store.grant(9, 0);
    store.hold("a", 5);
    assert_eq!(wanted(store.tick()), None, "nobody is there to hear it");
    connect(&mut store);
    assert_eq!(wanted(store.tick()), None, "4 of 9 are enough");
    store.hold("b", 1);
    assert_eq!(wanted(store.tick()), want(3, 0), "a third is not");
    store.hold("c", 7);
    store.hold("d", 7);
    assert_eq!(wanted(store.tick()), None, "not in every tick");
    store.mono = 1_000;
    assert_eq!(wanted(store.tick()), want(3, 14));
    store.mono = 5_999;
    assert_eq!(wanted(store.tick()), None);
    store.mono = 6_000;
    assert_eq!(wanted(store.tick()), want(3, 0));
    store.grant(30, 0);
    store.mono = 11_000;
    assert_eq!(wanted(store.tick()), None);
    store.ask("sale", lines(40));
    assert_eq!(wanted(store.tick()), want(0, 0), "an in-hand sale below zero");
    store.killed();
    connect(&mut store);
    assert_eq!(wanted(store.tick()), want(0, 0), "also after a start");
}

/// A sold-out item is wanted by every site for good: the hub hears of it less and less often, until something happens.
#[test]
fn what_the_hub_does_not_have_is_asked_for_less_and_less_often() {
    let mut store = Store::open();
    store.grant(2, 0);
    connect(&mut store);
    store.hold("a", 2);
    let said = |store: &mut Store, from: u64, to: u64| {
        let mut at = Vec::new();
        for second in from..to {
            store.mono = second * 1_000;
            at.extend(wanted(store.tick()).map(|_| second));
        }
        at
    };
    assert_eq!(said(&mut store, 0, 260), [0, 5, 15, 35, 75, 135, 195, 255]);
    store.hold("b", 1);
    assert_eq!(said(&mut store, 260, 280), [260, 265, 275], "a buyer was turned away");
    said(&mut store, 280, 600);
    store.grant(3, 0);
    assert_eq!(said(&mut store, 600, 620)[..], [600, 605, 615], "there is some again, and this was too little");
}

#[test]
fn what_other_lives_had_is_said_too_and_never_less_of_it() {
    let mut store = Store::open();
    store.grant(5, 0);
    let mut told = |granted, cursor: u64| {
        let entry = RightsEntry { gtin: Store::number(), granted, asked: 0, epoch: 3 };
        store.hear(Feed {
            prev: cursor,
            upto: cursor + 1,
            stream: "rights".into(),
            rights: vec![entry],
            ..Feed::default()
        });
    };
    told(9, 1);
    told(4, 2);
    assert_eq!(store.rights().granted, 5, "it is none of this life's");
    store.killed();
    let own = RightsEntry { gtin: Store::number(), granted: 5, asked: 0, epoch: 0 };
    assert_eq!(connect(&mut store), [last(vec![own, RightsEntry { granted: 9, epoch: 3, ..own }], 7)]);
}

#[test]
fn an_entry_that_cannot_be_read_is_kept_and_the_rest_is_taken_over() {
    let mut store = Store::open();
    let good = RightsEntry { gtin: Store::number(), granted: 4, asked: 1, epoch: 0 };
    let rights = vec![RightsEntry { gtin: u64::MAX, granted: 1, asked: 0, epoch: 0 }, good];
    store.hear(Feed { prev: 0, upto: 2, stream: "rights".into(), rights, ..Feed::default() });
    assert_eq!((store.rights().granted, store.rights().returned, store.gateway.hub.feed_rejects), (4, 1, 1));
}

/// What the hub moved at this store is no earlier life's stock: a count before it was known does not take it back.
#[test]
fn what_the_hub_moved_stays_moved_after_a_count() {
    for (by_hub, on_hand) in [(true, 9), (false, 12)] {
        let mut store = Store::open();
        store.ask("count", json!({ "gtin": GTIN, "qty": 12 }));
        let entry = StockEntry { gtin: Store::number(), site: "harbour".into(), epoch: 99, units: -3, seq: 1, by_hub };
        store.hear(Feed { prev: 0, upto: 3, stream: "own".into(), stock: vec![entry], ..Feed::default() });
        assert_eq!(store.ask("scan", json!({ "gtin": GTIN }))["item"]["on_hand"], on_hand);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Grant(u64),
    Ask(u64),
    Hold(u8, i64),
    Commit(u8),
    Release(u8),
    Collect(u8, i64),
    Sell(i64),
    Wait(u64),
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1u64..6).prop_map(Op::Grant),
        1 => (1u64..6).prop_map(Op::Ask),
        6 => (0u8..12, 1i64..4).prop_map(|(id, qty)| Op::Hold(id, qty)),
        3 => (0u8..12).prop_map(Op::Commit),
        2 => (0u8..12).prop_map(Op::Release),
        3 => (0u8..12, 1i64..4).prop_map(|(id, qty)| Op::Collect(id, qty)),
        1 => (-2i64..3).prop_filter("0 is refused", |qty| *qty != 0).prop_map(Op::Sell),
        2 => (1u64..700).prop_map(Op::Wait),
        1 => Just(Op::Kill),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    Held,
    Promised,
    /// Promised, and handed over.
    Gone,
}

/// Units one by one: each buyer's are named, so none can be two buyers'.
#[derive(Debug, Default)]
struct Plain {
    granted: u64,
    asked: u64,
    answered: u64,
    returned: u64,
    /// By hold: its units, how they stand, and until when.
    holds: BTreeMap<u8, (Vec<Unit>, u64, bool)>,
    sold: u64,
    back: u64,
}

impl Plain {
    fn left(&self) -> i64 {
        let units: usize = self.holds.values().map(|(units, ..)| units.len()).sum();
        self.granted as i64 - self.returned as i64 - self.sold as i64 - units as i64
    }

    fn expire(&mut self, now: u64) {
        for (units, until, open) in self.holds.values_mut() {
            if *open && now > *until {
                *open = false;
                units.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Against a list of units: what is available never counts one twice, whatever comes, and no hold is taken without.
    #[test]
    fn no_unit_is_promised_twice(ops in prop::collection::vec(op(), 1..60)) {
        let (mut store, mut plain) = (Store::open(), Plain::default());
        store.grant(0, 0);
        for op in ops {
            plain.expire(store.powered);
            let fresh = !matches!(op, Op::Hold(id, _) if plain.holds.contains_key(&id));
            match op {
                Op::Grant(units) => {
                    plain.granted += units;
                    store.grant(plain.granted, plain.asked);
                }
                Op::Ask(units) => {
                    plain.asked += units;
                    store.grant(plain.granted, plain.asked);
                    plain.returned += (plain.asked - plain.answered).min(plain.left().max(0) as u64);
                    plain.answered = plain.asked;
                }
                Op::Hold(id, qty) => {
                    let reply = store.hold(&format!("h{id}"), qty);
                    let taken = fresh && plain.left() >= qty;
                    prop_assert_eq!(reply["status"] == "ok", taken, "{}", reply);
                    if taken {
                        plain.holds.insert(id, (vec![Unit::Held; qty as usize], store.powered + 600, true));
                    }
                }
                Op::Commit(id) => {
                    let reply = store.end("commit", &format!("h{id}"));
                    if let Some((units, _, open @ true)) = plain.holds.get_mut(&id) {
                        prop_assert_eq!(&reply["status"], "ok");
                        *open = false;
                        units.fill(Unit::Promised);
                    } else if reply["status"] == "ok" {
                        // After it expired, with a right of its own.
                        let units = reply["hold"]["units"].as_i64().unwrap();
                        prop_assert!(plain.holds[&id].0.is_empty() && plain.left() >= units, "{}", reply);
                        plain.holds.get_mut(&id).unwrap().0 = vec![Unit::Promised; units as usize];
                    }
                }
                Op::Release(id) => {
                    let reply = store.end("release", &format!("h{id}"));
                    let open = plain.holds.get(&id).is_some_and(|(.., open)| *open);
                    prop_assert_eq!(reply["status"] == "ok", open);
                    if open {
                        plain.holds.insert(id, (vec![], 0, false));
                    }
                }
                Op::Collect(id, qty) => {
                    let reply = store.collect(&format!("h{id}"), qty);
                    prop_assert_eq!(&reply["status"], "ok", "in hand is in hand");
                    let mut covered = 0;
                    if let Some((units, _, open)) = plain.holds.get_mut(&id) && units.first().is_some_and(|unit| *unit != Unit::Gone) {
                        covered = units.len().min(qty as usize);
                        if *open {
                            units.truncate(covered);
                        }
                        units.fill(Unit::Gone);
                        *open = false;
                    }
                    prop_assert_eq!(&reply["hold"]["covered"], covered, "{}", reply);
                    plain.sold += qty as u64 - covered as u64;
                }
                Op::Sell(qty) => {
                    store.ask("sale", lines(qty));
                    if qty > 0 { plain.sold += qty as u64 } else { plain.back += qty.unsigned_abs() }
                }
                Op::Wait(seconds) => {
                    store.powered += seconds;
                    plain.expire(store.powered);
                    store.tick();
                }
                Op::Kill => store.killed(),
            }
            let held: usize = plain.holds.values().filter(|(.., open)| *open).map(|(units, ..)| units.len()).sum();
            let all: usize = plain.holds.values().map(|(units, ..)| units.len()).sum();
            let promised = plain.sold + (all - held) as u64;
            prop_assert_eq!(store.stands(), (promised, plain.back, held as u64, plain.left()));
        }
    }
}
