//! Merging the register writes of a site's chunk: the hub is the arbiter, and journals what it decided.

use std::collections::HashMap;
use std::ops::ControlFlow;

use prost::Message;
use proto::chunk::Chunk;
use proto::clock::{Stamp, effective};
use proto::id::{Dot, NAME_LEN_MAX, ReplicaId, Seq, WallMs};
use proto::register::{Register, RegisterKey, VALUE_BYTES_MAX};
use proto::version::VersionVector;
use proto::wire::record::Of;
use proto::wire::{Conflict, LostCell, RegisterCell, RegisterMerged, RegisterState, RegisterWrite, SetAsideCell};

use super::aside::{self, Fault, LeftOut};
use super::forget;
use super::sync::watermark;
use super::tables::{ASIDE, HUB, HUB_FORGOTTEN, HUB_INCARNATION, LOST, REGISTER, decode, replica_key, seq_of};
use crate::ledger::{LedgerError, Read};

/// The most bytes of a register's state: its value, its writer and what it has seen. A write that would pass it is left
/// out; three states (a conflict and what it came to) must fit into one chunk of our own journal.
pub(super) const STATE_BYTES_MAX: usize = 40 << 10;

/// What a chunk's writes came to, in their order.
#[derive(Debug, Default)]
pub(super) struct Merges {
    pub(super) outcomes: Vec<MergedWrite>,
    /// Writes of before a snapshot, of registers that are forgotten: the deletion stands, without value or dot.
    pub(super) too_late: Vec<Conflict>,
    /// Writes that are not ones: a key, vector or value that breaks the rules.
    pub(super) left_out: Vec<LeftOut>,
    /// How far the furthest of the writes was stamped into the future, milliseconds.
    pub(super) ahead_ms: u64,
}

/// A register after a write, and the conflict that the write was. They are journalled in one event: once a register
/// has seen a write, the write cannot be a conflict again.
#[derive(Debug)]
pub(super) struct MergedWrite {
    pub(super) merged: RegisterMerged,
    pub(super) conflict: Option<Conflict>,
}

/// A site's write, as its journal or its present has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SiteWrite<'a> {
    pub(super) seq: Seq,
    pub(super) device: &'a str,
    pub(super) write: &'a RegisterWrite,
}

/// The writes of a chunk.
pub(super) fn writes_of(chunk: &Chunk) -> Vec<SiteWrite<'_>> {
    let mut writes = Vec::new();
    for (first, _, event) in chunk.events() {
        for (offset, record) in (0..).zip(&event.records) {
            if let Some(Of::Register(write)) = &record.of {
                writes.push(SiteWrite { seq: first.plus(offset), device: &event.device, write });
            }
        }
    }
    writes
}

/// Writes up to `stale_to` are of before a snapshot: they cannot bring back a register that is not here any more.
/// `unfolded` holds the registers that earlier chunks of the same message touched, which the ledger does not show yet.
pub(super) fn merge(
    replica: &ReplicaId,
    writes: Vec<SiteWrite<'_>>,
    stale_to: Seq,
    now: WallMs,
    ledger: &dyn Read,
    unfolded: &mut HashMap<String, Register>,
) -> Result<Merges, LedgerError> {
    let (mut merges, mut told) = (Merges::default(), None);
    let mut outcome_of = HashMap::new();
    for SiteWrite { seq, device, write } in writes {
        let dot = Dot { replica: replica.clone(), seq };
        let left_out = |fault: Fault| LeftOut { seq: dot.seq, fault, bytes: aside::bytes_of(write) };
        let written = match read(write, dot.clone(), device) {
            Ok(written) => written,
            Err(fault) => {
                merges.left_out.push(left_out(fault));
                continue;
            }
        };
        let current = match unfolded.get(&write.key) {
            Some(register) => Some(register.clone()),
            None => stored(&write.key, ledger)?,
        };
        if current.as_ref().is_some_and(|current| current.seen.covers(&written.dot)) {
            continue;
        }
        if current.is_none() && seq <= stale_to {
            let told = match &mut told {
                Some(told) => told,
                none => none.insert(forget::in_conflict_log(replica, ledger)?),
            };
            // The present and the journal both say it. A deletion of what is deleted takes nothing away.
            if !write.deleted && told.insert((write.key.clone(), seq.0)) {
                let winner = Some(RegisterState { deleted: true, ..RegisterState::default() });
                merges.too_late.push(Conflict { key: write.key.clone(), winner, loser: Some((&written).into()) });
            }
            continue;
        }
        if current.is_none() && was_here(write, &written, ledger)? {
            let key = write.key.clone();
            outcome_of.insert(key.clone(), merges.outcomes.len());
            merges.outcomes.push(stays_deleted(key, written, now, unfolded));
            continue;
        }
        merges.ahead_ms = merges.ahead_ms.max(written.stamp.ms().0.saturating_sub(now.0));
        let (register, loser) = decide(current, written, now);
        let state = RegisterState::from(&register);
        if state.encoded_len() > STATE_BYTES_MAX {
            let reason = "the item and all the sites that wrote it no longer fit into one register";
            merges.left_out.push(left_out(Fault::new("write_too_large", reason)));
            continue;
        }
        let key = write.key.clone();
        unfolded.insert(key.clone(), register);
        match (outcome_of.get(&key), loser) {
            // Nobody needs the state between two writes of one chunk.
            (Some(at), None) => {
                let earlier: &mut MergedWrite = &mut merges.outcomes[*at];
                earlier.merged.state = Some(state);
            }
            (_, loser) => {
                let conflict = loser.map(|loser| Conflict {
                    key: key.clone(),
                    winner: Some(state.clone()),
                    loser: Some((&loser).into()),
                });
                outcome_of.insert(key.clone(), merges.outcomes.len());
                let merged = RegisterMerged { key, state: Some(state) };
                merges.outcomes.push(MergedWrite { merged, conflict });
            }
        }
    }
    Ok(merges)
}

