//! What the disk itself gives: write a group, fdatasync, again. The measure for everything durable.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

pub(super) const RECORD_BYTES: usize = 100;
/// Ways and records a group.
pub(super) const SERIES: [(Way, usize); 6] = [
    (Way::Append, 1),
    (Way::Append, 16),
    (Way::Append, 256),
    (Way::InPlace, 1),
    (Way::InPlace, 16),
    (Way::InPlace, 256),
];

/// What is written into in place: far larger than any disk cache line, far smaller than memory.
const PREPARED_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// The file grows, so each fdatasync also commits the file system's own journal.
    Append,
    /// The file has its size and its blocks; only data is written.
    InPlace,
}

/// Of one way and size of group.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Raw {
    pub(super) way: Way,
    pub(super) records_per_group: usize,
    pub(super) records_per_s: f64,
    /// Of one write with its fdatasync.
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
}

/// Blocks the thread for that long.
pub(super) fn measure(dir: &Path, way: Way, records_per_group: usize, lasts: Duration) -> Result<Raw> {
    let path = dir.join("raw");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    if way == Way::InPlace {
        file.write_all_at(&vec![0; PREPARED_BYTES as usize], 0).context("preparing the file")?;
        file.sync_all().context("preparing the file")?;
    }
    let group = vec![b'x'; RECORD_BYTES * records_per_group];
    let (started, mut took, mut at) = (Instant::now(), Vec::new(), 0);
    while started.elapsed() < lasts {
        let begun = Instant::now();
        file.write_all_at(&group, at).context("writing")?;
        file.sync_data().context("fdatasync")?;
        took.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        at += group.len() as u64;
        if way == Way::InPlace && at + group.len() as u64 > PREPARED_BYTES {
            at = 0;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0);
    let records_per_s = (took.len() * records_per_group) as f64 / seconds;
    Ok(Raw { way, records_per_group, records_per_s, p50_us: at(0.5), p99_us: at(0.99) })
}

/// The middle one by rate.
pub(super) fn median(mut rounds: Vec<Raw>) -> Option<Raw> {
    rounds.sort_by(|a, b| a.records_per_s.total_cmp(&b.records_per_s));
    rounds.get(rounds.len() / 2).copied()
}
