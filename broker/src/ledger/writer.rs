//! The one writer. It gathers what waits, hands each input to the core, commits all that came of it as one group,
//! and only then speaks. Everybody waits on the writer; the writer waits on nobody.

use std::time::{Duration, Instant};

use prost::Message;
use proto::chunk::{Position, Sealer};
use proto::id::{Epoch, Seq};
use proto::wire::{self, Event};
use tokio::sync::{mpsc, oneshot, watch};

use super::clocks::Clocks;
use super::core::{Core, Draft, Now, Placed, Step};
use super::error::LedgerError;
use super::group::{Pending, view};
use super::handle::{Handle, Work};
use super::journal::{Extent, Journal, Marks};
use super::post::Post;
use super::reader::{LedgerStats, Reader};
use super::room::Room;
use super::sabotage::{self, Sabotage};
use super::state::State;
use super::store::{Group, Options, Store};
use crate::front::{Batch, Inbound, Outcome, Verdict};

const TICK: Duration = Duration::from_millis(250);
/// A quiet ledger writes its dirty cells out after this long, so that the next start has little to replay.
const QUIET: Duration = Duration::from_secs(20);
/// Chunks trimmed with one group.
const TRIM_MAX: usize = 32;
/// Resolves when the writer left: `Ok` after a clean stop.
pub type Stopped = oneshot::Receiver<Result<(), LedgerError>>;

/// An open ledger with its core, not running yet.
pub struct Writer<C: Core> {
    core: C,
    inbox: mpsc::Receiver<Work<C>>,
    store: Store,
    state: State,
    journal: Journal,
    sealer: Sealer,
    extent: Extent,
    marks: Marks,
    pending: Pending<C::Effect>,
    clocks: Clocks,
    stats: watch::Sender<LedgerStats>,
    last_commit: Instant,
    groups: u64,
    records: u64,
    room: Room,
    post: Post,
    sabotage: Option<Sabotage>,
}

/// Carries out an effect. Must not wait for anybody.
pub type Perform<E> = Box<dyn FnMut(E) + Send>;
type Do<'a, C> = &'a mut dyn FnMut(<C as Core>::Effect);

impl<C: Core> Writer<C> {
    /// Opens or creates the ledger and brings the state up to date. `epoch` names the ledger if it is created now.
    pub fn open(options: Options, epoch: Epoch, mut core: C) -> Result<(Writer<C>, Handle<C>, Reader), LedgerError> {
        let store = Store::open(&options.dir, &options.site, epoch)?;
        let journal = store.journal();
        let (mut state, mut marks, mut replayed) = (State::default(), Marks::default(), 0u64);
        let extent = journal.recover(&store.replica, store.folded, &mut marks, &mut |chunk| {
            replayed += chunk.head.records();
            let powered = chunk.body.powered_on_s;
            for (first, stamp, event) in chunk.events() {
                let placed = Placed { replica: &store.replica, first, stamp, event, powered_on_s: powered };
                core.fold(&placed, &mut |put| state.put(first, put));
            }
            for total in &chunk.body.totals {
                core.fold_total(total, chunk.head.first, &mut |put| state.put(chunk.head.first, put));
            }
        })?;
        let newest = journal.last_chunk()?;
        let last_stamp = newest.as_ref().and_then(|chunk| chunk.events().next_back().map(|(_, stamp, _)| stamp));
        let clocks = Clocks::start(newest.map_or(0, |chunk| chunk.body.powered_on_s));
        tracing::info!(replica = %store.replica, last = extent.last.seq.0, replayed, "the ledger is open");

        let (stats, watching) = watch::channel(LedgerStats::default());
        let reader = Reader { replica: store.replica.clone(), journal: journal.clone(), stats: watching };
        let room = Room::new(&options);
        let pending = Pending::default();
        let post = Post::recover(&view(&store, &state, &journal, &pending, extent.last))?;
        let (handle, inbox) = Handle::new(post.mailboxes());
        let mut writer = Writer {
            core,
            inbox,
            store,
            state,
            journal,
            sealer: Sealer::default(),
            extent,
            marks,
            pending,
            clocks,
            stats,
            last_commit: Instant::now(),
            groups: 0,
            records: 0,
            room,
            post,
            sabotage: options.sabotage,
        };
        writer.check_room();
        let now = writer.clocks.now();
        let step = {
            let view = view(&writer.store, &writer.state, &writer.journal, &writer.pending, writer.extent.last);
            writer.core.recovered(last_stamp.unwrap_or_default(), &now, &view)?
        };
        writer.take_step(step, &now)?;
        writer.publish_stats();
        Ok((writer, handle, reader))
    }

