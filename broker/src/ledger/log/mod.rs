//! The log: every commit as a frame at the end of the newest of a few files, each frame followed by an fdatasync.
//!
//! Append-only, so that what was acknowledged is never written over: a power cut can only tear the one frame that
//! nobody was told of. Every frame has a checksum, and its chunk continues the chain, so damage is found, and named by
//! seq. Old segments are dropped whole, and rewritten where records are evicted.

mod frame;
pub(super) mod inventory;
mod mend;
mod patch;
mod recover;
mod rewrite;
mod segment;
mod survey;
mod walk;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use prost::Message;
use proto::chunk::{self, Chunk, Head, Position};
use proto::id::{ReplicaId, Seq};
use proto::wire;

use super::core::Put;
use super::error::LedgerError;
use super::store::sync_path;
use frame::Key;
pub use inventory::{Inventory, Part};
pub(super) use recover::{End, Lost, Opening, open, owner};
pub(super) use rewrite::Evicted;
use segment::{ChunkNote, FrameAt, Segment};
pub(super) use survey::survey;

/// The log as everybody may read it: what is on disk, never more.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    replica: ReplicaId,
    segments: RwLock<Vec<Segment>>,
}

/// A stored chunk.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) head: Head,
    pub(super) bytes: Bytes,
}

/// What a log holds, without reading it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) chunks: u64,
    pub(super) first: Seq,
}

/// A segment that nothing is appended to any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) after: Position,
    /// Of its newest chunk.
    pub(super) powered_on_s: Option<u64>,
}

pub(super) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

impl Log {
    fn new(dir: PathBuf, replica: ReplicaId, segments: Vec<Segment>) -> Log {
        Log { shared: Arc::new(Shared { dir, replica, segments: RwLock::new(segments) }) }
    }

