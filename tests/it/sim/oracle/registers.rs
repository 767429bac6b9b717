//! Registers decided once more, plainly: the greatest (stamp, replica, seq) of all writes that arrived; a conflict is a pair
//! of which neither had seen the other.

use std::collections::{BTreeMap, BTreeSet};

use proto::wire::{Conflict, RegisterMerged, RegisterState};

use super::super::disk::Moment;
use super::hub::Held;
use super::life::Write;
use super::{Life, Rep, Seen, dot_of, seen_of};

/// A write that arrived: (effective stamp, replica, seq). The greatest is the register's value.
type Arrived = (u64, Rep, u64);

#[derive(Debug, Clone, Default)]
struct Register {
    arrived: BTreeSet<Arrived>,
    value: Option<Vec<u8>>,
    seen: Seen,
    /// What it had seen of lives that are over, before that was left out of it.
    pruned: Seen,
}

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Registers {
    by_key: BTreeMap<String, Register>,
    /// (key, loser): each once.
    conflicts: BTreeSet<(String, Rep, u64)>,
    /// What deletions had seen that are forgotten.
    forgotten: BTreeMap<String, Seen>,
    /// Losers that came after their key was forgotten.
    too_late: BTreeSet<(String, Rep, u64)>,
}

impl Registers {
    pub(in super::super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The hub says what a write, or several of one site that follow each other, came to.
    pub(in super::super) fn merged(
        &mut self,
        merged: &RegisterMerged,
        conflict: Option<&Conflict>,
        moment: &Moment,
        lives: &BTreeMap<Rep, Life>,
        held: &BTreeMap<Rep, Held>,
    ) {
        let state = merged.state.as_ref().expect("a register has a state");
        let forgotten = self.forgotten.get(&merged.key).cloned().unwrap_or_default();
        let unknown = || Register { pruned: forgotten, ..Register::default() };
        let register = self.by_key.entry(merged.key.clone()).or_insert_with(unknown);
        if conflict.is_none() && register.prune(state, held) {
            return;
        }
        let (of, from, to) = news(register, state, &merged.key);
        let life = lives.get(&of).unwrap_or_else(|| panic!("nobody ever was {of:?}"));
        if let Some(conflict) = conflict {
            // A deletion stands under the name of what came too late, and may lose to what nobody had seen.
            let stands_for_it = conflict.loser.as_ref().is_some_and(|loser| loser.deleted);
            let told_before = !self.conflicts.insert(loser(conflict));
            let may_be = stands_for_it && self.too_late.contains(&loser(conflict));
            assert!(!told_before || may_be, "the same conflict twice: {conflict:?}");
        }
        let name = (merged.key.clone(), of.clone(), to);
        if conflict.is_none() && state.deleted && self.conflicts.contains(&name) {
            // It came after its key was forgotten and is kept as a loser: the deletion stands under its name.
            register.arrived.insert((state.stamp, of, to));
            (register.value, register.seen) = (None, seen_of(state.seen.as_ref()));
            return;
        }
        if life.ambiguous(to) {
            // Which of two records with this name it was cannot be told; that both never arrive is checked elsewhere.
            let (of, seq) = dot_of(state.dot.as_ref());
            register.arrived.insert((state.stamp, of, seq));
            register.value = (!state.deleted).then(|| state.value.to_vec());
            register.seen = seen_of(state.seen.as_ref());
            return;
        }
        let writes = life.writes.get(&merged.key).map(Vec::as_slice).unwrap_or_default();
        // What the site no longer had when it told the hub what it lacks can have come ahead of the journal only.
        let gone = |write: &Write| held.get(&of).is_some_and(|held| held.lacks(write.seq));
        let come = |write: &&Write| write.seq == to || !gone(write);
        let new = writes.iter().filter(|write| (from + 1..=to).contains(&write.seq));
        let mut new: Vec<&Write> = new.filter(come).collect();
        assert_eq!(new.last().map(|write| write.seq), Some(to), "{} of {of:?} at {to} was never written", merged.key);
        if moment.present {
            new.drain(..new.len() - 1);
        }
        let mut lost = None;
        for write in new {
            let loser = register.take(write, &of, moment.wall_ms);
            assert!(lost.is_none() || loser.is_none(), "two conflicts in one: {merged:?}");
            lost = lost.or(loser);
        }
        let told =
            conflict.map(|conflict| dot_of(conflict.loser.as_ref().expect("a conflict has a loser").dot.as_ref()));
        assert_eq!(told, lost, "the loser of {}", merged.key);
        register.check(&merged.key, state);
    }

    /// A deletion that everybody knows went for good.
    pub(in super::super) fn forget(&mut self, key: &str) {
        let register = self.by_key.remove(key).unwrap_or_else(|| panic!("{key} was forgotten and never known"));
        assert!(register.value.is_none(), "{key} was forgotten with a value");
        let seen = self.forgotten.entry(key.to_owned()).or_default();
        for (of, seq) in register.seen.into_iter().chain(register.pruned) {
            let known = seen.entry(of).or_default();
            *known = seq.max(*known);
        }
    }

    /// A write that came after its key was forgotten, by a site that had not heard of it: kept as a loser.
    pub(in super::super) fn too_late(&mut self, conflict: &Conflict, lives: &BTreeMap<Rep, Life>) {
        let seen = seen_of(conflict.loser.as_ref().and_then(|loser| loser.seen.as_ref()));
        // What it had seen may have the name of another record, which is here: a box and the hub were restored both.
        let ambiguous = seen.iter().any(|(of, seq)| lives.get(of).is_some_and(|life| life.ambiguous(*seq)));
        assert!(self.forgotten.contains_key(&conflict.key) || ambiguous, "never forgotten: {conflict:?}");
        assert!(self.conflicts.insert(loser(conflict)), "the same conflict twice: {conflict:?}");
        self.too_late.insert(loser(conflict));
    }

    /// The cell is what all that arrived comes to.
    pub(in super::super) fn check(&self, key: &[u8], state: &RegisterState) {
        let key = std::str::from_utf8(key).expect("keys are text");
        let register = self.by_key.get(key).unwrap_or_else(|| panic!("nobody wrote {key}"));
        register.check(key, state);
    }
}

/// Which replica's writes a new state covers that the old did not: after the first seq, up to the second.
fn news(register: &Register, state: &RegisterState, key: &str) -> (Rep, u64, u64) {
    let after = seen_of(state.seen.as_ref());
    for (of, seq) in &register.seen {
        assert!(after.get(of) >= Some(seq), "{key} forgot that it had seen {of:?} up to {seq}: {state:?}");
    }
    let mut grown = after.iter().filter(|(of, seq)| register.seen.get(*of) != Some(seq));
    let Some((of, to)) = grown.next() else { panic!("{key} was merged with nothing new: {state:?}") };
    assert!(grown.next().is_none(), "{key} has seen more than one site's writes at once: {state:?}");
    let known = [&register.seen, &register.pruned].map(|seen| seen.get(of).copied().unwrap_or(0));
    (of.clone(), known[0].max(known[1]), *to)
}

fn loser(conflict: &Conflict) -> (String, Rep, u64) {
    let (of, seq) = dot_of(conflict.loser.as_ref().expect("a conflict has a loser").dot.as_ref());
    (conflict.key.clone(), of, seq)
}

impl Register {
    /// The same value with less that it has seen: only lives that the hub has applied as far as that, and then forgot.
    fn prune(&mut self, state: &RegisterState, held: &BTreeMap<Rep, Held>) -> bool {
        let after = seen_of(state.seen.as_ref());
        let less = after.iter().all(|(of, seq)| self.seen.get(of) == Some(seq)) && after.len() < self.seen.len();
        if !less {
            return false;
        }
        for (of, seq) in self.seen.iter().filter(|(of, _)| !after.contains_key(*of)) {
            let applied = held.get(of).map_or(0, |held| held.at.seq.0);
            assert!(applied >= *seq, "{of:?} is pruned at {seq} and applied up to {applied}");
            self.pruned.insert(of.clone(), *seq);
        }
        self.seen = after;
        true
    }

