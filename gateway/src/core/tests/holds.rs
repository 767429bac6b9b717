//! Holds and sales of an item that is sold from a pool, on a ledger in memory.

use proto::gtin::Gtin;
use proto::wire::record::Of;
use proto::wire::{HoldEnd, Rights, RightsEntry};

use super::*;

impl Store {
    pub(super) fn number() -> u64 {
        GTIN.parse::<Gtin>().unwrap().number()
    }

    /// The hub says what it granted and asks back, in all.
    pub(super) fn grant(&mut self, granted: u64, asked: u64) -> Vec<Effect> {
        self.grant_by(7, granted, asked)
    }

    pub(super) fn grant_by(&mut self, incarnation: u64, granted: u64, asked: u64) -> Vec<Effect> {
        let cursor = self.gateway.hub.cursors["rights"];
        let prev = if cursor.incarnation == incarnation { cursor.position } else { 0 };
        let rights = vec![RightsEntry { gtin: Store::number(), granted, asked, epoch: 0 }];
        let feed = Feed { prev, upto: prev + 1, stream: "rights".into(), rights, ..Feed::default() };
        let now = self.now();
        let step = self.gateway.input(Input::FromHub(FromHub::Feed { incarnation, feed }), &now, &self.ledger).unwrap();
        self.commit(step)
    }

    pub(super) fn hold(&mut self, hold: &str, qty: i64) -> Value {
        self.ask("hold", json!({ "op": "hold", "hold": hold, "gtin": GTIN, "qty": qty }))
    }

    pub(super) fn end(&mut self, op: &str, hold: &str) -> Value {
        self.ask("hold", json!({ "op": op, "hold": hold }))
    }

    /// Sells, naming a hold.
    pub(super) fn collect(&mut self, hold: &str, qty: i64) -> Value {
        self.ask("sale", json!({ "hold": hold, "lines": [{ "gtin": GTIN, "qty": qty }] }))
    }

    pub(super) fn tick(&mut self) -> Vec<Effect> {
        let now = self.now();
        let step = self.gateway.tick(&now, &self.ledger).unwrap();
        self.commit(step)
    }

    /// What is on disk of the item's rights: promised, refunded, held, and what that leaves.
    pub(super) fn stands(&self) -> (u64, u64, u64, i64) {
        let rights = self.rights();
        (rights.promised, rights.refunded, rights.held, crate::core::rights::available(&rights))
    }

    pub(super) fn rights(&self) -> Rights {
        self.gateway.rights.rights(GTIN.parse().unwrap(), &self.ledger).unwrap()
    }

    /// As after a kill: only what is on disk is left.
    pub(super) fn killed(&mut self) {
        self.gateway = Gateway::new(self.gateway.rules.clone());
        self.restart();
    }

    /// How holds ended, in the order of the journal.
    pub(super) fn ends(&self) -> Vec<(String, HoldEnd, u64)> {
        let records = self.ledger.events.iter().flat_map(|(_, _, event)| &event.records);
        let ended = records.filter_map(|record| match &record.of {
            Some(Of::HoldEnded(ended)) => Some((ended.id.clone(), ended.how(), ended.units)),
            _ => None,
        });
        ended.collect()
    }
}

fn code(reply: &Value) -> &str {
    reply["code"].as_str().unwrap_or("")
}

#[test]
fn a_hold_is_committed_released_or_expires_and_the_first_of_them_stands() {
    let mut store = Store::open();
    store.grant(10, 0);
    let held = store.hold("a", 3);
    let expected = json!({
        "hold": "a", "gtin": format!("0{GTIN}"), "units": 3, "state": "open", "expires_s": 600, "available": 7
    });
    assert_eq!((&held["status"], &held["hold"]), (&json!("ok"), &expected));
    store.hold("b", 2);
    store.hold("c", 1);
    assert_eq!(store.stands(), (0, 0, 6, 4));
    let committed = store.end("commit", "a");
    assert_eq!((&committed["hold"]["state"], &committed["hold"]["available"]), (&json!("committed"), &json!(4)));
    assert_eq!(store.end("release", "b")["hold"]["state"], "released");
    assert_eq!(store.stands(), (3, 0, 1, 6));
    for (op, hold, state) in [("release", "a", "committed"), ("commit", "a", "committed"), ("commit", "b", "released")]
    {
        let refused = store.end(op, hold);
        assert_eq!((code(&refused), &refused["hold"]["state"]), ("hold_ended", &json!(state)), "{op} {hold}");
    }
    store.powered = 600;
    store.tick();
    assert_eq!(store.stands(), (3, 0, 1, 6), "it lasts as long as it was said");
    store.powered = 601;
    store.tick();
    assert_eq!(store.stands(), (3, 0, 0, 7));
    assert_eq!(code(&store.end("release", "c")), "hold_ended");
    let ended = [("a", HoldEnd::Committed, 3), ("b", HoldEnd::Released, 2), ("c", HoldEnd::Expired, 1)];
    assert_eq!(store.ends(), ended.map(|(id, how, units)| (id.to_owned(), how, units)));
}

