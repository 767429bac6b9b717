//! Conflicts as people see them: listed, shown, told to HQ; and the losing side brought back, as a new write of the
//! hub's own that has seen everything and so wins everywhere.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::clock::Stamp;
use proto::id::{Dot, Seq, WallMs};
use proto::register::Register;
use proto::topic::Outbound;
use proto::version::VersionVector;
use proto::wire::record::Of;
use proto::wire::{
    Conflict, ConflictCell, ConflictRestored, RegisterMerged, RegisterState, RestoredCell, VersionVector as Seen,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::merge::{self, STATE_BYTES_MAX};
use super::tables::{CONFLICT, RESTORED, decode, seq_of};
use super::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Read, Step};

/// The most that one answer lists.
pub const LIST_MAX: usize = 1_000;

/// Which conflicts to list: the newest, of registers whose key starts with one of these; of all if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub limit: usize,
    pub prefixes: Vec<String>,
}

/// What people ask of conflicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    List(Wanted),
    Show(Seq),
    Restore { conflict: Seq, by: String, why: String },
}

/// A conflict that is kept, and what became of it.
#[derive(Debug, Clone)]
pub struct Kept {
    pub seq: Seq,
    pub conflict: Conflict,
    /// Hub time at which it was seen.
    pub seen_ms: u64,
    pub restored: Option<RestoredCell>,
}

