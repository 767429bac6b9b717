//! What rights cost at a till: a hold and its commit beside a plain durable publish, and a sale of an item from a pool beside
//! one off the shelf. The hub is stopped when all is granted: rights need no network.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Options, SITE, gateway_spec, hub_spec};
use crate::mqtt::{Heard, Hello, Qos, Wire};
use crate::nodes::{self, Node};
use crate::seam::Role;
use crate::status;

const CONNECTIONS: [usize; 3] = [1, 10, 50];
const POOLED: &str = "04006381333931";
const SHELF: &str = "05012345678900";
/// Far more than are taken.
const UNITS: u64 = 500_000_000;
const READY_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PAYLOAD_BYTES: usize = 100;
/// Replies to clean sessions are live messages: one can go with a router that is renewed. A till asks again, under its id.
const REPLY_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
pub(super) struct Holds {
    rounds: u32,
    seconds: u64,
    shapes: Vec<Shape>,
}

/// Medians by rate over all rounds.
#[derive(Debug, Serialize)]
struct Shape {
    connections: usize,
    /// Until PUBACK.
    publish: Spread,
    /// A hold until its reply, then its commit until its reply: two durable messages, one after the other.
    hold_and_commit: Spread,
    /// Of them the hold alone, until its reply.
    hold: Spread,
    /// The same until its PUBACK: what is durable then is all of it.
    hold_acked: Spread,
    /// Both sent at once, until both replies.
    hold_with_commit: Spread,
    /// Until PUBACK.
    shelf_sale: Spread,
    pooled_sale: Spread,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    done: usize,
    per_s: f64,
    p50_us: u32,
    p99_us: u32,
}

