//! What encryption costs: memory of connections that do nothing, handshakes, and durable publishes over TLS, each beside
//! mosquitto with the same certificates.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::raw::RECORD_BYTES;
use super::{Options, gateway_spec, process};
use crate::door::{Door, Tls};
use crate::load::{self, Figures};
use crate::mosquitto::{self, Broker, SAVES_NOT};
use crate::mqtt::{Heard, Hello, Wire};
use crate::nodes::{self, Node, Spec};
use crate::seam::Role;

const IDLE: u32 = 1_000;
/// Connections before the first look: what is made once must not be counted for each.
const WARM_UP: u32 = 20;
/// Freed memory is given back within this.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections being opened at once.
const AT_ONCE: u32 = 32;
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// Of counting handshakes: a client's port is not free again for a minute, so there are only so many.
const HANDSHAKE_SECONDS_MAX: u64 = 5;
/// Clients and the publishes that each keeps open.
const SHAPES: [(u16, u16); 3] = [(10, 1), (50, 1), (50, 50)];

#[derive(Debug, Serialize)]
pub(super) struct Encrypted {
    mosquitto: String,
    rounds: u32,
    seconds: u64,
    idle: Vec<Idle>,
    handshakes: [Handshakes; 2],
    publishes: Vec<Shape>,
}

/// Memory of a process for each of its idle connections.
#[derive(Debug, Clone, Copy, Serialize)]
struct Idle {
    who: Who,
    tls: bool,
    connections: u32,
    bytes_per_connection: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    Tillsync,
    Mosquitto,
}

/// From the first SYN to CONNACK: the median round by rate.
#[derive(Debug, Clone, Copy, Serialize)]
struct Handshakes {
    who: Who,
    per_s: f64,
    /// Of the broker's process.
    cpu_us_each: f64,
}

/// Medians by rate over all rounds.
#[derive(Debug, Serialize)]
struct Shape {
    clients: u16,
    window: u16,
    ours: Published,
    mosquitto: Published,
}

#[derive(Debug, Clone, Serialize)]
struct Published {
    #[serde(flatten)]
    figures: Figures,
    /// Of the broker's process, for each publish.
    cpu_us_each: f64,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Encrypted> {
    process::raise_open_files()?;
    let stand = Stand::build(dir).await?;
    let mut idle = Vec::new();
    for (who, tls) in [(Who::Tillsync, false), (Who::Tillsync, true), (Who::Mosquitto, false), (Who::Mosquitto, true)] {
        eprintln!("tls: {IDLE} idle connections, {who:?}, {}", if tls { "TLS" } else { "plain" });
        idle.push(stand.idle(who, tls).await?);
    }
    let mut handshakes = [Vec::new(), Vec::new()];
    let mut publishes: Vec<[Vec<Published>; 2]> = SHAPES.iter().map(|_| Default::default()).collect();
    for round in 1..=options.rounds {
        eprintln!("tls, round {round} of {}", options.rounds);
        for (who, measured) in [Who::Tillsync, Who::Mosquitto].into_iter().zip(&mut handshakes) {
            measured.push(stand.handshakes(who, options.seconds.min(HANDSHAKE_SECONDS_MAX)).await?);
        }
        for (shape, [ours, theirs]) in SHAPES.into_iter().zip(&mut publishes) {
            ours.push(stand.publishes(Who::Tillsync, shape, options.seconds).await?);
            theirs.push(stand.publishes(Who::Mosquitto, shape, options.seconds).await?);
        }
    }
    let [ours, theirs] = handshakes.map(|rounds| median(rounds, |one| one.per_s));
    let shapes = SHAPES.into_iter().zip(publishes).map(|((clients, window), rounds)| {
        let [ours, mosquitto] = rounds.map(|rounds| median(rounds, |one| one.figures.acked_per_s));
        Ok(Shape { clients, window, ours: ours?, mosquitto: mosquitto? })
    });
    Ok(Encrypted {
        mosquitto: mosquitto::version().await?,
        rounds: options.rounds,
        seconds: options.seconds,
        idle,
        handshakes: [ours?, theirs?],
        publishes: shapes.collect::<Result<_>>()?,
    })
}

fn median<T: Clone>(mut rounds: Vec<T>, rate: fn(&T) -> f64) -> Result<T> {
    rounds.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    rounds.get(rounds.len() / 2).cloned().context("at least one round")
}

/// Where the brokers stand: a folder, and one CA's certificate for both.
struct Stand {
    dir: PathBuf,
    ca: PathBuf,
    /// Key and chain: ECDSA P-256.
    server: PathBuf,
    tls: Tls,
}

/// One of the two, running. Dropping it kills the process.
enum Running {
    Ours(Node),
    Theirs(Broker),
}

impl Running {
    fn addr(&self) -> SocketAddr {
        match self {
            Running::Ours(node) => node.addr(),
            Running::Theirs(broker) => broker.addr(),
        }
    }

