//! The hub's own channel over a real ledger: what it promises, holds, moves and writes, and what it remembers of that.

mod metrics;

use std::collections::BTreeMap;

use proto::gtin::Gtin;
use proto::wire::{CounterTotal, Movement, Rights};

use super::*;
use crate::hub::channel::{Key, Line, LinesOf, OnlyIf, Order, Outcome, Reply, ReservationLimits, What};
use crate::hub::{PoolChange, RightsAsk, RightsNote};

const GTIN: u64 = 4006381333931;

fn gtin() -> Gtin {
    Gtin::from_number(GTIN).unwrap()
}

fn line(units: u32) -> Line {
    Line { gtin: gtin(), units, site: None, seconds: None, reference: "web-1".into(), channel: "web".into() }
}

fn at(site: &str, units: u32) -> Line {
    Line { site: Some(site.parse().unwrap()), ..line(units) }
}

fn decrement(units: u32) -> What {
    What::Decrement(LinesOf::One(line(units)))
}

fn reserve(units: u32, seconds: u64) -> What {
    What::Reserve(LinesOf::One(Line { seconds: Some(seconds), ..line(units) }))
}

impl Running {
    async fn order(&self, what: What) -> (Outcome, Value) {
        let reply = self.reply(None, what).await;
        (reply.outcome, serde_json::from_slice(&reply.body).unwrap())
    }

