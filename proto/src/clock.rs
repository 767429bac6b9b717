//! Hybrid logical clock (Kulkarni et al. 2014): stamps that follow the wall clock and never contradict causality.

use std::fmt;

use crate::id::WallMs;

const TICK_BITS: u32 = 16;

/// Milliseconds since 1970 in the upper 48 bits, a logical tick in the lower 16. One tick is `+ 1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first stamp of a millisecond. Times past the year 10889 are cut to it.
    pub fn at(wall: WallMs) -> Stamp {
        Stamp(wall.0.min(u64::MAX >> TICK_BITS) << TICK_BITS)
    }

    pub fn from_parts(ms: WallMs, tick: u16) -> Stamp {
        Stamp(Stamp::at(ms).0 | u64::from(tick))
    }

    pub fn ms(self) -> WallMs {
        WallMs(self.0 >> TICK_BITS)
    }

    pub fn tick(self) -> u16 {
        (self.0 & ((1 << TICK_BITS) - 1)) as u16
    }

    /// One tick later. At the very end of time it stays where it is.
    pub fn next(self) -> Stamp {
        Stamp(self.0.saturating_add(1))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms().0, self.tick())
    }
}

/// What the box knows of the time at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub wall: WallMs,
    /// False until something that knows (NTP, the hub) has set or confirmed the wall clock.
    pub synced: bool,
}

/// Gives stamps that only grow. `last` is kept in the journal, so it grows over a reboot too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    last: Stamp,
}

impl Clock {
    /// Goes on after `last`, the greatest stamp in the journal.
    pub fn resume(last: Stamp) -> Clock {
        Clock { last }
    }

    pub fn last(self) -> Stamp {
        self.last
    }

    /// A stamp for an event: the wall clock, or a tick after the last one if the wall clock stands or went back.
    pub fn stamp(&mut self, now: Reading) -> Stamp {
        self.last = Stamp::at(now.wall).max(self.last.next());
        self.last
    }

    /// A stamp for a write that replaces one stamped `replaced`: at least a tick above it. A box that does not know
    /// the time takes exactly that tick, so that a clock in 1970 or 2099 neither loses to nor beats what others
    /// wrote knowingly.
    pub fn stamp_write(&mut self, now: Reading, replaced: Option<Stamp>) -> Stamp {
        let above = replaced.map_or(Stamp(1), Stamp::next);
        if now.synced { self.stamp(now).max(above) } else { above }
    }
}

/// The stamp that the hub gives a write on arrival: no later than hub time, still a tick above what it replaced.
pub fn effective(written: Stamp, replaced: Option<Stamp>, hub_now: WallMs) -> Stamp {
    let latest = Stamp::from_parts(hub_now, u16::MAX);
    written.min(latest).max(replaced.map_or(Stamp(0), Stamp::next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64, synced: bool) -> Reading {
        Reading { wall: WallMs(ms), synced }
    }

    #[test]
    fn an_unsynced_write_takes_exactly_the_tick_above_what_it_replaces() {
        let mut clock = Clock::default();
        let replaced = Stamp::at(WallMs(5_000));
        assert_eq!(clock.stamp_write(at(0, false), Some(replaced)), replaced.next());
        assert_eq!(clock.stamp_write(at(9_999_999, false), Some(replaced)), replaced.next());
        assert_eq!(clock.stamp_write(at(0, false), None), Stamp(1));
    }

    #[test]
    fn a_write_from_the_future_is_cut_to_hub_time_but_stays_above_what_it_replaced() {
        let future = Stamp::at(WallMs(10_000));
        assert_eq!(effective(future, None, WallMs(7)).ms(), WallMs(7));
        assert_eq!(effective(future, Some(future), WallMs(7)), future.next());
        let past = Stamp::at(WallMs(3));
        assert_eq!(effective(past, None, WallMs(7)), past);
    }

    proptest! {
        #[test]
        fn stamps_grow_whatever_the_wall_clock_does(walls in prop::collection::vec(0u64..1 << 47, 1..50)) {
            let mut clock = Clock::default();
            let mut last = Stamp(0);
            for wall in walls {
                let stamp = clock.stamp(at(wall, true));
                prop_assert!(stamp > last && stamp >= Stamp::at(WallMs(wall)));
                last = stamp;
            }
        }

        #[test]
        fn a_write_is_above_what_it_replaced(wall in any::<u64>(), synced in any::<bool>(), old in 0..u64::MAX) {
            let stamp = Clock::default().stamp_write(at(wall, synced), Some(Stamp(old)));
            prop_assert!(stamp > Stamp(old));
        }
    }
}
