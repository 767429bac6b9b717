use std::collections::VecDeque;

use proptest::prelude::*;
use proto::id::Epoch;

use super::*;

const GTIN: u64 = 4_006_381_333_931;

/// A life as it really is, and what is on its way between it and the hub. The network may hold everything back for as
/// long as it likes, and take a part of it with the life.
#[derive(Debug, Default)]
struct Till {
    rights: Rights,
    asked: u64,
    to_hub: VecDeque<Rights>,
    to_site: VecDeque<RightsEntry>,
    over: bool,
}

#[derive(Debug, Clone)]
enum Happens {
    Grant(usize, u64),
    Ask(usize, u64),
    HubPromises(u64),
    Promise(usize, u64),
    Hold(usize, u64),
    /// Ends a hold: true commits it.
    End(usize, bool),
    Refund(usize, u64),
    ToSite(usize),
    ToHub(usize),
    Lost(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    let n = 0..4_usize;
    prop_oneof![
        4 => (n.clone(), 1..8_u64).prop_map(|(n, units)| Happens::Grant(n, units)),
        1 => (n.clone(), 1..8_u64).prop_map(|(n, units)| Happens::Ask(n, units)),
        2 => (1..4_u64).prop_map(Happens::HubPromises),
        5 => (n.clone(), 1..4_u64).prop_map(|(n, units)| Happens::Promise(n, units)),
        2 => (n.clone(), 1..4_u64).prop_map(|(n, units)| Happens::Hold(n, units)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, commits)| Happens::End(n, commits)),
        1 => (n.clone(), 1..3_u64).prop_map(|(n, units)| Happens::Refund(n, units)),
        6 => n.clone().prop_map(Happens::ToSite),
        6 => n.clone().prop_map(Happens::ToHub),
        1 => n.prop_map(Happens::Lost),
    ]
}

fn life(n: usize) -> ReplicaId {
    ReplicaId { site: format!("site-{n}").parse().unwrap(), epoch: Epoch(n as u64) }
}

fn cell(pools: &Pools, n: usize) -> GrantCell {
    pools.part(GTIN, &life(n)).map(|part| part.grant.clone()).unwrap_or_default()
}

impl Till {
    fn available(&self) -> u64 {
        let Rights { granted, returned, promised, held, .. } = self.rights;
        granted.saturating_sub(returned + promised + held)
    }

    fn says(&mut self) {
        self.to_hub.push_back(self.rights);
    }
}

/// One step, with the rules that the hub and the sites keep.
fn step(pools: &mut Pools, tills: &mut [Till], at: u64, happens: &Happens) {
    let free = pools.free(GTIN).unwrap().max(0) as u64;
    let grants = |pools: &mut Pools, till: &mut Till, n: usize, granted: u64, asked: u64| {
        let before = cell(pools, n);
        let now =
            GrantCell { granted: before.granted + granted, asked: before.asked + asked, feed_position: at, ..before };
        till.to_site.push_back(RightsEntry { gtin: GTIN, granted: now.granted, asked: now.asked, epoch: 0 });
        pools.granted(&life(n), GTIN, now);
    };
    match *happens {
        Happens::Grant(n, units) if !tills[n].over => grants(pools, &mut tills[n], n, units.min(free), 0),
        Happens::Ask(n, units) if !tills[n].over => grants(pools, &mut tills[n], n, 0, units),
        Happens::HubPromises(units) if units <= free => {
            let own = pools.of_hub(GTIN);
            pools.own_changed(Rights { promised: own.promised + units, ..own });
        }
        Happens::Promise(n, units) if units <= tills[n].available() => {
            tills[n].rights.promised += units;
            tills[n].says();
        }
        Happens::Hold(n, units) if units <= tills[n].available() => {
            tills[n].rights.held += units;
            tills[n].says();
        }
        Happens::End(n, commits) if tills[n].rights.held > 0 => {
            tills[n].rights.held -= 1;
            tills[n].rights.promised += u64::from(commits);
            tills[n].says();
        }
        Happens::Refund(n, units) if units <= tills[n].rights.promised - tills[n].rights.refunded => {
            tills[n].rights.refunded += units;
            tills[n].says();
        }
        Happens::ToSite(n) => {
            let till = &mut tills[n];
            let Some(entry) = till.to_site.pop_front() else { return };
            till.rights.granted = till.rights.granted.max(entry.granted);
            till.asked = till.asked.max(entry.asked);
            if till.asked > till.rights.answered {
                till.rights.returned += till.available().min(till.asked - till.rights.answered);
                till.rights.answered = till.asked;
                till.says();
            }
        }
        Happens::ToHub(n) if !tills[n].over => {
            if let Some(rights) = tills[n].to_hub.pop_front() {
                pools.used(&life(n), rights);
            }
        }
        // It may go on selling where nobody hears of it.
        Happens::Lost(n) => {
            tills[n].over = true;
            pools.ended(&life(n));
        }
        _ => {}
    }
}

