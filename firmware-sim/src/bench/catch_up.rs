//! A store comes back after long: when HQ sees how it is, when HQ has all of it, and what that costs on the wire and in
//! memory; beside it a mosquitto bridge with the same sales.

mod bridge;
mod ours;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use self::bridge::Bridged;
use self::ours::{Live, Return};
use super::{Options, retail as baskets};
use crate::proxy::Proxy;
use crate::retail;

/// Tills that are never idle: their sales share commits.
const BUSY: (usize, usize) = (8, 50);
/// One till that waits for its answer: each sale is a commit of its own, as in most stores.
const QUIET: (usize, usize) = (1, 1);
/// The quiet store has so many times fewer records.
const QUIET_SHARE: u64 = 50;
/// Catching up takes seconds; past this it is given up.
const WAIT: Duration = Duration::from_secs(300);

#[derive(Debug, Serialize)]
pub(super) struct CatchUp {
    mosquitto: String,
    busy: Return,
    quiet: Return,
    live: Live,
    bridge: Bridged,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<CatchUp> {
    let mosquitto = crate::mosquitto::version().await?;
    let all = sales(options.records)?;
    let quiet = all.first(options.records / QUIET_SHARE);
    eprintln!("catch-up: a store with {} lines that wait", all.lines);
    let (busy, _) = ours::measure(&dir.join("busy"), &all, BUSY, false).await?;
    eprintln!("catch-up: a quiet store with {} lines that wait, then single sales", quiet.lines);
    let (quiet, live) = ours::measure(&dir.join("quiet"), &quiet, QUIET, true).await?;
    eprintln!("catch-up: mosquitto with the same {} sales", all.payloads.len());
    let bridge = bridge::measure(&dir.join("mosquitto"), &all, BUSY).await?;
    Ok(CatchUp { mosquitto, busy, quiet, live: live.context("single sales were asked for")?, bridge })
}

/// What the tills send.
struct Sales {
    lines: u64,
    payloads: Vec<Bytes>,
    /// Lines of each.
    counts: Vec<u64>,
}

impl Sales {
    /// The first ones, up to so many lines.
    fn first(&self, lines: u64) -> Sales {
        let mut before = 0;
        let still = |count: &&u64| {
            let fits = before < lines;
            before += **count;
            fits
        };
        let count = self.counts.iter().take_while(still).count();
        let counts = self.counts[..count].to_vec();
        Sales { lines: counts.iter().sum(), payloads: self.payloads[..count].to_vec(), counts }
    }
}

/// The retail data over and over, each time under new ids, until there are so many lines.
fn sales(lines: u64) -> Result<Sales> {
    let rows = retail::rows()?;
    let mut made = Sales { lines: 0, payloads: Vec::new(), counts: Vec::new() };
    for sale in (0..).flat_map(|round| baskets::sales(&rows, round)) {
        made.lines += sale.lines;
        made.payloads.push(sale.payload);
        made.counts.push(sale.lines);
        if made.lines >= lines {
            break;
        }
    }
    Ok(made)
}

/// Says when the first byte went through.
fn first_byte(proxy: &Proxy) -> JoinHandle<Instant> {
    let weather = proxy.meter();
    tokio::spawn(async move {
        while weather.carried().up_bytes == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Instant::now()
    })
}

fn ms_between(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_millis() as u64
}

impl CatchUp {
    pub(super) fn table(&self) -> String {
        let CatchUp { mosquitto, busy, quiet, live, bridge } = self;
        let mut text = format!(
            "A store comes back: times from its first byte after the network's return\n\n\
             | | busy store | quiet store | mosquitto {mosquitto} bridge |\n|---|---|---|---|\n"
        );
        let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1e3);
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let ours = |of: &dyn Fn(&Return) -> String| (of(busy), of(quiet));
        let mut row = |name: &str, (busy, quiet): (String, String), theirs: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {busy} | {quiet} | {theirs} |");
        };
        row("sales that waited", ours(&|r| r.sales.to_string()), bridge.messages.to_string());
        row("records that waited", ours(&|r| r.records.to_string()), format!("{} lines", bridge.lines));
        row("the link is back after", ours(&|r| seconds(r.connected_ms)), seconds(bridge.connected_ms));
        row("HQ shows the present", ours(&|r| seconds(r.present_ms)), seconds(bridge.drained_ms));
        row("all applied, durable", ours(&|r| seconds(r.applied_ms)), seconds(bridge.drained_ms));
        let wire = |bytes: u64, records: u64| format!("{:.1} bytes", bytes as f64 / records.max(1) as f64);
        row(
            "on the wire a record, both ways",
            ours(&|r| wire(r.up_bytes + r.down_bytes, r.records)),
            wire(bridge.up_bytes + bridge.down_bytes, bridge.lines),
        );
        row("of that to HQ", ours(&|r| wire(r.up_bytes, r.records)), wire(bridge.up_bytes, bridge.lines));
        row("of that the present", ours(&|r| wire(r.present_bytes, r.records)), "none".into());
        row("the store's memory while waiting", ours(&|r| mib(r.waiting_rss_kib)), mib(bridge.edge_waiting_rss_kib));
        row("its peak meanwhile", ours(&|r| mib(r.gateway_peak_kib)), mib(bridge.edge_peak_kib));
        row("HQ's peak", ours(&|r| mib(r.hub_peak_kib)), mib(bridge.hq_peak_kib));
        row("the store's processor time", ours(&|r| format!("{:.1} s", r.gateway_cpu_s)), "".into());
        row("HQ's processor time", ours(&|r| format!("{:.1} s", r.hub_cpu_s)), "".into());
        let Live { sales, up_bytes, down_bytes, idle_bytes_per_minute } = live;
        let _ = writeln!(
            text,
            "\nA single sale of one line with the hub there ({sales} of them, less what an idle link carries): \
             {:.0} bytes on the wire, {up_bytes:.0} up and {down_bytes:.0} down. An idle link: \
             {idle_bytes_per_minute:.0} bytes a minute.",
            up_bytes + down_bytes
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sales_are_as_many_as_asked_for_and_never_the_same() {
        let some = sales(100_000).unwrap();
        assert!((100_000..100_100).contains(&some.lines), "{}", some.lines);
        let different: std::collections::HashSet<_> = some.payloads.iter().collect();
        assert_eq!(different.len(), some.payloads.len());
        let few = some.first(1_000);
        assert!((1_000..1_100).contains(&few.lines) && few.payloads.len() == few.counts.len());
    }
}
