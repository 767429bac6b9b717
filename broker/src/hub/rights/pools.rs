//! Every pool as the hub holds it, in memory: made from the state at every start, and changed by the same steps that change
//! the state. Some 200 bytes an item and life. Never journalled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use proto::id::ReplicaId;
use proto::wire::{Feed, GrantCell, PoolCell, Rights, RightsEntry};

use super::part::{Part, saturated};
use crate::hub::feed::{ENTRIES_MAX, Stream};
use crate::hub::tables::{GRANTS, POOL, RETIRED, SITE_LOST, USED, decode, of_counter, replica_of};
use crate::ledger::{LedgerError, Read, Table};

/// All pools, and every life's part in them.
#[derive(Debug, Default)]
pub struct Pools {
    /// By gtin. One without a pool has parts all the same, if a site has said something of it.
    items: BTreeMap<u64, Item>,
    /// Lives that are lost or retired.
    over: BTreeSet<ReplicaId>,
    /// Lives that a hub which was restored has not heard yet.
    pub(super) awaited: BTreeSet<ReplicaId>,
    /// Items of which something changed since this was last taken.
    changed: BTreeSet<u64>,
    /// Where the feed says a pool, and where a life's grant.
    pools_at: BTreeMap<u64, u64>,
    grants_at: BTreeMap<ReplicaId, BTreeMap<u64, u64>>,
    head: u64,
}

#[derive(Debug, Default)]
struct Item {
    pool: Option<PoolCell>,
    parts: BTreeMap<ReplicaId, Part>,
    /// The hub's own channel.
    own: Rights,
    /// Sums over the parts.
    exposed: i128,
    refunded: i128,
}

/// An item's pool in sum, all in units: what `pool show` and `hq/pools/{gtin}` say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub units: u64,
    pub granted: u64,
    pub returned: u64,
    pub promised: u64,
    pub held: u64,
    pub refunded: u64,
    /// What may be granted, promised or held by the hub; below zero if sales in hand took more than there was.
    pub free: i64,
}

impl Item {
    fn free(&self) -> Option<i64> {
        let units = i128::from(self.pool.as_ref()?.units) + self.refunded + i128::from(self.own.refunded);
        Some(saturated(units - self.exposed - i128::from(self.own.promised) - i128::from(self.own.held)))
    }

    fn change(&mut self, life: &ReplicaId, over: bool, change: impl FnOnce(&mut Part)) {
        if !self.parts.contains_key(life) {
            self.parts.insert(life.clone(), Part { over, ..Part::default() });
        }
        let Some(part) = self.parts.get_mut(life) else { return };
        self.exposed -= part.exposure();
        self.refunded -= i128::from(part.used.refunded);
        change(part);
        self.exposed += part.exposure();
        self.refunded += i128::from(part.used.refunded);
    }
}

impl Pools {
    pub(in crate::hub) fn rebuild(ledger: &dyn Read) -> Result<Pools, LedgerError> {
        let mut pools = Pools::default();
        for table in [RETIRED, SITE_LOST] {
            each(ledger, table, |key, _| {
                pools.over.extend(replica_of(key));
                Ok(())
            })?;
        }
        each(ledger, POOL, |key, value| {
            if let Ok(gtin) = key.try_into() {
                pools.pool_changed(u64::from_be_bytes(gtin), decode(POOL, value)?);
            }
            Ok(())
        })?;
        each(ledger, GRANTS, |key, value| {
            if let Some((gtin, life)) = of_counter(key) {
                pools.granted(&life, gtin, decode(GRANTS, value)?);
            }
            Ok(())
        })?;
        each(ledger, USED, |key, value| {
            match of_counter(key) {
                Some((_, life)) if life == *ledger.replica() => pools.own_changed(decode(USED, value)?),
                Some((_, life)) => pools.used(&life, decode(USED, value)?),
                None => {}
            }
            Ok(())
        })?;
        Ok(pools)
    }

    /// Whether promises of this item are gated.
    pub fn is_pooled(&self, gtin: u64) -> bool {
        self.pool(gtin).is_some()
    }

    pub fn pool(&self, gtin: u64) -> Option<&PoolCell> {
        self.items.get(&gtin)?.pool.as_ref()
    }

    /// Every item with a pool, in order.
    pub fn pooled(&self) -> impl Iterator<Item = u64> {
        self.items.iter().filter(|(_, item)| item.pool.is_some()).map(|(gtin, _)| *gtin)
    }

    /// The next item with a pool after this one.
    pub fn pooled_after(&self, gtin: u64) -> Option<u64> {
        let after = self.items.range((Bound::Excluded(gtin), Bound::Unbounded));
        after.filter(|(_, item)| item.pool.is_some()).map(|(gtin, _)| *gtin).next()
    }

    /// Units that the hub may grant, promise or hold; `None` if there is no pool. Below zero, sales in hand took more than
    /// there was. Nobody may promise anything of it while [`Pools::unsure`] says something.
    pub fn free(&self, gtin: u64) -> Option<i64> {
        self.items.get(&gtin)?.free()
    }

    /// The hub's own channel: `promised`, `refunded` and `held`; the others are 0.
    pub fn of_hub(&self, gtin: u64) -> Rights {
        let own = self.items.get(&gtin).map(|item| item.own).unwrap_or_default();
        // One that never used any has no record that names the item.
        Rights { gtin, ..own }
    }

    /// The hub's own channel has used its rights: this is what its newest record says, which is in the same step.
    pub fn own_changed(&mut self, rights: Rights) {
        self.changed.insert(rights.gtin);
        self.items.entry(rights.gtin).or_default().own = rights;
    }

