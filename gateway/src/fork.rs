//! Reads the journal of the life before for the core, a part at a time, and removes it when all of it is taken over.

use std::path::PathBuf;
use std::time::Duration;

use broker::front::Closed;
use broker::ledger::{Fork, Handle, LedgerError, Reader, discard_fork, has_fork, open_fork};
use proto::id::Seq;
use tokio::sync::mpsc;

use crate::core::{ForkSays, Gateway, Input};

/// What the core wants of it.
#[derive(Debug)]
pub(crate) enum Ask {
    Read(Seq),
    Remove,
}

/// The core asks for one thing at a time.
pub(crate) const ASKS_MAX: usize = 8;
/// Packed; the core takes a part of it if that is more than one chunk of its own.
const PART_BYTES: usize = 16 << 10;
/// How long to wait while there is no room, or the disk does not give it back.
const WAIT: Duration = Duration::from_secs(5);

/// Opens it and tells the core what there is, before the core hears anything else.
pub(crate) async fn open(dir: &std::path::Path, writer: &Handle<Gateway>) -> Result<Option<Fork>, Closed> {
    let found = if has_fork(dir) { open_fork(dir) } else { return Ok(None) };
    let (fork, says) = match found {
        Ok(Some(fork)) => {
            let (epoch, end) = (fork.reader.replica().epoch, fork.reader.stats().durable.seq);
            tracing::warn!(ledger = %epoch, %end, why = %fork.why, "an earlier ledger is being taken over");
            let begins_after = fork.reader.beginning().map_or(Seq::ZERO, |position| position.seq);
            let says = ForkSays::Here { epoch, why: fork.why.clone(), begins_after, end };
            (Some(fork), says)
        }
        Ok(None) => (None, ForkSays::Unreadable("nothing in the folder fork/ is a journal".into())),
        Err(error) => {
            tracing::error!(%error, "the earlier ledger cannot be read: it is kept, and nothing is taken from it");
            (None, ForkSays::Unreadable(error.to_string()))
        }
    };
    writer.input(Input::Fork(says)).await?;
    Ok(fork)
}

/// The task.
pub(crate) struct Task {
    pub(crate) dir: PathBuf,
    pub(crate) fork: Option<Reader>,
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
                Ask::Remove => {
                    self.fork = None;
                    match discard_fork(&self.dir) {
                        Ok(()) => tracing::info!("the earlier ledger is taken over and its journal removed"),
                        Err(error) => tracing::warn!(%error, "the next start removes the earlier ledger"),
                    }
                }
            }
        }
    }

    /// Tries until it can be read and there is room for what comes of it.
    async fn read(&self, after: Seq) -> Option<Vec<bytes::Bytes>> {
        let fork = self.fork.as_ref()?;
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
