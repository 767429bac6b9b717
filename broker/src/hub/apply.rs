//! What a site's chunk does, once it continues what is applied.

use bytes::Bytes;
use prost::Message;
use proto::chunk::Chunk;
use proto::id::{NAME_LEN_MAX, ReplicaId, Seq, SiteName};
use proto::wire::record::Of;
use proto::wire::{CounterTotal, SiteChunk};

use super::merge::{MergedWrite, Merges};
use super::{Effect, Hub, conflicts, merge, present, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// A site's clock that is ahead by more than this is told.
const AHEAD_MS: u64 = 60_000;
/// Records of the event of a site's chunk: the chunk, and one or two for each of its items that is sold from a pool.
const EVENT_RECORDS_MAX: usize = 1_024;
/// Bytes of merged registers after which the next event begins.
const MERGED_BYTES: usize = 32 << 10;

impl Hub {
    /// One chunk that continues the watermark: what it does to registers, then, as the last event, it and the new
    /// watermark. Many merges do not fit into one group of our own; a crash between two leaves a chunk that is not
    /// applied, and when it comes again its merged writes are repeats.
    pub(super) fn apply(
        &mut self,
        site: &SiteName,
        chunk: Chunk,
        bytes: Bytes,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let replica = chunk.head.replica.clone();
        let stale_to = self.sessions.get(site).map_or(Seq::ZERO, |session| session.stale_to);
        let writes = merge::writes_of(&chunk);
        let merges = merge::merge(&replica, writes, stale_to, now.wall, ledger, &mut self.unfolded)?;
        let overtaken = self.overtaken(site, &chunk);
        self.note_refusals(site, &chunk, step);
        self.note_security(site, &chunk, step);
        self.note_losses(site, &chunk, now, step);
        if let Some(view) = self.sites.get_mut(site) {
            view.applied_seq = chunk.head.last.0;
            view.beat.journal_to = view.beat.journal_to.max(chunk.head.last.0);
        }
        self.site_changed.insert(site.clone());

        self.journal_merges(site, &replica, merges, now, ledger, step);
        let position = step.next_seq(ledger);
        let counted = (0..).zip(&chunk.body.totals).filter(|(n, _)| overtaken.binary_search(n).is_err());
        let counted = counted.map(|(_, total)| (total.gtin, total.units, seq_of(&chunk, total)));
        self.feed.stock.moved(&replica, position.0, counted);
        let site_chunk = SiteChunk { chunk: bytes, received_ms: now.wall.0, overtaken };
        let mut records = vec![Of::SiteChunk(site_chunk)];
        records.extend(self.rights_spent(site, &chunk, position.next(), now, step));
        // No gateway of ours comes near it: what does not fit stands behind, in events of its own.
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(EVENT_RECORDS_MAX));
            let draft = self.draft(std::mem::replace(&mut records, rest), now);
            step.events.push(draft);
        }
        Ok(())
    }

    /// Totals of the chunk that the site said newer ones than, ahead of its journal.
    fn overtaken(&self, site: &SiteName, chunk: &Chunk) -> Vec<u32> {
        let said = self.sessions.get(site).map(|session| session.present).unwrap_or_default();
        if chunk.head.first.0 > said.newest {
            return Vec::new();
        }
        // All keys were said as they were later than this.
        if chunk.head.last.0 <= said.complete {
            return (0..).take(chunk.body.totals.len()).collect();
        }
        let held = self.feed.stock.of(&chunk.head.replica);
        let newer = |total: &CounterTotal| held(total.gtin).is_some_and(|held| held.seq >= seq_of(chunk, total));
        (0..).zip(&chunk.body.totals).filter(|(_, total)| newer(total)).map(|(n, _)| n).collect()
    }

    pub(super) fn journal_merges(
        &mut self,
        site: &SiteName,
        replica: &ReplicaId,
        merges: Merges,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) {
        self.leave_out(site, replica, merges.left_out, now, step);
        if merges.ahead_ms > AHEAD_MS {
            let say = format!(
                "{site} stamped writes {} s ahead of this hub's clock; they count as of now. Set its clock",
                merges.ahead_ms / 1_000
            );
            tracing::warn!(%site, "{say}");
            step.then.push(Effect::tell(views::alert(site, "clock_ahead", say, now.wall.0)));
        }
        let (mut seq, mut records, mut bytes) = (step.next_seq(ledger), Vec::new(), 0);
        let too_late = merges.too_late.into_iter().map(|conflict| (None, Some(conflict)));
        let outcomes = merges.outcomes.into_iter().map(|MergedWrite { merged, conflict }| (Some(merged), conflict));
        for (merged, conflict) in too_late.chain(outcomes) {
            if bytes >= MERGED_BYTES {
                bytes = 0;
                let draft = self.draft(std::mem::take(&mut records), now);
                step.events.push(draft);
            }
            if let Some(conflict) = conflict {
                self.tally.conflicts += 1;
                self.conflicts.push_back(seq);
                step.then.push(Effect::tell(conflicts::told(&conflicts::Kept::new(seq, conflict.clone(), now.wall))));
                bytes += conflict.encoded_len();
                records.push(Of::Conflict(conflict));
                seq = seq.next();
            }
            let Some(merged) = merged else { continue };
            self.feed.changed(&merged.key, seq.0);
            bytes += merged.encoded_len();
            records.push(Of::Merged(merged));
            seq = seq.next();
        }
        if !records.is_empty() {
            let draft = self.draft(records, now);
            step.events.push(draft);
        }
    }

    fn note_refusals(&mut self, site: &SiteName, chunk: &Chunk, step: &mut Step<Effect>) {
        let Some(view) = self.sites.get_mut(site) else { return };
        let mut newest = None;
        for event in &chunk.body.events {
            for record in &event.records {
                let Some(Of::Refusal(refusal)) = &record.of else { continue };
                // Our gateways' codes are short and few.
                let room = view.refusals.len() < 256 && refusal.code.len() <= NAME_LEN_MAX;
                if room || view.refusals.contains_key(&refusal.code) {
                    *view.refusals.entry(refusal.code.clone()).or_default() += 1;
                }
                newest = Some((event.device.as_str(), refusal));
            }
        }
        if let Some((device, refusal)) = newest {
            step.then.push(Effect::tell(views::reject(site, device, refusal, view)));
        }
    }

    /// A site dropped records for want of room, or its disk lost them: HQ is told which.
    fn note_losses(&mut self, site: &SiteName, chunk: &Chunk, now: &Now, step: &mut Step<Effect>) {
        let Some(view) = self.sites.get_mut(site).filter(|_| !chunk.body.losses.is_empty()) else { return };
        view.losses.add(&chunk.body.losses);
        if present::trimmed(&chunk.body.losses)
            && let Some(session) = self.sessions.get_mut(site)
        {
            // What moved in the span is in the totals that the site still has.
            session.tell_since = Some(Seq::ZERO);
        }
        let say = format!(
            "{site} lost records between seq {} and {}: {}; since the beginning: {}",
            chunk.head.first,
            chunk.head.last,
            views::Losses::of(&chunk.body.losses),
            view.losses
        );
        tracing::warn!(%site, "{say}");
        step.then.push(Effect::tell(views::alert(site, "records_lost", say, now.wall.0)));
    }
}

/// Of the last movement in a total, in the site's journal.
fn seq_of(chunk: &Chunk, total: &CounterTotal) -> u64 {
    chunk.head.first.0.saturating_add(u64::from(total.seq_offset))
}
