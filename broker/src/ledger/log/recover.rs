//! Opening a log: what is torn is cut off, what is damaged is set aside, named by seq and bridged.
//!
//! A commit waits for the fdatasync of the one before, so a power cut tears the last frame of the last segment and
//! nothing else. Everything else that is not a sound frame is damage. The chain says which records it took with it:
//! the next chunk names the hash before it, and a remnant is put in their place, so that the journal goes on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::chunk::Position;
use proto::id::{ReplicaId, Seq};

use super::frame::Key;
use super::mend::{bridge, bridging_frame, mend, renew};
use super::rewrite::UNFINISHED;
use super::segment::{self, ChunkNote, HEADER_BYTES, Header, Segment};
use super::walk::{Chain, Piece, walk};
use super::{Appender, Commit, Log, create};
use crate::ledger::error::LedgerError;
use crate::ledger::sectors::is_of_the_disk;
use crate::ledger::store::sync_path;

const NEWEST_IS_GONE: &str = "if it stays so, move the file away: the node then goes on without the newest records, and \
                              a gateway whose hub knows of them has to rejoin";
const MOVE_AWAY: &str = "if it stays so, move the file away: the node then goes on without it and names what is gone";
const BEGIN_ANEW: &str = "if it stays so, start with an empty data folder on a sound disk: a gateway takes over from the \
                          hub what that has applied, a hub is restored from its backup";

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
    /// Files in which something else stood than was written: the copies that are kept, or they themselves while there is
    /// no room to mend them.
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
        let header = match open_file(&path) {
            Ok((file, _)) => segment::read_header(&file)?,
            Err(e) if is_of_the_disk(&e) => None,
            Err(e) => return Err(reading(e)),
        };
        if let Some(header) = header {
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
    let (mut segments, mut chain, mut found) = (Vec::new(), Chain::default(), Found::default());
    if set_unopened_aside(opening, &mut files, &mut found)? {
        // What is missing before the first one that can be opened has a name then.
        chain.begin_at(Position::default());
    }
    drop_unborn(&mut files)?;
    let count = files.len();
    for (n, path) in files.into_iter().enumerate() {
        let newest = n + 1 == count;
        segments.push(open_segment(opening, replica, path, newest, &mut chain, &mut found)?);
    }
    let (at, end) = (chain.at.unwrap_or_default(), opening.end);
    let ends_early = end.position.seq > at.seq;
    if ends_early {
        found.lost.push(Lost { first: at.seq.next(), last: end.position.seq });
    }
    // Without room to mend the newest there is none for this either.
    let in_memory = segments.last_mut().filter(|newest| ends_early && newest.is_patched());
    let bridged = in_memory.is_some();
    if let Some(newest) = in_memory {
        let body = bridging_frame(replica, at, end.position);
        newest.bridge(chain.number.max(end.frame), body, ChunkNote::of_gap(at, end.position));
    }
    let (log, mut appender) = assemble(opening, replica, segments, &chain)?;
    if ends_early && !bridged {
        let bytes = bridge(replica, at, end.position);
        appender.append(Commit { chunks: vec![(at, end.position, bytes)], puts: vec![], powered_on_s: 0 })?;
    }
    Ok((log, appender, found))
}

