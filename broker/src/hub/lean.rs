//! Batches without what the hub can work out by itself: their chunks are made again here, bit for bit as far as the
//! chain goes, or asked for as they were stored.

use proto::id::{Seq, SiteName};
use proto::lean;
use proto::wire::Batch;

use super::sync::fits;
use super::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Read, Step};

impl Hub {
    pub(super) fn lean(
        &mut self,
        site: &SiteName,
        batch: &Batch,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let Some(session) = self.sessions.get_mut(site) else { return Ok(step) };
        let held = session.watermark;
        if batch.last_seq <= held.seq.0 {
            self.tally.repeats += 1;
            session.owes_applied = true;
            return Ok(step);
        }
        // What overlaps cannot be made again either: of the middle of a batch nobody knows the hash.
        if batch.first_seq != held.seq.next().0 {
            self.tally.gaps += 1;
            session.gap();
            return Ok(step);
        }
        let chunks = lean::unpack(batch, &session.replica(site), held, &mut self.sealer);
        let Some(chunks) = chunks.filter(|chunks| chunks.iter().all(|(chunk, bytes)| fits(chunk, bytes.len()))) else {
            // No strike: stored and alone it is either sound or dealt with as any chunk is.
            self.tally.undecodable += 1;
            tracing::warn!(%site, after = held.seq.0, "a lean batch does not come to its hash: asking for it as stored");
            session.one_by_one(Seq(batch.last_seq));
            return Ok(step);
        };
        for (chunk, bytes) in chunks {
            let Some(session) = self.sessions.get_mut(site) else { break };
            session.watermark = chunk.head.after();
            session.owes_applied = true;
            self.apply(site, chunk, bytes, now, ledger, &mut step)?;
        }
        Ok(step)
    }
}
