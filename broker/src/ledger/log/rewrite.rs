//! Writing a segment anew beside the old one, and putting it in its place in one step.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use proto::chunk::{self, Position, Sealer};
use proto::id::ReplicaId;
use proto::wire::{self, LossClass};
use proto::{loss, remnant};

use super::frame::Key;
use super::segment::{self, ChunkNote, Segment};
use super::{Log, Stored, frame};
use crate::ledger::error::LedgerError;
use crate::ledger::store::sync_path;

/// Extension of a segment that is being written.
pub(super) const UNFINISHED: &str = "unfinished";

/// A file that goes with whoever gives up on it: what is half written must not take the room that was wanting.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it took its place it has this name no more. The next start removes what is left.
        let _ = fs::remove_file(&self.0);
    }
}

/// A segment in the making.
pub(super) struct Rewrite {
    to: PathBuf,
    unfinished: Unfinished,
    file: BufWriter<File>,
    segment: Segment,
    key: Key,
    buffer: Vec<u8>,
}

impl Rewrite {
    pub(super) fn begin(path: &Path, replica: &ReplicaId, first: u64, before: Position) -> io::Result<Rewrite> {
        let unfinished = Unfinished(path.with_extension(UNFINISHED));
        let mut file = BufWriter::new(File::create(&unfinished.0)?);
        file.write_all(&segment::header(replica, first, before))?;
        let key = Key::of(replica);
        let segment = Segment::new(path.into(), key, first, before);
        Ok(Rewrite { to: path.into(), unfinished, file, segment, key, buffer: Vec::new() })
    }

    pub(super) fn push(&mut self, number: u64, body: &[u8], chunk: Option<ChunkNote>) -> io::Result<()> {
        frame::assemble(self.key, number, body, &mut self.buffer);
        self.file.write_all(&self.buffer)?;
        self.segment.grew(number, self.buffer.len(), chunk);
        Ok(())
    }

    /// On disk, but still beside the old one.
    pub(super) fn finish(self) -> io::Result<Finished> {
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()?;
        Ok(Finished { to: self.to, unfinished: self.unfinished, segment: self.segment })
    }
}

/// A segment that waits for its place.
pub(super) struct Finished {
    to: PathBuf,
    unfinished: Unfinished,
    pub(super) segment: Segment,
}

impl Finished {
    pub(super) fn take_place(self) -> io::Result<Segment> {
        fs::rename(&self.unfinished.0, &self.to)?;
        if let Some(dir) = self.to.parent() {
            sync_path(dir)?;
        }
        Ok(self.segment)
    }
}

/// What an eviction came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::ledger) struct Evicted {
    pub(in crate::ledger) records: u64,
    pub(in crate::ledger) bytes: u64,
}

impl Log {
    /// Takes the records of `class`, and of those that go before it, out of a sealed segment, and what its commits put
    /// besides, which a snapshot must hold. Remnants stay.
    pub(in crate::ledger) fn evict(&self, first: u64, class: LossClass) -> Result<Evicted, LedgerError> {
        let fail = |e: io::Error| LedgerError::Io { doing: "rewrite a segment of the journal", why: e.to_string() };
        let (path, frames, before_bytes, before) = {
            let segments = self.segments();
            let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
            let Some(segment) = sealed.iter().find(|segment| segment.first == first) else {
                return Ok(Evicted::default());
            };
            (segment.path.clone(), segment.all_frames()?, segment.len, segment.before)
        };
        let mut rewrite = Rewrite::begin(&path, self.replica(), first, before).map_err(fail)?;
        let mut pass = Pass {
            rewrite: &mut rewrite,
            sealer: Sealer::default(),
            bare: None,
            frame: None,
            evicted: 0,
            puts: 0,
            powered_on_s: 0,
        };
        for found in frames {
            let found = found?;
            let (chunks, puts) = super::decode(&found)?;
            pass.puts += puts.len();
            for stored in chunks {
                pass.chunk(found.number, stored, class)?;
            }
        }
        pass.flush()?;
        pass.write_frame()?;
        let (evicted, puts, powered_on_s) = (pass.evicted, pass.puts, pass.powered_on_s);
        if evicted == 0 && puts == 0 {
            return Ok(Evicted::default());
        }
        rewrite.segment.powered_on_s = Some(powered_on_s);
        let finished = rewrite.finish().map_err(fail)?;
        let after_bytes = finished.segment.len;
        // Under the lock, so that nobody reads the new file by the old one's index.
        self.change(|segments| -> io::Result<()> {
            let segment = finished.take_place()?;
            if let Some(old) = segments.iter_mut().find(|segment| segment.first == first) {
                *old = segment;
            }
            Ok(())
        })
        .map_err(fail)?;
        Ok(Evicted { records: evicted, bytes: before_bytes.saturating_sub(after_bytes) })
    }
}

