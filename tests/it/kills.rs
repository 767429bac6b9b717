//! SIGKILL at seeded moments while devices publish: what was acknowledged is in the gateway's ledger, and at HQ
//! exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firmware_sim::client::{Client, Event, Options, Token};
use firmware_sim::seam::Fault;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout_at};

use crate::harness::ledgers::{self, Hq, Row};
use crate::harness::mqtt::Monitor;
use crate::harness::node::Spec;
use crate::harness::wait::PATIENCE;
use crate::harness::{GTIN, Pair, SITE, folder};

const DEVICES: u64 = 3;
const PAD: &str = "pad";
/// A device's pace: fast enough that every kill meets publishes under way, slow enough for two cores.
const EVERY: Duration = Duration::from_millis(6);
const GATEWAY_KILLS: u32 = 40;
const HUB_KILLS: u32 = 20;
const BOTH_KILLS: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Gateway,
    Hub,
    /// Now the one, now the other; the other may be in its start.
    Either,
}

#[tokio::test]
async fn the_gateway_is_killed_again_and_again() {
    check(Victim::Gateway, from_env("KILLS", GATEWAY_KILLS), seed(1)).await;
}

/// With a journal so small that segments are dropped, snapshots written and checkpoints under way at every moment.
#[tokio::test]
async fn a_gateway_that_trims_all_the_time_is_killed_again_and_again() {
    let dir = folder();
    let hub = Spec::hub(dir.path()).start().await;
    let small = "journal_mib_max = 2\nretain_days = 0\n";
    let gateway = Spec::gateway(dir.path(), SITE, Some(hub.addr)).config(small).start().await;
    let mut pair = Pair::of(hub, gateway, dir);
    let kills = from_env("KILLS", GATEWAY_KILLS / 2);
    let (crew, struck) = strike(Victim::Gateway, kills, seed(4), &mut pair).await;
    // On a busy machine little is written between the kills: the devices go on until a segment has to go.
    let gone = |status: &serde_json::Value| status["ledger"]["first_seq"].as_u64() > Some(1);
    let status = pair.gateway.until_status("old segments go", gone).await;
    let logs = crew.go_home().await;
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let at_hq = Hq::read(pair.hub.dir()).rows;
    let found = Found::count(&logs, &at_hq, &at_hq);
    println!("killed a gateway that trims: {struck} {found} first={}", status["ledger"]["first_seq"]);
    assert_eq!((found.lost, found.doubled), (0, 0), "{found:?}");
}

#[tokio::test]
async fn the_hub_is_killed_again_and_again() {
    check(Victim::Hub, from_env("KILLS", HUB_KILLS), seed(2)).await;
}

#[tokio::test]
async fn both_are_killed_again_and_again() {
    check(Victim::Either, from_env("KILLS", BOTH_KILLS), seed(3)).await;
}

/// `SEED` and `KILLS` look further than every run does.
fn seed(usual: u32) -> u64 {
    from_env("SEED", usual).into()
}

fn from_env(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |value| value.parse().expect("KILLS and SEED are numbers"))
}

/// The same devices and the same count against a gateway that answers before it commits.
#[tokio::test]
async fn a_gateway_that_acknowledges_early_is_caught() {
    let dir = folder();
    let hub = Spec::hub(dir.path()).start().await;
    let gateway = Spec::gateway(dir.path(), SITE, Some(hub.addr)).sabotage(Fault::AckEarly).start().await;
    let mut pair = Pair::of(hub, gateway, dir);
    let (crew, struck) = strike(Victim::Gateway, 3, 3, &mut pair).await;
    let logs = crew.go_home().await;
    pair.gateway.kill().await;
    let at_gateway = ledgers::of_gateway(pair.gateway.dir());
    let found = Found::count(&logs, &at_gateway, &at_gateway);
    println!("killed a gateway that acknowledges early: {struck} {found}");
    assert!(found.lost > 0, "the check must see it: {found:?}");
}

