//! A store that was offline for long: memory, disk and start with a million records that wait; then what is left of
//! them once the hub has applied them all.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::sleep;

use super::raw::RECORD_BYTES;
use super::{Options, SITE, gateway_spec, hub_spec, process};
use crate::load;
use crate::mqtt::{Hello, Wire};
use crate::nodes::{Node, Spec};
use crate::status;

const IDLE_DEVICES: u16 = 100;
const IDLE_FOR: Duration = Duration::from_secs(2);
const LOAD_SECONDS: u64 = 2;
/// No bound that the backlog would reach.
const ROOMY: &str = "journal_mib_max = 8192\n";
/// What is applied is let go at once, room or not.
const TIGHT: &str = "journal_mib_max = 8192\nretain_days = 0\n";
const APPLIED_WAIT: Duration = Duration::from_secs(600);
/// Trimming goes on in the background: the disk's use is taken when it did not change for so long.
const STEADY_FOR: Duration = Duration::from_secs(5);
const STEADY_WAIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Default, Serialize)]
pub(super) struct Backlog {
    idle_devices: u16,
    idle_rss_kib: u64,
    records: u64,
    loaded_per_s: f64,
    written_per_record: f64,
    backlog_rss_kib: u64,
    backlog_disk_bytes: u64,
    /// From the start of the process to its ready line, after SIGKILL.
    open_after_kill_ms: u64,
    opened_rss_kib: u64,
    opened_disk_bytes: u64,
    applied_s: f64,
    applied_per_s: f64,
    trimmed_disk_bytes: u64,
    trimmed_restart_ms: u64,
    trimmed_restarted_disk_bytes: u64,
    hub_disk_bytes: u64,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Backlog> {
    let mut found = Backlog { idle_devices: IDLE_DEVICES, ..Backlog::default() };
    let mut gateway = Node::start(Spec { config: ROOMY.into(), ..gateway_spec(dir, SITE, None) }).await?;
    eprintln!("backlog: {IDLE_DEVICES} idle devices");
    found.idle_rss_kib = idle(&gateway).await?;
    eprintln!("backlog: loading {} records", options.records);
    load(&gateway, options.records, &mut found).await?;
    found.backlog_rss_kib = process::rss_kib(pid(&gateway)?)?;
    found.backlog_disk_bytes = process::disk_bytes(gateway.dir())?;

    gateway.kill().await?;
    eprintln!("backlog: opening after SIGKILL");
    found.open_after_kill_ms = restart(&mut gateway).await?;
    found.opened_rss_kib = process::rss_kib(pid(&gateway)?)?;
    found.opened_disk_bytes = process::disk_bytes(gateway.dir())?;
    apply(dir, gateway, &mut found).await?;
    Ok(found)
}

fn pid(node: &Node) -> Result<u32> {
    node.pid().context("the node has ended")
}

/// Memory of the gateway with devices that are connected and say nothing.
async fn idle(gateway: &Node) -> Result<u64> {
    let mut wires = Vec::new();
    for n in 0..IDLE_DEVICES {
        let mut wire = Wire::open(&gateway.addr().into()).await?;
        wire.queue_connect(&Hello { client: format!("idle-{n}"), clean: true, keep_alive_s: 60, login: None })?;
        wire.next().await?;
        wires.push(wire);
    }
    sleep(IDLE_FOR).await;
    process::rss_kib(pid(gateway)?)
}

async fn load(gateway: &Node, records: u64, found: &mut Backlog) -> Result<()> {
    let before = process::written_bytes(pid(gateway)?)?;
    let (mut acked, mut seconds) = (0, 0.0);
    while found.records < records {
        let door = gateway.addr().into();
        let some = load::Options {
            door,
            clients: 50,
            window: 50,
            seconds: LOAD_SECONDS,
            payload_bytes: RECORD_BYTES,
            json: false,
        };
        let figures = load::run(&some).await.context("loading the gateway")?;
        (acked, seconds) = (acked + figures.acked, seconds + figures.seconds);
        let now = status::gateway(gateway.dir()).await?.ledger.last_seq;
        if now <= found.records {
            bail!("the gateway takes no more at {now} records");
        }
        found.records = now;
    }
    found.loaded_per_s = acked as f64 / seconds;
    found.written_per_record = (process::written_bytes(pid(gateway)?)? - before) as f64 / acked.max(1) as f64;
    Ok(())
}

/// A hub applies everything; then the gateway's disk is measured before and after a restart.
async fn apply(dir: &Path, gateway: Node, found: &mut Backlog) -> Result<()> {
    let addr = gateway.addr();
    gateway.stop().await?;
    let hub = Node::start(hub_spec(dir)).await?;
    let spec = Spec { config: TIGHT.into(), ..gateway_spec(dir, SITE, Some(hub.addr())) };
    let mut gateway = Node::start_at(spec, addr).await?;
    eprintln!("backlog: the hub applies {} records", found.records);
    let started = Instant::now();
    while status::hub(hub.dir()).await?.sites.get(SITE).is_none_or(|site| site.applied_seq < found.records) {
        if started.elapsed() > APPLIED_WAIT {
            bail!("the hub did not apply {} records within {} s", found.records, APPLIED_WAIT.as_secs());
        }
        sleep(LOOK_EVERY).await;
    }
    found.applied_s = started.elapsed().as_secs_f64();
    found.applied_per_s = found.records as f64 / found.applied_s;
    found.trimmed_disk_bytes = steady_disk(gateway.dir()).await?;
    gateway.kill().await?;
    found.trimmed_restart_ms = restart(&mut gateway).await?;
    found.trimmed_restarted_disk_bytes = steady_disk(gateway.dir()).await?;
    found.hub_disk_bytes = process::disk_bytes(hub.dir())?;
    gateway.stop().await?;
    hub.stop().await
}

async fn restart(node: &mut Node) -> Result<u64> {
    let started = Instant::now();
    node.restart().await?;
    Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

async fn steady_disk(dir: &Path) -> Result<u64> {
    let (started, mut since) = (Instant::now(), Instant::now());
    let mut bytes = process::disk_bytes(dir)?;
    while since.elapsed() < STEADY_FOR && started.elapsed() < STEADY_WAIT {
        sleep(LOOK_EVERY).await;
        let now = process::disk_bytes(dir)?;
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
    Ok(bytes)
}

impl Backlog {
    pub(super) fn table(&self) -> String {
        let per_record = |bytes: u64| bytes as f64 / self.records.max(1) as f64;
        let disk = |bytes: u64| format!("{:.0} MiB ({:.0} bytes a record)", mib(bytes), per_record(bytes));
        let rows = [
            (format!("RSS, idle with {} devices", self.idle_devices), format!("{:.1} MiB", kib(self.idle_rss_kib))),
            ("records that wait".into(), self.records.to_string()),
            ("taken per second while loading".into(), format!("{:.0}", self.loaded_per_s)),
            ("written to disk while loading".into(), format!("{:.0} bytes a record", self.written_per_record)),
            ("RSS with that backlog".into(), format!("{:.1} MiB", kib(self.backlog_rss_kib))),
            ("data folder with that backlog".into(), disk(self.backlog_disk_bytes)),
            ("start after SIGKILL, to the ready line".into(), format!("{} ms", self.open_after_kill_ms)),
            ("RSS after that start".into(), format!("{:.1} MiB", kib(self.opened_rss_kib))),
            ("data folder after that start".into(), disk(self.opened_disk_bytes)),
            ("all applied at the hub".into(), format!("{:.1} s ({:.0} a second)", self.applied_s, self.applied_per_s)),
            ("data folder, all applied".into(), disk(self.trimmed_disk_bytes)),
            ("data folder, after SIGKILL and start".into(), disk(self.trimmed_restarted_disk_bytes)),
            ("that start".into(), format!("{} ms", self.trimmed_restart_ms)),
            ("the hub's data folder".into(), disk(self.hub_disk_bytes)),
        ];
        let mut text =
            format!("A backlog of publishes of {RECORD_BYTES} bytes (hex digits, random)\n\n| | |\n|---|---|\n");
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }
}

fn kib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
