//! Making a segment sound: written anew beside the old one, or, where there is no room for that, used as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use proto::chunk::{Position, Sealer};
use proto::id::ReplicaId;
use proto::loss;
use proto::wire::{self, LossClass};

use super::recover::rewriting;
use super::rewrite::{Finished, Rewrite};
use super::segment::Segment;
use crate::ledger::error::LedgerError;
use crate::ledger::sectors;
use crate::ledger::store::sync_path;

/// Writes a damaged segment anew and keeps the old file, which it names. If there is no room for both, the segment is
/// used as it is: it reads the same, and the next start tries again.
pub(super) fn mend(segment: Segment, replica: &ReplicaId, aside: &Path) -> Result<(Segment, PathBuf), LedgerError> {
    let kept = aside.join(segment.path.file_name().unwrap_or_default());
    let rewritten = set_aside(&segment.path, &kept).map_err(rewriting).and_then(|()| rewrite(&segment, replica));
    match rewritten {
        Ok(finished) => Ok((finished.take_place().map_err(rewriting)?, kept)),
        Err(error) => {
            tracing::error!(%error, path = %segment.path.display(), "a damaged segment is used as it is");
            // A second name would hold what is dropped to make room.
            let _ = fs::remove_file(&kept);
            let path = segment.path.clone();
            Ok((segment, path))
        }
    }
}

/// Writes a segment anew whose end may be torn; on a disk that has no room for that, the end is cut off where it is.
pub(super) fn renew(segment: Segment, replica: &ReplicaId, torn: Option<u64>) -> Result<Segment, LedgerError> {
    match rewrite(&segment, replica) {
        Ok(finished) => finished.take_place().map_err(rewriting),
        Err(error) => {
            tracing::warn!(%error, "the newest segment is used as it is");
            cut_in_place(&segment.path, torn).map_err(rewriting)?;
            Ok(segment)
        }
    }
}

fn cut_in_place(path: &Path, torn: Option<u64>) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    torn.map_or(Ok(()), |from| file.set_len(from))?;
    file.sync_all()
}

/// Everything that is read from it, remnants where chunks are missing included.
fn rewrite(segment: &Segment, replica: &ReplicaId) -> Result<Finished, LedgerError> {
    let mut rewrite = Rewrite::begin(&segment.path, replica, segment.first, segment.before).map_err(rewriting)?;
    for found in segment.all_frames()? {
        let found = found?;
        let chunks = super::note(&super::decode(&found)?.0)?;
        rewrite.push(found.number, &found.body, chunks).map_err(rewriting)?;
    }
    rewrite.finish().map_err(rewriting)
}

/// What stands for the chunks between two positions that are gone.
pub(super) fn bridge(replica: &ReplicaId, from: Position, to: Position) -> Vec<u8> {
    let records = to.seq.0 - from.seq.0;
    let mut body = wire::Body { skipped_at_end: records, ..wire::Body::default() };
    loss::lose(&mut body, LossClass::Damaged, records);
    Sealer::default().remnant(replica, from, to, &body)
}

/// The same as the body of a frame.
pub(super) fn bridging_frame(replica: &ReplicaId, from: Position, to: Position) -> Bytes {
    wire::Frame { chunks: vec![bridge(replica, from, to).into()], puts: vec![] }.encode_to_vec().into()
}

/// Keeps a damaged file; a person may want to look at it.
fn set_aside(path: &Path, kept: &Path) -> io::Result<()> {
    let aside = kept.parent().unwrap_or(kept);
    fs::create_dir_all(aside)?;
    let _ = fs::remove_file(kept);
    // The mended one takes its name; a second name needs no room.
    if fs::hard_link(path, kept).is_err() {
        sectors::copy(path, kept)?;
    }
    sync_path(aside)
}
