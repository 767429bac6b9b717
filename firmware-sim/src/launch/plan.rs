//! Who comes, where, how they buy and what goes wrong on the way, and when the network and a node fail: drawn from a seed
//! and nothing else.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Of all buyers, those who buy at the hub's HTTPS listener.
const ONLINE_PERCENT: usize = 30;
/// How long a buyer looks before asking, and takes to pay what is set aside, at most.
const THINK_MS_MAX: u64 = 600;
/// Of all buyers, those whose every request arrives at the first try.
const ONCE_PERCENT: u32 = 60;
/// A request is sent so often at most.
const SENDS_MAX: u32 = 5;
/// Sites that are cut off.
const CUTS: usize = 2;
/// The fewest sites of which two can be cut off and a third be killed.
pub(super) const SITES_MIN: usize = CUTS + 1;

/// How somebody buys one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Online, in one step.
    Decrement,
    /// Online: a reservation, then its commit.
    Reserve,
    /// In a store: a hold, then its commit.
    Commit,
    /// In a store: a hold, then a sale of what it set aside.
    Carry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buyer {
    /// From 0.
    pub(super) n: usize,
    /// Index of the store; `None` is online.
    pub(super) store: Option<usize>,
    pub(super) way: Way,
    pub(super) looks: Duration,
    pub(super) pays: Duration,
    /// How often each request goes out: all but the last time the connection breaks before the answer.
    pub(super) sends: u32,
}

impl Buyer {
    /// As ledgers name it.
    pub(super) fn name(&self) -> String {
        format!("buyer-{}", self.n)
    }
}

/// Moments, in buyers who are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Troubles {
    /// Indexes of the stores that are cut off from the hub.
    pub(super) cut_off: [usize; CUTS],
    pub(super) cut_at: usize,
    /// The store whose gateway is killed, not one of the others.
    pub(super) killed: usize,
    pub(super) kill_at: usize,
    pub(super) dead_for: Duration,
    pub(super) heal_at: usize,
    /// So many buyers come before all is whole again; the others after it.
    pub(super) before: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) buyers: Vec<Buyer>,
    pub(super) troubles: Troubles,
    /// How many buyers are served at once: online, and in each store.
    pub(super) online: usize,
    pub(super) stores: Vec<usize>,
}

impl Plan {
    /// `sites` is at least [`SITES_MIN`]. Everywhere one buyer is served at least, however few come at once.
    pub(super) fn draw(seed: u64, buyers: usize, at_once: usize, sites: usize) -> Plan {
        assert!(sites >= SITES_MIN, "{sites} sites");
        let mut dice = SmallRng::seed_from_u64(seed);
        let online = (at_once * ONLINE_PERCENT / 100).max(1);
        let tills = at_once.saturating_sub(online);
        let stores = (0..sites).map(|store| ((tills + store) / sites).max(1)).collect();
        let buyers: Vec<Buyer> = (0..buyers).map(|n| buyer(n, sites, &mut dice)).collect();
        let troubles = troubles(buyers.len(), sites, &mut dice);
        Plan { seed, buyers, troubles, online, stores }
    }
}

fn buyer(n: usize, sites: usize, dice: &mut SmallRng) -> Buyer {
    let store = (dice.random_range(0..100) >= ONLINE_PERCENT).then(|| dice.random_range(0..sites));
    let way = match (store, dice.random_bool(0.5)) {
        (None, true) => Way::Decrement,
        (None, false) => Way::Reserve,
        (Some(_), true) => Way::Commit,
        (Some(_), false) => Way::Carry,
    };
    let mut think = || Duration::from_millis(dice.random_range(0..=THINK_MS_MAX));
    let (looks, pays) = (think(), think());
    let sends = if dice.random_range(0..100) < ONCE_PERCENT { 1 } else { dice.random_range(2..=SENDS_MAX) };
    Buyer { n, store, way, looks, pays, sends }
}

/// Early: while there is something to sell.
fn troubles(buyers: usize, sites: usize, dice: &mut SmallRng) -> Troubles {
    let mut order: Vec<usize> = (0..sites).collect();
    for n in 0..SITES_MIN {
        let other = dice.random_range(n..sites);
        order.swap(n, other);
    }
    let mut at = |percent: std::ops::Range<usize>| buyers * dice.random_range(percent) / 100;
    let (cut_at, kill_at, heal_at) = (at(3..6), at(6..10), at(12..18));
    let dead_for = Duration::from_millis(dice.random_range(100..800));
    Troubles { cut_off: [order[0], order[1]], killed: order[2], cut_at, kill_at, dead_for, heal_at, before: buyers / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let plan = Plan::draw(7, 5_000, 200, 5);
        assert_eq!(plan, Plan::draw(7, 5_000, 200, 5));
        assert_ne!(plan, Plan::draw(8, 5_000, 200, 5));
        assert_eq!(plan.online + plan.stores.iter().sum::<usize>(), 200);
        for store in [None, Some(0), Some(4)] {
            assert!(plan.buyers.iter().filter(|buyer| buyer.store == store).count() > 500, "{store:?}");
        }
    }

    #[test]
    fn three_stores_fail_in_their_order_in_every_plan() {
        for seed in 0..200 {
            let plan = Plan::draw(seed, 400, 2, 3);
            let Troubles { cut_off: [a, b], killed, cut_at, kill_at, heal_at, before, .. } = plan.troubles;
            assert!(a != b && a != killed && b != killed, "{:?}", plan.troubles);
            assert!(cut_at < kill_at && kill_at < heal_at && heal_at < before, "{:?}", plan.troubles);
            assert!(plan.online == 1 && plan.stores == [1, 1, 1], "everywhere somebody is served");
        }
    }
}
