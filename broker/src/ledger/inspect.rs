//! Looking into the ledger of a node that does not run.

use std::path::Path;

use proto::chunk::Chunk;

use super::error::LedgerError;
use super::log::{self, journal_dir};
use super::open::lock_of_stopped;

/// Visits every chunk of a stopped node's journal in order, after checking the whole chain. `dir` is its data folder.
/// Nothing is changed; what a power cut tore at the end is left out, as the node's own start would.
pub fn read_stopped(dir: &Path, each: &mut dyn FnMut(&Chunk)) -> Result<(), LedgerError> {
    let journal = journal_dir(dir);
    let Some(replica) = log::owner(&journal)? else {
        return Err(LedgerError::Open { dir: dir.into(), why: "there is no ledger here".into() });
    };
    let _lock = lock_of_stopped(dir)?;
    let survey = log::survey(&journal, &replica, &mut |stored| {
        each(&stored.open()?);
        Ok(())
    })?;
    match survey.faults.first() {
        None => Ok(()),
        Some(fault) => Err(LedgerError::Damaged { path: fault.path.clone(), offset: fault.from }),
    }
}
