//! Many stores on one hub: emulated ones, each the gateway's own session on a socket of its own, and a real hub. How
//! fast it applies, how that and its memory grow with stores and keys, and what happens when all come back at once.

mod journal;
mod store;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::gtin::Gtin;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use self::journal::Journal;
use self::store::Times;
use super::{hub_spec, process};
use crate::nodes::Node;
use crate::retail;

const WAIT: Duration = Duration::from_secs(300);
/// After it every store waits the longest that its backoff allows.
const AWAY: Duration = Duration::from_secs(8);

/// A fleet. Its stores sell the same items, so there are `sites × items` keys.
#[derive(Debug, Clone, Copy, Serialize)]
struct Shape {
    sites: usize,
    items: usize,
    /// Each store has between the two.
    records_least: usize,
    records_most: usize,
    /// The hub was away, and every store tries again in its own time; else the hub is there, and all begin at once.
    returns: bool,
}

const fn even(sites: usize, items: usize, records: usize) -> Shape {
    Shape { sites, items, records_least: records, records_most: records, returns: false }
}

/// The same records and keys over more stores.
const BY_SITES: [Shape; 3] = [even(10, 10_000, 50_000), even(100, 1_000, 5_000), even(500, 200, 1_000)];
/// The same records over more keys.
const BY_KEYS: [Shape; 3] = [even(100, 100, 10_000), even(100, 1_000, 10_000), even(100, 10_000, 10_000)];
const MASS_RETURN: Shape = Shape { sites: 500, items: 1_000, records_least: 2_000, records_most: 5_000, returns: true };

#[derive(Debug, Serialize)]
pub(super) struct Fleet {
    by_sites: Vec<Outcome>,
    by_keys: Vec<Outcome>,
    mass_return: Outcome,
}

#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    shape: Shape,
    records: u64,
    keys: usize,
    /// From the first connection to the last store's end.
    seconds: f64,
    records_per_s: f64,
    /// The hub's processor time.
    cpu_us_per_record: f64,
    hub_idle_rss_kib: u64,
    hub_peak_kib: u64,
    hub_settled_rss_kib: u64,
    /// From the hub's ready line, or from when all began.
    connected_last_ms: u64,
    present_mean_ms: u64,
    present_last_ms: u64,
    applied_mean_ms: u64,
    applied_last_ms: u64,
    reconnects: u32,
}

pub(super) async fn measure(dir: &Path) -> Result<Fleet> {
    let mut n = 0;
    let mut one = async |shape: Shape| {
        n += 1;
        let Shape { sites, items, .. } = shape;
        let how = if shape.returns { "coming back" } else { "at once" };
        eprintln!("fleet: {sites} stores with {items} items each, {how}");
        let dir = dir.join(n.to_string());
        let outcome = fleet(&dir, shape).await.with_context(|| format!("{sites} stores, {items} items"))?;
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        let Outcome { records_per_s, cpu_us_per_record, hub_peak_kib, seconds, .. } = outcome;
        let peak_mib = hub_peak_kib / 1_024;
        eprintln!(
            "fleet: {seconds:.1} s, {records_per_s:.0} records/s, {cpu_us_per_record:.1} us each, {peak_mib} MiB"
        );
        anyhow::Ok(outcome)
    };
    // First: it is what the others lead up to, and they take long.
    let mass_return = one(MASS_RETURN).await?;
    let (mut by_sites, mut by_keys) = (Vec::new(), Vec::new());
    for shape in BY_SITES {
        by_sites.push(one(shape).await?);
    }
    for shape in BY_KEYS {
        by_keys.push(one(shape).await?);
    }
    Ok(Fleet { by_sites, by_keys, mass_return })
}

