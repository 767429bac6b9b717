//! What one identity may take: messages and bytes in a second, connections, subscriptions.
//!
//! All connections of a name share one ration, and so do those of an address that show no name. Past a rate nothing is
//! dropped: the socket is read later, and its sender waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::arrivals::network_of;
use super::intake::Identity;
use super::stats::FrontStats;

/// The bounds of one identity. `None` and `usize::MAX`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub rate: Option<Rate>,
    /// Connections at once. The next one is told that there is no more (v5: 0x97); a takeover always fits.
    pub connections_max: usize,
    /// Subscriptions of all of them. Further filters are refused (0x80; v5: 0x97).
    pub subscriptions_max: usize,
}

/// Messages and bytes (topics and payloads) in a second; as much as two seconds' worth may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub messages: u32,
    pub bytes: u32,
}

const BURST_S: f64 = 2.0;

/// Whose ration a connection has a part in: its name's, or its address's. No name is like that one.
pub(super) fn of(who: &Identity, peer: IpAddr) -> Arc<str> {
    who.name.clone().unwrap_or_else(|| format!("@{}", network_of(peer)).into())
}

impl Allowance {
    pub const UNLIMITED: Allowance =
        Allowance { rate: None, connections_max: usize::MAX, subscriptions_max: usize::MAX };
}

/// Rations past which those that nobody uses, and that owe nothing any more, are looked for.
const UNUSED_MAX: usize = 4_096;

/// All rations in use, and those of who left in debt.
pub(super) struct Rations {
    by_name: Mutex<HashMap<Arc<str>, Arc<Ration>>>,
    subscriptions: Mutex<usize>,
    subscriptions_max: usize,
    stats: Arc<FrontStats>,
}

struct Ration {
    allowance: Allowance,
    used: Mutex<Used>,
}

struct Used {
    connections: usize,
    subscriptions: usize,
    /// What may still come now; below nothing it is owed.
    messages: f64,
    bytes: f64,
    at: Instant,
}

impl Rations {
    /// `subscriptions_max` bounds those of all clients that are connected.
    pub(super) fn new(subscriptions_max: usize, stats: Arc<FrontStats>) -> Rations {
        Rations { by_name: Mutex::default(), subscriptions: Mutex::default(), subscriptions_max, stats }
    }

    /// A connection's part in the ration of `name`; `None` if it has as many as it may. `instead` says that it takes the
    /// place of another one of the same name.
    pub(super) fn share(self: &Arc<Self>, name: Arc<str>, allowance: Allowance, instead: bool) -> Option<Share> {
        let fresh = || Arc::new(Ration { allowance, used: Mutex::new(Used::new(&allowance)) });
        let mut rations = lock(&self.by_name);
        if rations.len() >= UNUSED_MAX && !rations.contains_key(&name) {
            rations.retain(|_, ration| ration.counts());
        }
        let ration = rations.entry(name.clone()).or_insert_with(fresh).clone();
        let mut used = lock(&ration.used);
        if used.connections >= allowance.connections_max.saturating_add(usize::from(instead)) {
            return None;
        }
        used.connections += 1;
        drop(used);
        Some(Share { ration, name, subscriptions: 0, rations: self.clone() })
    }
}

impl Ration {
    /// Whether somebody has a part in it, or left in debt: a debt outlives the connection that made it, or coming back
    /// would pay it.
    fn counts(&self) -> bool {
        let mut used = lock(&self.used);
        let rate = self.allowance.rate;
        rate.into_iter().for_each(|rate| used.refill(rate, Instant::now()));
        used.connections > 0 || rate.is_some() && (used.messages < 0.0 || used.bytes < 0.0)
    }
}

impl Used {
    fn new(allowance: &Allowance) -> Used {
        let (messages, bytes) = allowance.rate.map_or((0.0, 0.0), |rate| (full(rate.messages), full(rate.bytes)));
        Used { connections: 0, subscriptions: 0, messages, bytes, at: Instant::now() }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.messages = (self.messages + seconds * f64::from(rate.messages)).min(full(rate.messages));
        self.bytes = (self.bytes + seconds * f64::from(rate.bytes)).min(full(rate.bytes));
    }
}