    async fn reply(&self, key: Option<Key>, what: What) -> Reply {
        let (answer, answered) = oneshot::channel();
        let order = Order { caller: "shop".into(), key, what };
        self.handle.input(Input::Order(Box::new(order), answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn set_pool(&self, change: PoolChange) {
        let (answer, answered) = oneshot::channel();
        let ask = RightsAsk::Pool(gtin(), change, RightsNote::default());
        self.handle.input(Input::Rights(ask, answer)).await.unwrap();
        let said = answered.await.unwrap();
        assert!(said["error"].is_null(), "{said}");
    }

    /// Units, free, promised and held.
    async fn pool_now(&self) -> [i64; 4] {
        let (_, stock) = self.order(What::Stock(gtin())).await;
        ["units", "free", "promised", "held"].map(|name| stock["pool"][name].as_i64().unwrap())
    }

    async fn seq(&self) -> Seq {
        self.status().await;
        self.reader.stats().durable.seq
    }
}

async fn pooled(units: u64) -> Running {
    let hub = Running::open().await;
    hub.set_pool(PoolChange::Create(units)).await;
    hub
}

fn key(id: u8, digest: u64) -> Option<Key> {
    Some(Key { id: [id; 16], text: format!("key-{id}"), digest })
}

#[tokio::test]
async fn what_is_there_is_promised_and_no_more() {
    let hub = pooled(10).await;
    assert_eq!(hub.order(decrement(4)).await, (Outcome::Done, hub_said(4, 6, 3)));
    let (outcome, said) = hub.order(decrement(7)).await;
    assert_eq!((outcome, &said["left"]), (Outcome::NotEnough, &json!(6)), "{said}");
    assert_eq!(hub.order(decrement(6)).await.0, Outcome::Done);
    let before = hub.seq().await;
    let (outcome, said) = hub.order(decrement(1)).await;
    assert_eq!((outcome, &said["left"]), (Outcome::NotEnough, &json!(0)), "{said}");
    assert_eq!((hub.pool_now().await, hub.seq().await), ([10, 0, 10, 0], before));

    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.pool_now().await, [10, 0, 10, 0], "after a restart");
    assert_eq!(hub.order(decrement(1)).await.0, Outcome::NotEnough);
}

/// The first record is the pool's and the answer's is behind it, with a Rights record between each.
fn hub_said(units: u32, left: i64, _: u64) -> Value {
    json!({ "gtin": gtin(), "units": units, "record": 2, "left": left })
}

#[tokio::test]
async fn many_lines_are_done_together_or_not_at_all() {
    let hub = pooled(10).await;
    Site::hello(&hub, "hill").await;
    let other = Gtin::with_check_digit(77).unwrap();
    let elsewhere = |units| Line { gtin: other, ..at("hill", units) };
    let before = hub.seq().await;
    let many = |lines: Vec<Line>| What::Decrement(LinesOf::Many(lines));
    let (outcome, said) = hub.order(many(vec![elsewhere(3), line(6), line(5)])).await;
    assert_eq!((outcome, &said["short"][0]["asked"]), (Outcome::NotEnough, &json!(11)), "{said}");
    for (lines, wanted) in [
        (vec![line(1), Line { site: None, ..elsewhere(1) }], Outcome::SiteMissing),
        (vec![line(1), Line { gtin: other, ..at("nowhere", 1) }], Outcome::SiteUnknown),
        (vec![line(1), at("hill", 1)], Outcome::Pooled),
    ] {
        assert_eq!(hub.order(many(lines)).await.0, wanted);
    }
    let (outcome, _) = hub.order(What::Reserve(LinesOf::Many(vec![line(6), line(6)]))).await;
    assert_eq!((outcome, hub.seq().await), (Outcome::NotEnough, before), "nothing was journalled");

    let (outcome, said) = hub.order(many(vec![elsewhere(3), line(6), elsewhere(2), line(4)])).await;
    assert_eq!((outcome, said["lines"].as_array().unwrap().len()), (Outcome::Done, 4), "{said}");
    assert_eq!((&said["lines"][2]["on_hand"], hub.pool_now().await), (&json!(-5), [10, 0, 10, 0]));
    let records = Running::records(&hub.stop().await).await;
    let one_event: Vec<_> = records[records.len() - 5..].iter().map(std::mem::discriminant).collect();
    let used = Rights { gtin: GTIN, promised: 10, ..Rights::default() };
    assert_eq!(records.last(), Some(&Of::Rights(used)), "one for the item, at the end");
    assert_eq!(one_event.len(), 5);
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_whatever_became_of_the_stock() {
    let hub = pooled(10).await;
    let first = hub.reply(key(1, 5), decrement(10)).await;
    let refused = hub.reply(key(2, 6), decrement(1)).await;
    let before = hub.seq().await;
    let again = hub.reply(key(1, 5), decrement(10)).await;
    assert_eq!(again, Reply { replayed: true, ..first.clone() });
    hub.set_pool(PoolChange::Add(5)).await;
    let still = hub.reply(key(2, 6), decrement(1)).await;
    assert_eq!((still.outcome, still.replayed, &still.body), (Outcome::NotEnough, true, &refused.body));
    assert_eq!(hub.reply(key(1, 7), decrement(1)).await.outcome, Outcome::KeyReused);
    assert!(hub.seq().await > before, "only the pool's change");
    assert_eq!(hub.pool_now().await, [15, 5, 10, 0]);

    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.reply(key(1, 5), decrement(10)).await, Reply { replayed: true, ..first });
    assert_eq!(hub.reply(key(3, 5), decrement(10)).await.outcome, Outcome::NotEnough, "another key is another request");
    assert_eq!(hub.pool_now().await, [15, 5, 10, 0]);
}

#[tokio::test]
async fn a_reservation_ends_once_and_expires_by_the_time_that_the_hub_runs() {
    let hub = pooled(10).await;
    let (outcome, long) = hub.order(reserve(4, 600)).await;
    assert_eq!((outcome, &long["state"], &long["seconds_left"]), (Outcome::Created, &json!("open"), &json!(600)));
    let (_, short) = hub.order(reserve(6, 1)).await;
    assert_eq!(hub.pool_now().await, [10, 0, 0, 10]);
    assert_eq!(hub.order(decrement(1)).await.0, Outcome::NotEnough);
    let id = |reservation: &Value| reservation["id"].as_str().unwrap().to_owned();
    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.pool_now().await[3], 10, "a restart ends none");

    while hub.order(What::Reservation(id(&short))).await.1["state"] == "open" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hub.pool_now().await, [10, 6, 0, 4]);
    assert_eq!(hub.order(What::Release(id(&short))).await.0, Outcome::ReservationEnded);
    let (outcome, late) = hub.order(What::Commit(id(&short))).await;
    assert_eq!((outcome, &late["state"]), (Outcome::Done, &json!("committed")), "there was still as much");
    assert_eq!(hub.order(What::Commit(id(&short))).await.0, Outcome::Done, "said again it changes nothing");
    assert_eq!(hub.pool_now().await, [10, 0, 6, 4]);

    assert_eq!(hub.order(What::Release(id(&long))).await.1["state"], "released");
    assert_eq!(hub.order(What::Commit(id(&long))).await.0, Outcome::ReservationEnded);
    assert_eq!(hub.pool_now().await, [10, 4, 6, 0]);
    let (_, gone) = hub.order(reserve(4, 1)).await;
    while hub.order(What::Reservation(id(&gone))).await.1["state"] == "open" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(hub.order(decrement(3)).await.0, Outcome::Done);
    let (outcome, said) = hub.order(What::Commit(id(&gone))).await;
    assert_eq!((outcome, &said["left"]), (Outcome::ReservationExpired, &json!(1)));
    assert_eq!(hub.order(What::Commit("r-0-0".into())).await.0, Outcome::ReservationUnknown);

    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.order(What::Reservation(id(&gone))).await.1["state"], "expired");
    assert_eq!(hub.pool_now().await, [10, 1, 9, 0]);
}

