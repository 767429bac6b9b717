//! Pools and rights at the hub, against sites that use them, know nothing of them, go away or come back as another life.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::gtin::Gtin;
use proto::wire::down::Of as DownOf;
use proto::wire::{
    Ancestor, Down, FeedAck, HoldEnd, HoldEnded, Movement, MovementKind, Rights, RightsEntry, RightsHeld, RightsWanted,
    StreamCursor, Want,
};

use super::*;
use crate::hub::{PoolChange, Pools, RightsAsk, RightsChange, RightsNote, RightsRules};

const GTIN: u64 = 4_006_381_333_931;

fn gtin() -> Gtin {
    Gtin::from_number(GTIN).unwrap()
}

fn note() -> RightsNote {
    RightsNote { by: "anna".into(), why: "the launch".into(), reference: "PO 7".into() }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Only what is asked for is granted.
fn sparing() -> RightsRules {
    RightsRules { floor: 0, spread_percent: 0, hub_percent: 0, cover_s: 1, ..RightsRules::default() }
}

async fn open(rules: RightsRules) -> Running {
    open_in(tempfile::tempdir().unwrap(), rules).await
}

async fn open_in(dir: TempDir, rules: RightsRules) -> Running {
    Running::open_as(dir, move || Hub::new(7).granting_by(rules.clone()), drop).await
}

async fn restored(dir: TempDir, incarnation: u64, rules: RightsRules) -> Running {
    Running::open_as(dir, move || Hub::restored(incarnation).granting_by(rules.clone()), drop).await
}

impl Running {
    async fn ask(&self, ask: RightsAsk) -> Value {
        let (answer, answered) = oneshot::channel();
        self.handle.input(Input::Rights(ask, answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn pool(&self, change: PoolChange) -> Value {
        self.ask(RightsAsk::Pool(gtin(), change, note())).await
    }

    async fn rights(&self, site: &str, change: RightsChange) -> Value {
        self.ask(RightsAsk::Site(gtin(), site.parse().unwrap(), change, note())).await
    }

    async fn shown(&self) -> Value {
        self.ask(RightsAsk::Show(gtin())).await
    }

    async fn free(&self) -> i64 {
        self.shown().await["free"].as_i64().unwrap()
    }

    async fn until_shown(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let shown = self.shown().await;
            if holds(&shown) {
                return shown;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "not {what}: {shown}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What HQ was told last on a topic.
    fn hq(&self, topic: &str) -> Option<Value> {
        let told = self.told.lock().unwrap();
        let (_, payload) = told.iter().rev().find(|(to, _)| to == topic)?;
        Some(serde_json::from_slice(payload).unwrap_or(Value::Null))
    }

    async fn lost(&self, site: &str, reclaim: bool) -> Value {
        let (answer, answered) = oneshot::channel();
        let lost = Lost { site: site.parse().unwrap(), by: "anna".into(), why: "a fire".into(), reclaim };
        self.handle.input(Input::Lost(lost, answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn leave(&self, site: &str) {
        self.up(site, UpOf::Bye(proto::wire::Bye {})).await;
    }
}

/// A gateway as far as rights go.
struct Shop {
    site: Site,
    rights: Rights,
    asked: u64,
    read: usize,
}

impl Shop {
    async fn open(hub: &Running, name: &str, epoch: u64) -> Shop {
        let replica = ReplicaId { site: name.parse().unwrap(), epoch: Epoch(epoch) };
        let site = Site { replica, at: Position::default() };
        let mut shop = Shop { site, rights: Rights { gtin: GTIN, ..Rights::default() }, asked: 0, read: 0 };
        shop.hello(hub, true, vec![]).await;
        shop
    }

    fn name(&self) -> String {
        self.site.replica.site.to_string()
    }

    async fn hello(&mut self, hub: &Running, follows: bool, lineage: Vec<Ancestor>) {
        self.read = hub.told.lock().unwrap().len();
        let rights = StreamCursor { stream: "rights".into(), position: 0 };
        let unknown = StreamCursor { stream: "something/newer".into(), position: 3 };
        let hello = Hello {
            protocol: 2,
            site: self.name(),
            epoch: self.site.replica.epoch.0,
            journal_from: 1,
            journal_to: 1 << 40,
            streams: if follows { vec![unknown, rights] } else { vec![] },
            lineage,
            ..Hello::default()
        };
        hub.up(&self.name(), UpOf::Hello(hello)).await;
    }

    /// Takes over what the hub fed.
    async fn listen(&mut self, hub: &Running) {
        let topic = format!("down/{}", self.name());
        let told: Vec<Bytes> = {
            let told = hub.told.lock().unwrap();
            let new =
                told[self.read..].iter().filter(|(to, _)| *to == topic).map(|(_, payload)| payload.clone()).collect();
            self.read = told.len();
            new
        };
        for payload in told {
            let Some(DownOf::Feed(feed)) = Down::decode(payload).unwrap().of else { continue };
            for entry in feed.rights.iter().filter(|entry| entry.gtin == GTIN) {
                self.rights.granted = self.rights.granted.max(entry.granted);
                self.asked = self.asked.max(entry.asked);
            }
            let ack = FeedAck { cursor: feed.upto, stream: feed.stream, ..FeedAck::default() };
            hub.up(&self.name(), UpOf::FeedAck(ack)).await;
        }
    }

    async fn until(&mut self, hub: &Running, what: &str, holds: impl Fn(&Shop) -> bool) {
        let began = Instant::now();
        loop {
            self.listen(hub).await;
            if holds(self) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "not {what}: {:?}, asked {}", self.rights, self.asked);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_granted(&mut self, hub: &Running, units: u64) {
        self.until(hub, &format!("{units} granted"), |shop| shop.rights.granted >= units).await;
    }

    async fn say(&mut self, hub: &Running, records: Vec<Of>) {
        self.say_in(hub, Event::default(), records).await;
    }

    async fn say_in(&mut self, hub: &Running, event: Event, records: Vec<Of>) {
        let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
        let event = Event { device: "pos-1".into(), records, ..event };
        let body = Body { base_ms: wall_ms(), events: vec![event], ..Body::default() };
        let sealed = Sealer::default().seal(&self.site.replica, self.site.at, &body);
        self.site.at = sealed.after;
        self.site.send_bytes(hub, sealed.bytes).await;
    }

    async fn sell(&mut self, hub: &Running, units: u64) {
        self.rights.promised += units;
        self.say(hub, vec![sale(units), Of::Rights(self.rights)]).await;
    }

    async fn hold(&mut self, hub: &Running, units: u64) {
        self.rights.held += units;
        self.say(hub, vec![Of::Rights(self.rights)]).await;
    }

    /// Gives back what is free of what it is asked for, once.
    async fn answer(&mut self, hub: &Running) {
        let Rights { granted, returned, promised, held, answered, .. } = self.rights;
        let free = granted.saturating_sub(returned + promised + held);
        self.rights.returned += free.min(self.asked - answered);
        self.rights.answered = self.asked;
        self.say(hub, vec![Of::Rights(self.rights)]).await;
    }

    async fn want(&self, hub: &Running, turned_away: u64) {
        let want = Want { gtin: GTIN, available: 0, turned_away };
        hub.up(&self.name(), UpOf::RightsWanted(RightsWanted { wants: vec![want] })).await;
    }

    async fn report(&self, hub: &Running) {
        let entry = RightsEntry { gtin: GTIN, granted: self.rights.granted, asked: self.asked };
        let held = RightsHeld { rights: vec![entry], last: true };
        hub.up(&self.name(), UpOf::RightsHeld(held)).await;
    }
}

fn sale(units: u64) -> Of {
    Of::Movement(Movement {
        gtin: GTIN,
        units: -(units as i64),
        kind: MovementKind::Sale.into(),
        ..Movement::default()
    })
}

/// The journal, folded anew, says what the memory said.
async fn as_journalled(hub: Running, shown: &Value) -> TempDir {
    let dir = hub.stop().await;
    let mut pools = Pools::default();
    read_unlocked(&dir, &mut |chunk| {
        for (first, stamp, event) in chunk.events() {
            pools.replay(first, stamp.ms().0, event);
        }
    })
    .await;
    let mut shown = shown.clone();
    shown.as_object_mut().unwrap().remove("waits_for");
    assert_eq!(pools.json(GTIN).unwrap(), shown, "by the journal, and as it was in memory");
    dir
}

#[tokio::test]
async fn a_site_is_granted_sells_and_gives_back() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    assert!(hub.pool(PoolChange::Add(1)).await["error"].as_str().unwrap().contains("no pool"));
    assert_eq!(hub.pool(PoolChange::Create(100)).await["free"], 100);
    assert!(hub.pool(PoolChange::Create(1)).await["error"].as_str().unwrap().contains("already"));
    assert_eq!(hub.rights("hill", RightsChange::Grant(30)).await["granted"], 30);
    hill.until_granted(&hub, 30).await;
    hill.sell(&hub, 10).await;
    hill.hold(&hub, 5).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["promised"], &shown["held"]), (&json!(70), &json!(10), &json!(5)), "{shown}");
    assert_eq!(shown["sites"]["hill"]["available"], 15);

    assert!(hub.rights("hill", RightsChange::Grant(71)).await["error"].as_str().unwrap().contains("70 units"));
    assert_eq!(hub.rights("hill", RightsChange::Ask(20)).await["asked"], 20);
    assert!(hub.rights("hill", RightsChange::Ask(1)).await["error"].as_str().unwrap().contains("not answered"));
    hill.until(&hub, "asked", |shop| shop.asked == 20).await;
    hill.answer(&hub).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["returned"]), (&json!(85), &json!(15)), "it had 15: {shown}");
    // Units that came back from buyers are in the pool again.
    hill.rights.refunded += 4;
    hill.say(&hub, vec![Of::Rights(hill.rights)]).await;
    assert_eq!(hub.free().await, 89);
    assert_eq!(hub.pool(PoolChange::Withdraw(1_000)).await["change"], -89, "only what is free goes");
    assert_eq!(
        hub.pool(PoolChange::WithdrawAll(1_000)).await["error"].as_str().map(|why| why.contains("11")),
        Some(true)
    );
    hub.pool(PoolChange::Add(9)).await;

    hub.until_shown("told", |_| hub.hq("hq/pools/04006381333931").is_some_and(|told| told["free"] == 9)).await;
    let before = hub.shown().await;
    let dir = as_journalled(hub, &before).await;
    let again = open_in(dir, sparing()).await;
    assert_eq!(again.shown().await, before, "the state says what the memory said");
    assert_eq!(again.hq("hq/pools/04006381333931").unwrap()["free"], 9, "and HQ has it after a start");
}

#[tokio::test]
async fn every_site_has_a_floor_and_the_hot_one_gets_more() {
    let hub = open(RightsRules { floor: 2, spread_percent: 0, ..RightsRules::default() }).await;
    let mut shops = vec![];
    for name in ["hill", "harbour", "mill"] {
        shops.push(Shop::open(&hub, name, 5).await);
    }
    hub.pool(PoolChange::Create(100)).await;
    for shop in &mut shops {
        shop.until_granted(&hub, 2).await;
    }
    shops[0].sell(&hub, 2).await;
    // The time of the sale is known, so its rate is: more than the two it sold.
    shops[0].until_granted(&hub, 4).await;
    shops[0].want(&hub, 20).await;
    shops[0].until_granted(&hub, 24).await;
    let shown = hub.shown().await;
    for cold in ["harbour", "mill"] {
        assert_eq!(shown["sites"][cold]["granted"], 2, "{shown}");
    }
    assert!(hub.free().await >= 10, "what is kept for the hub's own channel: {shown}");
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn sales_beyond_the_rights_are_covered_before_anything_is_granted() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(2)).await;
    hill.until_granted(&hub, 2).await;
    hill.sell(&hub, 7).await;
    assert_eq!(hub.free().await, 3, "five more than it had");
    let told = hub.hq("hq/alerts/hill:oversold").unwrap();
    assert!(told["say"].as_str().unwrap().contains("5 of"), "{told}");
    // The hole is filled, which costs nothing more, and no sooner does anybody get something.
    hill.until_granted(&hub, 7).await;
    assert_eq!(hub.free().await, 3);
    harbour.want(&hub, 9).await;
    hub.until_shown("granted what there is", |shown| shown["sites"]["harbour"]["granted"] == 3).await;
    hill.sell(&hub, 4).await;
    let shown = hub.until_shown("short", |shown| shown["free"] == -4).await;
    harbour.want(&hub, 9).await;
    assert_eq!(hub.shown().await["sites"]["harbour"]["granted"], shown["sites"]["harbour"]["granted"]);
    hub.until_shown("an alert", |_| {
        hub.hq("hq/alerts/hub:pool_short:04006381333931").is_some_and(|told| told["short"] == 4)
    })
    .await;
    // What comes free covers it first.
    hub.pool(PoolChange::Add(5)).await;
    hub.until_shown("over", |_| hub.hq("hq/alerts/hub:pool_short:04006381333931") == Some(Value::Null)).await;
    harbour.until_granted(&hub, 3).await;
    let shown = hub.until_shown("one left was granted", |shown| shown["free"] == 0).await;
    assert_eq!(hub.status().await["rights"]["oversold_units"], 9);
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn what_a_site_sold_before_it_knew_of_the_pool_counts() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hill.say(&hub, vec![sale(3)]).await;
    hub.pool(PoolChange::Create(10)).await;
    assert_eq!(hub.free().await, 10, "what was sold before the pool was shelf stock");
    tokio::time::sleep(Duration::from_millis(2)).await;
    hill.say(&hub, vec![sale(4)]).await;
    assert_eq!(hub.free().await, 6);
    hub.rights("hill", RightsChange::Grant(5)).await;
    hill.until_granted(&hub, 5).await;
    let shown = hub.shown().await;
    assert_eq!(
        (&shown["free"], &shown["sites"]["hill"]["available"]),
        (&json!(1), &json!(5)),
        "it can promise all of it"
    );
    hill.sell(&hub, 5).await;
    assert_eq!(hub.free().await, 1);
    // Handing over what a hold had committed spends nothing, and says nothing of rights.
    let collected =
        HoldEnded { id: "H-1".into(), how: HoldEnd::Collected.into(), gtin: GTIN, units: 2, ..HoldEnded::default() };
    hill.say(&hub, vec![sale(2), Of::HoldEnded(collected)]).await;
    // Nor does what an earlier life had sold, and is journalled again.
    let again = Event { rejoined_of: 3, origin_epoch: 4, ..Event::default() };
    hill.say_in(&hub, again, vec![sale(2)]).await;
    assert_eq!(hub.free().await, 1);
    // The same chunk again, as after a lost answer, counts nothing twice.
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    let again = open_in(dir, sparing()).await;
    hill.hello(&again, true, vec![]).await;
    assert_eq!(again.free().await, 1);
}

#[tokio::test]
async fn rights_move_from_one_site_to_another() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(20)).await;
    hill.until_granted(&hub, 20).await;
    hill.sell(&hub, 8).await;
    let to = |name: &str| RightsChange::Move(15, name.parse().unwrap());
    assert!(hub.rights("hill", to("hill")).await["error"].is_string());
    assert!(hub.rights("hill", to("nowhere")).await["error"].is_string());
    assert_eq!(hub.rights("hill", to("harbour")).await["for_site"], "harbour");
    hill.until(&hub, "asked", |shop| shop.asked == 15).await;
    hill.answer(&hub).await;
    harbour.until_granted(&hub, 12).await;
    let shown = hub.shown().await;
    assert_eq!(
        (&shown["free"], &shown["sites"]["harbour"]["granted"]),
        (&json!(0), &json!(12)),
        "what it had: {shown}"
    );
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn idle_rights_are_asked_back_when_buyers_go_away_elsewhere() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(20)).await;
    hill.until_granted(&hub, 20).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    hill.listen(&hub).await;
    assert_eq!(hill.asked, 0, "nobody wants it");
    harbour.want(&hub, 6).await;
    hill.until(&hub, "asked", |shop| shop.asked > 0).await;
    assert!(hill.asked >= 6, "{}", hill.asked);
    hill.answer(&hub).await;
    harbour.until_granted(&hub, 6).await;
    assert_eq!(hub.shown().await["sites"]["hill"]["asked"], 0);
}

#[tokio::test]
async fn a_lost_box_is_written_off_and_can_be_reclaimed() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(12)).await;
    hill.until_granted(&hub, 12).await;
    hill.sell(&hub, 4).await;
    hill.hold(&hub, 3).await;
    hub.leave("hill").await;
    let left = hub.ask(RightsAsk::AtRisk("hill".parse().unwrap())).await;
    assert_eq!(left["rights"], json!([{ "gtin": "04006381333931", "units": 5 }]));
    let lost = hub.lost("hill", false).await;
    assert_eq!((&lost["rights"][0]["units"], &lost["reclaimed"]), (&json!(5), &json!(0)), "{lost}");
    let told = hub.hq("hq/alerts/hill:site_lost").unwrap();
    assert!(told["say"].as_str().unwrap().contains("count as spent: 5 of 04006381333931"), "{told}");
    assert_eq!(hub.free().await, 8);
    assert!(hub.rights("hill", RightsChange::Grant(1)).await["error"].as_str().unwrap().contains("lost"));
    assert_eq!(hub.lost("hill", true).await["reclaimed"], 5);
    assert_eq!(hub.free().await, 13, "what was promised or held stays so");
    assert_eq!(hub.lost("hill", true).await["reclaimed"], 0);
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 0);
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!(hub.shown().await, shown);
    // The box comes back: it is turned away, and gets nothing.
    hill.hello(&hub, true, vec![]).await;
    assert_eq!(hub.status().await["sites"]["hill"]["online"], false);
}

