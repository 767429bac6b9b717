//! Acknowledged publishes per second: ours beside mosquitto with and without saving, and the bare disk, in turn.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::{JoinHandle, spawn_blocking};

use super::raw::{self, RECORD_BYTES, Raw, SERIES, Way};
use super::{Options, gateway_spec, process};
use crate::client::{self, Client};
use crate::load::{self, Figures};
use crate::mosquitto::{self, Broker, SAVES, SAVES_NOT};
use crate::nodes::Node;

/// Clients and the publishes that each keeps open.
const SHAPES: [(u16, u16); 3] = [(10, 1), (50, 1), (50, 50)];

#[derive(Debug, Serialize)]
pub(super) struct Rates {
    mosquitto: String,
    seconds: u64,
    rounds: u32,
    shapes: Vec<Shape>,
    raw: Vec<Raw>,
}

/// Medians by rate over all rounds.
#[derive(Debug, Serialize)]
struct Shape {
    clients: u16,
    window: u16,
    ours: Figures,
    /// Bytes that the gateway's process wrote to disk, per record.
    ours_written_per_record: f64,
    mosquitto_memory: Figures,
    mosquitto_saving: Figures,
}

/// One round's figures of one shape.
struct Measured {
    ours: Figures,
    written: u64,
    memory: Figures,
    saving: Figures,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Rates> {
    let version = mosquitto::version().await?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut shapes: Vec<Vec<Measured>> = SHAPES.iter().map(|_| Vec::new()).collect();
    let mut raws: Vec<Vec<Raw>> = SERIES.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        eprintln!("rates, round {round} of {}", options.rounds);
        for ((way, group), raws) in SERIES.into_iter().zip(&mut raws) {
            let (dir, lasts) = (dir.to_owned(), Duration::from_secs(options.seconds.min(2)));
            raws.push(spawn_blocking(move || raw::measure(&dir, way, group, lasts)).await.context("the bare disk")??);
        }
        let dir = dir.join(format!("round-{round}"));
        for (shape, measured) in SHAPES.into_iter().zip(&mut shapes) {
            measured.push(round_of(&dir, shape, options.seconds).await?);
        }
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(Rates {
        mosquitto: version,
        seconds: options.seconds,
        rounds: options.rounds,
        shapes: SHAPES.into_iter().zip(shapes).map(|(shape, rounds)| medians(shape, rounds)).collect::<Result<_>>()?,
        raw: raws.into_iter().filter_map(raw::median).collect(),
    })
}

/// Each broker is started anew, alone on the machine but for the load.
async fn round_of(dir: &Path, (clients, window): (u16, u16), seconds: u64) -> Result<Measured> {
    let load = async |addr: SocketAddr| {
        let door = addr.into();
        load::run(&load::Options { door, clients, window, seconds, payload_bytes: RECORD_BYTES, json: false }).await
    };
    let dir = dir.join(format!("{clients}x{window}"));
    let mut gateway = Node::start(gateway_spec(&dir, "gateway", None)).await?;
    let pid = gateway.pid().context("the gateway's process")?;
    let before = process::written_bytes(pid)?;
    let ours = load(gateway.addr()).await.context("loading the gateway")?;
    let written = process::written_bytes(pid)? - before;
    gateway.kill().await?;

    let mut memory = Broker::start(dir.join("memory"), "memory", SAVES_NOT).await?;
    let in_memory = load(memory.addr()).await.context("loading mosquitto without saving")?;
    memory.kill().await?;

    let mut saving = Broker::start(dir.join("saving"), "saving", SAVES).await?;
    let subscriber = subscriber(saving.addr());
    let saved = load(saving.addr()).await.context("loading mosquitto with saving")?;
    subscriber.abort();
    saving.kill().await?;
    Ok(Measured { ours, written, memory: in_memory, saving: saved })
}

/// Takes everything, in a persistent session: without one the broker would have nothing to save.
fn subscriber(addr: SocketAddr) -> JoinHandle<()> {
    let options = client::Options {
        client: "hq".into(),
        door: addr.into(),
        clean: false,
        window: 1,
        subscribe: vec!["dev/#".into()],
        seed: 1,
    };
    tokio::spawn(async move {
        let mut client = Client::new(options);
        loop {
            client.next().await;
        }
    })
}

fn medians((clients, window): (u16, u16), mut rounds: Vec<Measured>) -> Result<Shape> {
    let (acked, written): (u64, u64) =
        rounds.iter().fold((0, 0), |(acked, written), round| (acked + round.ours.acked, written + round.written));
    let middle = rounds.len() / 2;
    let mut pick = |of: fn(&Measured) -> &Figures| {
        rounds.sort_by(|a, b| of(a).acked_per_s.total_cmp(&of(b).acked_per_s));
        rounds.get(middle).map(|round| of(round).clone()).context("at least one round")
    };
    Ok(Shape {
        clients,
        window,
        ours: pick(|round| &round.ours)?,
        ours_written_per_record: written as f64 / acked.max(1) as f64,
        mosquitto_memory: pick(|round| &round.memory)?,
        mosquitto_saving: pick(|round| &round.saving)?,
    })
}

impl Rates {
    pub(super) fn table(&self) -> String {
        let Rates { mosquitto, seconds, rounds, .. } = self;
        let mut text = format!(
            "Acknowledged QoS 1 publishes of {RECORD_BYTES} bytes per second (p50 / p99 in ms), medians of {rounds} rounds \
             of {seconds} s\n\n\
             | clients × window | tillsync, durable | mosquitto {mosquitto}, memory | ratio | mosquitto {mosquitto}, saving \
             every change | ratio | our bytes written a record |\n|---|---|---|---|---|---|---|\n"
        );
        for shape in &self.shapes {
            let Shape { clients, window, ours, mosquitto_memory: memory, mosquitto_saving: saving, .. } = shape;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {clients} × {window} | {} | {} | {:.2} | {} | {:.2} | {:.0} |",
                cell(ours),
                cell(memory),
                ours.acked_per_s / memory.acked_per_s,
                cell(saving),
                ours.acked_per_s / saving.acked_per_s,
                shape.ours_written_per_record,
            );
        }
        let _ = writeln!(
            text,
            "\nThe bare disk: write and fdatasync of records of {RECORD_BYTES} bytes\n\n\
             | | records a group | records/s | p50 / p99 in ms of a group |\n|---|---|---|---|"
        );
        for raw in &self.raw {
            let way = match raw.way {
                Way::Append => "append",
                Way::InPlace => "in place",
            };
            let (p50, p99) = (ms(raw.p50_us), ms(raw.p99_us));
            let Raw { records_per_group, records_per_s, .. } = raw;
            let _ = writeln!(text, "| {way} | {records_per_group} | {records_per_s:.0} | {p50:.2} / {p99:.2} |");
        }
        if let Some(shape) = self.shapes.first() {
            let p99 = |way| self.raw.iter().find(|raw| raw.way == way).map_or(1, |raw| raw.p99_us.max(1));
            let ratio = |way| f64::from(shape.ours.p99_us) / f64::from(p99(way));
            let (clients, window) = (shape.clients, shape.window);
            let (append, in_place) = (ratio(Way::Append), ratio(Way::InPlace));
            let _ = writeln!(
                text,
                "\nOur {clients} × {window} p99 / the bare disk's p99 of one record: {append:.1} of an append, \
                 {in_place:.1} in place"
            );
        }
        text
    }
}

fn cell(figures: &Figures) -> String {
    let Figures { acked_per_s, p50_us, p99_us, .. } = figures;
    format!("{acked_per_s:.0} ({:.2} / {:.2})", ms(*p50_us), ms(*p99_us))
}

fn ms(us: u32) -> f64 {
    f64::from(us) / 1_000.0
}
