//! Keeps the files in order while the writer commits: decides which piece of work the janitor gets next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::chunk::Position;
use proto::id::Seq;
use proto::wire::LossClass;

use super::error::LedgerError;
use super::janitor::{Done, Janitor, Job};
use super::log::Log;
use super::room::{Held, Room, Step};
use super::state::State;
use super::store::{Folded, Pace};

/// Fewer dirty cells wait, so that a cell that changes often is written once.
const CHECKPOINT_FROM_CELLS: usize = 4096;
/// More bytes of the log than this are not replayed at a start.
const REPLAY_BYTES_MAX: u64 = 8 << 20;
/// Past this the writer waits for the checkpoint: the disk is slower than the devices.
const DIRTY_CELLS_MAX: usize = 65_536;
const DIRTY_BYTES_MAX: usize = 16 << 20;
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// After making room failed.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Room is looked after whenever so much was written, and after every piece of work.
const LOOK_EVERY_BYTES: u64 = 64 << 10;

/// What was dropped for want of room since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EvictedStats {
    pub records: u64,
    pub bytes: u64,
}

pub(super) struct House {
    janitor: Janitor,
    pub(super) room: Room,
    /// Where the journal stood after each frame that is not folded on disk yet, with the bytes written up to it. The
    /// frames of a replay are bounded, so this is.
    frames: VecDeque<(u64, Position, u64)>,
    folded: Folded,
    /// The checkpoint under way.
    leaving: Option<Folded>,
    snapshot: Folded,
    written: u64,
    /// What was written when room was last looked after.
    looked_at: Option<u64>,
    measured: Option<Instant>,
    /// Making room failed: not before then again.
    rests_until: Option<Instant>,
    pub(super) store_bytes: u64,
    free_bytes: Option<u64>,
    pub(super) evicted: EvictedStats,
}

/// What the writer knows at the moment.
pub(super) struct Moment<'a> {
    pub(super) log: &'a Log,
    pub(super) applied: Seq,
    pub(super) powered_on_s: u64,
    /// Write everything out, however little it is.
    pub(super) all: bool,
}

impl House {
    pub(super) fn new(janitor: Janitor, room: Room, folded: Folded, snapshot: Folded) -> House {
        House {
            janitor,
            room,
            frames: VecDeque::new(),
            folded,
            leaving: None,
            snapshot,
            written: 0,
            looked_at: None,
            measured: None,
            rests_until: None,
            store_bytes: 0,
            free_bytes: None,
            evicted: EvictedStats::default(),
        }
    }

    pub(super) fn folded(&self) -> Folded {
        self.folded
    }

    /// A frame is on disk.
    pub(super) fn appended(&mut self, frame: u64, after: Position, bytes: u64) {
        self.written += bytes;
        self.frames.push_back((frame, after, self.written));
    }

    /// Between two commits: takes note of what is done and gives out what is due. Waits when more is dirty than may be,
    /// and when the journal is full while room can be made: devices are better slowed down than refused.
    pub(super) fn keep(&mut self, state: &mut State, moment: &Moment<'_>) -> Result<(), LedgerError> {
        while let Some(done) = self.janitor.look()? {
            self.done(done, state);
        }
        self.give(state, moment);
        while state.dirty() > DIRTY_CELLS_MAX || state.dirty_bytes() > DIRTY_BYTES_MAX {
            self.wait(state)?;
            self.give(state, moment);
        }
        while self.room.journal_full && self.janitor.busy() {
            self.wait(state)?;
            self.give(state, moment);
        }
        Ok(())
    }

    /// Measures before the first publish is let in.
    pub(super) fn measure(&mut self, state: &mut State, log: &Log) -> Result<(), LedgerError> {
        self.janitor.give(Job::Measure);
        self.wait(state)?;
        self.room.admit(log.disk_bytes(), self.free_bytes);
        Ok(())
    }

