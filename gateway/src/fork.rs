//! Reads the journal of the life before for the core, a part at a time, and removes it when all of it is taken over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use broker::front::Closed;
use broker::ledger::{Handle, LedgerError, Reader, discard_fork, forks_wait, has_fork, next_fork, open_fork};
use proto::id::Seq;
use proto::wire::Ancestor;
use tokio::sync::{mpsc, watch};

use crate::core::{ForkSays, Gateway, Input};
use crate::lineage;

/// What the core wants of it.
#[derive(Debug)]
pub(crate) enum Ask {
    Read(Seq),
    Remove,
    /// Which lives led to this one, for the life after it.
    Keep(Vec<Ancestor>),
}

/// The core asks for one thing at a time.
pub(crate) const ASKS_MAX: usize = 8;
/// Packed; the core takes a part of it if that is more than one chunk of its own.
const PART_BYTES: usize = 16 << 10;
/// How long to wait while there is no room, or the disk does not give it back.
const WAIT: Duration = Duration::from_secs(5);

/// Opens it and tells the core what there is, before the core hears anything else.
pub(crate) async fn open(dir: &Path, writer: &Handle<Gateway>) -> Result<Option<Reader>, Closed> {
    let (fork, says) = found(dir);
    if let Some(says) = says {
        writer.input(Input::Fork(says)).await?;
    }
    Ok(fork)
}

/// The fork that is to be taken over now, if there is one.
fn found(dir: &Path) -> (Option<Reader>, Option<ForkSays>) {
    let found = next_fork(dir).and_then(|()| if has_fork(dir) { open_fork(dir).map(Some) } else { Ok(None) });
    match found {
        Ok(None) => (None, None),
        Ok(Some(Some(fork))) => {
            let (epoch, end) = (fork.reader.replica().epoch, fork.reader.stats().durable.seq);
            tracing::warn!(ledger = %epoch, %end, why = %fork.why, "an earlier ledger is being taken over");
            let begins_after = fork.reader.beginning().map_or(Seq::ZERO, |position| position.seq);
            let (lineage, others) = (lineage::of_fork(dir), forks_wait(dir));
            let says = ForkSays::Here { epoch, why: fork.why, begins_after, end, lineage, others };
            (Some(fork.reader), Some(says))
        }
        Ok(Some(None)) => (None, Some(ForkSays::Unreadable("nothing in the folder fork/ is a journal".into()))),
        Err(error) => {
            tracing::error!(%error, "the earlier ledger cannot be read: it is kept, and nothing is taken from it");
            (None, Some(ForkSays::Unreadable(error.to_string())))
        }
    }
}

/// The task.
pub(crate) struct Task {
    pub(crate) dir: PathBuf,
    /// The uplink looks there for what it and the hub have in common.
    pub(crate) fork: watch::Sender<Option<Reader>>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) writer: Handle<Gateway>,
    /// Of the ledger that takes over.
    pub(crate) reader: Reader,
}

impl Task {
    /// Ends with the writer.
    pub(crate) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Read(after) => {
                    let Some(chunks) = self.read(after).await else { continue };
                    if self.writer.input(Input::Fork(ForkSays::Part { after, chunks })).await.is_err() {
                        return;
                    }
                }
                Ask::Keep(lives) => {
                    if let Err(error) = lineage::keep(&self.dir, &lives) {
                        tracing::warn!(%error, "which ledgers led to this one cannot be kept beside it");
                    }
                }
                Ask::Remove => {
                    if self.remove().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// And goes on with one that waits behind it.
    async fn remove(&mut self) -> Result<(), Closed> {
        self.fork.send_replace(None);
        if let Err(error) = discard_fork(&self.dir) {
            tracing::warn!(%error, "the next start removes the earlier ledger");
            return Ok(());
        }
        tracing::info!("the earlier ledger is taken over and its journal removed");
        let (fork, says) = found(&self.dir);
        // Before the core asks the hub about it.
        self.fork.send_replace(fork);
        match says {
            Some(says) => self.writer.input(Input::Fork(says)).await,
            None => Ok(()),
        }
    }

    /// Tries until it can be read and there is room for what comes of it.
    async fn read(&self, after: Seq) -> Option<Vec<bytes::Bytes>> {
        let fork = self.fork.borrow().clone()?;
        loop {
            match fork.chunks_after(after, PART_BYTES) {
                _ if self.reader.stats().full => {}
                Ok(chunks) => return Some(chunks.into_iter().map(|(_, bytes)| bytes).collect()),
                Err(error) => self.cannot(after, &error),
            }
            tokio::time::sleep(WAIT).await;
        }
    }

    fn cannot(&self, after: Seq, error: &LedgerError) {
        tracing::error!(%after, %error, "the earlier ledger cannot be read on: a restart mends what can be mended");
    }
}
