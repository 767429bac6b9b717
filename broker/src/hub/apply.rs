//! What a site's chunk does, once it continues what is applied.

use bytes::Bytes;
use prost::Message;
use proto::chunk::Chunk;
use proto::id::{NAME_LEN_MAX, SiteName};
use proto::wire::SiteChunk;
use proto::wire::record::Of;

use super::merge::MergedWrite;
use super::{Effect, Hub, conflicts, merge, views};
use crate::ledger::{LedgerError, Now, Read, Step};

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
        let merges = merge::merge(&chunk, now.wall, ledger, &mut self.unfolded)?;
        for total in &chunk.body.totals {
            self.stock.touched(total.gtin);
        }
        self.note_refusals(site, &chunk, step);
        self.note_losses(site, &chunk, now, step);
        if let Some(view) = self.sites.get_mut(site) {
            view.applied_seq = chunk.head.last.0;
            view.beat.journal_to = view.beat.journal_to.max(chunk.head.last.0);
        }
        self.site_changed.insert(site.clone());

        self.leave_out(site, &chunk.head.replica, merges.left_out, now, step);
        self.journal_merges(merges.outcomes, now, ledger, step);
        let draft = self.draft(vec![Of::SiteChunk(SiteChunk { chunk: bytes, received_ms: now.wall.0 })], now);
        step.events.push(draft);
        Ok(())
    }

    fn journal_merges(&mut self, outcomes: Vec<MergedWrite>, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) {
        let before: u64 = step.events.iter().map(|draft| draft.event.records.len() as u64).sum();
        let (mut seq, mut records, mut bytes) = (ledger.next_seq().plus(before), Vec::new(), 0);
        for MergedWrite { merged, conflict } in outcomes {
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