    /// Takes a write; the loser, if neither had seen the other.
    fn take(&mut self, write: &Write, of: &Rep, hub_ms: u64) -> Option<(Rep, u64)> {
        let saw = |seq: u64, other: &Rep| write.seen.get(other).is_some_and(|seen| *seen >= seq);
        let now = self.arrived.last().cloned();
        let latest = (hub_ms << 16) | 0xffff;
        let above = now.as_ref().filter(|(_, other, seq)| saw(*seq, other)).map_or(0, |(stamp, ..)| stamp + 1);
        let arrived: Arrived = (write.stamp.min(latest).max(above), of.clone(), write.seq);
        for (stamp, other, seq) in self.arrived.iter().filter(|(_, other, seq)| saw(*seq, other)) {
            let earlier = (*stamp, other.clone(), *seq);
            assert!(
                arrived > earlier || now.as_ref() > Some(&arrived),
                "{arrived:?} had seen {earlier:?}, which beats it"
            );
        }
        self.seen.insert(of.clone(), write.seq);
        let wins = now.as_ref().is_none_or(|now| arrived > *now);
        let lost = match now {
            Some((_, other, seq)) if !saw(seq, &other) => {
                Some(if wins { (other, seq) } else { (of.clone(), write.seq) })
            }
            _ => None,
        };
        if wins {
            self.value = write.value.clone();
        }
        self.arrived.insert(arrived);
        lost
    }

    fn check(&self, key: &str, state: &RegisterState) {
        let (of, seq) = dot_of(state.dot.as_ref());
        let found = (Some(&(state.stamp, of, seq)), (!state.deleted).then(|| state.value.to_vec()));
        assert_eq!(found, (self.arrived.last(), self.value.clone()), "{key}, of {:?}", self.arrived);
        assert_eq!(seen_of(state.seen.as_ref()), self.seen, "what {key} has seen");
    }
}
