//! What everybody but the writer sees of the ledger: what is durable, and the chunks to send.

use bytes::Bytes;
use proto::chunk::{Chunk, Head, Position};
use proto::id::{ReplicaId, Seq, WallMs};
use proto::remnant::{self, Standing};
use tokio::sync::watch;

use super::core::EachEvent;
use super::error::LedgerError;
use super::house::EvictedStats;
use super::log::{Inventory, Log};
use super::open::Recovery;

/// The ledger as of its last commit.
#[derive(Debug, Clone, Copy, Default)]
pub struct LedgerStats {
    /// The newest record that is on disk.
    pub durable: Position,
    /// The oldest record that is still here.
    pub first: Seq,
    /// Up to where the state on disk holds the journal; a start replays what follows.
    pub folded: Seq,
    pub chunks: u64,
    /// Bytes of the journal's files, and of the state's.
    pub journal_bytes: u64,
    pub state_bytes: u64,
    /// Bytes of the journal that are not applied at the hub yet.
    pub backlog_bytes: u64,
    /// Since the start: commits, their records, and what they appended to the journal.
    pub groups: u64,
    pub records: u64,
    pub appended_bytes: u64,
    /// Cells that wait for a checkpoint.
    pub dirty_cells: usize,
    pub evicted: EvictedStats,
    /// True while publishes are refused because the disk or the journal's bound is reached.
    pub full: bool,
}

/// Reads committed chunks from any thread.
#[derive(Clone)]
pub struct Reader {
    pub(super) log: Log,
    pub(super) stats: watch::Receiver<LedgerStats>,
    pub(super) recovery: std::sync::Arc<Recovery>,
}

impl Reader {
    pub fn replica(&self) -> &ReplicaId {
        self.log.replica()
    }

    pub fn stats(&self) -> LedgerStats {
        *self.stats.borrow()
    }

    /// The files of the log as they are on disk by now.
    pub fn inventory(&self) -> Inventory {
        self.log.inventory()
    }

    /// What the start found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Resolves when something new is durable; false once the writer is gone.
    pub async fn changed(&mut self) -> bool {
        self.stats.changed().await.is_ok()
    }

    /// Stored chunks from the one that begins at `first` on (a remnant may begin before it), as long as they fit in
    /// `bytes_max` (one always does) and end at or before `last` (a remnant may end after it). Empty if nothing begins
    /// there.
    pub fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, LedgerError> {
        let (mut taken, mut bytes, mut next) = (Vec::new(), 0, first);
        for stored in self.log.chunks_from(first) {
            let stored = match stored {
                Ok(stored) => stored,
                // What comes before the damage is sent first.
                Err(_) if !taken.is_empty() => break,
                Err(error) => return Err(error),
            };
            let continues = stored.head.first == next || (stored.head.remnant && stored.head.first < next);
            // What is left of a million records is one small chunk: held to `last` it would never be sent.
            let too_far = stored.head.last > last && !(stored.head.remnant && taken.is_empty());
            if !continues || too_far || (bytes > 0 && bytes + stored.bytes.len() > bytes_max) {
                break;
            }
            bytes += stored.bytes.len();
            next = stored.head.last.next();
            taken.push((stored.head, stored.bytes));
        }
        Ok(taken)
    }

    /// Stored chunks from the one that holds the record after `seq` on, as long as they fit in `bytes_max`; one always
    /// does. Empty at the end.
    pub fn chunks_after(&self, seq: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, LedgerError> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for stored in self.log.chunks_from(seq.next()) {
            let stored = stored?;
            if bytes > 0 && bytes + stored.bytes.len() > bytes_max {
                break;
            }
            bytes += stored.bytes.len();
            taken.push((stored.head, stored.bytes));
        }
        Ok(taken)
    }

    /// Stored chunks that begin below a seq, from the newest back.
    pub fn chunks_below(&self, below: Seq) -> impl Iterator<Item = Result<(Head, Bytes), LedgerError>> + use<> {
        self.log.chunks_below(below).map(|stored| stored.map(|stored| (stored.head, stored.bytes)))
    }

    /// How a position stands to the journal, as far as that is still here.
    ///
    /// # Errors
    /// The journal cannot be read there.
    pub fn standing(&self, at: Position) -> Result<Standing, LedgerError> {
        let stored = self.log.chunks_from(at.seq).next().transpose()?;
        let found = stored.as_ref().map(|stored| (&stored.head, &stored.bytes[..]));
        remnant::standing(at, found).map_err(|why| LedgerError::Chunk { at: at.seq, why })
    }

    /// Where the journal begins: what comes before its oldest chunk.
    pub fn beginning(&self) -> Result<Position, LedgerError> {
        Ok(self.log.ends().0)
    }

    /// The chunk that holds this record.
    pub fn chunk_at(&self, seq: Seq) -> Result<Option<Chunk>, LedgerError> {
        let Some(stored) = self.log.chunks_from(seq).next().transpose()? else { return Ok(None) };
        if stored.head.first > seq { Ok(None) } else { stored.open().map(Some) }
    }

    /// Events from the newest that is on disk back, as far as the journal reaches.
    pub fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError> {
        for stored in self.log.chunks_back() {
            let chunk = stored?.open()?;
            if chunk.events().rev().try_for_each(|(seq, stamp, event)| each(seq, stamp, event)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// When the oldest record after `seq` was stamped.
    pub fn stamped_after(&self, seq: Seq) -> Result<Option<WallMs>, LedgerError> {
        for stored in self.log.chunks_from(seq.next()) {
            let chunk = stored?.open()?;
            if let Some((_, stamp, _)) = chunk.events().next() {
                return Ok(Some(stamp.ms()));
            }
        }
        Ok(None)
    }
}