fn full(a_second: u32) -> f64 {
    f64::from(a_second) * BURST_S
}

/// One connection's part of its identity's ration.
pub(super) struct Share {
    ration: Arc<Ration>,
    name: Arc<str>,
    /// Those of this connection.
    subscriptions: usize,
    rations: Arc<Rations>,
}

impl Share {
    /// How many messages may be taken in now, at most `wanted` and at least one: whoever may take none waits instead.
    pub(super) fn messages(&self, wanted: usize) -> usize {
        let Some(rate) = self.ration.allowance.rate else { return wanted };
        let mut used = lock(&self.ration.used);
        used.refill(rate, Instant::now());
        (used.messages as usize).clamp(1, wanted)
    }

    /// Takes off what came, and says until when nothing more is to be read, if it was too much.
    pub(super) fn spend(&self, messages: usize, bytes: usize) -> Option<Instant> {
        let rate = self.ration.allowance.rate?;
        let now = Instant::now();
        let mut used = lock(&self.ration.used);
        used.refill(rate, now);
        used.messages -= messages as f64;
        used.bytes -= bytes as f64;
        let owed = (-used.messages / f64::from(rate.messages)).max(-used.bytes / f64::from(rate.bytes));
        if owed <= 0.0 {
            return None;
        }
        self.rations.stats.slowed.inc();
        Some(now + Duration::from_secs_f64(owed))
    }

    /// Whether one more subscription fits.
    pub(super) fn has_room(&self) -> bool {
        *lock(&self.rations.subscriptions) < self.rations.subscriptions_max
            && lock(&self.ration.used).subscriptions < self.ration.allowance.subscriptions_max
    }

    /// How many subscriptions this connection has now.
    pub(super) fn subscribed(&mut self, now: usize) {
        let before = std::mem::replace(&mut self.subscriptions, now);
        let change = |count: &mut usize| *count = *count + now - before;
        change(&mut lock(&self.rations.subscriptions));
        change(&mut lock(&self.ration.used).subscriptions);
        self.rations.stats.subscriptions.set(*lock(&self.rations.subscriptions) as u64);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.subscribed(0);
        let mut rations = lock(&self.rations.by_name);
        lock(&self.ration.used).connections -= 1;
        if !self.ration.counts() && rations.get(&self.name).is_some_and(|held| Arc::ptr_eq(held, &self.ration)) {
            rations.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rations() -> Arc<Rations> {
        Arc::new(Rations::new(10, Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn over_the_rate_is_slower_and_never_more() {
        let rate = Rate { messages: 10, bytes: 1_000_000 };
        let allowance = Allowance { rate: Some(rate), ..Allowance::UNLIMITED };
        let share = rations().share("pos-1".into(), allowance, false).unwrap();
        let (began, mut sent) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(10) {
            let some = share.messages(64);
            sent += some;
            if let Some(until) = share.spend(some, 10 * some) {
                tokio::time::sleep_until(until).await;
            }
        }
        assert!((100..=122).contains(&sent), "{sent} in 10 s at 10 a second and 20 at once");
        assert!(share.spend(0, 4_000_000).is_some(), "bytes count too");
    }

    #[test]
    fn connections_and_subscriptions_of_a_name_are_counted_together() {
        let allowance = Allowance { rate: None, connections_max: 2, subscriptions_max: 3 };
        let (rations, name) = (rations(), Arc::<str>::from("pos-1"));
        let share = |instead| rations.share(name.clone(), allowance, instead);
        let (mut one, mut two) = (share(false).unwrap(), share(false).unwrap());
        assert!(share(false).is_none());
        assert!(share(true).is_some(), "it replaces another one");
        one.subscribed(2);
        assert!(two.has_room());
        two.subscribed(1);
        assert!(!two.has_room() && !one.has_room());
        drop(one);
        assert!(two.has_room() && share(false).is_some());
        let mut stranger = rations.share("@::1".into(), Allowance::UNLIMITED, false).unwrap();
        stranger.subscribed(9);
        assert!(!two.has_room(), "those of all clients are bounded too");
        drop((two, stranger));
        assert!(lock(&rations.by_name).is_empty() && *lock(&rations.subscriptions) == 0);
    }
}
