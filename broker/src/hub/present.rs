//! What a site says ahead of its journal: the latest value of each key, so that HQ sees the present at once.

use std::ops::ControlFlow;

use prost::Message;
use proto::id::{ReplicaId, Seq, SiteName};
use proto::present::unpacked;
use proto::wire::record::Of;
use proto::wire::{
    CounterCell, Loss, LossClass, LostCell, Present, PresentCell, PresentTotal, SetAsideCell, SitePresent,
};

use super::check::Verify;
use super::feed::ENTRIES_MAX;
use super::merge::{self, SiteWrite};
use super::tables::{
    ASIDE, COUNTER, COUNTER_BEFORE, LOST, PRESENT, counter_key, counter_key_before, decode, replica_key,
};
use super::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// A gateway's parts have half of this.
const PART_BYTES_MAX: usize = 64 << 10;

/// One replica's component of an item, as the hub holds it.
pub(super) fn held(gtin: u64, replica: &ReplicaId, ledger: &dyn Read) -> Result<Option<CounterCell>, LedgerError> {
    let cell = match ledger.get(COUNTER, &counter_key(gtin, replica))? {
        None => ledger.get(COUNTER_BEFORE, &counter_key_before(gtin, replica))?,
        found => found,
    };
    cell.map(|value| decode(COUNTER, &value)).transpose()
}

/// What a replica said ahead of its journal so far.
pub(super) fn said(replica: &ReplicaId, ledger: &dyn Read) -> Result<PresentCell, LedgerError> {
    let cell = ledger.get(PRESENT, &replica_key(replica.site.as_str(), replica.epoch))?;
    Ok(cell.map(|value| decode(PRESENT, &value)).transpose()?.unwrap_or_default())
}