    fn segments(&self) -> RwLockReadGuard<'_, Vec<Segment>> {
        self.shared.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Segment>) -> T) -> T {
        change(&mut self.shared.segments.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replica(&self) -> &ReplicaId {
        &self.shared.replica
    }

    pub(super) fn extent(&self) -> Extent {
        let segments = self.segments();
        let first = segments.iter().find(|segment| segment.chunks > 0);
        Extent {
            chunks: segments.iter().map(|segment| segment.chunks).sum(),
            first: first.map_or(Seq::ZERO, |segment| segment.before.seq.next()),
        }
    }

    /// What the files take.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.len).sum()
    }

    /// Where the journal stands before its oldest chunk, and after its newest.
    pub(super) fn ends(&self) -> (Position, Position) {
        let segments = self.segments();
        let ends = (segments.first().map(|s| s.before), segments.last().map(|s| s.after));
        (ends.0.unwrap_or_default(), ends.1.unwrap_or_default())
    }

    /// Number of the oldest frame that is still here, and of the newest.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let segments = self.segments();
        (segments.first().map_or(1, |s| s.first), segments.last().map_or(0, |s| s.last))
    }

    /// Bytes of what comes after `seq`, too many by less than one mark or commit.
    pub(super) fn bytes_after(&self, seq: Seq) -> u64 {
        let segments = self.segments();
        segments.iter().rev().take_while(|segment| segment.after.seq > seq).map(|s| s.bytes_after(seq)).sum()
    }

    /// Looks up how old the segments are that were written before this start.
    pub(super) fn date(&self) -> Result<(), LedgerError> {
        let undated = |s: &&Segment| s.chunks > 0 && s.powered_on_s.is_none();
        let segments: Vec<Segment> = self.segments().iter().filter(undated).cloned().collect();
        for segment in segments {
            let newest = segment.parts_below(Seq(u64::MAX))?.into_iter().next();
            let chunk = newest.and_then(|part| part.flat_map(stored).last());
            let Some(chunk) = chunk else { continue };
            let powered_on_s = chunk?.open()?.body.powered_on_s;
            self.change(|segments| {
                if let Some(found) = segments.iter_mut().find(|found| found.first == segment.first) {
                    found.powered_on_s = Some(powered_on_s);
                }
            });
        }
        Ok(())
    }

    /// Every segment but the one that is appended to, oldest first.
    pub(super) fn sealed(&self) -> Vec<Sealed> {
        let segments = self.segments();
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        let facts = |s: &Segment| Sealed { first: s.first, last: s.last, after: s.after, powered_on_s: s.powered_on_s };
        sealed.iter().map(facts).collect()
    }

    /// Chunks from the one that holds `seq` on, or from the first one after it.
    pub(super) fn chunks_from(&self, seq: Seq) -> impl Iterator<Item = Result<Stored, LedgerError>> + use<> {
        let log = self.clone();
        let mut next = seq;
        let mut frames: Option<segment::Frames> = None;
        // Of the frame that was read last.
        let mut chunks = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                match chunks.next() {
                    Some(Ok(Stored { head, .. })) if head.last < next => continue,
                    Some(Ok(stored)) => {
                        next = stored.head.last.next();
                        return Some(Ok(stored));
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => {}
                }
                if frames.is_none() {
                    let segments = log.segments();
                    let holds = |segment: &&Segment| segment.chunks > 0 && segment.after.seq >= next;
                    // Opened under the lock: what is in the list has a file.
                    match segments.iter().find(holds)?.frames_from(next) {
                        Ok(found) => frames = Some(found),
                        Err(error) => return Some(Err(error)),
                    }
                }
                match frames.as_mut()?.next() {
                    None => {
                        frames = None;
                        // The segment had nothing more: whatever comes next is in a later one, or not written yet.
                        let segments = log.segments();
                        if segments.last().is_none_or(|segment| segment.after.seq < next) {
                            return None;
                        }
                    }
                    Some(found) => chunks = stored(found).into_iter(),
                }
            }
        })
    }

    /// Chunks from the newest back, as far as they are here.
    pub(super) fn chunks_back(&self) -> impl Iterator<Item = Result<Stored, LedgerError>> + use<> {
        self.chunks_below(Seq(u64::MAX))
    }

    /// Chunks that begin below `below`, from the newest back.
    pub(super) fn chunks_below(&self, below: Seq) -> impl Iterator<Item = Result<Stored, LedgerError>> + use<> {
        let log = self.clone();
        let holds = |segment: &&Segment| segment.before.seq.next() < below;
        let firsts: Vec<u64> = self.segments().iter().rev().filter(holds).map(|segment| segment.first).collect();
        let parts = firsts.into_iter().flat_map(move |first| {
            // Dropped or rewritten meanwhile: looked up and opened under the lock, so that it is what the index says.
            let segments = log.segments();
            match segments.iter().find(|segment| segment.first == first).map_or(Ok(vec![]), |s| s.parts_below(below)) {
                Ok(parts) => parts.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        parts.flat_map(move |part| match part {
            Err(error) => vec![Err(error)],
            Ok(part) => {
                let mut chunks: Vec<_> = part.flat_map(stored).collect();
                chunks.retain(|found| found.as_ref().map_or(true, |stored: &Stored| stored.head.first < below));
                chunks.reverse();
                chunks
            }
        })
    }

    /// Every frame after `number`, decoded.
    pub(super) fn frames_after(
        &self,
        number: u64,
        each: &mut dyn FnMut(u64, Vec<Stored>, Vec<Put>) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let segments: Vec<Segment> = self.segments().iter().filter(|s| s.last > number).cloned().collect();
        for segment in segments {
            for found in segment.all_frames()? {
                let found = found?;
                if found.number <= number {
                    continue;
                }
                let (chunks, puts) = decode(&found)?;
                each(found.number, chunks, puts)?;
            }
        }
        Ok(())
    }

    /// Drops the oldest segment, which must be the one that begins with `first`. Its name is gone for good when this
    /// returns, so that no later one can go before it.
    pub(super) fn drop_oldest(&self, first: u64) -> io::Result<()> {
        let path = self.change(|segments| {
            let oldest = segments.first().is_some_and(|segment| segment.first == first) && segments.len() > 1;
            oldest.then(|| segments.remove(0).path)
        });
        if let Some(path) = path {
            fs::remove_file(path)?;
            sync_path(&self.shared.dir)?;
        }
        Ok(())
    }
}

impl Stored {
    /// Unpacks it and checks everything it says of itself.
    pub(super) fn open(&self) -> Result<Chunk, LedgerError> {
        chunk::open(&self.bytes).map_err(|why| LedgerError::Chunk { at: self.head.first, why })
    }
}

/// A frame's chunks, in order.
fn stored(frame: Result<FrameAt, LedgerError>) -> Vec<Result<Stored, LedgerError>> {
    match frame.and_then(|frame| decode(&frame)) {
        Ok((chunks, _)) => chunks.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

/// What the index must know of a frame's chunks, each of which continues the one before. `None` if there are none.
fn note(chunks: &[Stored]) -> Result<Option<ChunkNote>, LedgerError> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(None) };
    if let Some(pair) = chunks.windows(2).find(|pair| pair[0].head.after() != pair[1].head.before()) {
        return Err(LedgerError::Broken { at: pair[1].head.first });
    }
    let (before, after) = (first.head.before(), last.head.after());
    Ok(Some(ChunkNote { before, after, chunks: chunks.len() as u64, powered_on_s: None }))
}

fn decode(frame: &FrameAt) -> Result<(Vec<Stored>, Vec<Put>), LedgerError> {
    // The checksum was right, so this is what was written: if it cannot be read, it was written by newer software.
    let strange = |why: String| LedgerError::Frame { number: frame.number, why };
    let wire::Frame { chunks, puts } = wire::Frame::decode(frame.body.clone()).map_err(|e| strange(e.to_string()))?;
    let read = |bytes: Bytes| Ok(Stored { head: chunk::head(&bytes).map_err(|e| strange(e.to_string()))?, bytes });
    let chunks: Result<Vec<Stored>, LedgerError> = chunks.into_iter().map(read).collect();
    let puts: Option<Vec<Put>> = puts.into_iter().map(frame::put).collect();
    Ok((chunks?, puts.ok_or_else(|| strange("a table that cannot be".into()))?))
}

/// A frame as whoever knows the layout could make it for another ledger.
#[cfg(test)]
pub(super) fn forged_frame(of: &ReplicaId, number: u64, frame: &wire::Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(Key::of(of), number, frame, &mut bytes);
    bytes
}

/// The one end that grows. Owned by the writer.
pub(super) struct Appender {
    log: Log,
    file: File,
    len: u64,
    next: u64,
    segment_bytes: u64,
    key: Key,
    buffer: Vec<u8>,
    /// Written since the start, headers included.
    pub(super) written_bytes: u64,
}

/// What one commit appends.
#[derive(Default)]
pub(super) struct Commit {
    /// Each with where the journal stands before and after it.
    pub(super) chunks: Vec<(Position, Position, Vec<u8>)>,
    pub(super) puts: Vec<Put>,
    pub(super) powered_on_s: u64,
}

impl Appender {
    /// Number of the frame that the next commit gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Appends one frame and returns when an fdatasync has passed. An error is final: what is on disk is unknown until
    /// the next open, so nothing may be said and nothing tried again.
    pub(super) fn append(&mut self, commit: Commit) -> Result<u64, LedgerError> {
        if self.len >= self.segment_bytes {
            self.roll().map_err(|e| LedgerError::Io { doing: "begin a segment of the journal", why: e.to_string() })?;
        }
        let number = self.next;
        let Commit { chunks, puts, powered_on_s } = commit;
        let span = chunks.first().zip(chunks.last()).map(|(first, last)| (first.0, last.1));
        let note = span.map(|(before, after)| ChunkNote {
            before,
            after,
            chunks: chunks.len() as u64,
            powered_on_s: Some(powered_on_s),
        });
        let chunks = chunks.into_iter().map(|(.., bytes)| bytes.into()).collect();
        let puts = puts.into_iter().map(frame::cell).collect();
        frame::encode(self.key, number, &wire::Frame { chunks, puts }, &mut self.buffer);
        if self.buffer.len() > frame::HEAD_BYTES + frame::BODY_BYTES_MAX {
            let why = format!("a commit of {} bytes would not be believed when it is read", self.buffer.len());
            return Err(LedgerError::Io { doing: "write to the journal", why });
        }
        let write = || {
            (&self.file).write_all(&self.buffer)?;
            self.file.sync_data()
        };
        write().map_err(|e| LedgerError::Io { doing: "write to the journal", why: e.to_string() })?;
        self.len += self.buffer.len() as u64;
        self.written_bytes += self.buffer.len() as u64;
        self.next =
            number.checked_add(1).ok_or_else(|| LedgerError::Frame { number, why: "no number follows".into() })?;
        let frame_bytes = self.buffer.len();
        self.log.change(|segments| {
            if let Some(newest) = segments.last_mut() {
                newest.grew(number, frame_bytes, note);
            }
        });
        // One large commit must not stay in memory for good.
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        Ok(number)
    }

    fn roll(&mut self) -> io::Result<()> {
        let (_, after) = self.log.ends();
        let (segment, file) = create(&self.log.shared.dir, &self.log.shared.replica, self.next, after)?;
        self.file = file;
        self.len = segment.len;
        self.written_bytes += segment.len;
        self.log.change(|segments| segments.push(segment));
        Ok(())
    }
}

/// Makes an empty segment whose name will last.
fn create(dir: &Path, replica: &ReplicaId, first: u64, before: Position) -> io::Result<(Segment, File)> {
    let path = segment::path(dir, first);
    let mut file = File::options().read(true).append(true).create_new(true).open(&path)?;
    file.write_all(&segment::header(replica, first, before))?;
    file.sync_all()?;
    sync_path(dir)?;
    Ok((Segment::new(path, Key::of(replica), first, before), file))
}
