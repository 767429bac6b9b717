//! Reading a whole log without changing anything: for those who look into a stopped ledger.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::chunk::Position;
use proto::id::ReplicaId;

use super::Stored;
use super::frame::Key;
use super::recover::{Lost, files, number_of, open_file, reading};
use super::segment::{self, HEADER_BYTES};
use super::walk::{Chain, Piece, walk};
use crate::ledger::core::Put;
use crate::ledger::error::LedgerError;
use crate::ledger::sectors::is_of_the_disk;

/// Something that is not a sound frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Fault {
    pub(in crate::ledger) path: PathBuf,
    pub(in crate::ledger) from: u64,
    pub(in crate::ledger) to: u64,
    /// The disk did not give all of it back.
    pub(in crate::ledger) unread: bool,
}

/// What a log holds, read without changing anything.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Survey {
    pub(in crate::ledger) segments: u64,
    pub(in crate::ledger) bytes: u64,
    pub(in crate::ledger) frames: u64,
    pub(in crate::ledger) last_frame: u64,
    pub(in crate::ledger) faults: Vec<Fault>,
    pub(in crate::ledger) lost: Vec<Lost>,
    /// At the end: a commit that was under way when the node died.
    pub(in crate::ledger) torn_bytes: u64,
}

/// Reads a whole log, giving every sound chunk away.
pub(in crate::ledger) fn survey(
    dir: &Path,
    replica: &ReplicaId,
    each: &mut dyn FnMut(Stored) -> Result<(), LedgerError>,
) -> Result<Survey, LedgerError> {
    survey_frames(dir, replica, &mut |chunks, _| chunks.into_iter().try_for_each(&mut *each))
}

/// As [`survey`], with what commits put besides their chunks.
pub(super) fn survey_frames(
    dir: &Path,
    replica: &ReplicaId,
    each: &mut dyn FnMut(Vec<Stored>, Vec<Put>) -> Result<(), LedgerError>,
) -> Result<Survey, LedgerError> {
    let (mut survey, mut chain) = (Survey::default(), Chain::default());
    let files = files(dir)?;
    let count = files.len();
    for (n, path) in files.into_iter().enumerate() {
        let (file, bytes) = match open_file(&path) {
            Ok((file, bytes)) => (Arc::new(file), bytes),
            Err(e) if is_of_the_disk(&e) => {
                if number_of(&path) == 1 {
                    chain.begin_at(Position::default());
                }
                survey.faults.push(Fault { path, from: 0, to: HEADER_BYTES, unread: true });
                continue;
            }
            Err(e) => return Err(reading(e)),
        };
        match segment::read_header(&file)? {
            Some(other) if other.replica != *replica => {
                let (found, wanted) = (other.replica.to_string(), replica.to_string());
                return Err(LedgerError::Stranger { path, found, wanted });
            }
            Some(header) => chain.begin_at(header.before),
            None if n + 1 == count && bytes <= HEADER_BYTES => {
                survey.torn_bytes += bytes;
                continue;
            }
            None => {
                if number_of(&path) == 1 {
                    chain.begin_at(Position::default());
                }
                survey.faults.push(Fault { path: path.clone(), from: 0, to: HEADER_BYTES, unread: false });
            }
        }
        chain.number = chain.number.max(number_of(&path).saturating_sub(1));
        survey.segments += 1;
        survey.bytes += bytes;
        walk(&path, Key::of(replica), &file, bytes, &mut chain, &mut |piece| {
            match piece {
                Piece::Frame(frame, _) => {
                    survey.frames += 1;
                    survey.last_frame = frame.number;
                    let (chunks, puts) = super::decode(frame)?;
                    each(chunks, puts)?;
                }
                Piece::Gap { from, to, .. } => {
                    survey.lost.push(Lost { first: from.seq.next(), last: to.seq });
                    survey.faults.push(Fault { path: path.clone(), from: 0, to: 0, unread: false });
                }
                Piece::Fault { from, to, unread } if n + 1 == count && to == bytes && !unread => {
                    survey.torn_bytes += to - from;
                }
                Piece::Fault { from, to, unread } => {
                    survey.faults.push(Fault { path: path.clone(), from, to, unread });
                }
            }
            Ok(())
        })?;
    }
    Ok(survey)
}
