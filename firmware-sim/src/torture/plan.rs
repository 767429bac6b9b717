//! What befalls the nodes and the network, cycle by cycle, drawn from a seed and nothing else.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Microseconds from the start of a cycle to the kill, at most. A cycle starts when devices are acknowledged again.
const KILL_AT_US_MAX: u64 = 200_000;
/// Microseconds before the kill for which devices publish without pause, so that it meets work under way.
const RUSH_US: std::ops::RangeInclusive<u64> = 500..=10_000;
/// Microseconds that a started node gets before it is killed again: some die before they listen, some after.
const AGAIN_AFTER_US_MAX: u64 = 150_000;
const SPAN_FROM_MS_MAX: u64 = 150;
const SPAN_LASTS_MS: std::ops::RangeInclusive<u64> = 20..=400;
const DELAY_MS: std::ops::RangeInclusive<u64> = 5..=120;
const SPANS_MAX: usize = 2;
const IN_FLIGHT: std::ops::RangeInclusive<usize> = 1..=16;
/// One in so many kills is followed by another during the start.
const ONE_IN_AGAIN: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) cycles: Vec<Cycle>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) victim: Victim,
    /// From the cycle's start to the kill.
    pub(super) kill_at: Duration,
    /// So long before it devices stop pausing between their publishes.
    pub(super) rush: Duration,
    /// It is started again and killed so long after, before it is started for good.
    pub(super) again_after: Option<Duration>,
    /// What the uplink goes through. One that would begin during another begins after it.
    pub(super) spans: Vec<Span>,
    /// Publishes that each device keeps open.
    pub(super) in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Gateway,
    Hub,
    /// At the same instant.
    Both,
}

impl Victim {
    pub(super) fn is_gateway(self) -> bool {
        self != Victim::Hub
    }

    pub(super) fn is_hub(self) -> bool {
        self != Victim::Gateway
    }

    pub(super) fn nodes(self) -> u64 {
        if self == Victim::Both { 2 } else { 1 }
    }
}

/// One trouble of the uplink, in time from the cycle's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Duration,
    pub(super) lasts: Duration,
    pub(super) what: Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Links are closed, new ones refused.
    Cut,
    /// Everything arrives so much later, each way.
    Delay(Duration),
}

impl Plan {
    /// A longer plan begins with the shorter one of the same seed.
    pub(super) fn draw(seed: u64, cycles: u32) -> Plan {
        Plan { seed, cycles: (0..cycles).map(|n| cycle(seed, n)).collect() }
    }
}

fn cycle(seed: u64, n: u32) -> Cycle {
    let mut dice = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n.into()));
    let victim = match dice.random_range(0..4) {
        0 => Victim::Hub,
        1 => Victim::Both,
        _ => Victim::Gateway,
    };
    let kill_at = Duration::from_micros(dice.random_range(0..KILL_AT_US_MAX));
    let rush = Duration::from_micros(dice.random_range(RUSH_US)).min(kill_at);
    let again = dice.random_ratio(1, ONE_IN_AGAIN);
    let again_after = again.then(|| Duration::from_micros(dice.random_range(0..AGAIN_AFTER_US_MAX)));
    let mut spans: Vec<Span> = (0..dice.random_range(0..=SPANS_MAX)).map(|_| span(&mut dice)).collect();
    spans.sort_by_key(|span| span.from);
    Cycle { victim, kill_at, rush, again_after, spans, in_flight: dice.random_range(IN_FLIGHT) }
}

fn span(dice: &mut SmallRng) -> Span {
    let from = Duration::from_millis(dice.random_range(0..SPAN_FROM_MS_MAX));
    let lasts = Duration::from_millis(dice.random_range(SPAN_LASTS_MS));
    let cut = dice.random();
    let what = if cut { Trouble::Cut } else { Trouble::Delay(Duration::from_millis(dice.random_range(DELAY_MS))) };
    Span { from, lasts, what }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Victim::Gateway => "gateway",
            Victim::Hub => "hub",
            Victim::Both => "both",
        })
    }
}

/// One line: what dies when, and what the uplink goes through.
impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kill_at, rush) = (ms(self.kill_at), ms(self.rush));
        write!(f, "{:<7} at {kill_at:5.1} ms, {:2} in flight, rush {rush:.1}", self.victim, self.in_flight)?;
        if let Some(after) = self.again_after {
            write!(f, ", again {:.1} ms into its start", ms(after))?;
        }
        for span in &self.spans {
            let (from, to) = (ms(span.from), ms(span.from + span.lasts));
            match span.what {
                Trouble::Cut => write!(f, ", cut {from:.0}..{to:.0}")?,
                Trouble::Delay(by) => write!(f, ", delay {:.0} in {from:.0}..{to:.0}", ms(by))?,
            }
        }
        Ok(())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_all_there_is_to_it() {
        let (a, b) = (Plan::draw(7, 200), Plan::draw(7, 200));
        assert_eq!(a, b);
        assert_ne!(a.cycles, Plan::draw(8, 200).cycles);
        assert_eq!(a.cycles[..50], Plan::draw(7, 50).cycles[..], "a longer plan begins with the shorter");
    }

    #[test]
    fn a_plan_has_some_of_everything() {
        let plan = Plan::draw(1, 50);
        for victim in [Victim::Gateway, Victim::Hub, Victim::Both] {
            assert!(plan.cycles.iter().any(|cycle| cycle.victim == victim), "{victim}");
        }
        let spans: Vec<Span> = plan.cycles.iter().flat_map(|cycle| cycle.spans.clone()).collect();
        assert!(spans.iter().any(|span| span.what == Trouble::Cut));
        assert!(spans.iter().any(|span| span.what != Trouble::Cut));
        assert!(plan.cycles.iter().filter(|cycle| cycle.again_after.is_some()).count() > 5);
    }

    #[test]
    fn a_cycle_says_itself_in_a_line() {
        let span = |from, what| Span { from: Duration::from_millis(from), lasts: Duration::from_millis(30), what };
        let cycle = Cycle {
            victim: Victim::Hub,
            kill_at: Duration::from_micros(1_500),
            rush: Duration::from_micros(700),
            again_after: Some(Duration::from_millis(2)),
            spans: vec![span(5, Trouble::Cut), span(9, Trouble::Delay(Duration::from_millis(70)))],
            in_flight: 3,
        };
        let line =
            "hub     at   1.5 ms,  3 in flight, rush 0.7, again 2.0 ms into its start, cut 5..35, delay 70 in 9..39";
        assert_eq!(cycle.to_string(), line);
    }
}