#[tokio::test]
async fn a_new_life_begins_with_nothing_and_the_old_ones_rights_count_as_spent() {
    let hub = open(sparing()).await;
    let mut old = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(12)).await;
    old.until_granted(&hub, 12).await;
    old.sell(&hub, 4).await;
    hub.leave("hill").await;
    let mut new = Shop::open(&hub, "hill", 6).await;
    assert_eq!(hub.free().await, 8);
    new.until(&hub, "fed the pool", |shop| shop.rights.granted == 0).await;
    let over = Ancestor { epoch: 5, seq: old.site.at.seq.0, hash: old.site.at.hash.0.to_vec().into() };
    new.hello(&hub, true, vec![over]).await;
    let shown = hub.shown().await;
    let hill = &shown["sites"]["hill"];
    assert_eq!(
        (&hill["available"], &hill["written_off"], &shown["free"]),
        (&json!(0), &json!(8), &json!(8)),
        "{shown}"
    );
    hub.rights("hill", RightsChange::Grant(3)).await;
    new.until_granted(&hub, 3).await;
    assert_eq!(hub.shown().await["sites"]["hill"]["available"], 3);
    // The old box is empty, somebody looked: what it had left is promised again.
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 8);
    let shown = hub.shown().await;
    assert_eq!(shown["free"], 13);
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn a_restored_hub_grants_nothing_before_all_have_said_what_they_hold() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(50)).await;
    let dir = hub.stop().await;
    let copy = copied(&dir);
    // After the backup was made.
    let hub = open_in(dir, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    hub.rights("hill", RightsChange::Grant(30)).await;
    hill.until_granted(&hub, 30).await;
    drop(hub.stop().await);

    let hub = restored(copy, 8, sparing()).await;
    let alert = || hub.hq("hq/alerts/hub:rights_waiting");
    hub.until_shown("waiting for both", |shown| shown["waits_for"] == "harbour, hill").await;
    hub.until_shown("told", |_| alert().is_some_and(|told| told["say"].as_str().unwrap().contains("harbour, hill")))
        .await;
    assert_eq!(hub.free().await, 50, "it knows nothing of the grant");
    let refused = hub.rights("hill", RightsChange::Grant(40)).await;
    assert!(refused["error"].as_str().unwrap().contains("harbour"), "{refused}");
    hill.hello(&hub, true, vec![]).await;
    hill.want(&hub, 5).await;
    assert_eq!(hub.shown().await["granted"], 0, "nobody is granted anything");
    hill.report(&hub).await;
    assert_eq!((hub.free().await, &hub.shown().await["waits_for"]), (20, &json!("harbour")));
    // Over a restart it waits on, and does not ask twice.
    let dir = hub.stop().await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!(hub.shown().await["waits_for"], "harbour");
    // One whose software knows no rights holds none.
    harbour.hello(&hub, false, vec![]).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["waits_for"], &shown["free"]), (&Value::Null, &json!(20)), "{shown}");
    hub.until_shown("settled", |_| hub.hq("hq/alerts/hub:rights_waiting") == Some(Value::Null)).await;
    assert_eq!(hub.rights("harbour", RightsChange::Grant(20)).await["granted"], 20);
    // A claim of more does not count any more, here or at a hub that was never restored.
    hill.hello(&hub, true, vec![]).await;
    hill.rights.granted = 1 << 40;
    hill.report(&hub).await;
    assert_eq!(hub.free().await, 0);
    let dir = hub.stop().await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!((hub.free().await, &hub.shown().await["waits_for"]), (0, &Value::Null));
}

