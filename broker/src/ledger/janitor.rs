//! Work on the files that no commit waits for, on a thread of its own and one piece at a time: checkpoints, snapshots,
//! dropping and thinning out old segments, measuring.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};

use proto::wire::LossClass;

use super::error::LedgerError;
use super::log::{Evicted, Log};
use super::snapshot;
use super::state::Cells;
use super::store::{Folded, Pace, Store};

pub(super) enum Job {
    /// Writes cells to the store, and how far the state is folded with them.
    Checkpoint(Arc<Cells>, Folded, Pace),
    Snapshot,
    /// Drops the oldest segment.
    Drop(u64),
    Evict(u64, LossClass),
    Measure,
}

#[derive(Debug)]
pub(super) enum Done {
    Checkpoint,
    Snapshot(Folded),
    Dropped,
    /// There was no room to make room: to be tried again later.
    NotNow,
    Evicted(u64, LossClass, Evicted),
    /// Bytes of the store, and of the whole file system that are free.
    Measured {
        store_bytes: u64,
        free_bytes: Option<u64>,
    },
}

/// The writer's end.
pub(super) struct Janitor {
    jobs: Option<Sender<Job>>,
    done: Receiver<Result<Done, LedgerError>>,
    thread: Option<std::thread::JoinHandle<()>>,
    busy: bool,
}

impl Janitor {
    pub(super) fn start(dir: PathBuf, store: Arc<Store>, log: Log) -> std::io::Result<Janitor> {
        let (jobs, todo) = channel::<Job>();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new().name("janitor".into()).spawn(move || {
            for job in todo {
                let outcome = carry_out(job, &dir, &store, &log);
                if tell.send(outcome).is_err() {
                    break;
                }
            }
        })?;
        Ok(Janitor { jobs: Some(jobs), done, thread: Some(thread), busy: false })
    }

    pub(super) fn busy(&self) -> bool {
        self.busy
    }

    pub(super) fn give(&mut self, job: Job) {
        debug_assert!(!self.busy, "one job at a time");
        // A thread that is gone is noticed when its answer is looked for.
        self.busy = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) || self.jobs.is_some();
    }

    /// What was done, without waiting.
    pub(super) fn look(&mut self) -> Result<Option<Done>, LedgerError> {
        match self.done.try_recv() {
            Ok(done) => self.finished(done).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(died()),
        }
    }

    /// Waits for the job under way.
    pub(super) fn wait(&mut self) -> Result<Option<Done>, LedgerError> {
        if !self.busy {
            return Ok(None);
        }
        match self.done.recv() {
            Ok(done) => self.finished(done).map(Some),
            Err(RecvError) => Err(died()),
        }
    }

    fn finished(&mut self, done: Result<Done, LedgerError>) -> Result<Done, LedgerError> {
        self.busy = false;
        done
    }
}

impl Drop for Janitor {
    /// The store is free when this returns.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What it panicked with was printed by it.
            let _ = thread.join();
        }
    }
}

fn died() -> LedgerError {
    LedgerError::Io { doing: "keep the files in order", why: "its thread died".into() }
}

fn carry_out(job: Job, dir: &std::path::Path, store: &Store, log: &Log) -> Result<Done, LedgerError> {
    match job {
        Job::Checkpoint(cells, folded, pace) => {
            let cells = cells.iter().map(|((table, key), value)| (*table, key.as_slice(), value.as_deref()));
            store.checkpoint(cells, folded, pace)?;
            Ok(Done::Checkpoint)
        }
        Job::Snapshot => not_now(snapshot::write(dir, store).map(Done::Snapshot)),
        Job::Drop(first) => {
            let fail = |e: std::io::Error| LedgerError::Io { doing: "drop an old segment", why: e.to_string() };
            log.drop_oldest(first).map_err(fail)?;
            Ok(Done::Dropped)
        }
        Job::Evict(first, class) => match log.evict(first, class) {
            // The next start mends it. Until then room is made elsewhere.
            Err(error @ LedgerError::Damaged { .. }) => {
                tracing::error!(%error, "a damaged segment cannot be thinned out");
                Ok(Done::Evicted(first, class, Evicted::default()))
            }
            outcome => not_now(outcome.map(|evicted| Done::Evicted(first, class, evicted))),
        },
        Job::Measure => {
            let free = rustix::fs::statvfs(dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
            Ok(Done::Measured { store_bytes: store.disk_bytes(), free_bytes: free.ok() })
        }
    }
}

/// Both write beside what there is and change nothing before they are done, so a failure costs nothing but time.
fn not_now(outcome: Result<Done, LedgerError>) -> Result<Done, LedgerError> {
    match outcome {
        Err(error @ LedgerError::Io { .. }) => {
            tracing::warn!(%error, "cannot make room now");
            Ok(Done::NotNow)
        }
        outcome => outcome,
    }
}