    /// Runs on a thread of its own until it is told to stop or the ledger fails. What opening came to is done first.
    pub fn spawn(self, mut perform: Perform<C::Effect>) -> std::io::Result<Stopped> {
        let (left, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("writer".into()).spawn(move || {
            let outcome = self.run(&mut perform, &runtime);
            if let Err(error) = &outcome {
                tracing::error!(%error, "the ledger failed: stopping without another word");
            }
            // Nobody waiting means that the process is ending anyway.
            let _ = left.send(outcome);
        })?;
        Ok(stopped)
    }

    fn run(mut self, perform: Do<'_, C>, runtime: &tokio::runtime::Handle) -> Result<(), LedgerError> {
        let mut last_tick = Instant::now();
        self.commit(false, perform)?;
        loop {
            let first = match self.inbox.try_recv() {
                Ok(item) => Some(item),
                Err(mpsc::error::TryRecvError::Disconnected) => return self.leave(perform),
                // What the last group's effects left to be written waits for nobody.
                Err(mpsc::error::TryRecvError::Empty) if self.post.waits() && self.sabotage.is_none() => None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    let wait = TICK.saturating_sub(last_tick.elapsed());
                    match runtime.block_on(async { tokio::time::timeout(wait, self.inbox.recv()).await }) {
                        Ok(Some(item)) => Some(item),
                        Ok(None) => return self.leave(perform),
                        Err(_) => None,
                    }
                }
            };
            let mut next = first;
            while let Some(item) = next {
                match item {
                    Work::Inbound(batch) => self.take_batch(batch, perform)?,
                    Work::Input(input) => self.take_input(input)?,
                    Work::Stop => return self.leave(perform),
                }
                next = if self.pending.full() { None } else { self.inbox.try_recv().ok() };
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.tick(perform)?;
            }
            if self.sabotage == Some(Sabotage::AckEarly) && self.last_commit.elapsed() < Duration::from_secs(8) {
                // A kill now finds records that were acknowledged and answered but never written.
                std::mem::take(&mut self.pending.effects).into_iter().for_each(&mut *perform);
                continue;
            }
            self.commit(false, perform)?;
        }
    }

    /// Each item alone, since a group may have to be closed between two items of one batch.
    fn take_batch(&mut self, batch: Batch, perform: Do<'_, C>) -> Result<(), LedgerError> {
        let mut verdicts = Vec::with_capacity(batch.items.len());
        for inbound in batch.items {
            if self.pending.full() {
                self.commit(false, perform)?;
            }
            if self.room.full && matches!(inbound, Inbound::Publish(_)) {
                verdicts.push(Verdict::refused(Outcome::NoRoom));
                continue;
            }
            let now = self.clocks.now();
            let parcel = self.post.look_at(&inbound);
            let view = view(&self.store, &self.state, &self.journal, &self.pending, self.extent.last);
            let step = self.core.inbound(inbound, &now, &view)?;
            let verdict = step.verdict;
            verdicts.push(verdict);
            self.take_step(step, &now)?;
            self.post.take(parcel, verdict);
            self.stow();
        }
        if self.sabotage == Some(Sabotage::AckEarly) {
            let _ = batch.answer.send(verdicts);
            return Ok(());
        }
        self.pending.answers.push((batch.answer, verdicts));
        Ok(())
    }

