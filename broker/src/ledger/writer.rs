//! The one writer. It gathers what waits, hands each input to the core, commits all that came of it as one group,
//! and only then speaks. Everybody waits on the writer; the writer waits on nobody but its disk.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::chunk::{Position, Sealer};
use proto::wire::{self, Event};
use tokio::sync::{mpsc, oneshot, watch};

use super::clocks::Clocks;
use super::core::{Core, Draft, Now, Placed, Step};
use super::error::LedgerError;
use super::group::{Pending, view};
use super::handle::Work;
use super::house::{House, Moment};
use super::log::{Appender, Commit, End, Log};
use super::open;
use super::post::Post;
use super::reader::LedgerStats;
use super::room::Limits;
use super::sabotage::{self, Sabotage};
use super::state::State;
use super::store::Store;
use crate::front::{Batch, Inbound, Outcome, Verdict};

const TICK: Duration = Duration::from_millis(250);
/// A quiet ledger writes its dirty cells out after this long, so that the next start has little to replay.
const QUIET: Duration = Duration::from_secs(20);
/// Resolves when the writer left: `Ok` after a clean stop.
pub type Stopped = oneshot::Receiver<Result<(), LedgerError>>;

/// Where a ledger lives and what bounds it.
#[derive(Debug, Clone)]
pub struct Options {
    pub dir: std::path::PathBuf,
    pub site: proto::id::SiteName,
    pub limits: Limits,
    /// How long a commit waits for more to join it. Zero: what waits goes together, and nobody waits for others.
    pub commit_wait: Duration,
    /// A ledger whose state cannot be made anew in full is set apart and a new one begun: somebody else has the rest.
    pub begin_anew: bool,
    pub sabotage: Option<Sabotage>,
}

/// An open ledger with its core, not running yet.
pub struct Writer<C: Core> {
    pub(super) core: C,
    pub(super) inbox: mpsc::Receiver<Work<C>>,
    pub(super) dir: std::path::PathBuf,
    pub(super) store: Arc<Store>,
    pub(super) state: State,
    pub(super) log: Log,
    pub(super) appender: Appender,
    pub(super) house: House,
    pub(super) sealer: Sealer,
    /// Where the journal stands with all chunks that are closed.
    pub(super) last: Position,
    pub(super) pending: Pending<C::Effect>,
    pub(super) clocks: Clocks,
    pub(super) stats: watch::Sender<LedgerStats>,
    pub(super) last_commit: Instant,
    pub(super) groups: u64,
    pub(super) records: u64,
    pub(super) commit_wait: Duration,
    pub(super) post: Post,
    pub(super) sabotage: Option<Sabotage>,
    /// Dropped last: until then nobody else may open the folder.
    pub(super) _lock: File,
}

/// Carries out an effect. Must not wait for anybody.
pub type Perform<E> = Box<dyn FnMut(E) + Send>;
type Do<'a, C> = &'a mut dyn FnMut(<C as Core>::Effect);