#[tokio::test]
async fn reservations_have_bounds() {
    let limits = ReservationLimits { seconds_max: 60, open_max: 2 };
    let hub = move || Hub::new(7).with_reservations(limits);
    let hub = Running::open_as(tempfile::tempdir().unwrap(), hub, drop).await;
    assert_eq!(hub.order(reserve(1, 60)).await.0, Outcome::NotPooled);
    hub.set_pool(PoolChange::Create(10)).await;
    assert_eq!(hub.order(reserve(1, 61)).await.0, Outcome::SecondsTooLong);
    assert_eq!(hub.order(reserve(1, 60)).await.0, Outcome::Created);
    let two = What::Reserve(LinesOf::Many(vec![line(1), line(1)]));
    assert_eq!(hub.order(two).await.0, Outcome::TooManyReservations);
    assert_eq!(hub.order(reserve(1, 60)).await.0, Outcome::Created);
    assert_eq!(hub.order(reserve(1, 60)).await.0, Outcome::TooManyReservations);
    assert_eq!(hub.pool_now().await, [10, 8, 0, 2]);
}

fn received(units: i64) -> Vec<Of> {
    vec![Of::Movement(Movement { gtin: GTIN, units, ..Movement::default() })]
}

#[tokio::test]
async fn what_the_hub_moves_is_a_component_of_its_own_that_nothing_mistakes_for_a_life() {
    let told = Arc::<Mutex<Vec<(String, Bytes)>>>::default();
    let hub = Running::open().await;
    let mut hill = Site::hello(&hub, "hill").await;
    let total = CounterTotal { gtin: GTIN, units: 20, seq_offset: 0 };
    let records = received(20).into_iter().map(|of| Record { of: Some(of) }).collect();
    let event = Event { records, ..Event::default() };
    let body = Body { base_ms: 1_700_000_000_000, events: vec![event], totals: vec![total], ..Body::default() };
    let sealed = Sealer::default().seal(&hill.replica, hill.at, &body);
    hill.at = sealed.after;
    hill.send_bytes(&hub, sealed.bytes).await;
    for (units, left) in [(3, 17), (4, 13)] {
        let (outcome, said) = hub.order(What::Decrement(LinesOf::One(at("hill", units)))).await;
        assert_eq!((outcome, &said["on_hand"]), (Outcome::Done, &json!(left)), "{said}");
    }
    let (_, stock) = hub.order(What::Stock(gtin())).await;
    assert_eq!((&stock["on_hand"], &stock["sites"]["hill"], &stock["pool"]), (&json!(13), &json!(13), &Value::Null));

    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.order(What::Stock(gtin())).await.1["on_hand"], 13);
    // What the journal says is what the state holds, for this component too.
    let (answer, answered) = oneshot::channel();
    hub.handle.input(Input::Totals("hill".parse().unwrap(), answer)).await.unwrap();
    let held = answered.await.unwrap();
    let of_hub = format!("{GTIN:014}@{:016x}", 7);
    assert_eq!(held["totals"][&of_hub], -7, "{held}");
    let words = ["refold", "hill", &held["seq"].to_string()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let folded = crate::verify::of_words(&words).unwrap()(&hub.reader).unwrap();
    assert_eq!(folded["totals"], held["totals"]);

    // The site hears of it as what the hub moved, and no question about lives does.
    let streams = vec![proto::wire::StreamCursor { stream: "own".into(), position: 0 }];
    let hello =
        Hello { protocol: 1, site: "hill".into(), epoch: 5, journal_from: 1, journal_to: 1, ..Hello::default() };
    let hash = hill.at.hash.0.to_vec().into();
    hub.up("hill", UpOf::Hello(Hello { hash_to: hash, streams, ..hello })).await;
    hub.status().await;
    hub.status().await;
    let told: Vec<_> = told.lock().unwrap().iter().chain(hub.told.lock().unwrap().iter()).cloned().collect();
    let downs = told.iter().filter(|(topic, _)| topic == "down/hill");
    let downs = downs.map(|(_, payload)| proto::wire::Down::decode(payload.clone()).unwrap());
    let entry = downs
        .filter_map(|down| match down.of {
            Some(proto::wire::down::Of::Feed(feed)) => feed.stock.into_iter().next(),
            _ => None,
        })
        .next()
        .expect("the stream `own` says it");
    assert_eq!((entry.gtin, entry.epoch, entry.units, entry.by_hub), (GTIN, 7, -7, true));
    assert_eq!(hub.status().await["sites"]["hill"]["epoch"], format!("{:016x}", 5));
}

