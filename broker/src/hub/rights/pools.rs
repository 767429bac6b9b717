//! Every pool as the hub holds it, in memory: made from the state at every start, and changed by the same steps that change
//! the state. Some 200 bytes an item and life. Never journalled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::{EarlierRights, Feed, GrantCell, PoolCell, Rights, RightsEntry};

use super::part::{Part, saturated};
use crate::hub::feed::{ENTRIES_MAX, Stream};
use crate::hub::tables::{GRANTS, LATE, POOL, RETIRED, SITE_LOST, USED, decode, of_counter, replica_of};
use crate::ledger::{LedgerError, Read, Table};

/// All pools, and every life's part in them.
#[derive(Debug, Default)]
pub struct Pools {
    /// By gtin. One without a pool has parts all the same, if a site has said something of it.
    items: BTreeMap<u64, Item>,
    /// Lives that are lost or retired.
    over: BTreeSet<ReplicaId>,
    /// Sites of which a hub that was restored has not heard yet what they hold.
    pub(in crate::hub) awaited: BTreeSet<SiteName>,
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

impl Totals {
    /// All but `free`, of which a pool that is short takes none from another.
    pub(super) fn add(&mut self, other: &Totals) {
        let Totals { units, granted, returned, promised, held, refunded, free: _ } = *other;
        let sums = [
            (&mut self.units, units),
            (&mut self.granted, granted),
            (&mut self.returned, returned),
            (&mut self.promised, promised),
            (&mut self.held, held),
            (&mut self.refunded, refunded),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }
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
        each(ledger, LATE, |key, value| {
            if let Some((_, ReplicaId { site, epoch })) = of_counter(key) {
                pools.late(&site, &EarlierRights { epoch: epoch.0, rights: Some(decode(LATE, value)?) });
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
        let names: Vec<&str> = self.awaited.iter().take(10).map(SiteName::as_str).collect();
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

    /// A later life of a site brings what an earlier one had said of its rights and not sent.
    pub(in crate::hub) fn late(&mut self, site: &SiteName, earlier: &EarlierRights) {
        let Some(rights) = earlier.rights else { return };
        let life = ReplicaId { site: site.clone(), epoch: Epoch(earlier.epoch) };
        let over = self.over.contains(&life);
        self.changed.insert(rights.gtin);
        self.items.entry(rights.gtin).or_default().change(&life, over, |part| part.late = rights);
    }

    /// A life is lost or retired.
    pub(in crate::hub) fn ended(&mut self, life: &ReplicaId) {
        if self.over.insert(life.clone()) {
            for (gtin, item) in self.items.iter_mut().filter(|(_, item)| item.parts.contains_key(life)) {
                item.change(life, true, |part| part.over = true);
                self.changed.insert(*gtin);
            }
        }
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

    /// What a life is to hear after a position: pools that are new, its own grants, and what other lives of its site may have
    /// promised. As much as one message carries.
    pub(in crate::hub) fn after(&self, life: &ReplicaId, cursor: u64) -> Feed {
        let range = || (Bound::Excluded(cursor), Bound::Unbounded);
        let pools = self.pools_at.range(range()).take(ENTRIES_MAX);
        let mut found: BTreeMap<u64, (u64, &ReplicaId)> = pools.map(|(at, gtin)| (*at, (*gtin, life))).collect();
        let first = ReplicaId { site: life.site.clone(), epoch: Epoch(0) };
        for (of, at) in self.grants_at.range(first..).take_while(|(of, _)| of.site == life.site) {
            found.extend(at.range(range()).take(ENTRIES_MAX).map(|(at, gtin)| (*at, (*gtin, of))));
        }
        let mut feed = Feed { prev: cursor, upto: cursor, stream: Stream::Rights.name(), ..Feed::default() };
        for (at, (gtin, of)) in found.into_iter().take(ENTRIES_MAX) {
            feed.rights.push(self.entry(gtin, of, life));
            feed.upto = at;
        }
        feed
    }

    fn entry(&self, gtin: u64, of: &ReplicaId, told: &ReplicaId) -> RightsEntry {
        let part = self.part(gtin, of);
        if of != told {
            let had = part.map_or(0, |part| saturated(part.exposure()).max(0).unsigned_abs());
            return RightsEntry { gtin, granted: had, asked: 0, epoch: of.epoch.0 };
        }
        let grant = part.map(|part| part.grant.clone()).unwrap_or_default();
        RightsEntry { gtin, granted: grant.granted, asked: grant.asked, epoch: 0 }
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
mod tests;
