//! Whether there is room for another publish. Admission stops before the disk is full: an error inside a commit would
//! be the end.

use std::path::PathBuf;

use super::store::Options;

pub(super) struct Room {
    dir: PathBuf,
    pub(super) journal_bytes_max: u64,
    disk_reserve_bytes: u64,
    /// Publishes are refused.
    pub(super) full: bool,
}

impl Room {
    pub(super) fn new(options: &Options) -> Room {
        Room {
            dir: options.dir.clone(),
            journal_bytes_max: options.journal_bytes_max,
            disk_reserve_bytes: options.disk_reserve_bytes,
            full: false,
        }
    }

    pub(super) fn check(&mut self, journal_bytes: u64) {
        let free = rustix::fs::statvfs(&self.dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let disk_full = free.is_ok_and(|free| free < self.disk_reserve_bytes);
        // A quarter on top gives trimming the time to catch up.
        let journal_full = journal_bytes / 5 * 4 > self.journal_bytes_max;
        let full = disk_full || journal_full;
        if full != self.full {
            tracing::warn!(disk_full, journal_full, "room for publishes: {}", if full { "none" } else { "again" });
        }
        self.full = full;
    }
}