#[test]
fn what_cannot_be_held_is_refused_with_a_reason() {
    let mut store = Store::with(Rules { holds_max: 2, ..Rules::default() });
    assert_eq!(code(&store.hold("a", 1)), "not_pooled");
    store.grant(4, 0);
    let refused = store.hold("a", 5);
    assert_eq!((code(&refused), &refused["hold"]["available"]), ("no_rights", &json!(4)));
    store.hold("a", 1);
    assert_eq!(code(&store.hold("a", 1)), "hold_exists");
    assert_eq!((code(&store.end("commit", "x")), code(&store.end("release", "x"))), ("hold_unknown", "hold_unknown"));
    store.hold("b", 1);
    assert_eq!(code(&store.hold("c", 1)), "too_many_holds");
    store.end("release", "b");
    assert_eq!(code(&store.hold("b", 1)), "hold_exists", "a name is not given twice");
    assert_eq!(store.hold("c", 1)["status"], "ok");
    assert_eq!(store.stands(), (0, 0, 2, 2), "what is refused changes nothing");
    let status = store.gateway.status(&store.now(), &store.ledger);
    assert_eq!(status["rights"], json!({ "pools": 1, "holds_open": 2, "wanted": 1 }));
}

#[test]
fn a_hold_is_named_after_its_request_and_the_same_request_holds_once() {
    let mut store = Store::open();
    store.grant(4, 0);
    let ask = json!({ "id": "r1", "op": "hold", "gtin": GTIN, "seconds": 60 });
    assert_eq!(store.ask("hold", ask.clone())["hold"]["hold"], "r1");
    let again = store.ask("hold", ask.clone());
    assert_eq!((&again["status"], &again["hold"]["state"]), (&json!("duplicate"), &json!("open")));
    store.end("commit", "r1");
    store.killed();
    assert_eq!(store.ask("hold", ask)["hold"]["state"], "committed", "as it stands now");
    let commit = json!({ "id": "r2", "op": "commit", "hold": "r1" });
    assert_eq!(code(&store.ask("hold", commit)), "hold_ended");
    assert_eq!(store.stands(), (1, 0, 0, 3));
    let unnamed = store.ask("hold", json!({ "op": "hold", "gtin": GTIN }));
    assert_eq!(unnamed["hold"]["hold"], format!("h{}", unnamed["seq"]));
}

#[test]
fn a_commit_that_comes_too_late_needs_a_right_again() {
    for ticked in [false, true] {
        let mut store = Store::open();
        store.grant(3, 0);
        store.hold("a", 2);
        store.hold("b", 1);
        store.powered = 601;
        if ticked {
            store.tick();
        }
        let late = store.end("commit", "a");
        assert_eq!((&late["status"], &late["hold"]["state"]), (&json!("ok"), &json!("committed")), "{late}");
        let how: Vec<_> = store.ends().into_iter().filter(|(id, ..)| id == "a").map(|(_, how, _)| how).collect();
        assert_eq!(how, [HoldEnd::Expired, HoldEnd::CommittedLate]);
        store.tick();
        assert_eq!(store.stands(), (2, 0, 0, 1));
        store.hold("c", 1);
        let refused = store.end("commit", "b");
        assert_eq!((code(&refused), &refused["hold"]["available"]), ("hold_expired", &json!(0)));
        assert_eq!(store.stands(), (2, 0, 1, 0), "ticked: {ticked}");
    }
}

#[test]
fn holds_outlive_a_kill_and_time_that_is_not_known_to_have_passed_does_not_count() {
    let mut store = Store::open();
    store.grant(5, 0);
    store.hold("a", 2);
    store.hold("b", 1);
    store.powered = 400;
    store.end("commit", "b");
    store.killed();
    assert_eq!(store.stands(), (1, 0, 2, 2));
    let shown = store.restart().into_iter().find_map(|effect| match effect {
        Effect::Restore { topic, payload } if topic.starts_with("store/stock/") => Some(payload),
        _ => None,
    });
    let shown: Value = serde_json::from_slice(&shown.expect("an item with a pool has a topic")).unwrap();
    assert_eq!(shown, json!({ "gtin": format!("0{GTIN}"), "on_hand": 0, "available": 2, "held": 2, "promised": 1 }));
    store.powered = 600;
    store.tick();
    assert_eq!(store.end("commit", "a")["status"], "ok");
    store.hold("c", 1);
    store.killed();
    store.powered = 1_300;
    store.tick();
    assert_eq!(store.stands(), (3, 0, 0, 2), "a deadline is found again after a start");
}

