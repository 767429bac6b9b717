//! What the node costs its disk: bytes that the kernel wrote for it, by record and by day, and what is left.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ledger::LedgerStats;

/// A rate of a shorter time says nothing of a day.
const RATE_FROM: Duration = Duration::from_secs(60);
const DAY_S: f64 = 86_400.0;

/// Measures from when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    started: Instant,
}

impl Meter {
    pub fn start() -> Meter {
        Meter { started: Instant::now() }
    }

    /// The status's `disk`.
    pub fn read(&self, dir: &Path, stats: &LedgerStats) -> Value {
        let free = rustix::fs::statvfs(dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)).ok();
        wear(written_bytes(), self.started.elapsed(), stats, free)
    }
}

fn wear(written: Option<u64>, up: Duration, stats: &LedgerStats, free: Option<u64>) -> Value {
    let per_record = |bytes: u64| (stats.records > 0).then(|| (bytes as f64 / stats.records as f64).round() as u64);
    let per_day = |bytes: u64| (up >= RATE_FROM).then(|| (bytes as f64 / up.as_secs_f64() * DAY_S).round() as u64);
    json!({
        "up_s": up.as_secs(),
        "written_bytes": written,
        "written_bytes_per_record": written.and_then(per_record),
        "written_bytes_per_day": written.and_then(per_day),
        "appended_bytes_per_record": per_record(stats.appended_bytes),
        "free_bytes": free,
    })
}

/// What this process made the kernel write to storage since it began. `None` where /proc does not tell.
fn written_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/io").ok()?)
}

fn parse(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_records_and_time() {
        let io = "rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 86400\ncancelled_write_bytes: 7\n";
        assert_eq!((parse(io), parse("wchar: 2\n")), (Some(86_400), None));
        let stats = LedgerStats { records: 0, appended_bytes: 900, ..LedgerStats::default() };
        let young = wear(parse(io), Duration::from_secs(59), &stats, None);
        assert_eq!((&young["written_bytes"], &young["free_bytes"]), (&json!(86_400), &Value::Null));
        for unknown in ["written_bytes_per_record", "written_bytes_per_day", "appended_bytes_per_record"] {
            assert_eq!(young[unknown], Value::Null, "{unknown}");
        }
        let stats = LedgerStats { records: 9, ..stats };
        let old = wear(parse(io), Duration::from_secs(43_200), &stats, Some(5));
        assert_eq!((&old["written_bytes_per_record"], &old["written_bytes_per_day"]), (&json!(9_600), &json!(172_800)));
        assert_eq!((&old["appended_bytes_per_record"], &old["free_bytes"]), (&json!(100), &json!(5)));
    }
}