impl<C: Core> Writer<C> {
    /// Runs on a thread of its own until it is told to stop or the ledger fails. What opening came to is done first.
    pub fn spawn(self, mut perform: Perform<C::Effect>) -> std::io::Result<Stopped> {
        let (left, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("writer".into()).spawn(move || {
            let dir = self.dir.clone();
            let outcome = self.run(&mut perform, &runtime);
            if let Err(error) = &outcome {
                tracing::error!(%error, "the ledger failed: stopping without another word");
                if matches!(error, LedgerError::State(_) | LedgerError::StateWrite { .. }) {
                    open::distrust_state(&dir);
                }
            }
            // Nobody waiting means that the process is ending anyway.
            let _ = left.send(outcome);
        })?;
        Ok(stopped)
    }

    fn run(mut self, perform: Do<'_, C>, runtime: &tokio::runtime::Handle) -> Result<(), LedgerError> {
        let mut last_tick = Instant::now();
        self.commit(perform)?;
        loop {
            let wait = TICK.saturating_sub(last_tick.elapsed());
            let mut next = match self.inbox.try_recv() {
                Ok(item) => Some(item),
                Err(mpsc::error::TryRecvError::Disconnected) => return self.leave(perform),
                // What the last group's effects left to be written waits for nobody.
                Err(mpsc::error::TryRecvError::Empty) if self.post.waits() && self.sabotage.is_none() => None,
                Err(mpsc::error::TryRecvError::Empty) => self.next_within(wait, runtime),
            };
            let joined_until = Instant::now() + self.commit_wait;
            while let Some(item) = next {
                match item {
                    Work::Inbound(batch) => self.take_batch(batch, perform)?,
                    Work::Input(input) => {
                        if C::begins_group(&input) {
                            self.commit(perform)?;
                            // What that came to for persistent sessions.
                            self.write()?;
                        }
                        self.take_input(input)?;
                    }
                    Work::Stop => return self.leave(perform),
                }
                next = match self.full() {
                    true => None,
                    false => self.waiting().or_else(|| {
                        let left = joined_until.saturating_duration_since(Instant::now());
                        if left.is_zero() { None } else { self.next_within(left, runtime) }
                    }),
                };
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.tick()?;
            }
            if self.sabotage == Some(Sabotage::AckEarly) && self.last_commit.elapsed() < Duration::from_secs(8) {
                // A kill now finds records that were acknowledged and answered but never written.
                std::mem::take(&mut self.pending.effects).into_iter().for_each(&mut *perform);
                self.post.committed();
                continue;
            }
            self.commit(perform)?;
        }
    }

    /// What waits, or is about to: others may be ready to send and only lack a processor.
    fn waiting(&mut self) -> Option<Work<C>> {
        self.inbox.try_recv().ok().or_else(|| {
            std::thread::yield_now();
            self.inbox.try_recv().ok()
        })
    }

    /// The next item if it comes in time; a closed inbox is told as a request to stop.
    fn next_within(&mut self, wait: Duration, runtime: &tokio::runtime::Handle) -> Option<Work<C>> {
        let waited = runtime.block_on(async { tokio::time::timeout(wait, self.inbox.recv()).await });
        waited.ok().map(|item| item.unwrap_or(Work::Stop))
    }

    /// Each item alone, since a group may have to be closed between two items of one batch.
    fn take_batch(&mut self, batch: Batch, perform: Do<'_, C>) -> Result<(), LedgerError> {
        let mut verdicts = Vec::with_capacity(batch.items.len());
        let now = self.clocks.now();
        for inbound in batch.items {
            if self.full() {
                self.commit(perform)?;
            }
            if self.house.room.full && matches!(inbound, Inbound::Publish(_)) {
                verdicts.push(Verdict::refused(Outcome::NoRoom));
                continue;
            }
            let parcel = self.post.look_at(&inbound);
            let step = self.ask(|core, view| core.inbound(inbound, &now, view))?;
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
        let step = self.ask(|core, view| core.input(input, &now, view))?;
        self.take_step(step, &now)
    }

    fn tick(&mut self) -> Result<(), LedgerError> {
        let now = self.clocks.now();
        let step = self.ask(|core, view| core.tick(&now, view))?;
        self.take_step(step, &now)
    }

    /// Lets the core look at the ledger as it stands, this group's earlier steps included.
    pub(super) fn ask<T>(
        &mut self,
        ask: impl FnOnce(&mut C, &dyn super::core::Read) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let view = view(&self.store, &self.state, &self.log, &self.pending, self.last);
        ask(&mut self.core, &view)
    }

    pub(super) fn take_step(&mut self, step: Step<C::Effect>, now: &Now) -> Result<(), LedgerError> {
        let alone = step.events.is_empty();
        for draft in step.events {
            for draft in sabotage::drafts(&mut self.sabotage, self.records, draft) {
                if self.full() {
                    // Between two events of one step: written, but nobody is told before the whole step is.
                    self.write()?;
                }
                if self.pending.chunk_full() {
                    self.close_chunk();
                }
                self.append(draft, now);
            }
        }
        for put in step.puts {
            if alone && self.full() {
                // Puts that belong to no event may be spread; their order says which are safe to have alone.
                self.write()?;
            }
            self.state.put(self.appender.next(), put.clone());
            self.pending.add_put(put);
        }
        for put in step.lazy {
            self.state.put(self.appender.next(), put);
        }
        step.then.iter().for_each(|effect| self.post.outgoing(C::outgoing(effect)));
        self.pending.effects.extend(step.then);
        self.stow();
        Ok(())
    }

    /// What mailboxes want written goes with the open group.
    fn stow(&mut self) {
        self.post.stow(self.appender.next(), &mut self.pending, &mut self.state);
    }

    fn append(&mut self, draft: Draft, now: &Now) {
        let Draft { stamp, event } = draft;
        debug_assert!(!event.records.is_empty(), "an event without records has no seq");
        let first = self.last.seq.plus(self.pending.records).next();
        let Writer { core, state, store, appender, .. } = self;
        let placed = Placed { replica: &store.replica, first, stamp, event: &event, powered_on_s: now.powered_on_s };
        core.fold(&placed, &mut |put| state.put(appender.next(), put));
        self.pending.add_event(first, stamp, event);
    }

    /// Writes the open group, then speaks, then keeps the files in order.
    fn commit(&mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.write()?;
        self.speak(perform);
        let moment = Moment {
            log: &self.log,
            applied: self.core.applied(),
            powered_on_s: self.clocks.powered_on_s(),
            all: self.last_commit.elapsed() > QUIET,
        };
        // While nothing is gathered: a checkpoint must not take what the log does not hold yet.
        self.house.keep(&mut self.state, &moment)?;
        self.look_back(perform)
    }

    fn full(&self) -> bool {
        self.pending.full() || self.post.full()
    }

    fn write(&mut self) -> Result<(), LedgerError> {
        self.post.close_group();
        self.stow();
        if self.pending.nothing_to_write() {
            return Ok(());
        }
        self.close_chunk();
        let (chunks, puts) = self.pending.take();
        let written = self.appender.written_bytes;
        let powered_on_s = self.clocks.powered_on_s();
        let frame = self.appender.append(Commit { chunks, puts, powered_on_s })?;
        self.house.appended(frame, self.last, self.appender.written_bytes - written);
        self.groups += 1;
        self.last_commit = Instant::now();
        Ok(())
    }

    /// Seals what is in the open chunk, which is written with the group.
    fn close_chunk(&mut self) {
        if self.pending.events.is_empty() {
            return;
        }
        let first = self.last.seq.next();
        let totals = self.core.seal(first);
        let Writer { core, state, appender, .. } = self;
        for total in &totals {
            core.fold_total(total, first, &mut |put| state.put(appender.next(), put));
        }
        let (events, records) = self.pending.take_events();
        let base_ms = events.iter().map(|(_, stamp, _)| stamp.ms().0).min().unwrap_or(0);
        let events = events
            .into_iter()
            .map(|(_, stamp, event)| Event { ms: stamp.ms().0 - base_ms, tick: stamp.tick().into(), ..event })
            .collect();
        let powered_on_s = self.clocks.powered_on_s();
        let body = wire::Body { base_ms, events, totals, powered_on_s, ..wire::Body::default() };
        let sealed = self.sealer.seal(&self.store.replica, self.last, &body);
        self.records += records;
        let before = std::mem::replace(&mut self.last, sealed.after);
        self.pending.chunks.push((before, sealed.after, sealed.bytes));
    }

    /// Tells what is now durable: readers, mailboxes, waiting connections, and what the steps came to.
    fn speak(&mut self, perform: Do<'_, C>) {
        self.publish_stats();
        self.post.committed();
        for (answer, verdicts) in self.pending.answers.drain(..) {
            // A connection that closed meanwhile no longer waits; it will send again.
            let _ = answer.send(verdicts);
        }
        for effect in std::mem::take(&mut self.pending.effects) {
            perform(effect);
        }
    }

    /// What the core has to say of the group as a whole.
    fn look_back(&mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        let now = self.clocks.now();
        for effect in self.ask(|core, view| core.committed(&now, view))? {
            // Persistent sessions get it with the next group.
            self.post.outgoing(C::outgoing(&effect));
            perform(effect);
        }
        self.stow();
        Ok(())
    }

    pub(super) fn publish_stats(&mut self) {
        let extent = self.log.extent();
        let stats = LedgerStats {
            durable: self.last,
            first: extent.first,
            folded: self.house.folded().position.seq,
            chunks: extent.chunks,
            journal_bytes: self.log.disk_bytes(),
            state_bytes: self.house.store_bytes,
            backlog_bytes: self.log.bytes_after(self.core.applied()),
            groups: self.groups,
            records: self.records,
            appended_bytes: self.appender.written_bytes,
            dirty_cells: self.state.dirty(),
            evicted: self.house.evicted,
            full: self.house.room.full,
        };
        self.stats.send_if_modified(|held| {
            let moved = held.durable != stats.durable;
            *held = stats;
            moved
        });
    }

    fn leave(mut self, perform: Do<'_, C>) -> Result<(), LedgerError> {
        self.commit(perform)?;
        // What that came to for persistent sessions.
        self.write()?;
        self.house.settle(&mut self.state)?;
        self.publish_stats();
        let Writer { dir, store, house, appender, last, .. } = self;
        drop(house);
        store.close()?;
        let end = End { frame: appender.next() - 1, position: last };
        open::note_closed(&dir, end)
            .map_err(|e| LedgerError::Io { doing: "note that the ledger is closed", why: e.to_string() })?;
        tracing::info!(last = last.seq.0, "the ledger is closed");
        Ok(())
    }
}