fn assemble(
    opening: &Opening<'_>,
    replica: &ReplicaId,
    mut segments: Vec<Segment>,
    chain: &Chain,
) -> Result<(Log, Appender), LedgerError> {
    // Above all that is here and all that something else knows of.
    let next = chain.number.max(opening.end.frame).saturating_add(1);
    let (file, len, next) = match segments.last() {
        Some(newest) => {
            let file = File::options().read(true).append(true).open(&newest.path).map_err(reading)?;
            match newest.takes_no_more() {
                // The next commit begins a segment, which needs a name of its own.
                true => (file, u64::MAX, next.max(newest.first.saturating_add(1))),
                // Or the name of one that nothing was written to.
                false => (file, newest.len, next.max(newest.first)),
            }
        }
        None => {
            let before = chain.at.unwrap_or_default();
            let (segment, file) = create(opening.dir, replica, next, before).map_err(rewriting)?;
            segments.push(segment);
            (file, HEADER_BYTES, next)
        }
    };
    let log = Log::new(opening.dir.into(), replica.clone(), segments);
    let segment_bytes = opening.segment_bytes;
    let (key, buffer) = (Key::of(replica), Vec::new());
    let appender = Appender { log: log.clone(), file, len, next, segment_bytes, key, buffer, written_bytes: 0 };
    Ok((log, appender))
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
    let (file, file_bytes) = open_file(&path).map(|(file, bytes)| (Arc::new(file), bytes)).map_err(reading)?;
    let header = segment::read_header(&file)?;
    let named = number_of(&path);
    if let Some(other) = header.as_ref().filter(|header| header.replica != *replica) {
        return Err(LedgerError::Stranger { path, found: other.replica.to_string(), wanted: replica.to_string() });
    }
    // No frame of it has a lower number than its name says.
    chain.number = chain.number.max(named.saturating_sub(1));
    // The oldest segment says itself where the journal stands before it; before the first there is nothing.
    match &header {
        Some(header) => chain.begin_at(header.before),
        None if named == 1 => chain.begin_at(Position::default()),
        None => {}
    }
    let key = Key::of(replica);
    let mut segment = Segment::new(path.clone(), key, named, chain.at.unwrap_or_default());
    segment.set_older(header.as_ref().is_some_and(Header::is_older));
    let (mut damaged, mut torn) = (header.is_none(), None);
    walk(&path, key, &file, file_bytes, chain, &mut |piece| {
        match piece {
            Piece::Frame(frame, note) => segment.grew(frame.number, frame.bytes, note),
            Piece::Gap { from, to, number } => {
                found.lost.push(Lost { first: from.seq.next(), last: to.seq });
                segment.bridge(number, bridging_frame(replica, from, to), ChunkNote::of_gap(from, to));
                damaged = true;
            }
            // A write that was cut short leaves what can be read.
            Piece::Fault { from, to, unread } if newest && !opening.clean && to == file_bytes && !unread => {
                torn = Some(from);
            }
            Piece::Fault { to, .. } => {
                segment.pass_over(to);
                damaged = true;
            }
        }
        Ok(())
    })?;
    // What something else vouches for was whole once.
    damaged |= torn.is_some() && opening.end.frame > chain.number;
    if damaged {
        if torn.is_some() {
            segment.pass_over(file_bytes);
        }
        let (mended, kept) = mend(segment, replica, opening.aside)?;
        found.damaged.push(kept);
        return Ok(mended);
    }
    if newest && !opening.clean {
        found.torn_bytes += torn.map_or(0, |from| file_bytes - from);
        return renew(segment, replica, torn);
    }
    Ok(segment)
}

/// Number of the first frame, by the file's name.
pub(super) fn number_of(path: &Path) -> u64 {
    path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()).unwrap_or(1)
}

pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(not_listed(dir, e)),
    };
    let mut files = Vec::new();
    for entry in listed {
        let path = entry.map_err(|e| not_listed(dir, e))?.path();
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
    for entry in fs::read_dir(dir).map_err(|e| not_listed(dir, e))? {
        let path = entry.map_err(|e| not_listed(dir, e))?.path();
        if path.extension().is_some_and(|e| e == UNFINISHED) {
            fs::remove_file(&path).map_err(rewriting)?;
        }
    }
    Ok(())
}

/// Moves files away that cannot even be opened, as they are: what they held is found missing like a segment that is
/// gone. It must not be there again at a later start, among frames that have its numbers. True if the first segment that
/// ever was is one of them.
fn set_unopened_aside(opening: &Opening<'_>, files: &mut Vec<PathBuf>, found: &mut Found) -> Result<bool, LedgerError> {
    let newest = files.last().cloned();
    let (mut opened, mut the_first) = (Vec::new(), false);
    for path in std::mem::take(files) {
        let error = match open_file(&path) {
            Ok(_) => {
                opened.push(path);
                continue;
            }
            Err(error) if is_of_the_disk(&error) => error,
            Err(error) => return Err(reading(error)),
        };
        let why = error.to_string();
        if newest.as_ref() == Some(&path) && !opening.clean {
            // Nothing says how many records it holds: their seqs would be given again.
            return Err(LedgerError::Unreadable { path, why, advice: NEWEST_IS_GONE });
        }
        let kept = opening.aside.join(path.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(opening.aside)
            .and_then(|()| fs::rename(&path, &kept))
            .and_then(|()| sync_path(opening.dir))
            .and_then(|()| sync_path(opening.aside));
        if let Err(error) = moved {
            tracing::error!(%error, path = %path.display(), "a segment that cannot be opened cannot be moved either");
            return Err(LedgerError::Unreadable { path, why, advice: MOVE_AWAY });
        }
        the_first |= number_of(&path) == 1;
        found.damaged.push(kept);
    }
    *files = opened;
    Ok(the_first)
}

pub(super) fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn not_listed(dir: &Path, error: io::Error) -> LedgerError {
    match is_of_the_disk(&error) {
        true => LedgerError::Unreadable { path: dir.into(), why: error.to_string(), advice: BEGIN_ANEW },
        false => reading(error),
    }
}

/// A segment whose header was not on disk yet when the power went holds nothing that anybody was told of.
fn drop_unborn(files: &mut Vec<PathBuf>) -> Result<(), LedgerError> {
    while let Some(path) = files.last() {
        let (file, bytes) = open_file(path).map_err(reading)?;
        if bytes > HEADER_BYTES || segment::read_header(&file)?.is_some() {
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

pub(super) fn rewriting(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "mend the journal", why: error.to_string() }
}
