//! Merging the register writes of a site's chunk: the hub is the arbiter, and journals what it decided.

use std::collections::{BTreeSet, HashMap};

use proto::chunk::Chunk;
use proto::clock::{Stamp, effective};
use proto::id::{Dot, WallMs};
use proto::register::{Register, RegisterKey, VALUE_BYTES_MAX};
use proto::version::VersionVector;
use proto::wire::record::Of;
use proto::wire::{Conflict, RegisterCell, RegisterMerged, RegisterWrite};

use super::tables::{REGISTER, decode};
use crate::ledger::{LedgerError, Read};

/// What a chunk's writes came to.
#[derive(Debug, Default)]
pub(super) struct Merges {
    /// Each touched register's state after the last write, in key order.
    pub(super) registers: Vec<RegisterMerged>,
    pub(super) conflicts: Vec<Conflict>,
    /// Writes that are not ones: a key, vector or value that breaks the rules.
    pub(super) unreadable: u64,
}

/// `unfolded` holds the registers that earlier chunks of the same message touched, which the ledger does not show yet.
pub(super) fn merge(
    chunk: &Chunk,
    now: WallMs,
    ledger: &dyn Read,
    unfolded: &mut HashMap<String, Register>,
) -> Result<Merges, LedgerError> {
    let mut merges = Merges::default();
    let mut touched = BTreeSet::new();
    for (first, _, event) in chunk.events() {
        for (offset, record) in (0..).zip(&event.records) {
            let Some(Of::Register(write)) = &record.of else { continue };
            let dot = Dot { replica: chunk.head.replica.clone(), seq: first.plus(offset) };
            let Some(written) = read(write, dot, &event.device) else {
                merges.unreadable += 1;
                continue;
            };
            let current = match unfolded.remove(&write.key) {
                Some(register) => Some(register),
                None => stored(&write.key, ledger)?,
            };
            let (register, conflict) = decide(current, written, now);
            merges.conflicts.extend(conflict.map(|loser| Conflict {
                key: write.key.clone(),
                winner: Some((&register).into()),
                loser: Some((&loser).into()),
            }));
            unfolded.insert(write.key.clone(), register);
            touched.insert(write.key.clone());
        }
    }
    let merged = |key: String| {
        let state = unfolded.get(&key).map(Into::into);
        RegisterMerged { key, state }
    };
    merges.registers = touched.into_iter().map(merged).collect();
    Ok(merges)
}

/// Fixes the write's effective stamp and merges it. Returns the losing side if neither had seen the other.
fn decide(current: Option<Register>, mut written: Register, now: WallMs) -> (Register, Option<Register>) {
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

pub(super) fn stored(key: &str, ledger: &dyn Read) -> Result<Option<Register>, LedgerError> {
    let Some(value) = ledger.get(REGISTER, key.as_bytes())? else { return Ok(None) };
    let cell: RegisterCell = decode(REGISTER, &value)?;
    let damaged = |why: String| LedgerError::Value { table: REGISTER.0, why };
    let state = cell.state.ok_or_else(|| damaged("a register without a state".into()))?;
    Register::try_from(&state).map(Some).map_err(|e| damaged(e.to_string()))
}

fn read(write: &RegisterWrite, dot: Dot, device: &str) -> Option<Register> {
    write.key.parse::<RegisterKey>().ok()?;
    if write.value.len() > VALUE_BYTES_MAX {
        return None;
    }
    let mut seen = write.seen.as_ref().map(VersionVector::try_from).transpose().ok()?.unwrap_or_default();
    seen.insert(&dot);
    Some(Register {
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
    use proto::id::{Epoch, ReplicaId, Seq};

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