    fn take_input(&mut self, input: C::Input) -> Result<(), LedgerError> {
        let now = self.clocks.now();
        let view = view(&self.store, &self.state, &self.journal, &self.pending, self.extent.last);
        let step = self.core.input(input, &now, &view)?;
        self.take_step(step, &now)
    }

    fn tick(&mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.check_room();
        let now = self.clocks.now();
        let view = view(&self.store, &self.state, &self.journal, &self.pending, self.extent.last);
        let step = self.core.tick(&now, &view)?;
        self.take_step(step, &now)?;
        if self.last_commit.elapsed() > QUIET && self.state.dirty() > 0 {
            self.commit(true, perform)?;
        }
        Ok(())
    }

    fn take_step(&mut self, step: Step<C::Effect>, now: &Now) -> Result<(), LedgerError> {
        let alone = step.events.is_empty();
        for draft in step.events {
            for draft in sabotage::drafts(&mut self.sabotage, self.records, draft) {
                if self.pending.full() {
                    // Between two events of one step: written, but nobody is told before the whole step is.
                    self.write(false)?;
                }
                self.append(draft, now);
            }
        }
        for put in step.puts {
            if alone && self.pending.full() {
                // Puts that belong to no event may be spread; their order says which are safe to have alone.
                self.write(false)?;
            }
            self.pending.bytes += put.bytes();
            self.state.put(self.newest(), put.clone());
            self.pending.puts.push(put);
        }
        for put in step.lazy {
            self.state.put(self.newest(), put);
        }
        step.then.iter().for_each(|effect| self.post.outgoing(C::outgoing(effect)));
        self.pending.effects.extend(step.then);
        self.stow();
        Ok(())
    }

    /// What mailboxes want written goes with the open group.
    fn stow(&mut self) {
        let newest = self.newest();
        self.post.stow(newest, &mut self.pending, &mut self.state);
    }

    /// The newest record, the open group's included.
    fn newest(&self) -> Seq {
        self.extent.last.seq.plus(self.pending.records)
    }

    fn append(&mut self, draft: Draft, now: &Now) {
        let Draft { stamp, event } = draft;
        debug_assert!(!event.records.is_empty(), "an event without records has no seq");
        let first = self.extent.last.seq.plus(self.pending.records).next();
        let Writer { core, state, store, .. } = self;
        let placed = Placed { replica: &store.replica, first, stamp, event: &event, powered_on_s: now.powered_on_s };
        core.fold(&placed, &mut |put| state.put(first, put));
        self.pending.records += event.records.len() as u64;
        self.pending.bytes += event.encoded_len();
        self.pending.events.push((first, stamp, event));
    }

    /// Writes the open group and then speaks. With `all`, dirty cells are written out as well.
    fn commit(&mut self, all: bool, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.write(all)?;
        self.speak(perform)
    }

    fn write(&mut self, all: bool) -> Result<(), LedgerError> {
        let trimmed = self.trim()?;
        // Trimming waits for folding: a journal past its bound must not wait for a quiet hour.
        let all = all || self.extent.bytes > self.room.journal_bytes_max;
        if self.pending.nothing_to_write() && trimmed.is_empty() && !(all && self.state.dirty() > 0) {
            return Ok(());
        }
        let mut group = Group { puts: std::mem::take(&mut self.pending.puts), trimmed, ..Group::default() };
        self.pending.bytes = 0;
        let mut after = self.extent.last;
        if !self.pending.events.is_empty() {
            let (bytes, sealed_after) = self.seal();
            self.extent.chunks += 1;
            self.extent.bytes += bytes.len() as u64;
            self.marks.push(sealed_after.seq, bytes.len() as u64);
            after = sealed_after;
            group.chunk = Some((self.extent.last.seq.next(), bytes));
        }
        for put in &group.puts {
            self.state.written(put);
        }
        let folded = self.state.checkpoint(after.seq, all, &mut group.puts);
        group.folded = folded;
        self.store.commit(group)?;
        if self.extent.first == Seq::ZERO && after.seq > Seq::ZERO {
            self.extent.first = Seq(1);
        }
        self.extent.last = after;
        self.groups += 1;
        self.last_commit = Instant::now();
        Ok(())
    }