fn fields(fields: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<Bytes>> {
    let owned = |value: &str| Bytes::from(value.to_owned());
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.map(owned))).collect()
}

#[tokio::test]
async fn an_item_is_written_by_who_knows_its_version_and_fed_to_every_site() {
    let hub = Running::open().await;
    Site::hello(&hub, "hill").await;
    let write = |values: &[(&str, Option<&str>)], whole, only_if| What::Write {
        gtin: gtin(),
        fields: fields(values),
        whole,
        only_if,
    };
    assert_eq!(hub.order(What::Item(gtin())).await.0, Outcome::ItemUnknown);
    let pear = [("name", Some("\"Pear\"")), ("price_cents", Some("1000")), ("attr:region", Some("\"Alsace\""))];
    assert_eq!(hub.reply(None, write(&pear, true, OnlyIf::Exists)).await.outcome, Outcome::VersionDiffers);
    let made = hub.reply(None, write(&pear, true, OnlyIf::Absent)).await;
    let first = made.version.clone().unwrap();
    assert_eq!(made.outcome, Outcome::Created);
    assert_eq!(hub.reply(None, write(&pear, true, OnlyIf::Absent)).await.outcome, Outcome::VersionDiffers);

    let dearer = [("price_cents", Some("1200"))];
    let known = |version: &str| OnlyIf::Version(vec![version.to_owned()]);
    let changed = hub.reply(None, write(&dearer, false, known(&first))).await;
    let second = changed.version.clone().unwrap();
    assert_ne!(first, second);
    let stale = hub.reply(None, write(&dearer, false, known(&first))).await;
    assert_eq!((stale.outcome, stale.version.as_ref()), (Outcome::VersionDiffers, Some(&second)));
    // Nothing new is no new version.
    assert_eq!(hub.reply(None, write(&dearer, false, known(&second))).await.version, Some(second.clone()));
    let replaced = hub.reply(None, write(&dearer, true, known(&second))).await;
    let body: Value = serde_json::from_slice(&replaced.body).unwrap();
    assert_eq!(body, json!({ "gtin": gtin(), "price_cents": 1200, "attrs": {} }));

    // The write has seen what stood here, so a site that has not heard of it makes a conflict of its own write.
    let hub = Running::open_in(hub.stop().await).await;
    assert_eq!(hub.reply(None, What::Item(gtin())).await.version, replaced.version);
    assert_eq!(hub.status().await["conflicts"]["kept"], 0);
    let mut hill = Site::hello(&hub, "hill").await;
    let key = format!("item/{GTIN:014}/price_cents");
    let unaware = RegisterWrite { key, value: "900".into(), stamp: 1, ..RegisterWrite::default() };
    hill.send(&hub, vec![Of::Register(unaware)]).await;
    assert_eq!(hub.status().await["conflicts"]["kept"], 1);
    assert_eq!(hub.order(What::Item(gtin())).await.1["price_cents"], 1200);
}

#[tokio::test]
async fn a_restored_hub_promises_nothing_of_a_pool_before_it_knows_what_sites_hold() {
    let hub = pooled(10).await;
    Site::hello(&hub, "hill").await;
    let (_, held) = hub.order(reserve(2, 600)).await;
    let id = held["id"].as_str().unwrap().to_owned();
    let other = Gtin::with_check_digit(77).unwrap();
    let hub = Running::open_as(hub.stop().await, || Hub::restored(8), drop).await;
    for what in [decrement(1), reserve(1, 60), What::Commit(id.clone()), What::Release(id.clone())] {
        let (outcome, said) = hub.order(what).await;
        assert_eq!(outcome, Outcome::RightsUnsure);
        assert!(said["detail"].as_str().unwrap().contains("hill"), "{said}");
    }
    assert_eq!(hub.order(What::Reservation(id)).await.1["state"], "open");
    let elsewhere = Line { gtin: other, ..at("hill", 1) };
    assert_eq!(hub.order(What::Decrement(LinesOf::One(elsewhere))).await.0, Outcome::Done, "it has no pool");
    let lost = Lost {
        site: "hill".parse().unwrap(),
        by: "anna".into(),
        why: "burnt down".into(),
        reference: String::new(),
        reclaim: false,
    };
    hub.up("hill", UpOf::Bye(proto::wire::Bye {})).await;
    let (answer, answered) = oneshot::channel();
    hub.handle.input(Input::Lost(lost, answer)).await.unwrap();
    let said = answered.await.unwrap();
    assert!(said["error"].is_null(), "{said}");
    assert_eq!(hub.order(decrement(1)).await.0, Outcome::Done, "nobody is awaited any more");
}
