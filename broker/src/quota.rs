//! How many rejected payloads a device may leave in the journal. Past its quota a refusal is still recorded, without
//! its bytes.

use std::collections::HashMap;

use bytes::Bytes;

use crate::ledger::Now;

/// How much of one refused payload is kept.
const KEPT_BYTES_MAX: usize = 4096;
const BURST: u32 = 100;
/// One more is allowed after this long.
const REFILL_MS: u64 = 1_000;
/// Devices remembered; when there are more, all start with a full quota again.
const DEVICES_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct RejectQuota {
    devices: HashMap<String, (u32, u64)>,
}

impl RejectQuota {
    /// As much of a refused payload as is kept: a bounded part of it, or nothing past the quota.
    pub fn kept(&mut self, device: &str, payload: &Bytes, now: &Now) -> Bytes {
        match self.keeps_bytes(device, now) {
            // A copy, so that the journal's record does not pin the connection's read buffer.
            true => Bytes::copy_from_slice(&payload[..payload.len().min(KEPT_BYTES_MAX)]),
            false => Bytes::new(),
        }
    }

    fn keeps_bytes(&mut self, device: &str, now: &Now) -> bool {
        if self.devices.len() >= DEVICES_MAX && !self.devices.contains_key(device) {
            self.devices.clear();
        }
        let (left, since) = self.devices.entry(device.to_owned()).or_insert((BURST, now.mono_ms));
        let earned = (now.mono_ms - *since) / REFILL_MS;
        *since += earned * REFILL_MS;
        *left = left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(BURST);
        match left.checked_sub(1) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }
}
