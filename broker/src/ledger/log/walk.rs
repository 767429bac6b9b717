//! A walk over the segments: what is a sound frame, what is not, and where the chain says that chunks are missing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use proto::chunk::Position;

use super::frame::{HEAD_BYTES, Key};
use super::segment::{ChunkNote, FrameAt, Frames, HEADER_BYTES};
use crate::ledger::error::LedgerError;

/// Where the walk over all segments stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain {
    /// `None` before the first chunk.
    pub(super) at: Option<Position>,
    pub(super) number: u64,
}

/// What a segment file holds, in order.
pub(super) enum Piece<'a> {
    Frame(&'a FrameAt, Option<ChunkNote>),
    /// No chunk covers this span: it belongs before the frame that follows.
    Gap {
        from: Position,
        to: Position,
        number: u64,
    },
    /// No sound frame stands here; `unread` if the disk did not even give it back.
    Fault {
        from: u64,
        to: u64,
        unread: bool,
    },
}

/// Gives away what a segment holds, piece by piece, going on by the chain.
pub(super) fn walk(
    path: &Path,
    key: Key,
    file: &Arc<File>,
    file_bytes: u64,
    chain: &mut Chain,
    each: &mut dyn FnMut(Piece<'_>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut frames = Frames::new(path.into(), key, file.clone(), HEADER_BYTES, file_bytes);
    while let Some(step) = frames.step() {
        let from = match step {
            // A frame with an older number belongs to what the disk kept of another file. A remnant may have had to take
            // the number of the frame before it.
            Ok(found) if found.number > chain.number || chain.bridged_by(&found)? => {
                let note = chain.take(&found, each)?;
                each(Piece::Frame(&found, note))?;
                continue;
            }
            Ok(found) => found.offset,
            Err(from) => from,
        };
        let to = next_sound(&mut frames, from, file_bytes, chain.number);
        each(Piece::Fault { from, to, unread: frames.unread_within(from, to) })?;
        frames.skip_to(to);
    }
    Ok(())
}

impl Chain {
    pub(super) fn begin_at(&mut self, before: Position) {
        self.at.get_or_insert(before);
    }

    fn bridged_by(&self, found: &FrameAt) -> Result<bool, LedgerError> {
        Ok(found.number == self.number && super::decode(found)?.0.first().is_some_and(|stored| stored.head.remnant))
    }

    /// Goes on by a frame, telling of the gap before it if there is one.
    fn take(
        &mut self,
        found: &FrameAt,
        each: &mut dyn FnMut(Piece<'_>) -> Result<(), LedgerError>,
    ) -> Result<Option<ChunkNote>, LedgerError> {
        let number = std::mem::replace(&mut self.number, found.number);
        let Some(note) = super::note(&super::decode(found)?.0)? else { return Ok(None) };
        let ChunkNote { before, after, .. } = note;
        match self.at {
            Some(at) if at.seq < before.seq => {
                // At least one frame is missing, so there is a number for the remnant.
                each(Piece::Gap { from: at, to: before, number: (found.number - 1).max(number) })?;
            }
            Some(at) if at != before => return Err(LedgerError::Broken { at: before.seq.next() }),
            _ => {}
        }
        self.at = Some(after);
        Ok(Some(note))
    }
}

/// The place of the next sound frame after `from`, or the end of the file.
fn next_sound(frames: &mut Frames, from: u64, to: u64, after: u64) -> u64 {
    for offset in from + 1..to {
        frames.skip_to(offset);
        // What was skipped had room for so many numbers and no more.
        let most = after.saturating_add(1 + (offset - from) / HEAD_BYTES as u64);
        if let Some(Ok(found)) = frames.step()
            && (after + 1..=most).contains(&found.number)
        {
            return offset;
        }
    }
    to
}