/// One walk over a segment's chunks.
struct Pass<'a> {
    rewrite: &'a mut Rewrite,
    sealer: Sealer,
    /// A remnant with nothing left, which the next one may join, and its frame's number.
    bare: Option<(u64, chunk::Chunk)>,
    /// The frame that is being filled: its number and its chunks.
    frame: Option<(u64, Vec<Stored>)>,
    evicted: u64,
    puts: usize,
    powered_on_s: u64,
}

impl Pass<'_> {
    fn chunk(&mut self, number: u64, stored: Stored, class: LossClass) -> Result<(), LedgerError> {
        let mut chunk = stored.open()?;
        self.powered_on_s = chunk.body.powered_on_s;
        let records = |chunk: &chunk::Chunk| chunk.body.events.iter().map(|e| e.records.len() as u64).sum::<u64>();
        let before = records(&chunk);
        let stripped = loss::strip(&mut chunk.body, class);
        self.evicted += before - records(&chunk);
        if !stripped && !chunk.head.remnant {
            self.flush()?;
            return self.write(number, stored);
        }
        if !chunk.head.remnant {
            remnant::of_whole(&mut chunk.body);
        }
        if remnant::is_bare(&chunk) {
            return self.join(number, chunk);
        }
        self.flush()?;
        self.remnant(number, &chunk)
    }

    fn join(&mut self, number: u64, mut chunk: chunk::Chunk) -> Result<(), LedgerError> {
        if let Some((last, held)) = &mut self.bare {
            match remnant::join(held, chunk) {
                Ok(()) => {
                    *last = number;
                    return Ok(());
                }
                Err(apart) => chunk = *apart,
            }
        }
        self.flush()?;
        self.bare = Some((number, chunk));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LedgerError> {
        match self.bare.take() {
            Some((number, chunk)) => self.remnant(number, &chunk),
            None => Ok(()),
        }
    }

    fn remnant(&mut self, number: u64, chunk: &chunk::Chunk) -> Result<(), LedgerError> {
        let head = &chunk.head;
        let bytes = self.sealer.remnant(&head.replica, head.before(), head.after(), &chunk.body);
        let strange = |why| LedgerError::Chunk { at: head.first, why };
        self.write(number, Stored { head: chunk::head(&bytes).map_err(strange)?, bytes: bytes.into() })
    }

    /// What was one commit stays one frame.
    fn write(&mut self, number: u64, stored: Stored) -> Result<(), LedgerError> {
        match &mut self.frame {
            Some((open, chunks)) if *open == number => chunks.push(stored),
            _ => {
                self.write_frame()?;
                self.frame = Some((number, vec![stored]));
            }
        }
        Ok(())
    }

    fn write_frame(&mut self) -> Result<(), LedgerError> {
        let Some((number, chunks)) = self.frame.take() else { return Ok(()) };
        let note = super::note(&chunks)?;
        let chunks = chunks.into_iter().map(|stored| stored.bytes).collect();
        let body = prost::Message::encode_to_vec(&wire::Frame { chunks, puts: vec![] });
        self.rewrite
            .push(number, &body, note)
            .map_err(|e| LedgerError::Io { doing: "rewrite a segment of the journal", why: e.to_string() })
    }
}
