//! The journal: chunks under their first seq, one chain.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use proto::chunk::{self, Chunk, Head, Position};
use proto::id::{ReplicaId, Seq};

use super::error::{LedgerError, read_error};

/// Reads committed chunks; cheap to clone, usable from any thread.
#[derive(Clone)]
pub(super) struct Journal {
    tree: sled::Tree,
}

/// What the journal holds, counted once at open and kept by the writer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    pub(super) first: Seq,
    pub(super) last: Position,
}

/// Where the journal's bytes lie, coarsely: enough to say how many wait to be applied without reading them.
#[derive(Debug, Default)]
pub(super) struct Marks {
    written: u64,
    passed: u64,
    marks: VecDeque<(Seq, u64)>,
}

/// A mark every so many bytes: a backlog of 256 MiB needs 8,192 of them.
const MARK_BYTES: u64 = 32 << 10;

impl Marks {
    pub(super) fn push(&mut self, last: Seq, bytes: u64) {
        self.written += bytes;
        if self.marks.back().is_none_or(|(_, at)| self.written - at >= MARK_BYTES) {
            self.marks.push_back((last, self.written));
        }
    }

    /// Bytes of the chunks after `applied`, too high by less than one mark.
    pub(super) fn bytes_after(&mut self, applied: Seq, last: Seq) -> u64 {
        while self.marks.front().is_some_and(|(seq, _)| *seq <= applied) {
            self.passed = self.marks.pop_front().map_or(self.passed, |(_, at)| at);
        }
        if applied >= last { 0 } else { self.written - self.passed }
    }
}

impl Journal {
    pub(super) fn new(tree: sled::Tree) -> Journal {
        Journal { tree }
    }

    /// The stored bytes of the chunk that holds `seq`, or of the first one after it.
    pub(super) fn at_or_after(&self, seq: Seq) -> Result<Option<Vec<u8>>, LedgerError> {
        if let Some((_, bytes)) = self.tree.get_lt(seq.next().0.to_be_bytes()).map_err(read_error)?
            && head_of(&bytes)?.last >= seq
        {
            return Ok(Some(bytes.to_vec()));
        }
        let after = self.tree.range(seq.0.to_be_bytes()..).next().transpose().map_err(read_error)?;
        Ok(after.map(|(_, bytes)| bytes.to_vec()))
    }

    /// Heads and bytes of the chunks whose first seq is at or after `from`, in order.
    pub(super) fn chunks_from(&self, from: Seq) -> impl Iterator<Item = Result<(Head, Vec<u8>), LedgerError>> + use<> {
        self.tree.range(from.0.to_be_bytes()..).map(|found| {
            let (_, bytes) = found.map_err(read_error)?;
            Ok((head_of(&bytes)?, bytes.to_vec()))
        })
    }

    /// Chunks from the newest back.
    pub(super) fn back(&self, each: &mut dyn FnMut(&Chunk) -> ControlFlow<()>) -> Result<(), LedgerError> {
        for found in self.tree.iter().rev() {
            let (_, bytes) = found.map_err(read_error)?;
            if each(&open_chunk(&bytes)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Walks the whole chain by its heads and opens every chunk that ends after `folded`, giving it to `replay`.
    pub(super) fn recover(
        &self,
        replica: &ReplicaId,
        folded: Seq,
        marks: &mut Marks,
        replay: &mut dyn FnMut(&Chunk),
    ) -> Result<Extent, LedgerError> {
        let mut extent = Extent::default();
        for found in self.tree.iter() {
            let (_, bytes) = found.map_err(read_error)?;
            let head = head_of(&bytes)?;
            if head.replica != *replica || (extent.chunks > 0 && head.before() != extent.last) {
                return Err(LedgerError::Broken { at: head.first });
            }
            if head.last > folded {
                replay(&open_chunk(&bytes)?);
            }
            if extent.chunks == 0 {
                extent.first = head.first;
            }
            extent.chunks += 1;
            extent.bytes += bytes.len() as u64;
            extent.last = head.after();
            marks.push(head.last, bytes.len() as u64);
        }
        if folded > extent.last.seq {
            return Err(LedgerError::Broken { at: folded.next() });
        }
        Ok(extent)
    }

    pub(super) fn last_chunk(&self) -> Result<Option<Chunk>, LedgerError> {
        let last = self.tree.last().map_err(read_error)?;
        last.map(|(_, bytes)| open_chunk(&bytes)).transpose()
    }
}

fn head_of(bytes: &[u8]) -> Result<Head, LedgerError> {
    chunk::head(bytes).map_err(|why| LedgerError::Chunk { at: Seq::ZERO, why })
}

pub(super) fn open_chunk(bytes: &[u8]) -> Result<Chunk, LedgerError> {
    chunk::open(bytes).map_err(|why| {
        let at = chunk::head(bytes).map_or(Seq::ZERO, |head| head.first);
        LedgerError::Chunk { at, why }
    })
}