    fn seal(&mut self) -> (Vec<u8>, Position) {
        let first = self.extent.last.seq.next();
        let totals = self.core.seal(first);
        let Writer { core, state, .. } = self;
        for total in &totals {
            core.fold_total(total, first, &mut |put| state.put(first, put));
        }
        let events = std::mem::take(&mut self.pending.events);
        let base_ms = events.iter().map(|(_, stamp, _)| stamp.ms().0).min().unwrap_or(0);
        let events = events
            .into_iter()
            .map(|(_, stamp, event)| Event { ms: stamp.ms().0 - base_ms, tick: stamp.tick().into(), ..event })
            .collect();
        let body = wire::Body { base_ms, events, totals, powered_on_s: self.clocks.powered_on_s() };
        let sealed = self.sealer.seal(&self.store.replica, self.extent.last, &body);
        self.records += self.pending.records;
        self.pending.records = 0;
        self.pending.bytes = 0;
        (sealed.bytes, sealed.after)
    }

    /// Takes the oldest chunks out, if the journal is over its bound and they are folded on disk and applied.
    fn trim(&mut self) -> Result<Vec<Seq>, LedgerError> {
        let mut trimmed = Vec::new();
        if self.extent.bytes <= self.room.journal_bytes_max {
            return Ok(trimmed);
        }
        let may_go = self.core.applied().min(self.store.folded);
        for found in self.journal.chunks_from(self.extent.first).take(TRIM_MAX) {
            let (head, bytes) = found?;
            // The newest chunk always stays: it says where the chain stands.
            if head.last > may_go || head.last >= self.extent.last.seq {
                break;
            }
            trimmed.push(head.first);
            self.extent.chunks -= 1;
            self.extent.bytes -= bytes.len() as u64;
            self.extent.first = head.last.next();
        }
        Ok(trimmed)
    }

    /// Tells what is now durable: readers, waiting connections, effects, then what the core has to say of the group.
    fn speak(&mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.publish_stats();
        self.post.committed();
        for (answer, verdicts) in self.pending.answers.drain(..) {
            // A connection that closed meanwhile no longer waits; it will send again.
            let _ = answer.send(verdicts);
        }
        for effect in std::mem::take(&mut self.pending.effects) {
            perform(effect);
        }
        let now = self.clocks.now();
        let view = view(&self.store, &self.state, &self.journal, &self.pending, self.extent.last);
        for effect in self.core.committed(&now, &view)? {
            // Persistent sessions get it with the next group.
            self.post.outgoing(C::outgoing(&effect));
            perform(effect);
        }
        self.stow();
        Ok(())
    }

    fn publish_stats(&mut self) {
        let applied = self.core.applied();
        let stats = LedgerStats {
            durable: self.extent.last,
            first: self.extent.first,
            folded: self.store.folded,
            chunks: self.extent.chunks,
            journal_bytes: self.extent.bytes,
            backlog_bytes: self.marks.bytes_after(applied, self.extent.last.seq),
            disk_bytes: self.stats.borrow().disk_bytes,
            groups: self.groups,
            records: self.records,
            dirty_cells: self.state.dirty(),
            full: self.room.full,
        };
        self.stats.send_if_modified(|held| {
            let moved = held.durable != stats.durable;
            *held = stats;
            moved
        });
    }

    fn check_room(&mut self) {
        self.room.check(self.extent.bytes);
        let disk_bytes = self.store.disk_bytes();
        self.stats.send_if_modified(|stats| {
            stats.disk_bytes = disk_bytes;
            false
        });
    }

    fn leave(mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.commit(false, perform)?;
        while self.state.dirty() > 0 {
            self.commit(true, perform)?;
        }
        self.store.close();
        tracing::info!(last = self.extent.last.seq.0, "the ledger is closed");
        Ok(())
    }
}
