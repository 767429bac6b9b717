//! Opening a log: what is torn is cut off, what is damaged is set aside, named by seq and bridged.
//!
//! A commit waits for the fdatasync of the one before, so a power cut tears the last frame of the last segment and
//! nothing else. Everything else that is not a sound frame is damage. The chain says which records it took with it:
//! the next chunk names the hash before it, and a remnant is put in their place, so that the journal goes on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use proto::chunk::{Position, Sealer};
use proto::id::{ReplicaId, Seq};
use proto::loss;
use proto::wire::{self, LossClass};

use super::frame::{HEAD_BYTES, Key};
use super::rewrite::{Rewrite, UNFINISHED};
use super::segment::{self, ChunkNote, FrameAt, Frames, HEADER_BYTES, Segment};
use super::{Appender, Commit, Log, create};
use crate::ledger::error::LedgerError;

/// The last frame and position that something besides the log vouches for: the note of a clean stop, or the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::ledger) struct End {
    pub(in crate::ledger) frame: u64,
    pub(in crate::ledger) position: Position,
}

/// Records that the log no longer holds, and a remnant stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Lost {
    pub(in crate::ledger) first: Seq,
    pub(in crate::ledger) last: Seq,
}

/// What opening a log found.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Found {
    /// Bytes of the frame that was being written when the last run ended.
    pub(in crate::ledger) torn_bytes: u64,
    /// Files in which something else stood than was written; copies of them are kept.
    pub(in crate::ledger) damaged: Vec<PathBuf>,
    pub(in crate::ledger) lost: Vec<Lost>,
}

/// What opening needs to know.
pub(in crate::ledger) struct Opening<'a> {
    pub(in crate::ledger) dir: &'a Path,
    /// Where copies of damaged files go.
    pub(in crate::ledger) aside: &'a Path,
    pub(in crate::ledger) segment_bytes: u64,
    /// The last run said good-bye, so nothing can be torn.
    pub(in crate::ledger) clean: bool,
    pub(in crate::ledger) end: End,
}

/// Whose log it is. `None` if there is no segment with a sound header.
pub(in crate::ledger) fn owner(dir: &Path) -> Result<Option<ReplicaId>, LedgerError> {
    for path in files(dir)? {
        if let Some(header) = segment::read_header(&File::open(&path).map_err(reading)?)? {
            return Ok(Some(header.replica));
        }
    }
    Ok(None)
}

/// Opens the log of `replica`, making it sound first. An absent one is begun.
pub(in crate::ledger) fn open(
    opening: &Opening<'_>,
    replica: &ReplicaId,
) -> Result<(Log, Appender, Found), LedgerError> {
    fs::create_dir_all(opening.dir).map_err(reading)?;
    remove_unfinished(opening.dir)?;
    let mut files = files(opening.dir)?;
    drop_unborn(&mut files)?;
    let (mut segments, mut chain, mut found) = (Vec::new(), Chain::default(), Found::default());
    let count = files.len();
    for (n, path) in files.into_iter().enumerate() {
        let newest = n + 1 == count;
        segments.push(open_segment(opening, replica, path, newest, &mut chain, &mut found)?);
    }
    let (log, mut appender) = assemble(opening, replica, segments, &chain)?;
    let at = chain.at.unwrap_or_default();
    if opening.end.position.seq > at.seq {
        found.lost.push(Lost { first: at.seq.next(), last: opening.end.position.seq });
        let bytes = bridge(replica, at, opening.end.position);
        appender.append(Commit { chunk: Some((at, opening.end.position, bytes)), puts: vec![], powered_on_s: 0 })?;
    }
    Ok((log, appender, found))
}

fn assemble(
    opening: &Opening<'_>,
    replica: &ReplicaId,
    mut segments: Vec<Segment>,
    chain: &Chain,
) -> Result<(Log, Appender), LedgerError> {
    // Above all that is here, all that something else knows of, and the name of a segment that nothing was written to.
    let newest = segments.last().map_or(1, |newest| newest.first);
    let next = chain.number.max(opening.end.frame).saturating_add(1).max(newest);
    let file = match segments.last() {
        Some(newest) if newest.len < opening.segment_bytes => {
            File::options().read(true).append(true).open(&newest.path).map_err(reading)?
        }
        _ => {
            let (segment, file) =
                create(opening.dir, replica, next, chain.at.unwrap_or_default()).map_err(rewriting)?;
            segments.push(segment);
            file
        }
    };
    let len = segments.last().map_or(HEADER_BYTES, |newest| newest.len);
    let log = Log::new(opening.dir.into(), replica.clone(), segments);
    let segment_bytes = opening.segment_bytes;
    let (key, buffer) = (Key::of(replica), Vec::new());
    let appender = Appender { log: log.clone(), file, len, next, segment_bytes, key, buffer, written_bytes: 0 };
    Ok((log, appender))
}

