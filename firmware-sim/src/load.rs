//! The load generator: many clients that keep a window of QoS 1 publishes open, against any MQTT broker. It measures
//! what the broker acknowledged, not what was sent, so a gateway that waits for its disk and a broker that does not
//! can be put side by side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::door::Door;
use crate::mqtt::{Heard, Hello, Qos, Wire};

/// Payloads of a client, sent in turn: far more than go into one chunk, so that packing finds nothing in common.
const PAYLOADS: usize = 512;
/// Latencies kept for the percentiles; past it they are only counted.
const LATENCIES_MAX: usize = 4_000_000;

#[derive(Debug, Clone)]
pub struct Options {
    pub door: Door,
    pub clients: u16,
    pub window: u16,
    pub seconds: u64,
    pub payload_bytes: usize,
    pub json: bool,
}

/// What one run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub clients: u16,
    pub window: u16,
    pub payload_bytes: usize,
    pub seconds: f64,
    pub acked: u64,
    pub acked_per_s: f64,
    pub p50_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
}

pub fn main(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let figures = runtime.block_on(run(options))?;
    if options.json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    println!(
        "{} clients x window {}, {} bytes: {:.0} acknowledged/s over {:.1} s; p50 {} us, p99 {} us, max {} us",
        figures.clients,
        figures.window,
        figures.payload_bytes,
        figures.acked_per_s,
        figures.seconds,
        figures.p50_us,
        figures.p99_us,
        figures.max_us
    );
    Ok(())
}

/// Loads the broker for so long, and waits for what is still open then.
pub async fn run(options: &Options) -> Result<Figures> {
    let mut wires = Vec::new();
    for n in 0..options.clients {
        wires.push(connect(options, n).await.with_context(|| format!("connect client {n} to {}", options.door.addr))?);
    }
    let started = Instant::now();
    let until = started + Duration::from_secs(options.seconds);
    let mut clients = JoinSet::new();
    for (n, wire) in wires.into_iter().enumerate() {
        // An account may write its own device's topics only.
        let device = options.door.login.as_ref().map_or(format!("load-{n}"), |login| login.user.clone());
        clients.spawn(publish(wire, device, n, options.window, options.payload_bytes, until));
    }
    let (mut acked, mut latencies) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (count, mut some) = client.context("run a client")??;
        acked += count;
        let room = LATENCIES_MAX - latencies.len();
        some.truncate(room);
        latencies.extend(some);
    }
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| latencies.get(((latencies.len() as f64) * share) as usize).copied().unwrap_or(0);
    Ok(Figures {
        clients: options.clients,
        window: options.window,
        payload_bytes: options.payload_bytes,
        seconds,
        acked,
        acked_per_s: acked as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: latencies.last().copied().unwrap_or(0),
    })
}

async fn connect(options: &Options, n: u16) -> Result<Wire> {
    let mut wire = Wire::open(&options.door).await?;
    let login = options.door.login.clone();
    // A client id begins with the account's name.
    let client = login.as_ref().map_or(format!("load-{n}"), |login| format!("{}.load-{n}", login.user));
    wire.queue_connect(&Hello { client, clean: true, keep_alive_s: 60, login })?;
    match wire.next().await? {
        Heard::Accepted { .. } => Ok(wire),
        other => bail!("the broker answered CONNECT with {other:?}"),
    }
}

/// Publishes until the time is over, then waits for what is still open.
async fn publish(
    mut wire: Wire,
    device: String,
    n: usize,
    window: u16,
    payload_bytes: usize,
    until: Instant,
) -> Result<(u64, Vec<u32>)> {
    let topic = format!("dev/{device}/activity");
    let payloads: Vec<Bytes> = payloads(n as u64, payload_bytes);
    let mut payloads = payloads.iter().cycle();
    let mut payload = || payloads.next().cloned().unwrap_or_default();
    let mut sent_at = vec![Instant::now(); usize::from(window) + 1];
    let (mut acked, mut open, mut latencies) = (0, 0u16, Vec::new());
    for pkid in 1..=window {
        wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload())?;
        sent_at[usize::from(pkid)] = Instant::now();
        open += 1;
    }
    while open > 0 {
        let Heard::PubAck(pkid) = wire.next().await? else { continue };
        let now = Instant::now();
        let Some(sent) = sent_at.get_mut(usize::from(pkid)) else { bail!("a PUBACK for {pkid}, which was never sent") };
        acked += 1;
        latencies.push(now.duration_since(*sent).as_micros() as u32);
        if now < until {
            wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload())?;
            *sent = now;
        } else {
            open -= 1;
        }
    }
    wire.queue_disconnect()?;
    wire.flush().await?;
    Ok((acked, latencies))
}

/// JSON, so that a gateway records it as activity and does not refuse it; in it random hex digits, so that nothing is
/// gained from payloads that are all the same.
fn payloads(seed: u64, payload_bytes: usize) -> Vec<Bytes> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let digits = payload_bytes.saturating_sub(8);
    let mut payload = || {
        let mut text = String::with_capacity(payload_bytes + 16);
        while text.len() < digits {
            text.push_str(&format!("{:016x}", dice.next_u64()));
        }
        text.truncate(digits);
        Bytes::from(format!("{{\"x\":\"{text}\"}}"))
    };
    (0..PAYLOADS).map(|_| payload()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_of_their_size_and_differ() {
        let (some, others) = (payloads(1, 100), payloads(2, 100));
        assert_ne!(some[0], others[0]);
        for payload in &some {
            assert_eq!(payload.len(), 100);
            serde_json::from_slice::<serde_json::Value>(payload).unwrap();
        }
    }
}