async fn check(victim: Victim, kills: u32, seed: u64) {
    let mut pair = Pair::start().await;
    let (crew, struck) = strike(victim, kills, seed, &mut pair).await;
    let logs = crew.go_home().await;
    pair.gateway.until_applied().await;

    // The last word on the gateway's disk is a kill, too.
    pair.gateway.kill().await;
    let at_gateway = ledgers::of_gateway(pair.gateway.dir());
    let on_hand: i64 = at_gateway.iter().filter_map(Row::movement).map(|movement| movement.units).sum();
    let mut monitor = Monitor::open(pair.hub.addr, "hq/stock/+").await;
    let topic = format!("hq/stock/{GTIN}");
    monitor.until_json(&topic, |stock| stock["on_hand"] == on_hand).await;
    pair.hub.stop().await;
    let at_hq = Hq::read(pair.hub.dir()).rows;
    let found = Found::count(&logs, &at_gateway, &at_hq);
    println!("killed the {victim:?}: seed={seed} {struck} {found}");
    assert_eq!((found.lost, found.doubled), (0, 0), "{found:?}");
    assert_eq!(at_hq, at_gateway, "HQ has the gateway's journal, record by record and in order");
    assert!(struck.kills >= kills && (victim == Victim::Hub || struck.busy > 0), "{struck}");
}

/// How often it was killed, how often in its start, and how often while publishes waited for their PUBACK.
#[derive(Debug, Default)]
struct Struck {
    kills: u32,
    starting: u32,
    busy: u32,
}

impl std::fmt::Display for Struck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kills={} starting={} busy={}", self.kills, self.starting, self.busy)
    }
}

/// The crew is still at work afterwards.
async fn strike(victim: Victim, kills: u32, seed: u64, pair: &mut Pair) -> (Crew, Struck) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut crew = Crew::connect(pair, seed);
    let mut struck = Struck::default();
    while struck.kills < kills {
        await_work(victim, pair, &mut crew).await;
        // Not a wait for anything: the moment of the kill is what the seed decides.
        tokio::time::sleep(Duration::from_micros(chance.random_range(0..60_000))).await;
        let node = match victim {
            Victim::Gateway => &mut pair.gateway,
            Victim::Hub => &mut pair.hub,
            Victim::Either if chance.random() => &mut pair.gateway,
            Victim::Either => &mut pair.hub,
        };
        struck.busy += u32::from(crew.progress.borrow().in_flight() > 0);
        node.kill().await;
        struck.kills += 1;
        if chance.random_ratio(1, 4) {
            node.start_and_kill(Duration::from_micros(chance.random_range(0..150_000))).await;
            struck.kills += 1;
            struck.starting += 1;
        }
        node.restart().await;
    }
    (crew, struck)
}

/// Waits until the victim has done something since it was started, so that there is something to lose.
async fn await_work(victim: Victim, pair: &Pair, crew: &mut Crew) {
    match victim {
        Victim::Gateway | Victim::Either => crew.next_acks(2).await,
        Victim::Hub => {
            let before = pair.gateway.status().await["uplink"]["applied_seq"].as_u64();
            pair.gateway
                .until_status("the hub applies", |status| {
                    status["uplink"]["connected"] == true && status["uplink"]["applied_seq"].as_u64() > before
                })
                .await;
        }
    }
}

/// Request ids that a device sent, and those that were acknowledged to it; bare scans have none and are counted.
#[derive(Debug, Default)]
struct Log {
    device: String,
    acked: BTreeSet<String>,
    bare_acked: usize,
}

struct Crew {
    devices: Vec<JoinHandle<Log>>,
    progress: watch::Sender<Progress>,
    go_home: watch::Sender<bool>,
}

/// Publishes of all devices.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent: u64,
    acked: u64,
}

impl Progress {
    fn in_flight(self) -> u64 {
        self.sent - self.acked
    }
}

impl Crew {
    fn connect(pair: &Pair, seed: u64) -> Crew {
        let (progress, go_home) = (watch::Sender::default(), watch::Sender::new(false));
        // The last one fills the journal.
        let name = |n| if n == DEVICES { format!("{PAD}-{n}") } else { format!("pos-{n}") };
        let device = |n| {
            let client = Client::new(Options {
                client: name(n),
                door: pair.gateway.addr.into(),
                clean: false,
                window: 8,
                subscribe: Vec::new(),
                seed: seed * 1_000 + n,
            });
            tokio::spawn(work(client, name(n), progress.clone(), go_home.subscribe()))
        };
        Crew { devices: (0..=DEVICES).map(device).collect(), progress, go_home }
    }

