//! Tills that publish, hold, commit and sell, and how long their buyers wait.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::POOLED;
use crate::mqtt::{Heard, Hello, Qos, Wire};

const PAYLOAD_BYTES: usize = 100;
/// Replies to clean sessions are live messages: one can go with a router that is renewed. A till asks again, under its id.
const REPLY_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) done: usize,
    pub(super) per_s: f64,
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
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
pub(super) enum What {
    Publish,
    HoldAndCommit,
    /// The till names the hold, so it need not wait for it.
    HoldWithCommit,
    Sale(&'static str),
}

/// Microseconds of one thing done: the whole, and of a hold with its commit the hold until its reply and until its PUBACK.
type Took = [u32; 3];

/// How many there are, and how many buyers come to all of them together.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Tills {
    pub(super) connections: usize,
    /// Buyers come by chance, so many a second; one that comes while the till serves another waits, and that counts.
    /// `None`: the next one comes when the one before is served.
    pub(super) per_s: Option<u32>,
}

impl Tills {
    pub(super) fn name(self) -> String {
        match self.per_s {
            Some(buyers) => format!("{}, {buyers}/s", self.connections),
            None => format!("{}, all they can", self.connections),
        }
    }

    /// Each till does one after the other, in a run that shares no device with another.
    pub(super) async fn load(self, addr: SocketAddr, what: What, seconds: u64, run: usize) -> Result<[Spread; 3]> {
        let mut tills = Vec::new();
        for n in 0..self.connections {
            let between = self.per_s.map(|buyers| Duration::from_secs(self.connections as u64) / buyers);
            tills.push(Till::open(addr, n, run, between).await?);
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
}

struct Till {
    wire: Wire,
    device: String,
    sent: usize,
    pkid: u16,
    /// Between two buyers, on average.
    between: Option<Duration>,
    chance: SmallRng,
}

impl Till {
    async fn open(addr: SocketAddr, n: usize, run: usize, between: Option<Duration>) -> Result<Till> {
        // No session of a run before is taken over.
        let device = format!("pos-{run}-{n}");
        let mut wire = Wire::open(&addr.into()).await?;
        wire.queue_connect(&Hello { client: device.clone(), clean: true, keep_alive_s: 60, login: None })?;
        let heard = wire.next().await?;
        ensure!(matches!(heard, Heard::Accepted { .. }), "the gateway answered CONNECT with {heard:?}");
        wire.queue_subscribe(1, &[format!("dev/{device}/reply")])?;
        let heard = wire.next().await?;
        ensure!(heard == Heard::Subscribed, "the gateway answered SUBSCRIBE with {heard:?}");
        let chance = SmallRng::seed_from_u64((run * 1_000 + n) as u64);
        Ok(Till { wire, device, sent: 0, pkid: 1, between, chance })
    }

    async fn work(mut self, what: What, until: Instant) -> Result<Vec<Took>> {
        let mut took = Vec::new();
        let mut came = Instant::now();
        loop {
            came = self.next_buyer(came).await;
            if came >= until {
                break;
            }
            self.sent += 1;
            let id = format!("{}-{}", self.device, self.sent);
            took.push(match what {
                What::Publish => {
                    let head = json!({ "x": id }).to_string();
                    let text = format!("{id:x>width$}", width = PAYLOAD_BYTES - head.len() + id.len());
                    [self.send(came, &[("activity", json!({ "x": text }), None)]).await?.0, 0, 0]
                }
                What::HoldAndCommit => {
                    let (acked, held) = self.send(came, &[hold(&id)]).await?;
                    let (_, committed) = self.send(came, &[commit(&id)]).await?;
                    [committed, held, acked]
                }
                What::HoldWithCommit => [self.send(came, &[hold(&id), commit(&id)]).await?.1, 0, 0],
                What::Sale(gtin) => {
                    let sale = json!({ "id": id, "lines": [{ "gtin": gtin, "qty": 1, "cents": 4_900 }] });
                    [self.send(came, &[("sale", sale, None)]).await?.0, 0, 0]
                }
            });
        }
        self.wire.queue_disconnect()?;
        self.wire.flush().await?;
        Ok(took)
    }

    /// When the next one comes after this one: known before anybody is served, so that who waits in line is not left out.
    async fn next_buyer(&mut self, last: Instant) -> Instant {
        let Some(between) = self.between else { return Instant::now() };
        let gap = -(1.0 - self.chance.random::<f64>()).ln();
        let next = last + between.mul_f64(gap);
        sleep_until(next.into()).await;
        next
    }

    fn next_pkid(&mut self) -> u16 {
        self.pkid = self.pkid % 60_000 + 1;
        self.pkid
    }

    /// Sends all at once. Microseconds since the buyer came until the last PUBACK; and until the last reply as well to those
    /// that are named, which must be good ones.
    async fn send(&mut self, came: Instant, requests: &[Request]) -> Result<(u32, u32)> {
        let since = || u32::try_from(came.elapsed().as_micros()).unwrap_or(u32::MAX);
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