impl Wanted {
    pub fn wants(&self, key: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

impl Kept {
    pub fn new(seq: Seq, conflict: Conflict, seen: WallMs) -> Kept {
        Kept { seq, conflict, seen_ms: seen.0, restored: None }
    }

    pub fn json(&self) -> Value {
        json!({
            "id": self.seq.0,
            "key": self.conflict.key,
            "winner": self.conflict.winner.as_ref().map(side),
            "loser": self.conflict.loser.as_ref().map(side),
            "seen_ms": self.seen_ms,
            "restored": self.restored.as_ref().map(restored),
        })
    }

    /// With what each side had seen, and what the register holds now.
    pub fn whole(&self, now: Option<&RegisterState>) -> Value {
        let mut whole = self.json();
        for (name, state) in [("winner", &self.conflict.winner), ("loser", &self.conflict.loser)] {
            if let Some(state) = state {
                whole[name]["seen"] = vector(state.seen.as_ref());
            }
        }
        whole["now"] = now.map(side).into();
        whole
    }
}

/// One write. Its value is JSON, or null for a deletion.
fn side(state: &RegisterState) -> Value {
    let dot = state.dot.clone().unwrap_or_default();
    json!({
        "value": serde_json::from_slice::<Value>(&state.value).unwrap_or(Value::Null),
        "deleted": state.deleted,
        "dot": format!("{}#{:016x}/{}", dot.site, dot.epoch, dot.seq),
        "site": dot.site,
        "seq": dot.seq,
        "device": state.writer,
        "at_ms": Stamp(state.stamp).ms().0,
    })
}

fn restored(cell: &RestoredCell) -> Value {
    json!({ "seq": cell.seq, "at_ms": cell.at_ms, "by": cell.by, "why": cell.why })
}

fn vector(seen: Option<&Seen>) -> Value {
    let entries = seen.into_iter().flat_map(|seen| &seen.entries);
    entries.map(|dot| format!("{}#{:016x}/{}", dot.site, dot.epoch, dot.seq)).collect()
}

pub(super) fn told(kept: &Kept) -> (String, Bytes) {
    (Outbound::HqConflict(&kept.seq.to_string()).to_string(), kept.json().to_string().into())
}

/// Every conflict that is kept, for a start.
pub(super) fn all(ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
    let mut seqs = Vec::new();
    ledger.scan_prefix(CONFLICT, &[], &mut |key, _| {
        seqs.extend(seq_of(key));
        ControlFlow::Continue(())
    })?;
    let mut effects = Vec::new();
    for seq in seqs {
        effects.extend(stored(seq, ledger)?.map(|kept| Effect::restore(told(&kept))));
    }
    Ok(effects)
}

fn stored(seq: Seq, ledger: &dyn Read) -> Result<Option<Kept>, LedgerError> {
    let key = seq.0.to_be_bytes();
    let Some(value) = ledger.get(CONFLICT, &key)? else { return Ok(None) };
    let ConflictCell { conflict: Some(conflict), seen_ms } = decode(CONFLICT, &value)? else { return Ok(None) };
    let restored = ledger.get(RESTORED, &key)?.map(|value| decode(RESTORED, &value)).transpose()?;
    Ok(Some(Kept { seq, conflict, seen_ms, restored }))
}

impl Hub {
    pub(super) fn asked(
        &mut self,
        ask: Ask,
        answer: oneshot::Sender<Value>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let value = match ask {
            Ask::List(wanted) => self.list(&wanted, ledger)?,
            Ask::Show(seq) => match stored(seq, ledger)? {
                Some(kept) => {
                    let now = merge::stored(&kept.conflict.key, ledger)?;
                    kept.whole(now.as_ref().map(RegisterState::from).as_ref())
                }
                None => not_kept(seq),
            },
            Ask::Restore { conflict, by, why } => match stored(conflict, ledger)? {
                Some(kept) => self.bring_back(kept, by, why, now, ledger, &mut step)?,
                None => not_kept(conflict),
            },
        };
        step.then.push(Effect::Answer(answer, value));
        Ok(step)
    }

    /// The newest first. All that are kept are looked at at most.
    fn list(&self, wanted: &Wanted, ledger: &dyn Read) -> Result<Value, LedgerError> {
        let (limit, mut found) = (wanted.limit.min(LIST_MAX), Vec::new());
        for seq in self.conflicts.iter().rev() {
            if found.len() == limit {
                break;
            }
            found.extend(stored(*seq, ledger)?.filter(|kept| wanted.wants(&kept.conflict.key)).map(|kept| kept.json()));
        }
        Ok(json!({ "conflicts": found, "kept": self.conflicts.len() }))
    }

    /// Writes the loser's value again, as the hub itself and having seen all there is, so that it replaces what stands
    /// now without being a conflict again. The answer says as which record.
    fn bring_back(
        &mut self,
        mut kept: Kept,
        by: String,
        why: String,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Value, LedgerError> {
        if let Some(before) = &kept.restored {
            let by = if before.by.is_empty() { "somebody" } else { &before.by };
            return Ok(error(format!(
                "conflict {} was restored already, by {by}, as record {}; to change the value again, write it at a site",
                kept.seq, before.seq
            )));
        }
        let key = kept.conflict.key.clone();
        let damaged = |why: String| LedgerError::Value { table: CONFLICT.0, why };
        let read = |state: &RegisterState| Register::try_from(state).map_err(|e| damaged(e.to_string()));
        let loser = kept.conflict.loser.as_ref().ok_or_else(|| damaged("a conflict without its loser".into()))?;
        let loser = read(loser)?;
        // A winner without a dot is a deletion that was forgotten: there is nothing of it to have seen.
        let winner = kept.conflict.winner.as_ref().filter(|winner| winner.dot.is_some()).map(read).transpose()?;
        let current = merge::stored(&key, ledger)?;

        let marked = ledger.next_seq();
        let dot = Dot { replica: self.writes_as(ledger), seq: marked.next() };
        let (mut seen, mut replaced) = (VersionVector::default(), None);
        for register in [Some(&loser), winner.as_ref(), current.as_ref()].into_iter().flatten() {
            seen.join(&register.seen);
            replaced = replaced.max(Some(register.stamp));
        }
        seen.insert(&dot);
        let stamp = self.clock.stamp_write(now.reading(), replaced);
        let state = RegisterState::from(&Register { value: loser.value, stamp, dot, seen, writer: String::new() });
        if state.encoded_len() > STATE_BYTES_MAX {
            return Ok(error("the value and all the sites that wrote it no longer fit into one register"));
        }

        let cell = RestoredCell { seq: marked.0, at_ms: now.wall.0, by: by.clone(), why: why.clone() };
        let mark = ConflictRestored { conflict: kept.seq.0, by, why };
        let answer = json!({
            "id": kept.seq.0,
            "key": key,
            "restored": restored(&cell),
            "now": side(&state),
            "replaced": current.as_ref().map(|register| side(&register.into())),
        });
        kept.restored = Some(cell);
        self.tally.conflicts_restored += 1;
        self.feed.changed(&key, marked.next().0);
        let merged = RegisterMerged { key, state: Some(state) };
        step.events.push(self.draft(vec![Of::ConflictRestored(mark), Of::Merged(merged)], now));
        step.then.push(Effect::tell(told(&kept)));
        Ok(answer)
    }
}

fn not_kept(seq: Seq) -> Value {
    error(format!("record {seq} is no conflict, or no longer kept"))
}

fn error(why: impl Into<String>) -> Value {
    json!({ "error": why.into() })
}
