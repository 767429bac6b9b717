//! How much of an item is wanted where, lately: an exponentially weighted rate for each site and item. Only in memory: a
//! hub that is restarted learns it again.

use std::collections::{BTreeMap, HashMap};

use proto::id::SiteName;

/// Rates kept; past it those below [`LEAST`] go, and then nothing new is counted, which makes grants smaller and no more.
const RATES_MAX: usize = 200_000;
/// A rate below this is as good as none: one unit in 100 days.
const LEAST: f64 = 1e-7;
/// A want that is not said again is forgotten after this long. A gateway that gets nothing says it once a minute.
const WANT_MS: u64 = 90_000;

/// Units a second, as of a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    per_s: f64,
    at_ms: u64,
    used_ms: u64,
}

/// Of all items and sites; the hub's own channel is the one without a name.
#[derive(Debug, Default)]
pub(super) struct Demand {
    rates: HashMap<u64, BTreeMap<Option<SiteName>, Rate>>,
    kept: usize,
    wants: BTreeMap<(u64, Option<SiteName>), Want>,
    /// What was known of the hub's own channel.
    own_seen: HashMap<u64, u64>,
}

/// A site that runs out of an item, or the hub's own channel that turned buyers away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) missed: u64,
    said_ms: u64,
}

impl Demand {
    /// Buyers wanted so many units, `age_ms` ago.
    pub(super) fn wanted(
        &mut self,
        gtin: u64,
        of: Option<SiteName>,
        units: u64,
        age_ms: u64,
        now_ms: u64,
        half_s: u64,
    ) {
        if units == 0 {
            return;
        }
        if self.kept >= RATES_MAX && !self.rates.get(&gtin).is_some_and(|rates| rates.contains_key(&of)) {
            self.drop_least(now_ms, half_s);
            if self.kept >= RATES_MAX {
                return;
            }
        }
        let rates = self.rates.entry(gtin).or_default();
        let before = rates.len();
        let rate = rates.entry(of).or_default();
        rate.per_s = decayed(rate.per_s, now_ms.saturating_sub(rate.at_ms), half_s)
            + decayed(units as f64 * std::f64::consts::LN_2 / half_s.max(1) as f64, age_ms, half_s);
        rate.at_ms = now_ms;
        rate.used_ms = rate.used_ms.max(now_ms.saturating_sub(age_ms));
        self.kept += rates.len() - before;
    }

    /// Units a second, now.
    pub(super) fn rate(&self, gtin: u64, of: &Option<SiteName>, now_ms: u64, half_s: u64) -> f64 {
        let rate = self.rates.get(&gtin).and_then(|rates| rates.get(of));
        rate.map_or(0.0, |rate| decayed(rate.per_s, now_ms.saturating_sub(rate.at_ms), half_s))
    }

    /// For how long nothing of it was used, as far as this process knows.
    pub(super) fn idle_s(&self, gtin: u64, of: &Option<SiteName>, now_ms: u64) -> u64 {
        let used_ms = self.rates.get(&gtin).and_then(|rates| rates.get(of)).map_or(0, |rate| rate.used_ms);
        now_ms.saturating_sub(used_ms) / 1_000
    }

    /// The hub's own channel has used so many in all: what is new of it is demand.
    pub(super) fn own_used(&mut self, gtin: u64, used: u64, now_ms: u64, half_s: u64) {
        // What was used before this process began is no news.
        let Some(before) = self.own_seen.insert(gtin, used) else { return };
        let units = used.saturating_sub(before);
        self.wanted(gtin, None, units, 0, now_ms, half_s);
        self.served(gtin, &None, units);
    }

    /// A site says that it runs out, or the hub's own channel turned buyers away.
    pub(super) fn wants(&mut self, gtin: u64, of: &Option<SiteName>, turned_away: u64, now_ms: u64) {
        let want = self.wants.entry((gtin, of.clone())).or_default();
        *want = Want { missed: want.missed.saturating_add(turned_away), said_ms: now_ms };
    }