    /// Writes out everything that is dirty, and waits for it.
    pub(super) fn settle(&mut self, state: &mut State) -> Result<(), LedgerError> {
        self.wait(state)?;
        while state.dirty() > 0 || self.behind() {
            self.checkpoint(state);
            self.wait(state)?;
        }
        Ok(())
    }

    fn behind(&self) -> bool {
        self.frames.back().is_some_and(|(frame, ..)| *frame > self.folded.frame)
    }

    fn wait(&mut self, state: &mut State) -> Result<(), LedgerError> {
        if let Some(done) = self.janitor.wait()? {
            self.done(done, state);
        }
        Ok(())
    }

    fn give(&mut self, state: &mut State, moment: &Moment<'_>) {
        if self.janitor.busy() {
            return;
        }
        let replay = self.frames.front().map_or(0, |(.., written)| self.written - written);
        let due = state.dirty() >= CHECKPOINT_FROM_CELLS || replay > REPLAY_BYTES_MAX || (moment.all && self.behind());
        if due {
            return self.checkpoint(state);
        }
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            self.measured = Some(Instant::now());
            return self.janitor.give(Job::Measure);
        }
        if self.looked_at.is_some_and(|at| self.written - at < LOOK_EVERY_BYTES) {
            return;
        }
        self.looked_at = Some(self.written);
        let sealed = moment.log.sealed();
        let held = Held {
            journal_bytes: moment.log.disk_bytes(),
            free_bytes: self.free_bytes,
            powered_on_s: moment.powered_on_s,
            applied: moment.applied,
            folded: self.folded.frame,
            snapshot: self.snapshot.frame,
            sealed: &sealed,
        };
        self.room.admit(held.journal_bytes, held.free_bytes);
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        match self.room.next(&held) {
            Step::Nothing => {}
            Step::Checkpoint => self.checkpoint(state),
            Step::Snapshot => self.janitor.give(Job::Snapshot),
            Step::Drop(first) => {
                self.room.dropped(first);
                self.janitor.give(Job::Drop(first));
            }
            Step::Evict(first, class) => self.janitor.give(Job::Evict(first, class)),
        }
    }

    fn checkpoint(&mut self, state: &mut State) {
        let last = self.frames.back().map_or(self.folded.frame, |(frame, ..)| *frame);
        let (cells, frame) = state.take(last);
        let position = self.frames.iter().take_while(|(of, ..)| *of <= frame).last();
        let folded = position.map_or(self.folded, |(frame, position, _)| Folded { frame: *frame, position: *position });
        self.leaving = Some(folded);
        let near = state.dirty() > DIRTY_CELLS_MAX / 2 || state.dirty_bytes() > DIRTY_BYTES_MAX / 2;
        let pace = if near { Pace::Hurried } else { Pace::Calm };
        self.janitor.give(Job::Checkpoint(cells, folded, pace));
    }

    fn done(&mut self, done: Done, state: &mut State) {
        self.looked_at = None;
        match done {
            Done::Checkpoint => {
                state.written();
                self.folded = self.leaving.take().unwrap_or(self.folded);
                while self.frames.front().is_some_and(|(frame, ..)| *frame <= self.folded.frame) {
                    self.frames.pop_front();
                }
            }
            Done::Snapshot(folded) => self.snapshot = folded,
            Done::Dropped => {}
            Done::NotNow => self.rests_until = Some(Instant::now() + TRY_AGAIN),
            Done::Evicted(first, class, evicted) => {
                self.room.thinned(first, class);
                self.evicted.records += evicted.records;
                self.evicted.bytes += evicted.bytes;
                if evicted.records > 0 {
                    let class = if class == LossClass::Activity { "activity" } else { "activity and scans" };
                    tracing::warn!(class, records = evicted.records, "dropped for want of room");
                }
            }
            Done::Measured { store_bytes, free_bytes } => {
                (self.store_bytes, self.free_bytes) = (store_bytes, free_bytes);
            }
        }
    }
}
