//! Slows down who guesses codes or tries tokens: each source may fail a few times, then waits.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::front::network_of;

/// Failures that a source has free; one comes back every [`BACK_MS`].
const FREE: u64 = 10;
const BACK_MS: u64 = 6_000;
/// Sources that are remembered. When full, the one that has most of its free failures back is forgotten.
const SOURCES_MAX: usize = 4_096;

/// Failures by source: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the source has all its free failures back.
    clear_at_ms: HashMap<IpAddr, u64>,
}

impl Throttle {
    /// Milliseconds for which a source has to wait, if it has to.
    pub(crate) fn wait_ms(&self, source: IpAddr, now_ms: u64) -> Option<u64> {
        let ahead = ahead_ms(*self.clear_at_ms.get(&network_of(source))?, now_ms);
        let wait = ahead.saturating_sub((FREE - 1) * BACK_MS);
        (wait > 0).then_some(wait)
    }

    pub(crate) fn failed(&mut self, source: IpAddr, now_ms: u64) {
        let source = network_of(source);
        if self.clear_at_ms.len() >= SOURCES_MAX && !self.clear_at_ms.contains_key(&source) {
            self.clear_at_ms.retain(|_, clear_at| *clear_at > now_ms);
            let soonest = self.clear_at_ms.iter().min_by_key(|(_, clear_at)| **clear_at).map(|(source, _)| *source);
            if let Some(soonest) = soonest.filter(|_| self.clear_at_ms.len() >= SOURCES_MAX) {
                self.clear_at_ms.remove(&soonest);
            }
        }
        let clear_at = self.clear_at_ms.entry(source).or_insert(now_ms);
        // Several at once may find the source free; it never lacks more than all.
        *clear_at = now_ms + (ahead_ms(*clear_at, now_ms) + BACK_MS).min(FREE * BACK_MS);
    }
}

/// How much of its freedom a source lacks. Far more than all of it is a clock that was set back: that is nobody's fault. A
/// little more is one who asked before and failed after another.
fn ahead_ms(clear_at_ms: u64, now_ms: u64) -> u64 {
    let ahead = clear_at_ms.saturating_sub(now_ms);
    if ahead > 2 * FREE * BACK_MS { 0 } else { ahead.min(FREE * BACK_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_are_free_then_one_each_six_seconds() {
        let mut throttle = Throttle::default();
        let (guesser, honest) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut failures = 0;
        for now in 0..120_000 {
            if throttle.wait_ms(guesser, now).is_none() {
                throttle.failed(guesser, now);
                failures += 1;
            }
        }
        assert_eq!(failures, 10 + 119_999 / 6_000);
        assert!(throttle.wait_ms(honest, 120_000).is_none());
        assert!(throttle.wait_ms(guesser, 200_000).is_none());
    }

    #[test]
    fn failures_that_come_all_at_once_are_no_way_out() {
        let mut throttle = Throttle::default();
        let guesser = "10.0.0.1".parse().unwrap();
        for _ in 0..128 {
            throttle.failed(guesser, 6_001);
            // Asked before, failed after.
            throttle.failed(guesser, 1_000);
        }
        assert!(throttle.wait_ms(guesser, 6_001).is_some());
        assert!(throttle.wait_ms(guesser, 66_001).is_none());
    }

    #[test]
    fn a_network_is_one_source_and_the_memory_has_a_bound() {
        let mut throttle = Throttle::default();
        for n in 0..20_000u128 {
            throttle.failed(std::net::Ipv6Addr::from(0x2001_0db8 << 96 | n).into(), 0);
        }
        assert!(throttle.wait_ms("2001:db8::ffff".parse().unwrap(), 0).is_some());
        assert_eq!(throttle.clear_at_ms.len(), 1);
        for n in 0..20_000u32 {
            throttle.failed(std::net::Ipv4Addr::from(n).into(), 1);
        }
        assert!(throttle.clear_at_ms.len() <= SOURCES_MAX);
        assert!(throttle.wait_ms("2001:db8::1".parse().unwrap(), 1).is_some(), "the worst is not forgotten");
    }
}