    /// Waits until so many more publishes were acknowledged.
    async fn next_acks(&mut self, more: u64) {
        let mut progress = self.progress.subscribe();
        let enough = progress.borrow().acked + more;
        let waited = timeout_at(Instant::now() + PATIENCE, progress.wait_for(|now| now.acked >= enough)).await.is_ok();
        assert!(waited, "the gateway acknowledges nothing any more; last: {:?}", self.progress.borrow());
    }

    /// No new requests; every device ends when all that it sent is acknowledged.
    async fn go_home(self) -> Vec<Log> {
        self.go_home.send_replace(true);
        let mut logs = Vec::new();
        for device in self.devices {
            let log = timeout_at(Instant::now() + PATIENCE, device).await;
            logs.push(log.expect("every publish is acknowledged in the end").expect("the device works"));
        }
        logs
    }
}

async fn work(
    mut client: Client,
    device: String,
    progress: watch::Sender<Progress>,
    mut end: watch::Receiver<bool>,
) -> Log {
    let mut log = Log { device, ..Log::default() };
    let mut pace = interval(EVERY);
    let (mut sent, mut over) = (0, false);
    while !over || client.unacknowledged() > 0 {
        tokio::select! {
            _ = pace.tick(), if !over && client.has_room() => {
                let (topic, payload) = request(&log.device, sent);
                client.publish(Token(sent), topic, payload.into()).expect("the window has room");
                sent += 1;
                progress.send_modify(|progress| progress.sent += 1);
            }
            event = client.next() => if let Event::Acked(Token(n)) = event {
                match id(n) {
                    Some(id) => assert!(log.acked.insert(id), "publish {n} is acknowledged once"),
                    None => log.bare_acked += 1,
                }
                progress.send_modify(|progress| progress.acked += 1);
            },
            _ = end.wait_for(|end| *end), if !over => over = true,
        }
    }
    client.close().await;
    log
}

/// Every eighth request is a bare barcode: it has no id, and is kept at least once.
fn id(n: u64) -> Option<String> {
    (n % 8 != 7).then(|| format!("r{n}"))
}

fn request(device: &str, n: u64) -> (String, String) {
    match id(n) {
        Some(id) if device.starts_with(PAD) => {
            let mut chance = SmallRng::seed_from_u64(n);
            let text: String = (0..1_500).map(|_| char::from(chance.random_range(b'0'..=b'Z'))).collect();
            (format!("dev/{device}/activity"), json!({"id": id, "text": text}).to_string())
        }
        None => (format!("dev/{device}/scan"), format!("{GTIN}\r\n")),
        Some(id) if n.is_multiple_of(3) => {
            (format!("dev/{device}/scan"), json!({"id": id, "gtin": GTIN, "op": "receive", "qty": 3}).to_string())
        }
        Some(id) => {
            let lines = json!([{"gtin": GTIN, "qty": 1, "cents": 999}]);
            (format!("dev/{device}/sale"), json!({"id": id, "lines": lines}).to_string())
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    acked: usize,
    found: usize,
    lost: usize,
    doubled: usize,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "acked={} found={} lost={} doubled={}", self.acked, self.found, self.lost, self.doubled)
    }
}

impl Found {
    fn count(logs: &[Log], at_gateway: &[Row], at_hq: &[Row]) -> Found {
        let mut counts = Found::default();
        let (gateway, hq) = (by_request(at_gateway), by_request(at_hq));
        for log in logs {
            counts.acked += log.acked.len() + log.bare_acked;
            for id in &log.acked {
                let key = (log.device.clone(), id.clone());
                let held = [gateway.get(&key), hq.get(&key)].map(|held| held.copied().unwrap_or(0));
                counts.lost += usize::from(held.contains(&0));
                counts.doubled += usize::from(held.iter().any(|held| *held > 1));
                counts.found += usize::from(!held.contains(&0));
            }
            let bare = (log.device.clone(), String::new());
            let held = [gateway.get(&bare), hq.get(&bare)].map(|held| held.copied().unwrap_or(0));
            counts.lost += log.bare_acked.saturating_sub(held[0].min(held[1]));
            counts.found += log.bare_acked.min(held[0].min(held[1]));
        }
        let dots: BTreeSet<_> = at_hq.iter().map(|row| &row.dot).collect();
        counts.doubled += at_hq.len() - dots.len();
        assert_eq!(logs.len() as u64, DEVICES + 1);
        counts
    }
}

/// Every request here leaves one record.
fn by_request(rows: &[Row]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry((row.device.clone(), row.request.clone())).or_default() += 1;
    }
    counts
}
