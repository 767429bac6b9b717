//! One file of the log: a header that says whose it is, then frames.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "TILLSYNC"
//!      8     4  format                    (all integers little-endian)
//!     12     4  length of the site's name
//!     16     8  epoch
//!     24     8  number of its first frame, which is the file's name as well
//!     32    64  site's name, then zeros
//!     96    40  where the journal stands before it: seq, hash
//!    136    24  zeros
//!    160    32  checksum: blake3 over the 160 bytes before
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::chunk::{ChainHash, Position};
use proto::id::{Epoch, ReplicaId, Seq};

use super::frame::{self, HEAD_BYTES, Key};
use super::patch::Patch;
use crate::ledger::error::{FORMAT, LedgerError};
use crate::ledger::sectors::{is_of_the_disk, read_around};

pub(super) const HEADER_BYTES: u64 = 192;
const SUMMED_BYTES: usize = 160;
pub(super) const EXTENSION: &str = "log";
const MAGIC: &[u8; 8] = b"TILLSYNC";
/// A place to begin reading at is remembered every so many bytes.
const MARK_BYTES: u64 = 32 << 10;
/// What one read asks for.
const READ_BYTES: usize = 64 << 10;

/// A file of the log and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    key: Key,
    /// Number of its first frame, and of its last; the last is below the first while it has none.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Where the journal stands before and after it.
    pub(super) before: Position,
    pub(super) after: Position,
    /// Bytes, the header included, up to the end of the last frame that is on disk.
    pub(super) len: u64,
    pub(super) chunks: u64,
    /// Powered-on seconds of its newest chunk, once looked up.
    pub(super) powered_on_s: Option<u64>,
    marks: Vec<Mark>,
    /// Damaged places, in order, while there is no room to write it anew.
    patches: Vec<Patch>,
    /// Its header is of an older format, which software of that time believes.
    older: bool,
}

/// A frame with a chunk: reading may begin here.
#[derive(Debug, Clone, Copy)]
struct Mark {
    first: Seq,
    offset: u64,
}

impl Segment {
    pub(super) fn new(path: PathBuf, key: Key, first: u64, before: Position) -> Segment {
        Segment {
            path,
            key,
            first,
            last: first - 1,
            before,
            after: before,
            len: HEADER_BYTES,
            chunks: 0,
            powered_on_s: None,
            marks: Vec::new(),
            patches: Vec::new(),
            older: false,
        }
    }

    pub(super) fn set_older(&mut self, older: bool) {
        self.older = older;
    }

    /// Takes note of a frame that stands at the end.
    pub(super) fn grew(&mut self, number: u64, frame_bytes: usize, chunk: Option<ChunkNote>) {
        if let Some(chunk) = chunk {
            if self.marks.last().is_none_or(|mark| self.len - mark.offset >= MARK_BYTES) {
                self.marks.push(Mark { first: chunk.before.seq.next(), offset: self.len });
            }
            self.goes_on(chunk);
        }
        self.last = number;
        self.len += frame_bytes as u64;
    }

    /// Takes note that no frame stands from the end up to `to`.
    pub(super) fn pass_over(&mut self, to: u64) {
        self.patches.push(Patch::new(self.len, to));
        self.len = to;
    }

    /// Takes note of a remnant that is to be read at the end, where damage is or a frame is missing.
    pub(super) fn bridge(&mut self, number: u64, body: Bytes, chunk: ChunkNote) {
        if self.patches.last().is_none_or(|patch| patch.to != self.len || patch.is_bridged()) {
            self.pass_over(self.len);
        }
        if let Some(patch) = self.patches.last_mut() {
            patch.bridge(number, body);
        }
        self.goes_on(chunk);
        self.last = number;
    }

    /// Whether it is not sound by itself.
    pub(super) fn is_patched(&self) -> bool {
        !self.patches.is_empty()
    }

    /// Nothing may be appended behind damage, and nothing that the header does not promise.
    pub(super) fn takes_no_more(&self) -> bool {
        self.older || self.is_patched()
    }

    fn goes_on(&mut self, chunk: ChunkNote) {
        if self.chunks == 0 {
            self.before = chunk.before;
        }
        self.after = chunk.after;
        self.chunks += chunk.chunks;
        self.powered_on_s = chunk.powered_on_s.or(self.powered_on_s);
    }