    fn pid(&self) -> Result<u32> {
        let pid = match self {
            Running::Ours(node) => node.pid(),
            Running::Theirs(broker) => broker.pid(),
        };
        pid.context("the broker's process")
    }

    async fn end(self) -> Result<()> {
        match self {
            Running::Ours(mut node) => node.kill().await,
            Running::Theirs(mut broker) => broker.kill().await,
        }
    }
}

impl Stand {
    /// The hub's `init` makes a CA and a server's certificate; here they are anybody's.
    async fn build(dir: &Path) -> Result<Stand> {
        let made = dir.join("made");
        let data = made.to_str().context("a folder's name in UTF-8")?;
        nodes::command(Role::Hub, &["init", "--data", data, "--name", "localhost,127.0.0.1"]).await?;
        let pki = made.join("pki");
        let ca = pki.join("ca.crt");
        let tls = Tls::trusting(&ca, None)?;
        Ok(Stand { dir: dir.to_owned(), ca, server: pki.join("server.pem"), tls })
    }

    /// Started anew, so that nothing is left of what was measured before.
    async fn start(&self, who: Who, tls: bool) -> Result<Running> {
        let _ = std::fs::remove_dir_all(self.dir.join("run"));
        let dir = self.dir.join("run");
        let (ca, server) = (self.ca.display(), self.server.display());
        Ok(match who {
            Who::Tillsync => {
                let mut config = format!("connections_max = {}\n", IDLE + WARM_UP);
                if tls {
                    config.push_str(&format!("tls_cert = \"{server}\"\ntls_key = \"{server}\"\n"));
                }
                Running::Ours(Node::start(Spec { config, ..gateway_spec(&dir, "gateway", None) }).await?)
            }
            Who::Mosquitto => {
                let tls = if tls {
                    format!("cafile {ca}\ncertfile {server}\nkeyfile {server}\ntls_version tlsv1.3\n")
                } else {
                    String::new()
                };
                let config = format!("{tls}{SAVES_NOT}");
                Running::Theirs(Broker::start(dir.join("broker"), "broker", &config).await?)
            }
        })
    }

    fn door(&self, addr: SocketAddr, tls: bool) -> Door {
        Door { addr, tls: tls.then(|| self.tls.clone()), login: None }
    }

    async fn idle(&self, who: Who, tls: bool) -> Result<Idle> {
        let running = self.start(who, tls).await?;
        let (door, pid) = (self.door(running.addr(), tls), running.pid()?);
        drop(open_many(&door, 0..WARM_UP).await?);
        sleep(SETTLE).await;
        let before = process::rss_kib(pid)?;
        let wires = open_many(&door, WARM_UP..WARM_UP + IDLE).await?;
        sleep(SETTLE).await;
        let kib = process::rss_kib(pid)?.saturating_sub(before);
        drop(wires);
        running.end().await?;
        Ok(Idle { who, tls, connections: IDLE, bytes_per_connection: kib as f64 * 1024.0 / f64::from(IDLE) })
    }

    async fn handshakes(&self, who: Who, seconds: u64) -> Result<Handshakes> {
        let running = self.start(who, true).await?;
        let (door, pid) = (self.door(running.addr(), true), running.pid()?);
        drop(open_many(&door, 0..WARM_UP).await?);
        let (before, started) = (process::cpu_s(pid)?, Instant::now());
        let until = started + Duration::from_secs(seconds);
        let number = Arc::new(AtomicU32::new(WARM_UP));
        let mut openers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (door, number) = (door.clone(), number.clone());
            openers.spawn(async move {
                let mut opened = 0_u32;
                while Instant::now() < until {
                    let mut wire = open(&door, number.fetch_add(1, Ordering::Relaxed)).await?;
                    wire.queue_disconnect()?;
                    wire.flush().await?;
                    opened += 1;
                }
                anyhow::Ok(opened)
            });
        }
        let mut opened = 0;
        while let Some(one) = openers.join_next().await {
            opened += one.context("opening connections")??;
        }
        let (seconds, cpu_s) = (started.elapsed().as_secs_f64(), process::cpu_s(pid)? - before);
        running.end().await?;
        let opened = f64::from(opened.max(1));
        Ok(Handshakes { who, per_s: opened / seconds, cpu_us_each: cpu_s * 1e6 / opened })
    }

