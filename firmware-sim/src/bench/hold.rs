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
    Sale(&'static str),
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Holds> {
    let gateway = granted(dir).await?;
    let mut rounds: Vec<[Vec<Spread>; 6]> = CONNECTIONS.iter().map(|_| Default::default()).collect();
    let mut run = 0;
    for round in 1..=options.rounds {
        for (connections, [publish, pair, hold, acked, shelf, pooled]) in CONNECTIONS.into_iter().zip(&mut rounds) {
            eprintln!("hold: round {round} of {}, {connections} connections", options.rounds);
            let mut load = async |what| {
                run += 1;
                load(gateway.addr(), what, connections, options.seconds, run).await
            };
            publish.push(load(What::Publish).await?[0]);
            for (spread, all) in load(What::HoldAndCommit).await?.into_iter().zip([pair, hold, acked]) {
                all.push(spread);
            }
            shelf.push(load(What::Sale(SHELF)).await?[0]);
            pooled.push(load(What::Sale(POOLED)).await?[0]);
        }
    }
    gateway.stop().await?;
    let shapes = CONNECTIONS.into_iter().zip(rounds).map(|(connections, rounds)| {
        let [publish, hold_and_commit, hold, hold_acked, shelf_sale, pooled_sale] = rounds.map(median);
        let (publish, shelf_sale, pooled_sale) = (publish?, shelf_sale?, pooled_sale?);
        let (hold_and_commit, hold, hold_acked) = (hold_and_commit?, hold?, hold_acked?);
        Ok(Shape { connections, publish, hold_and_commit, hold, hold_acked, shelf_sale, pooled_sale })
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
                    [self.send("activity", &json!({ "x": text }), None).await?.0, 0, 0]
                }
                What::HoldAndCommit => {
                    let commit = format!("{id}-c");
                    let hold = json!({ "id": id, "op": "hold", "gtin": POOLED });
                    let (acked, held) = self.send("hold", &hold, Some(&id)).await?;
                    let paid = json!({ "id": commit, "op": "commit", "hold": id });
                    let (_, committed) = self.send("hold", &paid, Some(&commit)).await?;
                    [held + committed, held, acked]
                }
                What::Sale(gtin) => {
                    let sale = json!({ "id": id, "lines": [{ "gtin": gtin, "qty": 1, "cents": 4_900 }] });
                    [self.send("sale", &sale, None).await?.0, 0, 0]
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

    /// Microseconds until the PUBACK; and of a request that is named, until its reply as well, which must be a good one.
    async fn send(&mut self, topic: &str, payload: &Value, id: Option<&str>) -> Result<(u32, u32)> {
        let (topic, payload) = (format!("dev/{}/{topic}", self.device), Bytes::from(payload.to_string()));
        let mut pkid = self.next_pkid();
        let begun = Instant::now();
        let since = || u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload)?;
        let (mut acked, mut replied) = (None, id.is_none());
        while acked.is_none() || !replied {
            let Ok(heard) = timeout(REPLY_WAIT, self.wire.next()).await else {
                pkid = self.next_pkid();
                self.wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload)?;
                continue;
            };
            match heard? {
                Heard::PubAck(heard) if heard == pkid => acked = acked.or_else(|| Some(since())),
                Heard::Message(message) => {
                    if let Some(pkid) = message.pkid {
                        self.wire.queue_puback(pkid)?;
                    }
                    replied |= answers(&message.payload, id)?;
                }
                _ => {}
            }
        }
        Ok((acked.unwrap_or_default(), since()))
    }
}

/// Whether it is the reply to the named request, which must be a good one. Replies to others are read in passing.
fn answers(payload: &[u8], id: Option<&str>) -> Result<bool> {
    let Some(id) = id else { return Ok(false) };
    let reply: Value = serde_json::from_slice(payload).context("reading a reply")?;
    if reply["id"] != id {
        return Ok(false);
    }
    ensure!(reply["status"] == "ok" || reply["status"] == "duplicate", "the gateway answered {reply}");
    Ok(true)
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
             ratio of p99 | sale off the shelf | sale from a pool | ratio of p99 |\n|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for shape in shapes {
            let Shape { connections, publish, hold_and_commit, hold, hold_acked, shelf_sale, pooled_sale } = shape;
            let ratio = |a: &Spread, b: &Spread| f64::from(a.p99_us) / f64::from(b.p99_us.max(1));
            let (one, both) = (ratio(hold_acked, publish), ratio(hold_and_commit, publish));
            let sales = ratio(pooled_sale, shelf_sale);
            let [publish, acked, hold] = [publish, hold_acked, hold].map(cell);
            let [pair, shelf, pooled] = [hold_and_commit, shelf_sale, pooled_sale].map(cell);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {connections} | {publish} | {acked} | {one:.1} | {hold} | {pair} | {both:.1} | {shelf} | {pooled} | {sales:.1} |"
            );
        }
        text
    }
}

fn cell(spread: &Spread) -> String {
    format!("{:.1}, {:.1}", f64::from(spread.p50_us) / 1e3, f64::from(spread.p99_us) / 1e3)
}