#[test]
fn a_sale_in_hand_goes_through_whatever_is_left() {
    let mut store = Store::open();
    store.ask("sale", lines(4));
    assert_eq!(store.stands().0, 0, "shelf stock spends nothing");
    store.grant(3, 0);
    store.ask("sale", lines(2));
    let scan = json!({ "gtin": GTIN, "op": "sell", "qty": 4 });
    assert_eq!(store.ask("scan", scan)["status"], "ok");
    assert_eq!(store.stands(), (6, 0, 0, -3));
    let refused = store.hold("a", 1);
    assert_eq!((code(&refused), &refused["hold"]["available"]), ("no_rights", &json!(-3)));
    store.ask("move", json!({ "op": "refund", "lines": [{ "gtin": GTIN, "qty": 1 }] }));
    store.ask("sale", lines(-2));
    assert_eq!(store.stands(), (6, 3, 0, -3), "what comes back belongs to the pool");
    for op in ["receive", "adjust"] {
        store.ask("move", json!({ "op": op, "lines": [{ "gtin": GTIN, "qty": 5 }] }));
    }
    store.ask("count", json!({ "gtin": GTIN, "qty": 2 }));
    assert_eq!(store.stands(), (6, 3, 0, -3));
    let basket = json!({ "lines": [{ "gtin": GTIN, "qty": 3 }, { "gtin": GTIN, "qty": -2 }] });
    assert_eq!(store.ask("sale", basket)["status"], "ok");
    assert_eq!(store.stands(), (7, 3, 0, -4), "a line taken back in the same basket was never sold");
}

#[test]
fn a_sale_hands_a_holds_goods_over_and_spends_a_right_for_the_rest() {
    let mut store = Store::open();
    store.grant(20, 0);
    for (hold, qty) in [("open", 2), ("more", 2), ("less", 3), ("paid", 2), ("gone", 1)] {
        store.hold(hold, qty);
    }
    store.end("commit", "paid");
    store.end("release", "gone");
    assert_eq!(store.stands(), (2, 0, 7, 11));
    let mut sold = |hold: &str, qty, state: &str, covered, stands| {
        let reply = store.collect(hold, qty);
        let found = (&reply["status"], &reply["hold"]["state"], &reply["hold"]["covered"]);
        assert_eq!(found, (&json!("ok"), &json!(state), &json!(covered)), "{hold}: {reply}");
        assert_eq!(reply["hold"]["available"].as_i64(), (hold != "unknown").then_some(store.stands().3), "{hold}");
        assert_eq!(store.stands(), stands, "{hold}");
    };
    sold("open", 2, "collected", 2, (4, 0, 5, 11));
    sold("more", 3, "collected", 2, (7, 0, 3, 10));
    sold("less", 1, "collected", 1, (8, 0, 0, 12));
    sold("paid", 2, "collected", 2, (8, 0, 0, 12));
    sold("paid", 2, "collected", 0, (10, 0, 0, 10));
    sold("gone", 1, "released", 0, (11, 0, 0, 9));
    sold("unknown", 1, "unknown", 0, (12, 0, 0, 8));
    let ended: Vec<_> = store.ends().into_iter().filter(|(id, ..)| id == "less").collect();
    let both = [("less".into(), HoldEnd::Committed, 1), ("less".into(), HoldEnd::Collected, 1)];
    assert_eq!(ended, both, "the rest of it is free again");
}

#[test]
fn a_sale_of_other_things_leaves_the_hold_as_it_is() {
    let mut store = Store::open();
    store.grant(5, 0);
    store.hold("a", 2);
    let other = json!({ "hold": "a", "lines": [{ "gtin": "96385074", "qty": 1 }] });
    let reply = store.ask("sale", other);
    assert_eq!((&reply["hold"]["state"], &reply["hold"]["covered"]), (&json!("open"), &json!(0)));
    assert_eq!(store.stands(), (0, 0, 2, 3));
    assert_eq!(store.ledger.events.last().unwrap().2.records.len(), 1, "and says nothing of rights");
}

#[test]
fn ended_holds_are_forgotten_after_a_week_of_power() {
    let mut store = Store::open();
    store.grant(5, 0);
    store.hold("a", 1);
    store.end("release", "a");
    let long = json!({ "op": "hold", "hold": "b", "gtin": GTIN, "seconds": 86_400 });
    store.ask("hold", long);
    (store.powered, store.mono) = (7 * 86_400, 700_000);
    store.tick();
    assert_eq!(code(&store.hold("a", 1)), "hold_exists");
    (store.powered, store.mono) = (7 * 86_400 + 1, 1_400_000);
    store.tick();
    assert_eq!((code(&store.end("commit", "a")), store.hold("a", 1)["status"].clone()), ("hold_unknown", json!("ok")));
    assert_eq!(code(&store.end("release", "b")), "hold_ended", "its week began when it expired");
}
