//! How often somebody may guess.
//!
//! Failures fill two buckets, one of the address and one of the name. An address whose bucket is full is not looked at. A
//! name whose bucket is full is looked at only from addresses that have not failed lately: so nobody can lock a device out
//! by guessing at its name, and whoever guesses from many addresses has one guess for each.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::front::network_of;

/// Failures at once, and after that one every so many seconds.
const BURST: f64 = 20.0;
const A_SECOND: f64 = 1.0 / 3.0;
/// Entries of each table; past it the one with the fewest failures goes.
const ENTRIES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Throttle {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    peers: HashMap<IpAddr, Failures>,
    /// By a hash: names are whatever was sent, of any length.
    names: HashMap<u64, Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    level: f64,
    at: Instant,
}

impl Failures {
    fn now(&self, now: Instant) -> f64 {
        (self.level - now.saturating_duration_since(self.at).as_secs_f64() * A_SECOND).max(0.0)
    }
}

impl Throttle {
    /// Whether an attempt is not even looked at.
    pub(super) fn denies(&self, peer: IpAddr, name: &str, now: Instant) -> bool {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |failures: Option<&Failures>| failures.map_or(0.0, |failures| failures.now(now));
        let peer = level(tables.peers.get(&network_of(peer)));
        peer > BURST - 1.0 || (peer > 0.0 && level(tables.names.get(&key(name))) > BURST - 1.0)
    }

    pub(super) fn failed(&self, peer: IpAddr, name: &str, now: Instant) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut tables.peers, network_of(peer), now);
        count(&mut tables.names, key(name), now);
    }
}

fn key(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|n| hash.as_bytes()[n]))
}

fn count<K: Hash + Eq + Copy>(table: &mut HashMap<K, Failures>, key: K, now: Instant) {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        table.retain(|_, failures| failures.now(now) > 0.0);
        let least = table.iter().min_by(|(_, a), (_, b)| a.now(now).total_cmp(&b.now(now))).map(|(key, _)| *key);
        if let Some(least) = least.filter(|_| table.len() >= ENTRIES_MAX) {
            table.remove(&least);
        }
    }
    let failures = table.entry(key).or_insert(Failures { level: 0.0, at: now });
    *failures = Failures { level: (failures.now(now) + 1.0).min(BURST), at: now };
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    const GUESSER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn guessing_gets_slow_and_locks_nobody_else_out() {
        let (throttle, began) = (Throttle::default(), Instant::now());
        let (mut guesses, mut now) = (0, began);
        while now < began + Duration::from_secs(300) {
            if !throttle.denies(GUESSER, "pos-1", now) {
                throttle.failed(GUESSER, "pos-1", now);
                guesses += 1;
            }
            now += Duration::from_millis(10);
        }
        assert!((100..=125).contains(&guesses), "{guesses} guesses in five minutes");
        throttle.failed(GUESSER, "pos-1", now);
        assert!(throttle.denies(GUESSER, "pos-2", now), "the address, whatever the name");
        assert!(!throttle.denies(HONEST, "pos-1", now), "the device itself is looked at");
        throttle.failed(HONEST, "pos-1", now);
        assert!(throttle.denies(HONEST, "pos-1", now), "and has one guess as long as others go on guessing");
        assert!(!throttle.denies(HONEST, "pos-2", now));
    }

    #[test]
    fn the_tables_are_bounded_and_keep_the_worst() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        (0..20).for_each(|_| throttle.failed(GUESSER, "pos-1", now));
        for n in 0..2 * ENTRIES_MAX as u32 {
            throttle.failed(Ipv4Addr::from(0x0b00_0000 + n).into(), &n.to_string(), now);
        }
        let tables = throttle.tables.lock().unwrap();
        assert!(tables.peers.len() <= ENTRIES_MAX && tables.names.len() <= ENTRIES_MAX);
        assert!(tables.peers.contains_key(&GUESSER));
    }
}