/// Fixes the write's effective stamp and merges it. Returns the losing side if neither had seen the other.
///
/// A site knows what others wrote from us alone, so a write cannot have seen more than we hold. What it claims beyond
/// that is not believed: it would hide writes that are still to come, and the vector would grow without bound.
fn decide(current: Option<Register>, mut written: Register, now: WallMs) -> (Register, Option<Register>) {
    written.seen.meet(current.as_ref().map(|current| &current.seen).unwrap_or(&VersionVector::default()));
    written.seen.insert(&written.dot);
    let Some(current) = current else {
        written.stamp = effective(written.stamp, None, now);
        return (written, None);
    };
    if current.seen.covers(&written.dot) {
        return (current, None);
    }
    let replaced = written.seen.covers(&current.dot).then_some(current.stamp);
    written.stamp = effective(written.stamp, replaced, now);
    let merged = current.merge(written);
    (merged.register, merged.conflict)
}

/// A write of a value over another one, in a register that is not here though all that the write had seen is applied: it
/// was deleted and that forgotten, and the site did not know. It comes so late if an earlier life wrote it, or if we were
/// restored. If we and a box were, two records may have one name, and a write may be taken for one by mistake: it is kept.
fn was_here(write: &RegisterWrite, written: &Register, ledger: &dyn Read) -> Result<bool, LedgerError> {
    let (mut seen, own) = (0, &written.dot.replica);
    if write.deleted || !write.replaces_value || ledger.get(HUB, HUB_FORGOTTEN)?.is_none() {
        return Ok(false);
    }
    for (replica, seq) in written.seen.iter().filter(|(replica, _)| *replica != own) {
        let applied = if replica.site == ledger.replica().site {
            let incarnation = ledger.get(HUB, HUB_INCARNATION)?;
            incarnation.is_some_and(|bytes| bytes == replica.epoch.0.to_be_bytes())
        } else {
            has_applied(replica, seq, ledger)?
        };
        // Of the life before it may be its own name there, which never came.
        if !applied && replica.site != own.site {
            return Ok(false);
        }
        seen += u32::from(applied);
    }
    Ok(seen > 0)
}