/// Where the walk over all segments stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain {
    /// `None` before the first chunk.
    at: Option<Position>,
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
    Fault {
        from: u64,
        to: u64,
    },
}

/// Reads one segment; writes it anew if it is damaged, and also if it is the newest after an unclean stop: pages that a
/// failed sync left behind read well and are not on disk.
fn open_segment(
    opening: &Opening<'_>,
    replica: &ReplicaId,
    path: PathBuf,
    newest: bool,
    chain: &mut Chain,
    found: &mut Found,
) -> Result<Segment, LedgerError> {
    let file = Arc::new(File::open(&path).map_err(reading)?);
    let file_bytes = file.metadata().map_err(reading)?.len();
    let header = segment::read_header(&file)?;
    let named = number_of(&path);
    if let Some(other) = header.as_ref().filter(|header| header.replica != *replica) {
        return Err(LedgerError::Stranger { path, found: other.replica.to_string(), wanted: replica.to_string() });
    }
    // No frame of it has a lower number than its name says.
    chain.number = chain.number.max(named.saturating_sub(1));
    // The oldest segment says itself where the journal stands before it.
    if let Some(header) = &header {
        chain.begin_at(header.before);
    }
    let key = Key::of(replica);
    let (began, mut segment) = (*chain, Segment::new(path.clone(), key, named, chain.at.unwrap_or_default()));
    let (mut damaged, mut torn) = (header.is_none(), None);
    walk(&path, key, &file, file_bytes, chain, &mut |piece| {
        match piece {
            Piece::Frame(frame, note) => segment.grew(frame.number, frame.bytes, note),
            Piece::Gap { from, to, .. } => {
                found.lost.push(Lost { first: from.seq.next(), last: to.seq });
                damaged = true;
            }
            Piece::Fault { from, to } if newest && !opening.clean && to == file_bytes => torn = Some(from),
            Piece::Fault { .. } => damaged = true,
        }
        Ok(())
    })?;
    // What something else vouches for was whole once.
    damaged |= torn.is_some() && opening.end.frame > chain.number;
    if damaged {
        found.damaged.push(set_aside(&path, opening.aside).map_err(rewriting)?);
        return mend(&path, &file, file_bytes, replica, named, &mut began.clone());
    }
    if newest && !opening.clean {
        found.torn_bytes += torn.map_or(0, |from| file_bytes - from);
        return match mend(&path, &file, file_bytes, replica, named, &mut began.clone()) {
            Ok(mended) => Ok(mended),
            Err(error) => cut_in_place(&path, torn, &error).map(|()| segment),
        };
    }
    Ok(segment)
}

/// Number of the first frame, by the file's name.
pub(super) fn number_of(path: &Path) -> u64 {
    path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()).unwrap_or(1)
}

/// For a disk that has no room for a copy: the torn end is cut off where it is, which needs none.
fn cut_in_place(path: &Path, torn: Option<u64>, error: &LedgerError) -> Result<(), LedgerError> {
    tracing::warn!(%error, "the newest segment is used as it is");
    let cut = || {
        let file = File::options().write(true).open(path)?;
        torn.map_or(Ok(()), |from| file.set_len(from))?;
        file.sync_all()
    };
    cut().map_err(rewriting)
}

/// Writes a segment anew from its sound frames, with remnants where chunks are missing.
fn mend(
    path: &Path,
    file: &Arc<File>,
    file_bytes: u64,
    replica: &ReplicaId,
    named: u64,
    chain: &mut Chain,
) -> Result<Segment, LedgerError> {
    let before = chain.at.unwrap_or_default();
    let mut rewrite = Rewrite::begin(path, replica, named, before).map_err(rewriting)?;
    walk(path, Key::of(replica), file, file_bytes, chain, &mut |piece| match piece {
        Piece::Frame(frame, note) => rewrite.push(frame.number, &frame.body, note).map_err(rewriting),
        Piece::Gap { from, to, number } => {
            let chunk = bridge(replica, from, to);
            let note = ChunkNote { before: from, after: to, powered_on_s: None };
            let body = wire::Frame { chunk: chunk.into(), puts: vec![] }.encode_to_vec();
            rewrite.push(number, &body, Some(note)).map_err(rewriting)
        }
        Piece::Fault { .. } => Ok(()),
    })?;
    let mut segment = rewrite.finish().and_then(|finished| finished.take_place()).map_err(rewriting)?;
    if segment.chunks == 0 {
        (segment.before, segment.after) = (before, before);
    }
    Ok(segment)
}

