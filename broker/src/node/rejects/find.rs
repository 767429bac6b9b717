//! Looking for rejects: in a running node by its reader, in a stopped one by reading its whole journal.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use proto::id::Seq;
use serde_json::{Value, json};

use super::entry::{Reject, Retried, of_event};
use crate::ledger::{LedgerError, Reader, read_stopped};

/// The most that one answer lists.
pub const LIST_MAX: usize = 1_000;
/// How far a running node looks back, in events, so that a question costs seconds and not minutes.
const LOOK_BACK_EVENTS: u64 = 200_000;

/// The newest rejects of a running node, newest first, and how far it looked.
pub fn list(reader: &Reader, limit: usize) -> Result<Value, LedgerError> {
    let (limit, mut found, mut retried) = (limit.min(LIST_MAX), Vec::new(), HashMap::new());
    let (mut looked, mut oldest, mut all) = (0, Seq::ZERO, true);
    reader.events_back(&mut |first, stamp, event| {
        if found.len() >= limit || looked == LOOK_BACK_EVENTS {
            all = false;
            return ControlFlow::Break(());
        }
        (looked, oldest) = (looked + 1, first);
        // A retry comes after what it retries, so it is met before it; the newest of several counts.
        if let Some((of, again)) = Retried::of_event(first, event) {
            retried.entry(of).or_insert(again);
        }
        for mut reject in of_event(first, stamp, event).into_iter().rev() {
            reject.retried = retried.get(&reject.seq).copied();
            found.push(reject);
        }
        ControlFlow::Continue(())
    })?;
    found.truncate(limit);
    Ok(answer(&found, looked, oldest, all))
}

fn answer(found: &[Reject], looked: u64, oldest: Seq, all: bool) -> Value {
    json!({
        "rejects": found.iter().map(Reject::summary).collect::<Vec<_>>(),
        "looked_at_events": looked,
        "looked_back_to_seq": oldest.0,
        "whole_journal": all,
    })
}

/// One reject of a running node. `None` if that record is not one, or no longer here.
pub fn show(reader: &Reader, seq: Seq) -> Result<Option<Reject>, LedgerError> {
    let Some(chunk) = reader.chunk_at(seq)? else { return Ok(None) };
    let rejects = chunk.events().flat_map(|(first, stamp, event)| of_event(first, stamp, event));
    let Some(mut reject) = rejects.into_iter().find(|reject| reject.seq == seq) else { return Ok(None) };
    let mut looked = 0;
    reject.retries_known = false;
    reader.events_back(&mut |first, _, event| {
        looked += 1;
        reject.retried = Retried::of_event(first, event).filter(|(of, _)| *of == seq).map(|(_, again)| again);
        reject.retries_known = reject.retried.is_some() || first <= seq;
        let over = reject.retries_known || looked == LOOK_BACK_EVENTS;
        if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(Some(reject))
}

/// The newest rejects of a stopped node. Its whole journal is read and checked anyway.
pub(super) fn list_stopped(dir: &Path, limit: usize) -> Result<Value, LedgerError> {
    let limit = limit.min(LIST_MAX);
    let (mut kept, mut looked, mut oldest) = (VecDeque::<Reject>::new(), 0, None);
    let mut all = true;
    read_stopped(dir, &mut |chunk| {
        for (first, stamp, event) in chunk.events() {
            looked += 1;
            oldest.get_or_insert(first);
            note_retry(&mut kept, first, event);
            kept.extend(of_event(first, stamp, event));
            while kept.len() > limit {
                kept.pop_front();
                all = false;
            }
        }
    })?;
    let found: Vec<Reject> = kept.into_iter().rev().collect();
    Ok(answer(&found, looked, oldest.unwrap_or(Seq::ZERO), all))
}

pub(super) fn show_stopped(dir: &Path, seq: Seq) -> Result<Option<Reject>, LedgerError> {
    let mut kept = VecDeque::new();
    read_stopped(dir, &mut |chunk| {
        for (first, stamp, event) in chunk.events() {
            note_retry(&mut kept, first, event);
            kept.extend(of_event(first, stamp, event).into_iter().filter(|reject| reject.seq == seq));
        }
    })?;
    Ok(kept.pop_front())
}

fn note_retry(kept: &mut VecDeque<Reject>, first: Seq, event: &proto::wire::Event) {
    if let Some((of, again)) = Retried::of_event(first, event)
        && let Some(reject) = kept.iter_mut().find(|reject| reject.seq == of)
    {
        reject.retried = Some(again);
    }
}

/// A reject that may be handed in again, as it was or with other bytes; or why it may not.
pub fn to_retry(reader: &Reader, seq: Seq, corrected: bool) -> Result<Reject, String> {
    let reject = show(reader, seq).map_err(|e| e.to_string())?;
    let reject = reject.ok_or_else(|| format!("record {seq} is no refusal, or no longer in the journal"))?;
    if let Some(again) = reject.retried.filter(Retried::done) {
        return Err(format!("it was handed in again already, as record {} ({})", again.seq, again.status));
    }
    if !reject.retries_known {
        return Err(format!(
            "more than {LOOK_BACK_EVENTS} events came after it, so nobody can tell whether it was handed in again: \
             publish it as its device would"
        ));
    }
    if reject.span.is_some() {
        return Err("it is part of a site's journal, not a request".into());
    }
    if corrected {
        return Ok(reject);
    }
    if reject.partly_applied {
        return Err(format!(
            "only line {} of this request was refused, the rest of it was applied: hand in a corrected line with \
             --payload FILE, under another id",
            reject.line
        ));
    }
    match (reject.cut_bytes(), reject.payload.len()) {
        (0, _) => Ok(reject),
        (_, 0) => Err("none of its bytes were kept: hand it in whole with --payload FILE".into()),
        (_, kept) => Err(format!(
            "only the first {kept} of its {} bytes were kept: hand it in whole with --payload FILE",
            reject.full_bytes
        )),
    }
}
