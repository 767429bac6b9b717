//! How many requests a caller may make: a rate, with two seconds' worth at once (a generic cell rate, ITU-T I.371).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::caller::{Caller, Means};

/// Requests a second for each caller, if nobody says otherwise.
pub(crate) const RATE: u32 = 500;
const BURST_S: u64 = 2;
/// Callers that are remembered. When full, the one that has most of its requests back is forgotten.
const CALLERS_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Pace {
    between: Duration,
    /// Since then everything is counted.
    began: Instant,
    /// When the caller has all its requests back, by how it proved who it is and its name.
    clear_at: [HashMap<String, Duration>; 2],
}

impl Pace {
    pub(super) fn new(rate: u32, now: Instant) -> Pace {
        Pace { between: Duration::from_secs(1) / rate.max(1), began: now, clear_at: Default::default() }
    }

    /// Takes a request, or says how many seconds the caller has to wait.
    pub(super) fn take(&mut self, caller: &Caller, now: Instant) -> Result<(), u64> {
        let now = now.saturating_duration_since(self.began);
        let (burst, between) = (Duration::from_secs(BURST_S), self.between);
        let table = &mut self.clear_at[match caller.by {
            Means::Jwt => 0,
            Means::LocalToken => 1,
        }];
        if let Some(clear_at) = table.get_mut(&caller.name) {
            let next = (*clear_at).max(now) + between;
            let ahead = next.saturating_sub(now);
            if ahead > burst.max(between) {
                return Err((ahead - burst).as_secs() + 1);
            }
            *clear_at = next;
            return Ok(());
        }
        if table.len() >= CALLERS_MAX {
            table.retain(|_, clear_at| *clear_at > now);
            let soonest = table.iter().min_by_key(|(_, clear_at)| **clear_at).map(|(name, _)| name.clone());
            if let Some(soonest) = soonest.filter(|_| table.len() >= CALLERS_MAX) {
                table.remove(&soonest);
            }
        }
        table.insert(caller.name.clone(), now + between);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Role;

    fn caller(name: &str, by: Means) -> Caller {
        Caller { name: name.into(), role: Role::Viewer, by }
    }

    #[test]
    fn two_seconds_at_once_then_the_rate_and_nobody_waits_for_another() {
        let began = Instant::now();
        let (mut pace, shop) = (Pace::new(100, began), caller("shop", Means::Jwt));
        let taken = |pace: &mut Pace, at| (0..1_000).filter(|_| pace.take(&shop, at).is_ok()).count();
        assert_eq!(taken(&mut pace, began), 200);
        assert_eq!(pace.take(&shop, began), Err(1));
        assert_eq!(taken(&mut pace, began + Duration::from_secs(1)), 100);
        assert_eq!(taken(&mut pace, began + Duration::from_secs(3_600)), 200);
        assert_eq!(pace.take(&caller("shop", Means::LocalToken), began), Ok(()), "another one of that name");
        let mut slow = Pace::new(1, began);
        assert_eq!((slow.take(&shop, began), slow.take(&shop, began)), (Ok(()), Ok(())));
        assert_eq!(slow.take(&shop, began), Err(2));
    }

    #[test]
    fn the_memory_has_a_bound_and_keeps_who_asks_most() {
        let began = Instant::now();
        let mut pace = Pace::new(10, began);
        let busy = caller("busy", Means::Jwt);
        while pace.take(&busy, began).is_ok() {}
        for n in 0..2 * CALLERS_MAX {
            assert_eq!(pace.take(&caller(&n.to_string(), Means::Jwt), began), Ok(()));
        }
        assert!(pace.clear_at[0].len() <= CALLERS_MAX);
        assert!(pace.take(&busy, began).is_err());
    }
}