async fn fleet(dir: &Path, shape: Shape) -> Result<Outcome> {
    let journals = spawn_blocking(move || journals(shape)).await.context("making the journals")?;
    let records: u64 = journals.iter().map(Journal::records).sum();
    let mut hub = Node::start(hub_spec(dir)).await?;
    let addr = hub.addr();
    if shape.returns {
        hub.kill().await?;
    }
    let ((over, is_over), (done, mut finished)) = (watch::channel(false), mpsc::channel(shape.sites));
    let mut started = Instant::now();
    let mut stores = JoinSet::new();
    for journal in journals {
        stores.spawn(store::run(journal, addr, is_over.clone(), done.clone()));
    }
    if shape.returns {
        sleep(AWAY).await;
        hub.restart().await?;
        started = Instant::now();
    }
    let pid = hub.pid().context("the hub has ended")?;
    let (cpu, hub_idle_rss_kib) = (process::cpu_s(pid)?, process::rss_kib(pid)?);
    let mut times: Vec<Times> = Vec::new();
    let all = async {
        while times.len() < shape.sites {
            times.extend(finished.recv().await);
        }
    };
    if timeout(WAIT, all).await.is_err() {
        bail!("{} of {} stores have everything applied after {} s", times.len(), shape.sites, WAIT.as_secs());
    }
    let (cpu, hub_peak_kib) = (process::cpu_s(pid)? - cpu, process::peak_rss_kib(pid)?);
    sleep(Duration::from_secs(1)).await;
    let hub_settled_rss_kib = process::rss_kib(pid)?;
    over.send_replace(true);
    while stores.join_next().await.is_some() {}
    hub.kill().await?;

    let ms = |of: fn(&Times) -> Instant| times.iter().map(move |times| (of(times) - started).as_millis() as u64);
    let mean = |of| ms(of).sum::<u64>() / times.len().max(1) as u64;
    let last = |of| ms(of).max().unwrap_or(0);
    let first_ms = ms(|times| times.connected).min().unwrap_or(0);
    let seconds = (last(|times| times.applied) - first_ms) as f64 / 1e3;
    Ok(Outcome {
        shape,
        records,
        keys: shape.sites * shape.items,
        seconds,
        records_per_s: records as f64 / seconds,
        cpu_us_per_record: cpu * 1e6 / records as f64,
        hub_idle_rss_kib,
        hub_peak_kib,
        hub_settled_rss_kib,
        connected_last_ms: last(|times| times.connected),
        present_mean_ms: mean(|times| times.present),
        present_last_ms: last(|times| times.present),
        applied_mean_ms: mean(|times| times.applied),
        applied_last_ms: last(|times| times.applied),
        reconnects: times.iter().map(|times| times.reconnects).sum(),
    })
}

fn journals(shape: Shape) -> Vec<Journal> {
    let gtins: Arc<[u64]> =
        (1..=shape.items as u64).filter_map(|n| Some(retail::barcode(n).parse::<Gtin>().ok()?.number())).collect();
    let mut dice = SmallRng::seed_from_u64(shape.sites as u64);
    let mut make = |site| {
        let records = dice.random_range(shape.records_least..=shape.records_most);
        Journal::make(site, records, gtins.clone())
    };
    (0..shape.sites).map(&mut make).collect()
}

impl Fleet {
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "Stores that all begin at once\n\n| stores | records | keys | records/s | hub's processor time a record | hub's \
             memory: peak, after | all have | the slowest / the mean |\n|---|---|---|---|---|---|---|---|\n",
        );
        let mib = |kib: u64| kib as f64 / 1_024.0;
        for found in self.by_sites.iter().chain(&self.by_keys) {
            let Outcome { shape, records, keys, records_per_s, cpu_us_per_record, seconds, .. } = found;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {records} | {keys} | {records_per_s:.0} | {cpu_us_per_record:.1} us | {:.0}, {:.0} MiB | {seconds:.1} s | {:.2} |",
                shape.sites,
                mib(found.hub_peak_kib),
                mib(found.hub_settled_rss_kib),
                found.spread(),
            );
        }
        let found = &self.mass_return;
        let Shape { sites, records_least, records_most, .. } = found.shape;
        let s = |ms: u64| ms as f64 / 1e3;
        let _ = writeln!(
            text,
            "\n{sites} stores come back, with {records_least} to {records_most} records each ({} in all), each in its own \
             time after the hub's return\n\n| | |\n|---|---|",
            found.records
        );
        let rows = [
            ("the last one is connected", format!("{:.1} s", s(found.connected_last_ms))),
            (
                "HQ knows the present: mean, the last one's",
                format!("{:.1} s, {:.1} s", s(found.present_mean_ms), s(found.present_last_ms)),
            ),
            (
                "all applied: mean, the last one",
                format!("{:.1} s, {:.1} s", s(found.applied_mean_ms), s(found.applied_last_ms)),
            ),
            ("the slowest / the mean", format!("{:.2}", found.spread())),
            ("records/s", format!("{:.0}", found.records_per_s)),
            ("hub's processor time a record", format!("{:.1} us", found.cpu_us_per_record)),
            (
                "hub's memory: peak, after",
                format!("{:.0}, {:.0} MiB", mib(found.hub_peak_kib), mib(found.hub_settled_rss_kib)),
            ),
            ("links lost meanwhile", found.reconnects.to_string()),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }
}

impl Outcome {
    fn spread(&self) -> f64 {
        self.applied_last_ms as f64 / self.applied_mean_ms.max(1) as f64
    }
}
