//! One life's part in an item's pool: what the hub granted it, and how it says that it used that. Each number has one
//! writer and only grows but for `held`, so a stale one is the safe one (Balegas et al. 2015, bounded counters).

use proto::wire::{GrantCell, Rights};

/// Units, all of them cumulative but for `used.held`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// The hub's side.
    pub grant: GrantCell,
    /// The site's side, as far as its journal is applied.
    pub used: Rights,
    /// This life is lost or retired: it promises nothing any more.
    pub over: bool,
}

impl Part {
    /// Units of the pool that nobody else may promise: the most that this life may have promised, whatever it did since it
    /// was heard. What a life that is over had and did not report counts as spent, but for what was reclaimed of it.
    pub fn exposure(&self) -> i128 {
        let spent = i128::from(self.used.promised) + i128::from(self.used.held);
        let reclaimed = if self.over { self.grant.reclaimed } else { 0 };
        (self.outstanding() - i128::from(reclaimed)).max(spent) + i128::from(self.grant.unaware)
    }

    /// What it may promise or hold now, as far as the hub knows; below zero after sales in hand beyond its rights.
    pub fn available(&self) -> i64 {
        let spent = i128::from(self.used.promised) + i128::from(self.used.held);
        saturated(self.outstanding() - spent)
    }

    /// What an operator may take back of a life that is over: what it had and is not known to have promised or held. It may
    /// have done so all the same.
    pub fn at_risk(&self) -> u64 {
        let reclaimed = i64::try_from(self.grant.reclaimed).unwrap_or(i64::MAX);
        self.available().saturating_sub(reclaimed).max(0) as u64
    }

    /// Units that it is asked for and did not answer yet.
    pub fn asked_open(&self) -> u64 {
        self.grant.asked.saturating_sub(self.used.answered)
    }

    fn outstanding(&self) -> i128 {
        i128::from(self.grant.granted) - i128::from(self.used.returned)
    }
}

pub(super) fn saturated(units: i128) -> i64 {
    units.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(granted: u64, returned: u64, promised: u64, held: u64) -> Part {
        let grant = GrantCell { granted, ..GrantCell::default() };
        Part { grant, used: Rights { returned, promised, held, ..Rights::default() }, over: false }
    }

    #[test]
    fn what_was_not_reported_counts_as_spent_until_it_is_reclaimed() {
        let live = part(10, 2, 3, 1);
        assert_eq!((live.exposure(), live.available(), live.at_risk()), (8, 4, 4));
        let over = |reclaimed| {
            let grant = GrantCell { reclaimed, ..live.grant.clone() };
            Part { grant, over: true, ..live.clone() }
        };
        assert_eq!((over(0).exposure(), over(4).exposure(), over(4).at_risk()), (8, 4, 0));
        // What was reclaimed turns out to have been promised.
        let late = Part { used: Rights { promised: 7, ..live.used }, ..over(4) };
        assert_eq!(late.exposure(), 8);
    }

    #[test]
    fn sales_beyond_the_rights_count_in_full() {
        let over = part(2, 0, 5, 0);
        assert_eq!((over.exposure(), over.available(), over.at_risk()), (5, -3, 0));
        let unaware = Part { grant: GrantCell { unaware: 4, ..over.grant.clone() }, ..over };
        assert_eq!(unaware.exposure(), 9);
        let absurd = part(0, u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(absurd.available(), i64::MIN);
        assert!(absurd.exposure() > 0);
    }
}
