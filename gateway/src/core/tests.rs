//! The rules on a ledger in memory, with time as an argument: clocks that are wrong, hubs that change their mind.

mod feed;
mod holds;
mod inherit;
mod rights;
mod snapshot;
mod takeover;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::front::Identity;
use broker::ledger::{EachCell, EachEvent, Table};
use prost::Message;
use proto::id::{Dot, Epoch, ReplicaId, WallMs};
use proto::register::Register;
use proto::version::VersionVector;
use proto::wire::{Event, Feed, FeedEntry, RegisterState};
use serde_json::{Value, json};

use super::*;

const GTIN: &str = "4006381333931";

/// A ledger that keeps everything in memory; one step is one commit.
struct Memory {
    replica: ReplicaId,
    cells: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
    events: Vec<(Seq, Stamp, Event)>,
    last: Seq,
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.cells.get(&(table.0, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        let cells = self.cells.range((table.0, from.to_vec())..).take_while(|((t, _), _)| *t == table.0);
        for ((_, key), value) in cells {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn next_seq(&self) -> Seq {
        self.last.next()
    }

    fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError> {
        for (seq, stamp, event) in self.events.iter().rev() {
            if each(*seq, *stamp, event).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Store {
    gateway: Gateway,
    ledger: Memory,
    wall: u64,
    mono: u64,
    /// Powered-on seconds.
    powered: u64,
    synced: bool,
}

impl Store {
    fn open() -> Store {
        Store::with(Rules::default())
    }

    fn with(rules: Rules) -> Store {
        let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(1) };
        let ledger = Memory { replica, cells: BTreeMap::new(), events: vec![], last: Seq::ZERO };
        Store { gateway: Gateway::new(rules), ledger, wall: 10_000_000, mono: 0, powered: 0, synced: true }
    }

    fn now(&self) -> Now {
        Now { wall: WallMs(self.wall), synced: self.synced, mono_ms: self.mono, powered_on_s: self.powered }
    }

    /// Publishes and returns the reply.
    fn ask(&mut self, kind: &str, payload: Value) -> Value {
        let publish = InboundPublish {
            who: Arc::new(Identity { client: "c".into(), name: None, kind: None }),
            topic: format!("dev/pos-1/{kind}").into(),
            payload: payload.to_string().into(),
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let now = self.now();
        let step = self.gateway.inbound(Inbound::Publish(publish), &now, &self.ledger).unwrap();
        let effects = self.commit(step);
        let reply = effects.iter().find_map(|effect| match effect {
            Effect::Publish { topic, payload, .. } if topic == "dev/pos-1/reply" => Some(payload.clone()),
            _ => None,
        });
        serde_json::from_slice(&reply.expect("every request is answered")).unwrap()
    }

    fn feed(&mut self, prev: u64, upto: u64, entries: Vec<FeedEntry>) -> Vec<Effect> {
        self.hear(Feed { prev, upto, entries, ..Feed::default() })
    }

    fn hear(&mut self, feed: Feed) -> Vec<Effect> {
        let now = self.now();
        let heard = Input::FromHub(FromHub::Feed { incarnation: 7, feed });
        let step = self.gateway.input(heard, &now, &self.ledger).unwrap();
        self.commit(step)
    }

    /// Hands a refusal in again; what the asker and the device hear.
    fn again(&mut self, device: &str, topic: &str, payload: &str) -> (Value, Option<Value>) {
        let (answer, _) = tokio::sync::oneshot::channel();
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let again = Again { of: Seq(1), device: device.into(), topic: topic.into(), payload, answer };
        let now = self.now();
        let step = self.gateway.input(Input::Again(again), &now, &self.ledger).unwrap();
        let (mut told, mut replied) = (Value::Null, None);
        for effect in self.commit(step) {
            match effect {
                Effect::Answer(_, value) => told = value,
                Effect::Publish { topic, payload, .. } if topic.ends_with("/reply") => {
                    replied = serde_json::from_slice(&payload).ok();
                }
                _ => {}
            }
        }
        (told, replied)
    }

    fn commit(&mut self, step: Step<Effect>) -> Vec<Effect> {
        let Store { gateway, ledger, powered, .. } = self;
        let mut puts: Vec<Put> = Vec::new();
        let chunk_first = ledger.last.next();
        for draft in step.events {
            let first = ledger.last.next();
            let (replica, stamp, event) = (&ledger.replica, draft.stamp, &draft.event);
            gateway.fold(&Placed { replica, first, stamp, event, powered_on_s: *powered }, &mut |put| puts.push(put));
            ledger.last = ledger.last.plus(draft.event.records.len() as u64);
            ledger.events.push((first, stamp, draft.event));
        }
        for total in gateway.seal(chunk_first) {
            gateway.fold_total(&total, chunk_first, &mut |put| puts.push(put));
        }
        for put in puts.into_iter().chain(step.puts).chain(step.lazy) {
            let key = (put.table.0, put.key);
            match put.value {
                Some(value) => drop(ledger.cells.insert(key, value.to_vec())),
                None => drop(ledger.cells.remove(&key)),
            }
        }
        step.then
    }

    fn price(&mut self) -> Value {
        self.ask("scan", json!({ "gtin": GTIN }))["item"]["price_cents"].clone()
    }
}

fn lines(qty: i64) -> Value {
    json!({ "lines": [{ "gtin": GTIN, "qty": qty }] })
}

fn key() -> String {
    format!("item/0{GTIN}/price_cents")
}

/// What the hub says of the price: `value` by another site, having seen `saw`.
fn by_another(value: &str, stamp: u64, saw: &[Dot]) -> FeedEntry {
    let dot = Dot { replica: ReplicaId { site: "hill".parse().unwrap(), epoch: Epoch(2) }, seq: Seq(1) };
    let mut seen = VersionVector::default();
    saw.iter().chain([&dot]).for_each(|dot| seen.insert(dot));
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    let register = Register { value, stamp: Stamp(stamp), dot, seen, writer: "pos-9".into() };
    FeedEntry { key: key(), state: Some((&register).into()) }
}

#[test]
fn a_device_whose_clock_is_off_counts_right() {
    for off in [-3_600_000i64, 0, 3_600_000] {
        let mut store = Store::open();
        let device = |wall: u64| wall.saturating_add_signed(off);
        store.ask("scan", json!({ "gtin": GTIN, "op": "receive", "qty": 10 }));
        store.wall += 5_000;
        let began = device(store.wall);
        store.wall += 5_000;
        store.ask("sale", lines(3));
        store.wall += 5_000;
        let count = json!({ "gtin": GTIN, "qty": 10, "began_ms": began, "at_ms": device(store.wall) });
        assert_eq!(store.ask("count", count)["lines"][0]["on_hand"], 7, "off by {off} ms");
    }
}

#[test]
fn after_the_clock_was_set_back_a_count_with_a_moment_is_refused_and_one_without_works() {
    let mut store = Store::open();
    store.ask("scan", json!({ "gtin": GTIN, "op": "receive", "qty": 10 }));
    store.wall -= 3_600_000;
    let began = store.wall - 1_000;
    let reply = store.ask("count", json!({ "gtin": GTIN, "qty": 9, "began_ms": began }));
    assert_eq!((&reply["status"], &reply["code"]), (&json!("refused"), &json!("clock_set_back")));
    assert_eq!(store.ask("count", json!({ "gtin": GTIN, "qty": 9 }))["lines"][0]["on_hand"], 9);
}

#[test]
fn own_writes_show_until_the_hub_has_taken_them_into_account() {
    let mut store = Store::open();
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 100 }));
    let own = Dot { replica: store.ledger.replica.clone(), seq: Seq(1) };
    // The hub has not seen ours yet: its value waits behind it.
    store.feed(0, 5, vec![by_another("200", 1, &[])]);
    assert_eq!(store.price(), 100);
    // Now it has, and decided.
    store.feed(5, 6, vec![by_another("200", 1, &[own])]);
    assert_eq!(store.price(), 200);
    assert!(store.ledger.get(super::tables::OWN, key().as_bytes()).unwrap().is_none(), "no longer pending");
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300 }));
    assert_eq!(store.price(), 300);
}