    pub(super) fn want(&self, gtin: u64, of: &Option<SiteName>) -> Option<Want> {
        self.wants.get(&(gtin, of.clone())).copied()
    }

    /// It got some; of the hub's own channel: it spent some.
    pub(super) fn served(&mut self, gtin: u64, of: &Option<SiteName>, units: u64) {
        let key = (gtin, of.clone());
        if let Some(want) = self.wants.get_mut(&key) {
            want.missed = want.missed.saturating_sub(units);
            if want.missed == 0 {
                self.wants.remove(&key);
            }
        }
    }

    /// Wants that were not said again.
    pub(super) fn forget_old_wants(&mut self, now_ms: u64) {
        self.wants.retain(|_, want| now_ms < want.said_ms + WANT_MS);
    }

    fn drop_least(&mut self, now_ms: u64, half_s: u64) {
        for rates in self.rates.values_mut() {
            rates.retain(|_, rate| decayed(rate.per_s, now_ms.saturating_sub(rate.at_ms), half_s) >= LEAST);
        }
        self.rates.retain(|_, rates| !rates.is_empty());
        self.kept = self.rates.values().map(BTreeMap::len).sum();
    }
}

fn decayed(per_s: f64, after_ms: u64, half_s: u64) -> f64 {
    per_s * (-(after_ms as f64) / (half_s.max(1) as f64 * 1_000.0)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_S: u64 = 300;

    #[test]
    fn a_steady_rate_is_found_and_halves_when_it_stops() {
        let (mut demand, site) = (Demand::default(), Some("hill".parse().unwrap()));
        for second in 0..3_000 {
            demand.wanted(1, site.clone(), 2, 0, second * 1_000, HALF_S);
        }
        let rate = demand.rate(1, &site, 3_000_000, HALF_S);
        assert!((1.95..2.05).contains(&rate), "{rate}");
        let later = demand.rate(1, &site, 3_300_000, HALF_S);
        assert!((later * 2.0 - rate).abs() < 0.01, "{later}");
        assert_eq!((demand.idle_s(1, &site, 3_300_000), demand.rate(2, &site, 0, HALF_S)), (301, 0.0));
        // What comes late counts as old as it is.
        let mut late = Demand::default();
        late.wanted(1, None, 8, 600_000, 700_000, HALF_S);
        let fresh = 8.0 * std::f64::consts::LN_2 / 300.0;
        assert!((late.rate(1, &None, 700_000, HALF_S) * 4.0 - fresh).abs() < 1e-9);
        assert_eq!(late.idle_s(1, &None, 700_000), 600);
    }

    #[test]
    fn a_want_lasts_until_it_is_served_or_no_longer_said() {
        let (mut demand, hill) = (Demand::default(), Some("hill".parse().unwrap()));
        demand.wants(1, &hill, 3, 0);
        demand.wants(1, &hill, 2, 5_000);
        assert_eq!(demand.want(1, &hill).unwrap().missed, 5);
        demand.served(1, &hill, 4);
        assert_eq!(demand.want(1, &hill).unwrap().missed, 1);
        demand.forget_old_wants(94_999);
        assert!(demand.want(1, &hill).is_some());
        demand.forget_old_wants(95_000);
        assert!(demand.want(1, &hill).is_none());
    }

    #[test]
    fn what_the_hub_used_before_is_no_demand() {
        let mut demand = Demand::default();
        demand.wants(1, &None, 5, 0);
        demand.own_used(1, 900, 0, HALF_S);
        assert_eq!(demand.rate(1, &None, 0, HALF_S), 0.0);
        demand.own_used(1, 903, 0, HALF_S);
        assert!(demand.rate(1, &None, 0, HALF_S) > 0.0);
        assert_eq!(demand.want(1, &None).unwrap().missed, 2, "three of five have their units");
    }
}
