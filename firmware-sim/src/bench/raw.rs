//! What the disk itself gives: append, fdatasync, again. The measure for everything durable.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

pub(super) const RECORD_BYTES: usize = 100;
pub(super) const GROUPS: [usize; 3] = [1, 16, 256];

/// Of one size of group.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Raw {
    pub(super) records_per_group: usize,
    pub(super) records_per_s: f64,
    /// Of one append with its fdatasync.
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
}

/// Blocks the thread for that long.
pub(super) fn measure(dir: &Path, records_per_group: usize, lasts: Duration) -> Result<Raw> {
    let path = dir.join("raw");
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let group = vec![b'x'; RECORD_BYTES * records_per_group];
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < lasts {
        let begun = Instant::now();
        file.write_all(&group).context("appending")?;
        file.sync_data().context("fdatasync")?;
        took.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0);
    let records_per_s = (took.len() * records_per_group) as f64 / seconds;
    Ok(Raw { records_per_group, records_per_s, p50_us: at(0.5), p99_us: at(0.99) })
}

/// The middle one by rate.
pub(super) fn median(mut rounds: Vec<Raw>) -> Option<Raw> {
    rounds.sort_by(|a, b| a.records_per_s.total_cmp(&b.records_per_s));
    rounds.get(rounds.len() / 2).copied()
}