#[test]
fn a_feed_that_does_not_continue_is_asked_for_again() {
    let mut store = Store::open();
    store.feed(0, 5, vec![]);
    let effects = store.feed(9, 12, vec![by_another("200", 1, &[])]);
    assert!(matches!(&effects[..], [Effect::FeedAck(ack)] if ack.resend && ack.cursor.position == 5), "{effects:?}");
    assert_eq!(store.price(), Value::Null);
}

#[test]
fn an_unsynced_box_takes_exactly_the_tick_above_what_it_replaces() {
    let mut store = Store::open();
    store.feed(0, 5, vec![by_another("200", 77 << 16, &[])]);
    (store.synced, store.wall) = (false, 4_000_000_000_000);
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300 }));
    let own = store.ledger.get(super::tables::OWN, key().as_bytes()).unwrap().unwrap();
    assert_eq!(RegisterState::decode(&own[..]).unwrap().stamp, (77 << 16) + 1);
}

#[test]
fn a_write_whose_history_is_too_large_for_a_chunk_is_refused() {
    let mut store = Store::open();
    let saw: Vec<Dot> = (0..400)
        .map(|n| {
            let site = format!("a-site-with-a-rather-long-name-{n}").parse().unwrap();
            Dot { replica: ReplicaId { site, epoch: Epoch(n) }, seq: Seq(n + 1) }
        })
        .collect();
    let fields = ["name", "price_cents", "attr:a", "attr:b"];
    let entries = fields.map(|field| FeedEntry { key: format!("item/0{GTIN}/{field}"), ..by_another("1", 1, &saw) });
    store.feed(0, 5, entries.to_vec());
    let all = json!({ "gtin": GTIN, "name": "x", "price_cents": 2, "attrs": { "a": 1, "b": 2 } });
    assert_eq!(store.ask("item", all)["code"], "too_many_fields");
    assert_eq!(store.ask("item", json!({ "gtin": GTIN, "price_cents": 2 }))["status"], "ok");
}