pub(super) fn walk(
    path: &Path,
    key: Key,
    file: &Arc<File>,
    file_bytes: u64,
    chain: &mut Chain,
    each: &mut dyn FnMut(Piece<'_>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut frames = Frames::new(path.into(), key, file.clone(), HEADER_BYTES, file_bytes);
    while let Some(step) = frames.step().map_err(reading)? {
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
        let to = next_sound(&mut frames, from, file_bytes, chain.number).map_err(reading)?;
        each(Piece::Fault { from, to })?;
        frames.skip_to(to);
    }
    Ok(())
}

impl Chain {
    pub(super) fn begin_at(&mut self, before: Position) {
        self.at.get_or_insert(before);
    }

    fn bridged_by(&self, found: &FrameAt) -> Result<bool, LedgerError> {
        Ok(found.number == self.number && super::decode(found)?.0.is_some_and(|stored| stored.head.remnant))
    }

    /// Goes on by a frame, telling of the gap before it if there is one.
    fn take(
        &mut self,
        found: &FrameAt,
        each: &mut dyn FnMut(Piece<'_>) -> Result<(), LedgerError>,
    ) -> Result<Option<ChunkNote>, LedgerError> {
        let number = std::mem::replace(&mut self.number, found.number);
        let Some(stored) = super::decode(found)?.0 else { return Ok(None) };
        let (before, after) = (stored.head.before(), stored.head.after());
        match self.at {
            Some(at) if at.seq < before.seq => {
                // At least one frame is missing, so there is a number for the remnant.
                each(Piece::Gap { from: at, to: before, number: (found.number - 1).max(number) })?;
            }
            Some(at) if at != before => return Err(LedgerError::Broken { at: before.seq.next() }),
            _ => {}
        }
        self.at = Some(after);
        Ok(Some(ChunkNote { before, after, powered_on_s: None }))
    }
}

/// The place of the next sound frame after `from`, or the end of the file.
fn next_sound(frames: &mut Frames, from: u64, to: u64, after: u64) -> io::Result<u64> {
    for offset in from + 1..to {
        frames.skip_to(offset);
        // What was skipped had room for so many numbers and no more.
        let most = after.saturating_add(1 + (offset - from) / HEAD_BYTES as u64);
        if let Some(Ok(found)) = frames.step()?
            && (after + 1..=most).contains(&found.number)
        {
            return Ok(offset);
        }
    }
    Ok(to)
}

fn bridge(replica: &ReplicaId, from: Position, to: Position) -> Vec<u8> {
    let records = to.seq.0 - from.seq.0;
    let mut body = wire::Body { skipped_at_end: records, ..wire::Body::default() };
    loss::lose(&mut body, LossClass::Damaged, records);
    Sealer::default().remnant(replica, from, to, &body)
}

/// Keeps a copy of a damaged file; a person may want to look at it.
fn set_aside(path: &Path, aside: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(aside)?;
    let copy = aside.join(path.file_name().unwrap_or_default());
    let _ = fs::remove_file(&copy);
    // The mended one takes its name; a second name needs no room.
    if fs::hard_link(path, &copy).is_err() {
        fs::copy(path, &copy)?;
    }
    crate::ledger::store::sync_path(aside)?;
    Ok(copy)
}

pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(reading(e)),
    };
    let mut files = Vec::new();
    for entry in listed {
        let path = entry.map_err(reading)?.path();
        let named = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.parse::<u64>().is_ok());
        if named && path.extension().is_some_and(|e| e == segment::EXTENSION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A rewritten segment that a crash left without its name.
fn remove_unfinished(dir: &Path) -> Result<(), LedgerError> {
    for entry in fs::read_dir(dir).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        if path.extension().is_some_and(|e| e == UNFINISHED) {
            fs::remove_file(&path).map_err(rewriting)?;
        }
    }
    Ok(())
}

/// A segment whose header was not on disk yet when the power went holds nothing that anybody was told of.
fn drop_unborn(files: &mut Vec<PathBuf>) -> Result<(), LedgerError> {
    while let Some(path) = files.last() {
        let file = File::open(path).map_err(reading)?;
        if file.metadata().map_err(reading)?.len() > HEADER_BYTES || segment::read_header(&file)?.is_some() {
            break;
        }
        fs::remove_file(path).map_err(rewriting)?;
        files.pop();
    }
    Ok(())
}

pub(super) fn reading(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "read the journal", why: error.to_string() }
}

fn rewriting(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "mend the journal", why: error.to_string() }
}
