//! The same buyers at one counter that everybody always reaches: what a launch without a network to fail comes to.

use std::fmt;

use super::stranded::Stranded;

/// Units but for the first: sums over schedules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) schedules: u64,
    pub(super) pool: u64,
    /// What buyers asked for who may be turned away, each once.
    pub(super) demand: u64,
    /// Promised for good, of the pool.
    pub(super) promised: u64,
    /// Promised that there was not.
    pub(super) oversold: u64,
    /// Reclaimed of sites that were declared lost: may be promised twice.
    pub(super) outside: u64,
    /// Sold in hand beyond the rights that were there: outside.
    pub(super) in_hand_beyond: u64,
    pub(super) turned_away: u64,
    /// What the one counter turns away of the same buyers.
    pub(super) unavoidable: u64,
    /// Where there were units for those who were turned away.
    pub(super) lay: Stranded,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Figures) {
        self.schedules += other.schedules;
        self.pool += other.pool;
        self.demand += other.demand;
        self.promised += other.promised;
        self.oversold += other.oversold;
        self.outside += other.outside;
        self.in_hand_beyond += other.in_hand_beyond;
        self.turned_away += other.turned_away;
        self.unavoidable += other.unavoidable;
        self.lay += other.lay;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |units: u64| units as f64 * 100.0 / self.demand.max(1) as f64;
        let Figures {
            schedules,
            pool,
            demand,
            promised,
            oversold,
            outside,
            in_hand_beyond,
            turned_away,
            unavoidable,
            lay,
        } = self;
        write!(
            f,
            "{schedules} schedules, {promised} of {pool} units promised, {oversold} oversold, {outside} reclaimed; {in_hand_beyond} sold in hand \
             beyond rights; of {demand} asked for {turned_away} were turned away ({:.1} %), with a network that never fails \
             {unavoidable} ({:.1} %): stranded {:.1} %; when they were turned away the units lay at the hub or on their way {:.1} %, at stores it reached \
             {:.1} %, at others {:.1} %, and nowhere {:.1} %",
            share(*turned_away),
            share(*unavoidable),
            share(*turned_away) - share(*unavoidable),
            share(lay.at_hub),
            share(lay.at_stores),
            share(lay.cut_off),
            share(lay.nowhere),
        )
    }
}

/// A buyer as the counter sees one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub(super) at_ms: u64,
    pub(super) units: u64,
    /// When the units come back, if they do.
    pub(super) back_ms: Option<u64>,
    /// A sale in hand is never refused.
    pub(super) in_hand: bool,
}

/// Units that one counter turns away.
pub(super) fn turned_away(pool: u64, visits: &[Visit]) -> u64 {
    let (mut left, mut turned_away, mut back) = (pool as i64, 0, std::collections::BTreeMap::<u64, i64>::new());
    let mut order: Vec<&Visit> = visits.iter().collect();
    order.sort_by_key(|visit| visit.at_ms);
    for visit in order {
        let later = back.split_off(&(visit.at_ms + 1));
        left += std::mem::replace(&mut back, later).into_values().sum::<i64>();
        let units = visit.units as i64;
        if !visit.in_hand && left < units {
            turned_away += visit.units;
            continue;
        }
        left -= units;
        if let Some(at_ms) = visit.back_ms {
            *back.entry(at_ms).or_default() += units;
        }
    }
    turned_away
}

#[test]
fn one_counter_serves_in_order_and_gets_back() {
    let visit = |at_ms, units, back_ms| Visit { at_ms, units, back_ms, in_hand: false };
    let visits = [visit(3, 1, None), visit(1, 2, Some(4)), visit(2, 2, None), visit(5, 2, None)];
    assert_eq!(turned_away(3, &visits), 2, "the one at 2; at 5 two have come back");
    let sale = Visit { in_hand: true, ..visit(0, 9, None) };
    assert_eq!(turned_away(3, &[sale, visit(1, 1, None)]), 1);
}
