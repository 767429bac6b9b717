//! Conflicts in the journal of a hub that does not run.

use std::collections::VecDeque;
use std::path::Path;

use proto::id::Seq;
use proto::wire::record::Of;
use proto::wire::{RegisterState, RestoredCell};
use serde_json::{Value, json};

use crate::hub::{Kept, LIST_MAX, Wanted};
use crate::ledger::{LedgerError, read_stopped};

/// The conflicts of a stopped hub. Its whole journal is read and checked for it.
pub(super) fn list(dir: &Path, wanted: &Wanted) -> Result<Value, LedgerError> {
    let limit = wanted.limit.min(LIST_MAX);
    let (mut found, mut kept) = (VecDeque::<Kept>::new(), 0u64);
    walk(dir, &mut |record| match record {
        Found::Conflict(conflict) => {
            kept += 1;
            if wanted.wants(&conflict.conflict.key) {
                found.push_back(*conflict);
                if found.len() > limit {
                    found.pop_front();
                }
            }
        }
        Found::Restored(conflict, cell) => {
            if let Some(kept) = found.iter_mut().find(|kept| kept.seq == conflict) {
                kept.restored = Some(cell);
            }
        }
        Found::Merged(..) => {}
    })?;
    let conflicts: Vec<Value> = found.iter().rev().map(Kept::json).collect();
    Ok(json!({ "conflicts": conflicts, "kept": kept }))
}

pub(super) fn show(dir: &Path, seq: Seq) -> Result<Option<Value>, LedgerError> {
    let (mut found, mut now) = (None::<Kept>, None);
    walk(dir, &mut |record| match record {
        Found::Conflict(conflict) if conflict.seq == seq => found = Some(*conflict),
        Found::Restored(conflict, cell) if conflict == seq => {
            if let Some(kept) = &mut found {
                kept.restored = Some(cell);
            }
        }
        // The record of a conflict comes before what it came to.
        Found::Merged(key, state) if found.as_ref().is_some_and(|kept| kept.conflict.key == *key) => {
            now = state.cloned();
        }
        _ => {}
    })?;
    Ok(found.map(|kept| kept.whole(now.as_ref())))
}

enum Found<'a> {
    Conflict(Box<Kept>),
    Restored(Seq, RestoredCell),
    Merged(&'a str, Option<&'a RegisterState>),
}

fn walk(dir: &Path, each: &mut dyn FnMut(Found<'_>)) -> Result<(), LedgerError> {
    read_stopped(dir, &mut |chunk| {
        for (first, stamp, event) in chunk.events() {
            for (offset, record) in (0..).zip(&event.records) {
                let seq = first.plus(offset);
                match &record.of {
                    Some(Of::Conflict(conflict)) => {
                        each(Found::Conflict(Box::new(Kept::new(seq, conflict.clone(), stamp.ms()))));
                    }
                    Some(Of::ConflictRestored(mark)) => {
                        let (by, why) = (mark.by.clone(), mark.why.clone());
                        let cell = RestoredCell { seq: seq.0, at_ms: stamp.ms().0, by, why };
                        each(Found::Restored(Seq(mark.conflict), cell));
                    }
                    Some(Of::Merged(merged)) => each(Found::Merged(&merged.key, merged.state.as_ref())),
                    _ => {}
                }
            }
        }
    })
}