#[tokio::test]
async fn a_site_that_will_not_come_back_does_not_keep_a_restored_hub_waiting() {
    let hub = open(sparing()).await;
    Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(5)).await;
    let hub = restored(hub.stop().await, 8, sparing()).await;
    hub.until_shown("waiting", |shown| shown["waits_for"] == "hill").await;
    hub.lost("hill", false).await;
    assert_eq!(hub.shown().await["waits_for"], Value::Null);
}

#[tokio::test]
async fn more_is_withdrawn_than_is_free() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(15)).await;
    hill.until_granted(&hub, 15).await;
    let done = hub.pool(PoolChange::WithdrawAll(12)).await;
    assert_eq!((&done["units"], &done["free"], &done["asked"]), (&json!(8), &json!(-7), &json!(7)), "{done}");
    hill.until(&hub, "asked", |shop| shop.asked == 7).await;
    hill.answer(&hub).await;
    assert_eq!(hub.free().await, 0);
}

#[tokio::test]
async fn what_a_newer_gateway_says_is_passed_by() {
    let hub = open(sparing()).await;
    Shop::open(&hub, "hill", 5).await;
    let durable = hub.reader.stats().durable;
    // Field 99, which nobody has.
    let newer = |session| [Up { session, of: None }.encode_to_vec(), vec![0x9A, 0x06, 1, 0]].concat();
    hub.raw("hill", newer(1)).await;
    assert_eq!(hub.reader.stats().durable, durable);
    assert_eq!(hub.status().await["sync"]["refused"], 0);
    hub.raw("hill", newer(2)).await;
    assert_eq!(hub.status().await["sync"]["refused"], 1, "it is no message of the session");
}

fn copied(dir: &TempDir) -> TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(std::fs::copy(entry.path(), target).unwrap()),
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(dir.path(), to.path());
    to
}
