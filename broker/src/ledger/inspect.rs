//! Looking into the ledger of a node that does not run, and through the journal of one that does.

use std::path::Path;

use bytes::Bytes;
use proto::chunk::{Chunk, Head, Position};
use proto::id::ReplicaId;

use super::error::LedgerError;
use super::log::{self, journal_dir};
use super::open::{Closed, lock_of_stopped};

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

/// What a walk through a journal found.
#[derive(Debug)]
pub struct Walked {
    pub replica: ReplicaId,
    /// Bytes at the end that are no whole commit: one that is under way, or that a power cut tore.
    pub torn_bytes: u64,
    /// The first place at which something else stands than was written, in words.
    pub fault: Option<String>,
    /// Where the last clean stop said that the journal ends.
    pub stopped_at: Option<Position>,
}

/// Visits every sound chunk of a journal in order, of a node that may run: what it appends meanwhile may be seen or not.
/// Only for journals of which nothing is ever dropped. `dir` is the data folder. Nothing is changed.
pub fn walk_journal(dir: &Path, each: &mut dyn FnMut(&Head, &Bytes)) -> Result<Walked, LedgerError> {
    let journal = journal_dir(dir);
    let Some(replica) = log::owner(&journal)? else {
        return Err(LedgerError::Open { dir: dir.into(), why: "there is no ledger here".into() });
    };
    let stopped_at = Closed::read(dir).map(|end| end.position);
    let survey = log::survey(&journal, &replica, &mut |stored| {
        each(&stored.head, &stored.bytes);
        Ok(())
    })?;
    let fault = survey.faults.first().map(|fault| match survey.lost.first() {
        Some(lost) if fault.to == fault.from => {
            format!("the records from seq {} to {} are gone", lost.first, lost.last)
        }
        _ => format!("{}: bytes {} to {} are not what was written", fault.path.display(), fault.from, fault.to),
    });
    Ok(Walked { replica, torn_bytes: survey.torn_bytes, fault, stopped_at })
}