/// The record is in the journal, and not in a span of which records are gone or could not be read.
fn has_applied(replica: &ReplicaId, seq: Seq, ledger: &dyn Read) -> Result<bool, LedgerError> {
    if watermark(&replica.site, replica.epoch, ledger)?.seq < seq {
        return Ok(false);
    }
    if let Some(value) = ledger.get(ASIDE, replica.site.as_str().as_bytes())?
        && decode::<SetAsideCell>(ASIDE, &value)?.last >= seq.0
    {
        return Ok(false);
    }
    let (mut lost, mut damaged) = (false, None);
    ledger.scan_prefix(LOST, &replica_key(replica.site.as_str(), replica.epoch), &mut |key, value| {
        let first = key.len().checked_sub(8).and_then(|at| seq_of(&key[at..]));
        match decode::<LostCell>(LOST, value) {
            Ok(cell) => lost |= first.is_some_and(|first| first <= seq) && seq.0 <= cell.last,
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(!lost), Err)
}

/// The deletion stands, under the write's own dot, so that its site hears of it; the write is a conflict.
fn stays_deleted(key: String, written: Register, now: WallMs, unfolded: &mut HashMap<String, Register>) -> MergedWrite {
    let loser = Some((&written).into());
    let (register, _) = decide(None, Register { value: None, ..written }, now);
    let state = Some(RegisterState::from(&register));
    unfolded.insert(key.clone(), register);
    let winner = Some(RegisterState { deleted: true, ..RegisterState::default() });
    let conflict = Some(Conflict { key: key.clone(), winner, loser });
    MergedWrite { merged: RegisterMerged { key, state }, conflict }
}

pub(super) fn stored(key: &str, ledger: &dyn Read) -> Result<Option<Register>, LedgerError> {
    let Some(value) = ledger.get(REGISTER, key.as_bytes())? else { return Ok(None) };
    let cell: RegisterCell = decode(REGISTER, &value)?;
    let damaged = |why: String| LedgerError::Value { table: REGISTER.0, why };
    let state = cell.state.ok_or_else(|| damaged("a register without a state".into()))?;
    Register::try_from(&state).map(Some).map_err(|e| damaged(e.to_string()))
}

fn read(write: &RegisterWrite, dot: Dot, device: &str) -> Result<Register, Fault> {
    write.key.parse::<RegisterKey>().map_err(|e| Fault::new("write_key", e.to_string()))?;
    if write.value.len() > VALUE_BYTES_MAX || device.len() > NAME_LEN_MAX {
        return Err(Fault::new("write_too_large", "the value, or the name of the device, is too long"));
    }
    let seen = write.seen.as_ref().map(VersionVector::try_from).transpose();
    let mut seen = seen.map_err(|e| Fault::new("write_vector", e.to_string()))?.unwrap_or_default();
    seen.insert(&dot);
    Ok(Register {
        value: (!write.deleted).then(|| write.value.clone()),
        stamp: Stamp(write.stamp),
        dot,
        seen,
        writer: device.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Epoch;

    fn write(site: &str, seq: u64, stamp: u64, saw: &[&Register]) -> Register {
        let dot = Dot { replica: ReplicaId { site: site.parse().unwrap(), epoch: Epoch(1) }, seq: Seq(seq) };
        let mut seen = VersionVector::default();
        saw.iter().for_each(|register| seen.join(&register.seen));
        seen.insert(&dot);
        Register { value: Some(format!("\"{site}\"").into()), stamp: Stamp(stamp), dot, seen, writer: "pos-1".into() }
    }

    const NOW: WallMs = WallMs(1_000);

    #[test]
    fn writes_apart_leave_a_conflict_and_one_that_saw_both_wins_silently() {
        let (a, b) = (write("a", 1, 5, &[]), write("b", 1, 9, &[]));
        let (first, none) = decide(None, a.clone(), NOW);
        assert_eq!(none, None);
        let (second, loser) = decide(Some(first), b.clone(), NOW);
        assert_eq!((second.dot.clone(), loser.map(|l| l.dot)), (b.dot.clone(), Some(a.dot)));
        let saw_both = write("a", 2, 10, &[&second]);
        let (third, loser) = decide(Some(second), saw_both.clone(), NOW);
        assert_eq!((third.dot, loser), (saw_both.dot, None));
    }

    #[test]
    fn a_write_from_the_far_future_does_not_win_for_ever() {
        let future = Stamp::at(WallMs(u64::MAX >> 20)).0;
        let (held, _) = decide(None, write("a", 1, future, &[]), NOW);
        assert_eq!(held.stamp.ms(), NOW);
        let later = write("b", 1, Stamp::at(WallMs(2_000)).0, &[]);
        let (held, loser) = decide(Some(held), later.clone(), WallMs(2_000));
        assert_eq!((held.dot, loser.is_some()), (later.dot, true));
    }

    #[test]
    fn a_repeat_changes_nothing() {
        let (a, b) = (write("a", 1, 5, &[]), write("b", 1, 9, &[]));
        let (held, _) = decide(Some(a.clone()), b, NOW);
        assert_eq!(decide(Some(held.clone()), a, NOW), (held, None));
    }
}