#[test]
fn a_refusal_that_is_handed_in_again_is_a_request_like_any_other() {
    let mut store = Store::open();
    let bad = r#"{"id":"s1","lines":[]}"#;
    let good = format!(r#"{{"id":"s1","lines":[{{"gtin":"{GTIN}","qty":2}}]}}"#);
    for (payload, status, on_hand) in [(bad, "refused", None), (&good, "ok", Some(-2)), (&good, "duplicate", None)] {
        let (told, replied) = store.again("pos-1", "dev/pos-1/sale", payload);
        assert_eq!((&told["status"], &replied), (&json!(status), &Some(told.clone())), "the device hears it too");
        assert_eq!(told["lines"][0]["on_hand"].as_i64(), on_hand, "{told}");
    }
    let marks: Vec<_> =
        store.ledger.events.iter().map(|(_, _, event)| (event.retry_of, event.device.as_str())).collect();
    assert_eq!(marks, [(1, "pos-1"), (1, "pos-1")], "a duplicate changes nothing");
}

#[test]
fn nobody_gets_rights_by_handing_in_again() {
    let mut store = Store::open();
    let good = json!({ "gtin": GTIN, "op": "receive" }).to_string();
    for (device, topic, why) in [
        ("pos-2", "dev/pos-1/scan", "authorization"),
        ("pos-1", "dev/pos-1/nonsense", "no topic of a device"),
        ("pos-1", "up/harbour", "no topic of a device"),
        ("", "down/harbour", "no topic of a device"),
    ] {
        let (told, replied) = store.again(device, topic, &good);
        assert!(told["error"].as_str().is_some_and(|said| said.contains(why)) && replied.is_none(), "{told}");
    }
    assert!(store.ledger.events.is_empty());
}

#[test]
fn what_cannot_be_read_of_the_feed_is_kept_and_the_rest_is_taken_over() {
    let mut store = Store::open();
    let nonsense = FeedEntry { key: "nonsense".into(), state: None };
    store.feed(0, 5, vec![nonsense.clone(), by_another("200", 1, &[])]);
    assert_eq!(store.price(), 200);
    let Some(record) = store.ledger.events[0].2.records.first() else { panic!("no record") };
    let Some(proto::wire::record::Of::Refusal(refusal)) = &record.of else { panic!("{record:?}") };
    assert_eq!((refusal.code.as_str(), refusal.topic.as_str()), ("feed_unreadable", "down/harbour"));
    assert_eq!(refusal.payload, nonsense.encode_to_vec());
    let status = store.gateway.status(&store.now(), &store.ledger);
    assert_eq!(
        (&status["uplink"]["feed_rejects"], &status["requests"]["refused"]["feed_unreadable"]),
        (&json!(1), &json!(1))
    );
}