    /// What a hub that was restored waits for before it promises or grants anything: sites, in words.
    pub fn unsure(&self) -> Option<String> {
        let names: Vec<&str> = self.awaited.iter().take(10).map(|life| life.site.as_str()).collect();
        let more = self.awaited.len().saturating_sub(names.len());
        match (names.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(names.join(", ")),
            (false, more) => Some(format!("{} and {more} more", names.join(", "))),
        }
    }

    /// A life's part in an item, if it has one.
    pub fn part(&self, gtin: u64, life: &ReplicaId) -> Option<&Part> {
        self.items.get(&gtin)?.parts.get(life)
    }

    /// Every life's part in an item.
    pub fn parts(&self, gtin: u64) -> impl Iterator<Item = (&ReplicaId, &Part)> {
        self.items.get(&gtin).into_iter().flat_map(|item| &item.parts)
    }

    /// The items in which a life has a part.
    pub fn items_of(&self, life: &ReplicaId) -> Vec<u64> {
        self.items.iter().filter(|(_, item)| item.parts.contains_key(life)).map(|(gtin, _)| *gtin).collect()
    }

    pub fn totals(&self, gtin: u64) -> Option<Totals> {
        let item = self.items.get(&gtin)?;
        let (units, free) = (item.pool.as_ref()?.units, item.free()?);
        let own = (item.own.promised, item.own.held, item.own.refunded);
        let mut sum = Totals { units, free, promised: own.0, held: own.1, refunded: own.2, ..Totals::default() };
        for part in item.parts.values() {
            sum.granted = sum.granted.saturating_add(part.grant.granted);
            sum.returned = sum.returned.saturating_add(part.used.returned);
            sum.promised = sum.promised.saturating_add(part.used.promised).saturating_add(part.grant.unaware);
            sum.held = sum.held.saturating_add(part.used.held);
            sum.refunded = sum.refunded.saturating_add(part.used.refunded);
        }
        Some(sum)
    }

    pub(in crate::hub) fn pool_changed(&mut self, gtin: u64, cell: PoolCell) {
        self.head = self.head.max(cell.feed_position);
        self.pools_at.insert(cell.feed_position, gtin);
        self.changed.insert(gtin);
        self.items.entry(gtin).or_default().pool = Some(cell);
    }

    /// The hub's side of a life's part is this now.
    pub(in crate::hub) fn granted(&mut self, life: &ReplicaId, gtin: u64, cell: GrantCell) {
        self.head = self.head.max(cell.feed_position);
        let at = self.grants_at.entry(life.clone()).or_default();
        if let Some(before) = self.items.get(&gtin).and_then(|item| item.parts.get(life)) {
            at.remove(&before.grant.feed_position);
        }
        at.insert(cell.feed_position, gtin);
        let over = self.over.contains(life);
        self.changed.insert(gtin);
        self.items.entry(gtin).or_default().change(life, over, |part| part.grant = cell);
    }

    /// A life's journal says how it used its rights.
    pub(in crate::hub) fn used(&mut self, life: &ReplicaId, rights: Rights) {
        let over = self.over.contains(life);
        self.changed.insert(rights.gtin);
        self.items.entry(rights.gtin).or_default().change(life, over, |part| part.used = rights);
    }

    /// A life is lost or retired.
    pub(in crate::hub) fn ended(&mut self, life: &ReplicaId) {
        if self.over.insert(life.clone()) {
            for (gtin, item) in self.items.iter_mut().filter(|(_, item)| item.parts.contains_key(life)) {
                item.change(life, true, |part| part.over = true);
                self.changed.insert(*gtin);
            }
        }
        self.awaited.remove(life);
    }

    pub(in crate::hub) fn is_over(&self, life: &ReplicaId) -> bool {
        self.over.contains(life)
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    /// The newest position of the stream `rights`.
    pub(in crate::hub) fn head(&self) -> u64 {
        self.head
    }

    /// What a life is to hear after a position: pools that are new, and its own grants. As much as one message carries.
    pub(in crate::hub) fn after(&self, life: &ReplicaId, cursor: u64) -> Feed {
        let range = || (Bound::Excluded(cursor), Bound::Unbounded);
        let own = self.grants_at.get(life).into_iter().flat_map(|at| at.range(range()));
        let mut found: BTreeMap<u64, u64> = own.take(ENTRIES_MAX).map(|(at, gtin)| (*at, *gtin)).collect();
        found.extend(self.pools_at.range(range()).take(ENTRIES_MAX).map(|(at, gtin)| (*at, *gtin)));
        let mut feed = Feed { prev: cursor, upto: cursor, stream: Stream::Rights.name(), ..Feed::default() };
        for (at, gtin) in found.into_iter().take(ENTRIES_MAX) {
            let grant = self.part(gtin, life).map(|part| part.grant.clone()).unwrap_or_default();
            feed.rights.push(RightsEntry { gtin, granted: grant.granted, asked: grant.asked });
            feed.upto = at;
        }
        feed
    }
}

/// Every cell of a table, until one cannot be read.
fn each(
    ledger: &dyn Read,
    table: Table,
    mut see: impl FnMut(&[u8], &[u8]) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut damaged = None;
    ledger.scan_prefix(table, &[], &mut |key, value| match see(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            damaged = Some(error);
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
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
            let now = GrantCell {
                granted: before.granted + granted,
                asked: before.asked + asked,
                feed_position: at,
                ..before
            };
            till.to_site.push_back(RightsEntry { gtin: GTIN, granted: now.granted, asked: now.asked });
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
}