/// From where a replica must say its latest values again, if it must: records that the hub once had are gone for good, or
/// could not be read, and what they came to was not said since.
pub(super) fn untold(replica: &ReplicaId, said: &PresentCell, ledger: &dyn Read) -> Result<Option<Seq>, LedgerError> {
    let (mut untold, mut damaged) = (None, None);
    let prefix = replica_key(replica.site.as_str(), replica.epoch);
    ledger.scan_prefix(LOST, &prefix, &mut |_, value| {
        match decode::<LostCell>(LOST, value) {
            Ok(lost) if lost.last > said.complete && trimmed(&lost.losses) => untold = Some(Seq::ZERO),
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    if let Some(value) = ledger.get(ASIDE, replica.site.as_str().as_bytes())? {
        let aside: SetAsideCell = decode(ASIDE, &value)?;
        if aside.epoch == replica.epoch.0 && aside.last > said.complete {
            untold = Some(Seq::ZERO);
        }
    }
    damaged.map_or(Ok(untold), Err)
}

/// Some of what is lost was applied here once.
pub(super) fn trimmed(losses: &[Loss]) -> bool {
    losses.iter().any(|loss| loss.class() == LossClass::Trimmed)
}

/// The parts of one present, as they come in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parts {
    as_of: u64,
    since: u64,
    next: u32,
}

impl Parts {
    /// Takes a part; true if with it all of them have come.
    fn take(&mut self, present: &Present) -> bool {
        if present.part == 0 {
            *self = Parts { as_of: present.as_of, since: present.since, next: 0 };
        }
        let continues = (self.as_of, self.since, self.next) == (present.as_of, present.since, present.part);
        self.next = if continues { self.next.saturating_add(1) } else { u32::MAX };
        continues && present.last && self.next < u32::MAX
    }
}

impl Hub {
    pub(super) fn present(
        &mut self,
        site: &SiteName,
        present: Present,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let Some(session) = self.sessions.get_mut(site) else { return Ok(step) };
        let Some(present) = unpacked(present, PART_BYTES_MAX).filter(|part| part.encoded_len() <= PART_BYTES_MAX)
        else {
            self.tally.undecodable += 1;
            return Ok(step);
        };
        session.present_goes_on(now.mono_ms);
        let replica = session.replica(site);
        // What is asked for again is not known, however far the journal is.
        let known = match session.tell_since {
            Some(Seq(since)) => since,
            None => session.watermark.seq.0.max(session.present.complete),
        };
        let whole = session.parts.take(&present) && present.since <= known;
        // Only what begins at the beginning names every item, and only if it was heard from its first part on.
        if let Some(verify) = session.verify.as_mut().filter(|_| present.part == 0) {
            verify.begin(present.since == 0);
        }
        let names_all = session.verify.as_ref().is_some_and(Verify::names_all);
        let compared = whole && names_all;
        // A comparison that did not hear all of this one needs another.
        let done = session.verify.is_none() || compared;
        if whole && done && session.tell_since.is_some_and(|since| present.since <= since.0) {
            session.tell_since = None;
        }
        let mut verify = session.verify.as_mut().filter(|_| names_all);
        let stale_to = session.stale_to;
        let before = session.present;
        if whole {
            session.present.complete = session.present.complete.max(present.as_of);
        }
        let (mut totals, in_memory) = (Vec::new(), self.feed.stock.of(&replica));
        for total in &present.totals {
            let mut held = in_memory(total.gtin).map(|part| (part.units, part.seq));
            if let Some(verify) = &mut verify {
                // What is on disk counts.
                let cell = self::held(total.gtin, &replica, ledger)?;
                verify.compare(total, cell.as_ref(), session.watermark.seq);
                held = cell.map(|cell| (cell.units, cell.seq));
            }
            // The same seq with other units is a fault of ours: the owner is right.
            if held.is_none_or(|(units, seq)| seq < total.seq || (seq == total.seq && units != total.units)) {
                session.present.newest = session.present.newest.max(total.seq);
                totals.push(*total);
            }
        }
        drop(in_memory);
        session.owes_applied = true;
        let after = session.present;
        if compared {
            totals.extend(self.verified(site, present.as_of, now, ledger, &mut step)?);
        }
        if let Some(view) = self.sites.get_mut(site) {
            view.present_seq = after.complete;
            if whole {
                // What somebody at HQ waits for does not wait for its turn.
                step.then.push(Effect::tell(views::site_status(site, view)));
            }
        }
        self.site_changed.insert(site.clone());
        self.unfolded.clear();
        let writes = present.writes.iter().filter_map(|written| {
            let write = written.write.as_ref()?;
            Some(SiteWrite { seq: Seq(written.seq), device: &written.device, write })
        });
        let writes = writes.collect();
        let merges = merge::merge(&replica, writes, stale_to, now.wall, ledger, &mut self.unfolded)?;
        self.journal_merges(site, &replica, merges, now, ledger, &mut step);
        if totals.is_empty() && before == after {
            return Ok(step);
        }
        let records = self.told_ahead(&replica, totals, after, step.next_seq(ledger));
        let draft = self.draft(records, now);
        step.events.push(draft);
        Ok(step)
    }

    /// One event, and a record for what fits into one message of the feed: what stands at one position of it goes down in one.
    fn told_ahead(&mut self, of: &ReplicaId, totals: Vec<PresentTotal>, said: PresentCell, first: Seq) -> Vec<Of> {
        let mut parts: Vec<_> = totals.chunks(ENTRIES_MAX).map(<[PresentTotal]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let record = |(position, totals): (u64, Vec<PresentTotal>)| {
            let moved = totals.iter().map(|total| (total.gtin, total.units, total.seq));
            self.feed.stock.moved(of, position, moved);
            let (site, epoch) = (of.site.to_string(), of.epoch.0);
            Of::SitePresent(SitePresent { site, epoch, totals, complete: said.complete, newest: said.newest })
        };
        (first.0..).zip(parts).map(record).collect()
    }
}
