//! What the fuzz targets share: input cut into pieces, and a ledger in memory.

use std::collections::BTreeMap;

use broker::ledger::{Core, EachCell, EachEvent, LedgerError, Now, Placed, Put, Read, Step, Table};
use proto::clock::Stamp;
use proto::id::{ReplicaId, Seq, WallMs};
use proto::wire::Event;

/// Pieces of at most 64 KiB: a byte that says what it is, two that say how long, and that many.
pub struct Pieces<'a>(pub &'a [u8]);

impl<'a> Iterator for Pieces<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let ([kind, low, high], rest) = self.0.split_first_chunk::<3>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
        self.0 = rest;
        Some((*kind, piece))
    }
}

/// A core and its ledger: one step is one commit, on a disk that never fails.
pub struct Node<C: Core> {
    pub core: C,
    pub ledger: Memory,
    mono_ms: u64,
}

#[derive(Debug)]
pub struct Memory {
    replica: ReplicaId,
    cells: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
    events: Vec<(Seq, Stamp, Event)>,
    last: Seq,
}

impl<C: Core> Node<C> {
    /// # Panics
    /// If the core cannot begin with an empty ledger.
    pub fn start(core: C, replica: ReplicaId) -> Node<C> {
        let ledger = Memory { replica, cells: BTreeMap::new(), events: Vec::new(), last: Seq::ZERO };
        let mut node = Node { core, ledger, mono_ms: 0 };
        let now = node.now();
        let step = node.core.recovered(Stamp::default(), &now, &node.ledger).expect("an empty ledger is one");
        node.commit(step);
        node
    }

    pub fn now(&self) -> Now {
        let wall = WallMs(1_700_000_000_000 + self.mono_ms);
        Now { wall, synced: true, mono_ms: self.mono_ms, powered_on_s: self.mono_ms / 1000 }
    }

    pub fn wait(&mut self, ms: u64) {
        self.mono_ms += ms;
    }

    /// Hands something in and commits what it comes to; returns all effects.
    ///
    /// # Panics
    /// If the core says that the ledger failed: this one never does.
    pub fn act(
        &mut self,
        act: impl FnOnce(&mut C, &Now, &dyn Read) -> Result<Step<C::Effect>, LedgerError>,
    ) -> Vec<C::Effect> {
        let now = self.now();
        let step = act(&mut self.core, &now, &self.ledger).expect("this ledger never fails");
        self.commit(step)
    }

    fn commit(&mut self, step: Step<C::Effect>) -> Vec<C::Effect> {
        let first = self.ledger.next_seq();
        let mut puts: Vec<Put> = Vec::new();
        for draft in step.events {
            assert!(!draft.event.records.is_empty(), "an event has records");
            let at = self.ledger.next_seq();
            let (replica, powered_on_s) = (&self.ledger.replica, self.mono_ms / 1000);
            let placed = Placed { replica, first: at, stamp: draft.stamp, event: &draft.event, powered_on_s };
            self.core.fold(&placed, &mut |put| puts.push(put));
            self.ledger.last = self.ledger.last.plus(draft.event.records.len() as u64);
            self.ledger.events.push((at, draft.stamp, draft.event));
        }
        for total in self.core.seal(first) {
            self.core.fold_total(&total, first, &mut |put| puts.push(put));
        }
        for Put { table, key, value } in puts.into_iter().chain(step.puts).chain(step.lazy) {
            match value {
                Some(value) => self.ledger.cells.insert((table.0, key), value.to_vec()),
                None => self.ledger.cells.remove(&(table.0, key)),
            };
        }
        let (mut effects, now) = (step.then, self.now());
        effects.extend(self.core.committed(&now, &self.ledger).expect("this ledger never fails"));
        effects
    }
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.cells.get(&(table.0, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        let cells = self.cells.range((table.0, from.to_vec())..).take_while(|((t, _), _)| *t == table.0);
        for ((_, key), value) in cells {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn next_seq(&self) -> Seq {
        self.last.next()
    }

    fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError> {
        for (seq, stamp, event) in self.events.iter().rev() {
            if each(*seq, *stamp, event).is_break() {
                break;
            }
        }
        Ok(())
    }
}
