//! After a restore from a backup the hub may have forgotten grants. It asks every site what it holds, and neither grants nor
//! promises anything until all that it knows have said so.

use bytes::Bytes;
use proto::id::{Epoch, ReplicaId, SiteName};
use proto::topic::Outbound;
use proto::wire::record::Of;
use proto::wire::{GrantReason, Hello, RightsEntry, RightsGranted, RightsHeld, RightsReported};

use crate::hub::feed::Stream;
use crate::hub::tables::{HUB, HUB_AWAITS_RIGHTS, REPORTED, replica_key};
use crate::hub::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Put, Read, Step};

/// What the cell says once nobody is awaited any more.
const SURE: &[u8] = b"sure";
const UNSURE: &[u8] = b"unsure";
/// What is read of one message; a gateway says no more at once.
const ENTRIES_MAX: usize = 1_000;

impl Hub {
    /// At every start, once the sites are known. A hub that was never restored waits for nobody.
    pub(in crate::hub) fn recover_awaited(
        &mut self,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let held = ledger.get(HUB, HUB_AWAITS_RIGHTS)?;
        self.desk.was_restored = self.restored || held.is_some();
        if self.restored {
            step.puts.push(Put::set(HUB, HUB_AWAITS_RIGHTS, UNSURE));
        } else if held.is_none_or(|held| held == SURE) {
            return Ok(());
        }
        // A site whose box was lost by then, too: a later life of it may have been granted something since.
        for (site, view) in &self.sites {
            let life = ReplicaId { site: site.clone(), epoch: Epoch(view.epoch) };
            if !self.has_reported(&life, ledger)? {
                self.pools.awaited.insert(site.clone());
            }
        }
        Ok(())
    }

    fn has_reported(&self, life: &ReplicaId, ledger: &dyn Read) -> Result<bool, LedgerError> {
        let held = ledger.get(REPORTED, &replica_key(life.site.as_str(), life.epoch))?;
        Ok(held.is_some_and(|held| held == self.incarnation.to_be_bytes()))
    }

    /// A life that this hub did not know may hold rights too. One that does not follow them holds none.
    pub(in crate::hub) fn await_rights(
        &mut self,
        life: &ReplicaId,
        hello: &Hello,
        fresh: bool,
        now: &Now,
        step: &mut Step<Effect>,
    ) {
        if self.pools.awaited.is_empty() {
            return;
        }
        let knows = hello.streams.iter().any(|followed| followed.stream == Stream::Rights.name());
        if fresh && knows {
            self.pools.awaited.insert(life.site.clone());
        }
        if !knows && self.pools.awaited.contains(&life.site) {
            self.reported(life, now, step);
        }
    }

    /// What a site says that it was granted, and what other lives of it had. It counts once a life, at a hub that was
    /// restored: any other knows. What was said to another incarnation may have come late, and says less than there is.
    pub(in crate::hub) fn rights_held(
        &mut self,
        site: &SiteName,
        held: &RightsHeld,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let Some(session) = self.sessions.get_mut(site) else { return Ok(step) };
        let life = session.replica(site);
        if held.incarnation != self.incarnation || !session.rights_go_on(held.part) {
            return Ok(step);
        }
        if !self.desk.was_restored || self.has_reported(&life, ledger)? {
            return Ok(step);
        }
        let entries = held.rights.iter().take(ENTRIES_MAX);
        let records: Vec<RightsGranted> = entries.filter_map(|entry| self.seen(&life, entry)).collect();
        if !records.is_empty() {
            tracing::info!(%site, items = records.len(), "a site was granted more than this hub remembered");
            self.desk.counts.seen += records.len() as u64;
            self.journal_grants(records, now, ledger, &mut step);
        }
        if held.last {
            self.reported(&life, now, &mut step);
        }
        Ok(step)
    }

    /// What an entry says that this hub does not know, or not any more.
    fn seen(&self, life: &ReplicaId, entry: &RightsEntry) -> Option<RightsGranted> {
        if entry.epoch == 0 || entry.epoch == life.epoch.0 {
            let record = self.granting(life, entry.gtin, GrantReason::Seen);
            let (granted, asked) = (record.granted.max(entry.granted), record.asked.max(entry.asked));
            let news = (granted, asked) != (record.granted, record.asked);
            return news.then_some(RightsGranted { granted, asked, ..record });
        }
        // What that life may have promised is to be its exposure at least.
        let life = ReplicaId { epoch: Epoch(entry.epoch), ..life.clone() };
        let part = self.pools.part(entry.gtin, &life).cloned().unwrap_or_default();
        let record = self.granting(&life, entry.gtin, GrantReason::Seen);
        let had = entry.granted.saturating_sub(record.unaware);
        let granted = had.saturating_add(part.used.returned).saturating_add(record.reclaimed);
        (part.exposure() < i128::from(entry.granted)).then_some(RightsGranted { granted, ..record })
    }

    /// An operator says that a box is lost which this hub would wait for: nobody will say what it was granted since the
    /// backup. True if that is so.
    pub(in crate::hub) fn waits_no_more(&mut self, life: &ReplicaId, now: &Now, step: &mut Step<Effect>) -> bool {
        let awaited = self.pools.awaited.contains(&life.site);
        if awaited {
            self.reported(life, now, step);
        }
        awaited
    }

    fn reported(&mut self, life: &ReplicaId, now: &Now, step: &mut Step<Effect>) {
        let record = RightsReported { site: life.site.to_string(), epoch: life.epoch.0, incarnation: self.incarnation };
        let draft = self.draft(vec![Of::RightsReported(record)], now);
        step.events.push(draft);
        // A box that was put aside says nothing of what the site's current one was granted.
        if self.sites.get(&life.site).is_none_or(|view| view.epoch == life.epoch.0) {
            self.pools.awaited.remove(&life.site);
        }
    }

    /// Keeps that nobody is awaited any more, and tells HQ who is.
    pub(super) fn settle_unsure(&mut self, now: &Now, step: &mut Step<Effect>) {
        let hub: SiteName = match "hub".parse() {
            Ok(hub) => hub,
            Err(_) => return,
        };
        match self.pools.unsure() {
            Some(sites) if !self.desk.told_waiting && self.pools.pooled().next().is_some() => {
                self.desk.told_waiting = true;
                let say = format!(
                    "this hub was restored: nothing is granted or promised of items with a pool before these sites have \
                     said what they hold: {sites}. `site lost` is for one whose box will not come back"
                );
                tracing::warn!(%sites, "rights wait for sites after the restore");
                step.then.push(Effect::tell(views::alert(&hub, "rights_waiting", say, now.wall.0)));
            }
            None if self.desk.was_restored && !self.desk.settled => {
                self.desk.settled = true;
                step.puts.push(Put::set(HUB, HUB_AWAITS_RIGHTS, SURE));
                let topic = Outbound::HqAlert("hub:rights_waiting").to_string();
                step.then.push(Effect::Publish { topic, payload: Bytes::new(), retain: true });
            }
            _ => {}
        }
    }
}