proptest! {
    /// Whatever is late, lost with a box, or out of order between sites.
    #[test]
    fn what_all_may_promise_never_exceeds_the_pool(
        units in 0..60_u64,
        steps in prop::collection::vec(happens(), 0..200),
    ) {
        let mut pools = Pools::default();
        pools.pool_changed(GTIN, PoolCell { units, since_ms: 0, feed_position: 1 });
        let mut tills: Vec<Till> = (0..4).map(|_| Till { rights: Rights { gtin: GTIN, ..Rights::default() }, ..Till::default() }).collect();
        for (at, happens) in (2..).zip(&steps) {
            step(&mut pools, &mut tills, at, happens);
            let free = pools.free(GTIN).unwrap();
            prop_assert!(free >= 0, "nobody sold beyond its rights, and {free} are free");
            let sum = |of: fn(&Rights) -> u64| tills.iter().map(|till| of(&till.rights)).sum::<u64>();
            let own = pools.of_hub(GTIN).promised;
            let refunded = sum(|rights| rights.refunded);
            // What was promised, and what anybody still may: of grants that are on their way too.
            let may: u64 = (0..4).map(|n| {
                let Rights { returned, promised, held, .. } = tills[n].rights;
                cell(&pools, n).granted.saturating_sub(returned + promised + held)
            }).sum();
            let out = sum(|rights| rights.promised + rights.held) + own + may + free as u64;
            prop_assert!(out <= units + refunded, "{out} of {units} and {refunded} refunded");
            let totals = pools.totals(GTIN).unwrap();
            prop_assert_eq!(totals.free, free);
            // The running sums are those of the parts.
            let exposed: i128 = pools.parts(GTIN).map(|(_, part)| part.exposure()).sum();
            prop_assert_eq!(exposed, pools.items[&GTIN].exposed);
        }
    }

    /// Each life hears each change of its own once it asks from before it, in any number of parts.
    #[test]
    fn the_feed_names_what_changed(
        changes in prop::collection::vec((0..3_usize, 1..400_u64), 0..600), cursor in 0..700_u64,
    ) {
        let (mut pools, mut model) = (Pools::default(), BTreeMap::new());
        for (at, (n, gtin)) in (1..).zip(&changes) {
            if *n == 0 && !pools.is_pooled(*gtin) {
                pools.pool_changed(*gtin, PoolCell { units: 1, since_ms: 0, feed_position: at });
                model.insert((None, *gtin), at);
            } else {
                let cell = GrantCell { granted: at, feed_position: at, ..GrantCell::default() };
                pools.granted(&life(*n), *gtin, cell);
                model.insert((Some(*n), *gtin), at);
            }
        }
        for n in 0..3 {
            let (mut heard, mut from) = (BTreeSet::new(), cursor);
            loop {
                let feed = pools.after(&life(n), from);
                prop_assert!(feed.prev == from && feed.rights.len() <= ENTRIES_MAX);
                if feed.upto == from {
                    break;
                }
                heard.extend(feed.rights.iter().map(|entry| entry.gtin));
                from = feed.upto;
            }
            let wanted: BTreeSet<u64> = model
                .iter()
                .filter(|((of, _), at)| of.is_none_or(|of| of == n) && **at > cursor)
                .map(|((_, gtin), _)| *gtin)
                .collect();
            prop_assert_eq!(heard, wanted);
            prop_assert!(from <= pools.head().max(cursor));
        }
    }
}
