//! The writer reads the clocks, so that cores need not.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proto::id::WallMs;

use super::core::Now;

/// A wall clock before this has never been set: October 2025 in milliseconds.
const BELIEVABLE_FROM: u64 = 1_760_000_000_000;

pub(super) struct Clocks {
    started: Instant,
    powered_before_s: u64,
}

impl Clocks {
    pub(super) fn start(powered_before_s: u64) -> Clocks {
        Clocks { started: Instant::now(), powered_before_s }
    }

    pub(super) fn powered_on_s(&self) -> u64 {
        self.powered_before_s + self.started.elapsed().as_secs()
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Now {
            wall: WallMs(wall),
            synced: wall >= BELIEVABLE_FROM,
            mono_ms: self.started.elapsed().as_millis() as u64,
            powered_on_s: self.powered_on_s(),
        }
    }
}