    /// Bytes from about the chunk that holds `seq` on.
    pub(super) fn bytes_after(&self, seq: Seq) -> u64 {
        let at = self.marks.partition_point(|mark| mark.first <= seq.next());
        at.checked_sub(1).map_or(self.len, |at| self.len - self.marks[at].offset)
    }

    /// Frames from a place at or before the chunk that holds `seq`.
    pub(super) fn frames_from(&self, seq: Seq) -> Result<Frames, LedgerError> {
        let at = self.marks.partition_point(|mark| mark.first <= seq).saturating_sub(1);
        let offset = self.marks.get(at).filter(|mark| mark.first <= seq).map_or(HEADER_BYTES, |mark| mark.offset);
        self.frames(offset, self.len)
    }

    /// Parts of it that begin below a seq, from the last back; each begins with a chunk or at the start.
    pub(super) fn parts_below(&self, below: Seq) -> Result<Vec<Frames>, LedgerError> {
        let file = Arc::new(self.open()?);
        let starts = std::iter::once(HEADER_BYTES).chain(self.marks.iter().map(|mark| mark.offset).skip(1));
        let ends = self.marks.iter().map(|mark| mark.offset).skip(1).chain(std::iter::once(self.len));
        let part = |(from, to)| self.frames_of(file.clone(), from, to);
        let wanted = 1 + self.marks.iter().skip(1).take_while(|mark| mark.first < below).count();
        let mut parts: Vec<_> = starts.zip(ends).take(wanted).map(part).collect();
        parts.reverse();
        Ok(parts)
    }

    pub(super) fn all_frames(&self) -> Result<Frames, LedgerError> {
        self.frames(HEADER_BYTES, self.len)
    }

    fn frames(&self, from: u64, to: u64) -> Result<Frames, LedgerError> {
        Ok(self.frames_of(Arc::new(self.open()?), from, to))
    }

    fn frames_of(&self, file: Arc<File>, from: u64, to: u64) -> Frames {
        // One at the very end belongs to the last part, any other to the part that begins there.
        let within = |patch: &&Patch| patch.from >= from && (patch.from < to || to == self.len);
        let patches = self.patches.iter().filter(within).cloned().collect();
        Frames { patches, ..Frames::new(self.path.clone(), self.key, file, from, to) }
    }

    fn open(&self) -> Result<File, LedgerError> {
        File::open(&self.path).map_err(|e| match is_of_the_disk(&e) {
            true => LedgerError::Damaged { path: self.path.clone(), offset: 0 },
            false => LedgerError::Io { doing: "open a segment of the journal", why: e.to_string() },
        })
    }
}

/// What an appended frame's chunks say for the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkNote {
    pub(super) before: Position,
    pub(super) after: Position,
    pub(super) chunks: u64,
    /// Known when it is written; not looked for when it is read.
    pub(super) powered_on_s: Option<u64>,
}

impl ChunkNote {
    /// Of a remnant that stands for what is gone between two positions.
    pub(super) fn of_gap(from: Position, to: Position) -> ChunkNote {
        ChunkNote { before: from, after: to, chunks: 1, powered_on_s: None }
    }
}

/// A sound frame and where it stands.
#[derive(Debug)]
pub(super) struct FrameAt {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
    pub(super) body: Bytes,
}

/// Reads frames one after the other.
pub(super) struct Frames {
    path: PathBuf,
    key: Key,
    file: Arc<File>,
    /// The next frame.
    offset: u64,
    to: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    buffered: u64,
    patches: VecDeque<Patch>,
    /// What could not be read so far.
    unread: Vec<Range<u64>>,
}

impl Frames {
    pub(super) fn new(path: PathBuf, key: Key, file: Arc<File>, from: u64, to: u64) -> Frames {
        let (buffer, patches, unread) = (Vec::new(), VecDeque::new(), Vec::new());
        Frames { path, key, file, offset: from, to, buffer, buffered: from, patches, unread }
    }

    /// Goes on reading at another place.
    pub(super) fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Whether anything in this span could not be read.
    pub(super) fn unread_within(&self, from: u64, to: u64) -> bool {
        self.unread.iter().any(|span| span.start < to && span.end > from)
    }

