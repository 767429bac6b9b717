//! What a site's chunk says of rights: how they were used, what came back, and what was sold without them.

use std::collections::BTreeMap;

use proto::chunk::Chunk;
use proto::clock::Stamp;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::record::Of;
use proto::wire::{Event, GrantReason, MovementKind, Rights, RightsGranted};

use super::fold::grant_cell;
use crate::hub::{Effect, Hub, views};
use crate::ledger::{Now, Step};

/// Records that go behind a chunk, into its event: one commit. The next of them will be at `next`.
struct Behind {
    next: Seq,
    records: Vec<Of>,
}

impl Hub {
    /// Takes over what a chunk says, and says what is to be journalled behind it, from seq `next` on.
    pub(in crate::hub) fn rights_spent(
        &mut self,
        site: &SiteName,
        chunk: &Chunk,
        next: Seq,
        now: &Now,
        step: &mut Step<Effect>,
    ) -> Vec<Of> {
        let life = &chunk.head.replica;
        let mut behind = Behind { next, records: Vec::new() };
        let (mut unaware, mut oversold): (BTreeMap<u64, u64>, BTreeMap<u64, u64>) = Default::default();
        for (_, stamp, event) in chunk.events() {
            for (gtin, units) in self.sold_unaware(stamp, event) {
                add(&mut unaware, gtin, units);
            }
            for record in &event.records {
                if let Some(Of::EarlierRights(earlier)) = &record.of {
                    self.pools.late(site, earlier);
                }
                let Some(Of::Rights(rights)) = &record.of else { continue };
                let answered = self.answered(life, rights);
                let age_ms = now.wall.0.saturating_sub(stamp.ms().0);
                add(&mut oversold, rights.gtin, self.used(life, rights, age_ms, now));
                if let Some((to, units)) = answered {
                    self.move_on(&to, rights.gtin, units, &mut behind);
                }
            }
        }
        self.desk.counts.beyond += oversold.values().filter(|units| **units > 0).count() as u64;
        self.desk.counts.unaware += unaware.len() as u64;
        for (gtin, units) in unaware {
            let record = self.granting(life, gtin, GrantReason::Unaware);
            self.goes_behind(RightsGranted { unaware: record.unaware.saturating_add(units), ..record }, &mut behind);
            add(&mut oversold, gtin, units);
        }
        for (gtin, units) in oversold.into_iter().filter(|(_, units)| *units > 0) {
            self.desk.counts.oversold_units = self.desk.counts.oversold_units.saturating_add(units);
            let free = self.pools.free(gtin).unwrap_or(0);
            let say = format!("{site} sold {units} of {gtin:014} in hand beyond its rights; {free} are free");
            tracing::warn!(%site, gtin, units, free, "sold in hand beyond the site's rights");
            step.then.push(Effect::tell(views::alert(site, "oversold", say, now.wall.0)));
        }
        behind.records
    }

    /// A life's numbers are these now. Says how many units more than before are beyond its rights.
    fn used(&mut self, life: &ReplicaId, rights: &Rights, age_ms: u64, now: &Now) -> u64 {
        let gtin = rights.gtin;
        let (known, was_short) = self.pools.part(gtin, life).map_or((0, 0), |part| {
            (part.used.promised.saturating_add(part.used.held), part.available().min(0).unsigned_abs())
        });
        let units = rights.promised.saturating_add(rights.held).saturating_sub(known);
        let half_s = self.desk.rules.half_life_s;
        self.desk.demand.wanted(gtin, Some(life.site.clone()), units, age_ms, now.mono_ms, half_s);
        self.desk.touched.insert(gtin);
        self.pools.used(life, *rights);
        let short = self.pools.part(gtin, life).map_or(0, |part| part.available().min(0).unsigned_abs());
        // Without a pool here nothing says what was too much.
        if self.pools.is_pooled(gtin) { short.saturating_sub(was_short) } else { 0 }
    }

    /// Sales of pooled items in an event that says nothing of rights: the site did not know of the pool. That is so too of
    /// what is journalled again: nobody had it before, and of an event that spoke of rights a later life does so again.
    fn sold_unaware(&self, stamp: Stamp, event: &Event) -> Vec<(u64, u64)> {
        // Handing over what a hold had committed spends nothing, so nothing is said of rights.
        let knows = |gtin: u64| {
            event.records.iter().any(|record| match &record.of {
                Some(Of::Rights(rights)) => rights.gtin == gtin,
                Some(Of::HoldEnded(ended)) => ended.gtin == gtin,
                _ => false,
            })
        };
        let mut sold = Vec::new();
        for record in &event.records {
            let Some(Of::Movement(moved)) = &record.of else { continue };
            let Some(pool) = self.pools.pool(moved.gtin) else { continue };
            let since = event.unsynced || stamp.ms().0 >= pool.since_ms;
            if moved.kind() == MovementKind::Sale && moved.units < 0 && since && !knows(moved.gtin) {
                sold.push((moved.gtin, moved.units.unsigned_abs()));
            }
        }
        sold
    }

    /// The site that gets what this record gives back, and how much that is, if it answers an ask on behalf of one.
    fn answered(&self, life: &ReplicaId, rights: &Rights) -> Option<(ReplicaId, u64)> {
        let part = self.pools.part(rights.gtin, life)?;
        let answers = part.asked_open() > 0 && rights.answered >= part.grant.asked;
        let site: SiteName = part.grant.for_site.parse().ok().filter(|_| answers)?;
        let epoch = Epoch(self.sites.get(&site)?.epoch);
        let units = rights.returned.saturating_sub(part.used.returned);
        Some((ReplicaId { site, epoch }, units))
    }

    /// As much of it as is free: sales in hand that nothing covered go first.
    fn move_on(&mut self, to: &ReplicaId, gtin: u64, units: u64, behind: &mut Behind) {
        let free = self.pools.free(gtin).unwrap_or(0).max(0) as u64;
        let units = if self.pools.is_over(to) || self.pools.unsure().is_some() { 0 } else { units.min(free) };
        if units > 0 {
            let record = self.granting(to, gtin, GrantReason::Moved);
            self.goes_behind(RightsGranted { granted: record.granted.saturating_add(units), ..record }, behind);
        }
    }

    fn goes_behind(&mut self, record: RightsGranted, behind: &mut Behind) {
        let Ok(site) = record.site.parse() else { return };
        let life = ReplicaId { site, epoch: Epoch(record.epoch) };
        self.pools.granted(&life, record.gtin, grant_cell(&record, behind.next));
        behind.next = behind.next.next();
        behind.records.push(Of::RightsGranted(record));
    }
}

fn add(sums: &mut BTreeMap<u64, u64>, gtin: u64, units: u64) {
    let sum = sums.entry(gtin).or_default();
    *sum = sum.saturating_add(units);
}
