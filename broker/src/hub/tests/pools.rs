//! Pools and rights at the hub, against sites that use them, know nothing of them, go away or come back as another life.

mod lives;
mod online;
mod restores;
mod spending;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::gtin::Gtin;
use proto::wire::down::Of as DownOf;
use proto::wire::{
    Ancestor, Down, EarlierRights, FeedAck, HoldEnd, HoldEnded, Movement, MovementKind, Rights, RightsEntry,
    RightsHeld, RightsWanted, StreamCursor, Want,
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
        let lost = Lost {
            site: site.parse().unwrap(),
            by: "anna".into(),
            why: "a fire".into(),
            reference: "claim 9".into(),
            reclaim,
        };
        self.handle.input(Input::Lost(lost, answer)).await.unwrap();
        answered.await.unwrap()
    }

    /// As the newest welcome said.
    fn incarnation(&self) -> u64 {
        let told = self.told.lock().unwrap();
        let downs = told.iter().rev().filter(|(to, _)| to.starts_with("down/"));
        let welcomes = downs.filter_map(|(_, payload)| match Down::decode(payload.clone()).unwrap() {
            Down { incarnation, of: Some(DownOf::Welcome(_)), .. } => Some(incarnation),
            _ => None,
        });
        welcomes.into_iter().next().expect("a gateway was welcomed")
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
    /// What other lives of the site had, by epoch.
    earlier: Vec<(u64, u64)>,
    read: usize,
}

impl Shop {
    async fn open(hub: &Running, name: &str, epoch: u64) -> Shop {
        let replica = ReplicaId { site: name.parse().unwrap(), epoch: Epoch(epoch) };
        let site = Site { replica, at: Position::default() };
        let mut shop =
            Shop { site, rights: Rights { gtin: GTIN, ..Rights::default() }, asked: 0, earlier: vec![], read: 0 };
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
                if entry.epoch != 0 {
                    self.earlier.retain(|(epoch, _)| *epoch != entry.epoch);
                    self.earlier.push((entry.epoch, entry.granted));
                    continue;
                }
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
        let incarnation = hub.incarnation();
        self.report_as(hub, RightsHeld { last: true, incarnation, ..RightsHeld::default() }).await;
    }

    /// What this life holds, and what `held` says besides.
    async fn report_as(&self, hub: &Running, mut held: RightsHeld) {
        let entry = RightsEntry { gtin: GTIN, granted: self.rights.granted, asked: self.asked, epoch: 0 };
        held.rights.push(entry);
        let earlier =
            |(epoch, granted): &(u64, u64)| RightsEntry { gtin: GTIN, granted: *granted, asked: 0, epoch: *epoch };
        held.rights.extend(self.earlier.iter().map(earlier));
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