    async fn publishes(&self, who: Who, (clients, window): (u16, u16), seconds: u64) -> Result<Published> {
        let running = self.start(who, true).await?;
        let (door, pid) = (self.door(running.addr(), true), running.pid()?);
        let before = process::cpu_s(pid)?;
        let load = load::Options { door, clients, window, seconds, payload_bytes: RECORD_BYTES, json: false };
        let figures = load::run(&load).await.with_context(|| format!("loading {who:?} over TLS"))?;
        let cpu_us_each = (process::cpu_s(pid)? - before) * 1e6 / figures.acked.max(1) as f64;
        running.end().await?;
        Ok(Published { figures, cpu_us_each })
    }
}

async fn open_many(door: &Door, numbers: std::ops::Range<u32>) -> Result<Vec<Wire>> {
    let (mut wires, mut opening) = (Vec::new(), JoinSet::new());
    for number in numbers {
        if opening.len() >= AT_ONCE as usize
            && let Some(wire) = opening.join_next().await
        {
            wires.push(wire.context("opening a connection")??);
        }
        let door = door.clone();
        opening.spawn(async move { open(&door, number).await });
    }
    while let Some(wire) = opening.join_next().await {
        wires.push(wire.context("opening a connection")??);
    }
    Ok(wires)
}

/// Up to CONNACK.
async fn open(door: &Door, number: u32) -> Result<Wire> {
    let opening = async {
        let mut wire = Wire::open(door).await?;
        wire.queue_connect(&Hello { client: format!("idle-{number}"), clean: true, keep_alive_s: 600, login: None })?;
        let heard = wire.next().await?;
        anyhow::Ok((wire, heard))
    };
    let (wire, heard) = timeout(CONNECT_WAIT, opening).await.context("connecting")??;
    match (heard, wire.protocol().as_deref()) {
        (Heard::Accepted { .. }, None | Some("TLSv1_3")) => Ok(wire),
        (heard, protocol) => bail!("{} answered CONNECT with {heard:?} over {protocol:?}", door.addr),
    }
}

impl Encrypted {
    pub(super) fn table(&self) -> String {
        let Encrypted { mosquitto, rounds, seconds, .. } = self;
        let kib = |who, tls| {
            let found = self.idle.iter().find(|idle| (idle.who, idle.tls) == (who, tls));
            found.map_or(0.0, |idle| idle.bytes_per_connection / 1024.0)
        };
        let [ours, theirs] = &self.handshakes;
        let mut text = format!(
            "TLS 1.3, ECDSA P-256, full handshakes; medians of {rounds} rounds of {seconds} s\n\n\
             | | tillsync | mosquitto {mosquitto} | ratio |\n|---|---|---|---|\n\
             | KiB an idle connection of {IDLE}, plain | {:.1} | {:.1} | |\n\
             | the same, TLS | {:.1} | {:.1} | |\n\
             | TLS handshakes/s, up to CONNACK | {:.0} | {:.0} | {:.2} |\n\
             | the broker's processor time of one, us | {:.0} | {:.0} | |\n",
            kib(Who::Tillsync, false),
            kib(Who::Mosquitto, false),
            kib(Who::Tillsync, true),
            kib(Who::Mosquitto, true),
            ours.per_s,
            theirs.per_s,
            ours.per_s / theirs.per_s,
            ours.cpu_us_each,
            theirs.cpu_us_each,
        );
        let _ = writeln!(
            text,
            "\nAcknowledged QoS 1 publishes of {RECORD_BYTES} bytes per second over TLS (p99 in ms; the broker's processor time of one)\n\n\
             | clients × window | tillsync, durable | mosquitto {mosquitto}, memory | ratio |\n|---|---|---|---|"
        );
        for Shape { clients, window, ours, mosquitto } in &self.publishes {
            let ratio = ours.figures.acked_per_s / mosquitto.figures.acked_per_s;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {clients} × {window} | {} | {} | {ratio:.2} |", cell(ours), cell(mosquitto));
        }
        text
    }
}

fn cell(published: &Published) -> String {
    let Published { figures, cpu_us_each } = published;
    format!("{:.0} ({:.1} ms; {cpu_us_each:.1} us)", figures.acked_per_s, f64::from(figures.p99_us) / 1_000.0)
}
