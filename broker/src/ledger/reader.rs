//! What everybody but the writer sees of the ledger: what is durable, and the chunks to send.

use proto::chunk::{self, Head, Position};
use proto::id::{ReplicaId, Seq, WallMs};
use tokio::sync::watch;

use super::error::LedgerError;
use super::journal::{Journal, open_chunk};

/// The ledger as of its last commit.
#[derive(Debug, Clone, Copy, Default)]
pub struct LedgerStats {
    /// The newest record that is on disk.
    pub durable: Position,
    /// The oldest record that is still here.
    pub first: Seq,
    /// Up to where the state trees hold the journal; a start replays what follows.
    pub folded: Seq,
    pub chunks: u64,
    pub journal_bytes: u64,
    /// Bytes of the chunks that are not applied at the hub yet.
    pub backlog_bytes: u64,
    pub disk_bytes: u64,
    /// Commits and records since the start, and the cells waiting for a checkpoint.
    pub groups: u64,
    pub records: u64,
    pub dirty_cells: usize,
    /// True while publishes are refused because the disk or the journal's bound is reached.
    pub full: bool,
}

/// Reads committed chunks from any thread.
#[derive(Clone)]
pub struct Reader {
    pub(super) replica: ReplicaId,
    pub(super) journal: Journal,
    pub(super) stats: watch::Receiver<LedgerStats>,
}

impl Reader {
    pub fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    pub fn stats(&self) -> LedgerStats {
        *self.stats.borrow()
    }

    /// Resolves when something new is durable; false once the writer is gone.
    pub async fn changed(&mut self) -> bool {
        self.stats.changed().await.is_ok()
    }

    /// Stored chunks from the one that begins at `first` on, as long as they fit in `bytes_max` (one always does) and
    /// end at or before `last`. Empty if nothing begins there.
    pub fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Vec<u8>)>, LedgerError> {
        let (mut taken, mut bytes, mut next) = (Vec::new(), 0, first);
        for found in self.journal.chunks_from(first) {
            let (head, stored) = found?;
            if head.first != next || head.last > last || (bytes > 0 && bytes + stored.len() > bytes_max) {
                break;
            }
            bytes += stored.len();
            next = head.last.next();
            taken.push((head, stored));
        }
        Ok(taken)
    }

    /// The position after the chunk that ends exactly at `seq`. `None` if no stored chunk does.
    pub fn position_at(&self, seq: Seq) -> Result<Option<Position>, LedgerError> {
        if seq == Seq::ZERO {
            return Ok(Some(Position::default()));
        }
        let Some(bytes) = self.journal.at_or_after(seq)? else { return Ok(None) };
        let head = chunk::head(&bytes).map_err(|why| LedgerError::Chunk { at: seq, why })?;
        // The oldest chunk also tells where the journal stood before it.
        Ok([head.after(), head.before()].into_iter().find(|position| position.seq == seq))
    }

    /// Where the journal begins: what comes before its oldest chunk.
    pub fn beginning(&self) -> Result<Position, LedgerError> {
        let first = self.journal.chunks_from(Seq::ZERO).next().transpose()?;
        Ok(first.map_or(Position::default(), |(head, _)| head.before()))
    }

    /// When the oldest record after `seq` was stamped.
    pub fn stamped_after(&self, seq: Seq) -> Result<Option<WallMs>, LedgerError> {
        let Some(bytes) = self.journal.at_or_after(seq.next())? else { return Ok(None) };
        let chunk = open_chunk(&bytes)?;
        Ok(chunk.events().next().map(|(_, stamp, _)| stamp.ms()))
    }
}
