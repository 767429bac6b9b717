//! Looking into the ledger of a node that does not run.

use std::path::Path;

use proto::chunk::Chunk;
use proto::id::{ReplicaId, Seq};

use super::error::LedgerError;
use super::journal::Journal;
use super::store::{CACHE_BYTES, SEGMENT_BYTES, database_dir};

/// Visits every chunk of a stopped node's journal in order, after checking the whole chain. `dir` is its data folder.
/// The ledger is opened as the node would open it; an absent one is an error, never created.
pub fn read_stopped(dir: &Path, each: &mut dyn FnMut(&Chunk)) -> Result<(), LedgerError> {
    let fail = |why: String| LedgerError::Open { dir: dir.into(), why };
    let database = database_dir(dir);
    if !database.join("db").exists() {
        return Err(fail("there is no ledger here".into()));
    }
    let db = sled::Config::new()
        .path(&database)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .open()
        .map_err(|e| fail(e.to_string()))?;
    let journal = Journal::new(db.open_tree("journal").map_err(|e| fail(e.to_string()))?);
    let mut replica: Option<ReplicaId> = None;
    let mut last = None;
    for found in journal.chunks_from(Seq::ZERO) {
        let (head, bytes) = found?;
        let chunk = super::journal::open_chunk(&bytes)?;
        let follows = last.is_none_or(|position| position == head.before());
        if !follows || replica.get_or_insert_with(|| head.replica.clone()) != &head.replica {
            return Err(LedgerError::Broken { at: head.first });
        }
        last = Some(head.after());
        each(&chunk);
    }
    Ok(())
}