impl Spread {
    fn of(mut took_us: Vec<u32>, seconds: f64) -> Spread {
        took_us.sort_unstable();
        let at = |share: f64| took_us.get((took_us.len() as f64 * share) as usize).copied().unwrap_or(0);
        let done = took_us.len();
        Spread { done, per_s: done as f64 / seconds, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Publish,
    HoldAndCommit,
    /// The till names the hold, so it need not wait for it.
    HoldWithCommit,
    Sale(&'static str),
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Holds> {
    let gateway = granted(dir).await?;
    let mut rounds: Vec<[Vec<Spread>; 7]> = CONNECTIONS.iter().map(|_| Default::default()).collect();
    let mut run = 0;
    for round in 1..=options.rounds {
        for (connections, [publish, pair, hold, acked, both, shelf, pooled]) in CONNECTIONS.into_iter().zip(&mut rounds)
        {
            eprintln!("hold: round {round} of {}, {connections} connections", options.rounds);
            let mut load = async |what| {
                run += 1;
                load(gateway.addr(), what, connections, options.seconds, run).await
            };
            publish.push(load(What::Publish).await?[0]);
            for (spread, all) in load(What::HoldAndCommit).await?.into_iter().zip([pair, hold, acked]) {
                all.push(spread);
            }
            both.push(load(What::HoldWithCommit).await?[0]);
            shelf.push(load(What::Sale(SHELF)).await?[0]);
            pooled.push(load(What::Sale(POOLED)).await?[0]);
        }
    }
    gateway.stop().await?;
    let shapes = CONNECTIONS.into_iter().zip(rounds).map(|(connections, rounds)| {
        let [publish, hold_and_commit, hold, hold_acked, hold_with_commit, shelf_sale, pooled_sale] =
            rounds.map(median);
        let (publish, shelf_sale, pooled_sale) = (publish?, shelf_sale?, pooled_sale?);
        let (hold_and_commit, hold, hold_acked) = (hold_and_commit?, hold?, hold_acked?);
        let hold_with_commit = hold_with_commit?;
        Ok(Shape { connections, publish, hold_and_commit, hold, hold_acked, hold_with_commit, shelf_sale, pooled_sale })
    });
    Ok(Holds { rounds: options.rounds, seconds: options.seconds, shapes: shapes.collect::<Result<_>>()? })
}

/// A gateway with more rights than it will use.
async fn granted(dir: &Path) -> Result<Node> {
    let hub = Node::start(hub_spec(dir)).await?;
    let gateway = Node::start(gateway_spec(dir, SITE, Some(hub.addr()))).await?;
    let data = hub.dir().to_str().context("a folder's name in UTF-8")?.to_owned();
    let command = async |words: &[&str]| nodes::command(Role::Hub, &[words, &["--data", &data]].concat()).await;
    let deadline = Instant::now() + READY_WAIT;
    while !status::gateway(gateway.dir()).await?.uplink.connected {
        ensure!(Instant::now() < deadline, "the gateway is not connected after {} s", READY_WAIT.as_secs());
        sleep(LOOK_EVERY).await;
    }
    command(&["pool", "create", POOLED, &(2 * UNITS).to_string()]).await?;
    command(&["rights", "grant", POOLED, SITE, &UNITS.to_string()]).await?;
    loop {
        let rights = status::gateway(gateway.dir()).await?.rights;
        if rights.items.get(POOLED).is_some_and(|item| item.granted >= UNITS) {
            break;
        }
        ensure!(Instant::now() < deadline, "the gateway was granted nothing within {} s", READY_WAIT.as_secs());
        sleep(LOOK_EVERY).await;
    }
    hub.stop().await?;
    Ok(gateway)
}

/// Microseconds of one thing done: the whole, and of a hold with its commit the hold until its reply and until its PUBACK.
type Took = [u32; 3];

/// Each connection does one after the other, in a run that shares no device with another.
async fn load(addr: SocketAddr, what: What, connections: usize, seconds: u64, run: usize) -> Result<[Spread; 3]> {
    let mut tills = Vec::new();
    for n in 0..connections {
        tills.push(Till::open(addr, n, run).await?);
    }
    let (started, mut all) = (Instant::now(), JoinSet::new());
    let until = started + Duration::from_secs(seconds);
    for till in tills {
        all.spawn(till.work(what, until));
    }
    let mut took: Vec<Took> = Vec::new();
    while let Some(some) = all.join_next().await {
        took.extend(some.context("a till of the bench died")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok([0, 1, 2].map(|part| Spread::of(took.iter().map(|took| took[part]).collect(), seconds)))
}

struct Till {
    wire: Wire,
    device: String,
    sent: usize,
    pkid: u16,
}

impl Till {
    async fn open(addr: SocketAddr, n: usize, run: usize) -> Result<Till> {
        // No session of a run before is taken over.
        let device = format!("pos-{run}-{n}");
        let mut wire = Wire::open(&addr.into()).await?;
        wire.queue_connect(&Hello { client: device.clone(), clean: true, keep_alive_s: 60, login: None })?;
        let heard = wire.next().await?;
        ensure!(matches!(heard, Heard::Accepted { .. }), "the gateway answered CONNECT with {heard:?}");
        wire.queue_subscribe(1, &[format!("dev/{device}/reply")])?;
        let heard = wire.next().await?;
        ensure!(heard == Heard::Subscribed, "the gateway answered SUBSCRIBE with {heard:?}");
        Ok(Till { wire, device, sent: 0, pkid: 1 })
    }

    async fn work(mut self, what: What, until: Instant) -> Result<Vec<Took>> {
        let mut took = Vec::new();
        while Instant::now() < until {
            self.sent += 1;
            let id = format!("{}-{}", self.device, self.sent);
            took.push(match what {
                What::Publish => {
                    let head = json!({ "x": id }).to_string();
                    let text = format!("{id:x>width$}", width = PAYLOAD_BYTES - head.len() + id.len());
                    [self.send(&[("activity", json!({ "x": text }), None)]).await?.0, 0, 0]
                }
                What::HoldAndCommit => {
                    let (acked, held) = self.send(&[hold(&id)]).await?;
                    let (_, committed) = self.send(&[commit(&id)]).await?;
                    [held + committed, held, acked]
                }
                What::HoldWithCommit => [self.send(&[hold(&id), commit(&id)]).await?.1, 0, 0],
                What::Sale(gtin) => {
                    let sale = json!({ "id": id, "lines": [{ "gtin": gtin, "qty": 1, "cents": 4_900 }] });
                    [self.send(&[("sale", sale, None)]).await?.0, 0, 0]
                }
            });
        }
        self.wire.queue_disconnect()?;
        self.wire.flush().await?;
        Ok(took)
    }

    fn next_pkid(&mut self) -> u16 {
        self.pkid = self.pkid % 60_000 + 1;
        self.pkid
    }

    /// Sends all at once. Microseconds until the last PUBACK; and until the last reply as well to those that are named,
    /// which must be good ones.
    async fn send(&mut self, requests: &[Request]) -> Result<(u32, u32)> {
        let begun = Instant::now();
        let since = || u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut unacked = self.queue(requests)?;
        let mut named: Vec<&str> = requests.iter().filter_map(|(.., id)| id.as_deref()).collect();
        let mut acked = None;
        while !unacked.is_empty() || !named.is_empty() {
            let Ok(heard) = timeout(REPLY_WAIT, self.wire.next()).await else {
                unacked = self.queue(requests)?;
                continue;
            };
            match heard? {
                Heard::PubAck(pkid) => unacked.retain(|waiting| *waiting != pkid),
                Heard::Message(message) => {
                    if let Some(pkid) = message.pkid {
                        self.wire.queue_puback(pkid)?;
                    }
                    let answered = answered(&message.payload)?;
                    named.retain(|id| answered["id"] != *id);
                }
                _ => {}
            }
            acked = acked.or_else(|| unacked.is_empty().then(since));
        }
        Ok((acked.unwrap_or_default(), since()))
    }

    /// Their packet ids.
    fn queue(&mut self, requests: &[Request]) -> Result<Vec<u16>> {
        let mut queued = Vec::with_capacity(requests.len());
        for (topic, payload, _) in requests {
            let (topic, payload) = (format!("dev/{}/{topic}", self.device), Bytes::from(payload.to_string()));
            let pkid = self.next_pkid();
            self.wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload)?;
            queued.push(pkid);
        }
        Ok(queued)
    }
}

/// Its topic below the device's own, its payload, and its id if its reply is waited for.
type Request = (&'static str, Value, Option<String>);

fn hold(id: &str) -> Request {
    ("hold", json!({ "id": id, "op": "hold", "gtin": POOLED }), Some(id.to_owned()))
}

fn commit(hold: &str) -> Request {
    let id = format!("{hold}-c");
    ("hold", json!({ "id": id, "op": "commit", "hold": hold }), Some(id))
}

/// A reply, which must be a good one. Those to requests that were asked again come in passing.
fn answered(payload: &[u8]) -> Result<Value> {
    let reply: Value = serde_json::from_slice(payload).context("reading a reply")?;
    ensure!(reply["status"] == "ok" || reply["status"] == "duplicate", "the gateway answered {reply}");
    Ok(reply)
}

fn median(mut rounds: Vec<Spread>) -> Result<Spread> {
    rounds.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    rounds.get(rounds.len() / 2).copied().context("at least one round")
}

impl Holds {
    pub(super) fn table(&self) -> String {
        let Holds { rounds, seconds, shapes } = self;
        let mut text = format!(
            "What a buyer waits at a till, p50 and p99 in ms; medians of {rounds} rounds of {seconds} s\n\n\
             | connections | plain publish | hold, PUBACK | ratio of p99 | hold, reply | hold, reply, commit, reply | \
             ratio of p99 | hold with commit, replies | ratio of p99 | sale off the shelf | sale from a pool | ratio of p99 |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for shape in shapes {
            let Shape {
                connections,
                publish,
                hold_and_commit,
                hold,
                hold_acked,
                hold_with_commit,
                shelf_sale,
                pooled_sale,
            } = shape;
            let ratio = |a: &Spread, b: &Spread| f64::from(a.p99_us) / f64::from(b.p99_us.max(1));
            let (one, both) = (ratio(hold_acked, publish), ratio(hold_and_commit, publish));
            let (together, sales) = (ratio(hold_with_commit, publish), ratio(pooled_sale, shelf_sale));
            let [publish, acked, hold] = [publish, hold_acked, hold].map(cell);
            let [pair, with, shelf, pooled] = [hold_and_commit, hold_with_commit, shelf_sale, pooled_sale].map(cell);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {connections} | {publish} | {acked} | {one:.1} | {hold} | {pair} | {both:.1} | {with} | {together:.1} | {shelf} | {pooled} | {sales:.1} |"
            );
        }
        text
    }
}

fn cell(spread: &Spread) -> String {
    format!("{:.1}, {:.1}", f64::from(spread.p50_us) / 1e3, f64::from(spread.p99_us) / 1e3)
}
