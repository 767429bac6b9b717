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
    /// The same as a later life of the site says it, out of what this one had not sent.
    pub late: Rights,
    /// This life is lost or retired: it promises nothing any more.
    pub over: bool,
}

impl Part {
    /// Units of the pool that nobody else may promise: the most that this life may have promised, whatever it did since it
    /// was heard. What a life that is over had and did not report counts as spent, but for what was reclaimed of it.
    pub fn exposure(&self) -> i128 {
        let reclaimed = if self.over { self.grant.reclaimed } else { 0 };
        (self.outstanding() - i128::from(reclaimed)).max(self.spent()) + i128::from(self.grant.unaware)
    }

    /// What it may promise or hold now, as far as the hub knows; below zero after sales in hand beyond its rights.
    pub fn available(&self) -> i64 {
        saturated(self.outstanding() - self.spent())
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

    /// Units that were sold beyond what the hub had granted it, as far as it knows; some of that may be covered since.
    pub(super) fn beyond(&self) -> u64 {
        self.available().min(0).unsigned_abs().saturating_add(self.grant.unaware)
    }

    fn outstanding(&self) -> i128 {
        i128::from(self.grant.granted) - i128::from(self.used.returned)
    }

    /// Known to be promised or held. Of what came late, the later life counts what was beyond the rights as its own.
    fn spent(&self) -> i128 {
        let sum = |rights: &Rights| i128::from(rights.promised) + i128::from(rights.held);
        let covered = i128::from(self.late.granted) - i128::from(self.late.returned);
        sum(&self.used).max(sum(&self.late).min(covered))
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
        Part { grant, used: Rights { returned, promised, held, ..Rights::default() }, ..Part::default() }
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

    /// What a rejoin brings of a life that is over: it was promised within the rights that count as spent already.
    #[test]
    fn what_comes_late_counts_as_promised_but_not_twice() {
        let over = |reclaimed, late| {
            let part = part(10, 0, 2, 3);
            let late = Rights { granted: 10, ..late };
            Part { grant: GrantCell { reclaimed, ..part.grant }, late, over: true, ..part }
        };
        // Of the five that were known one hold is committed since, and three more are sold.
        let late = Rights { promised: 6, held: 2, ..Rights::default() };
        assert_eq!((over(0, late).exposure(), over(0, late).at_risk()), (10, 2));
        assert_eq!((over(5, late).exposure(), over(5, late).at_risk()), (8, 0), "three too many were reclaimed");
        // Beyond the rights: the later life has those.
        let beyond = Rights { promised: 13, ..late };
        assert_eq!((over(0, beyond).exposure(), over(5, beyond).exposure()), (10, 10));
        // A hold of a life that is over, after a sale in hand that overdrew it: it may be committed elsewhere.
        let held = Part { over: true, ..part(1, 0, 1, 1) };
        assert_eq!((held.exposure(), held.at_risk()), (2, 0));
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
