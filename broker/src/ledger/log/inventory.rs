//! A log as a list of files: what a backup copies, and what a copy is held against.

use std::path::Path;

use proto::chunk::Position;
use proto::id::ReplicaId;
use serde::{Deserialize, Serialize};

use super::recover::{files, reading};
use super::survey::survey_frames;
use super::{Log, owner};
use crate::ledger::core::Put;
use crate::ledger::error::LedgerError;

/// The files of a log at one moment. Nothing in a log is ever written over, so their first so many bytes are a whole
/// log, and stay it while more is appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Whose log it is.
    pub replica: String,
    /// Where the journal stands at its end. The hash names all of it; in hex.
    pub seq: u64,
    pub hash: String,
    /// Number of the last commit.
    pub frame: u64,
    /// Oldest first.
    pub segments: Vec<Part>,
}

/// A file, and how much of it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub bytes: u64,
}

impl Inventory {
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|part| part.bytes).sum()
    }
}

impl Log {
    /// What is on disk by now.
    pub(in crate::ledger) fn inventory(&self) -> Inventory {
        let segments = self.segments();
        let frame = segments.iter().rev().find(|segment| segment.last >= segment.first).map_or(0, |s| s.last);
        let end = segments.last().map(|segment| segment.after).unwrap_or_default();
        let parts = segments.iter().map(|segment| Part { name: name(&segment.path), bytes: segment.len });
        of(self.replica(), end, frame, parts.collect())
    }
}

/// What stands in the log in `dir`, read whole, and every change that its commits put besides. What a power cut tore at
/// the end is left out; anything else that is not sound is an error.
pub(in crate::ledger) fn take(dir: &Path, each_put: &mut dyn FnMut(Put)) -> Result<Inventory, LedgerError> {
    let Some(replica) = owner(dir)? else {
        return Err(LedgerError::Open { dir: dir.into(), why: "there is no journal here".into() });
    };
    let mut end = Position::default();
    let survey = survey_frames(dir, &replica, &mut |chunks, puts| {
        end = chunks.last().map_or(end, |stored| stored.head.after());
        puts.into_iter().for_each(&mut *each_put);
        Ok(())
    })?;
    if let Some(fault) = survey.faults.first() {
        return Err(LedgerError::Damaged { path: fault.path.clone(), offset: fault.from });
    }
    let mut parts = Vec::new();
    for path in files(dir)? {
        parts.push(Part { name: name(&path), bytes: path.metadata().map_err(reading)?.len() });
    }
    if let Some(newest) = parts.last_mut() {
        newest.bytes = newest.bytes.saturating_sub(survey.torn_bytes);
    }
    parts.retain(|part| part.bytes > 0);
    Ok(of(&replica, end, survey.last_frame, parts))
}

fn of(replica: &ReplicaId, end: Position, frame: u64, segments: Vec<Part>) -> Inventory {
    let hash = blake3::Hash::from_bytes(end.hash.0).to_hex().to_string();
    Inventory { replica: replica.to_string(), seq: end.seq.0, hash, frame, segments }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
