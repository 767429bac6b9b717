//! All chance of a schedule, from its seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
pub(super) struct Dice(SmallRng);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(SmallRng::seed_from_u64(seed))
    }

    /// From 0 to `n - 1`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n as u64) as usize
    }

    pub(super) fn range(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.0.random_range(0..100) < percent
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.random()
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
