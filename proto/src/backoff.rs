//! How long to wait before trying again: exponential, with full jitter so that 500 sites do not return together.

use std::time::Duration;

/// Grows from `base` to `most`; the chance is an argument, so that a seed replays it.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(base: Duration, most: Duration) -> Backoff {
        Backoff { base, most, failures: 0 }
    }

    /// The wait before the next try: between half and all of `base · 2^failures`, at most `most`.
    pub fn next_wait(&mut self, random: u64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        ceiling.mul_f64(0.5 + share / 2.0)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(backoff.next_wait(0), Duration::from_millis(50));
        assert!(backoff.next_wait(u64::MAX) <= Duration::from_millis(200));
        for _ in 0..100 {
            assert!(backoff.next_wait(u64::MAX) <= Duration::from_secs(5));
        }
        backoff.reset();
        assert_eq!(backoff.next_wait(0), Duration::from_millis(50));
    }
}