    /// The next frame, `None` at the end, or `Some(Err(offset))` where something stands that is not a sound frame.
    pub(super) fn step(&mut self) -> Option<Result<FrameAt, u64>> {
        while self.patches.front().is_some_and(|patch| patch.from == self.offset) {
            let patch = self.patches.pop_front()?;
            self.offset = patch.to;
            if let Some(frame) = patch.into_frame() {
                return Some(Ok(frame));
            }
        }
        if self.offset >= self.to {
            return None;
        }
        let offset = self.offset;
        self.fill(HEAD_BYTES);
        let Some(head) = frame::Head::read(self.here()) else { return Some(Err(offset)) };
        self.fill(head.bytes());
        let Some((head, body)) = frame::whole(self.key, self.here()) else { return Some(Err(offset)) };
        let found = FrameAt { number: head.number, offset, bytes: head.bytes(), body: Bytes::copy_from_slice(body) };
        self.offset += head.bytes() as u64;
        Some(Ok(found))
    }

    fn here(&self) -> &[u8] {
        &self.buffer[(self.offset - self.buffered) as usize..]
    }

    /// Sees to it that so many bytes from the offset on are in the buffer, if the file has them.
    fn fill(&mut self, wanted: usize) {
        let end = self.buffered + self.buffer.len() as u64;
        if self.offset >= self.buffered && self.offset + wanted as u64 <= end {
            return;
        }
        if self.offset < self.buffered || self.offset > end {
            self.buffer.clear();
        } else {
            self.buffer.drain(..(self.offset - self.buffered) as usize);
        }
        self.buffered = self.offset;
        let have = self.buffer.len();
        let room = (self.to - self.offset).min(wanted.max(READ_BYTES) as u64) as usize;
        self.buffer.resize(room.max(have), 0);
        let Frames { file, buffer, unread, .. } = self;
        let read = read_around(file, self.buffered + have as u64, &mut buffer[have..], &mut |span| unread.push(span));
        buffer.truncate(have + read);
    }
}

/// For readers of what was found sound at the start: anything else is damage that came later.
impl Iterator for Frames {
    type Item = Result<FrameAt, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = match self.step()? {
            Ok(frame) => return Some(Ok(frame)),
            Err(offset) => offset,
        };
        self.offset = self.to;
        self.patches.clear();
        Some(Err(LedgerError::Damaged { path: self.path.clone(), offset }))
    }
}

pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.{EXTENSION}"))
}

pub(super) fn header(replica: &ReplicaId, first: u64, before: Position) -> Vec<u8> {
    let site = replica.site.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(FORMAT as u32).to_le_bytes());
    bytes.extend_from_slice(&(site.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&replica.epoch.0.to_le_bytes());
    bytes.extend_from_slice(&first.to_le_bytes());
    bytes.extend_from_slice(site);
    bytes.resize(96, 0);
    bytes.extend_from_slice(&before.seq.0.to_le_bytes());
    bytes.extend_from_slice(&before.hash.0);
    bytes.resize(SUMMED_BYTES, 0);
    let checksum = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&checksum);
    bytes
}

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) replica: ReplicaId,
    pub(super) before: Position,
    format: u64,
}

impl Header {
    pub(super) fn is_older(&self) -> bool {
        self.format < FORMAT
    }
}

/// `Ok(None)` if the header is damaged.
pub(super) fn read_header(file: &File) -> Result<Option<Header>, LedgerError> {
    let mut bytes = [0; HEADER_BYTES as usize];
    let read = read_around(file, 0, &mut bytes, &mut |_| {});
    if read < bytes.len()
        || bytes[..8] != *MAGIC
        || bytes[SUMMED_BYTES..] != *blake3::hash(&bytes[..SUMMED_BYTES]).as_bytes()
    {
        return Ok(None);
    }
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
    let format = u64::from(u32_at(8));
    if format > FORMAT {
        return Err(LedgerError::Format(format));
    }
    let site = bytes.get(32..32 + u32_at(12) as usize).and_then(|name| std::str::from_utf8(name).ok());
    let site = site.and_then(|name| name.parse().ok());
    let hash = ChainHash(std::array::from_fn(|n| bytes[104 + n]));
    let before = Position { seq: Seq(u64_at(96)), hash };
    Ok(site.map(|site| Header { replica: ReplicaId { site, epoch: Epoch(u64_at(16)) }, before, format }))
}
