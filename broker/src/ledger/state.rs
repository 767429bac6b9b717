//! What the journal folds to. Cells that changed since they were last written are held here and shadow the disk;
//! they are written some at a time, riding on later commits (a paced checkpoint).
//!
//! Folding is blind: an event says what a cell becomes, it never reads one. So a checkpoint need not be atomic:
//! replaying the journal from `folded` on ends at the same state, whatever part of it had been written already.

use std::collections::{BTreeMap, VecDeque};

use proto::id::Seq;

use super::core::{EachCell, Put, Table};
use super::error::LedgerError;
use super::store::Store;

/// Below this many dirty cells nothing rides: cells that change often are written once, and a replay stays short.
const RIDE_FROM: usize = 4096;
/// Over how many groups a checkpoint is spread.
const PACE: usize = 256;
/// The most cells that ride on one group: far below what may be written between two fdatasyncs.
const CELLS_MAX: usize = 1024;
const CELLS_BYTES_MAX: usize = 512 << 10;

type Key = (u8, Vec<u8>);

/// Bounded by its own pace: a group adds a few hundred cells at most, and past 4,096 a 256th of what waits leaves
/// with each group.
#[derive(Default)]
pub(super) struct State {
    dirty: BTreeMap<Key, Option<Vec<u8>>>,
    /// Dirty cells in the order of the seq that first made them so.
    queue: VecDeque<(Seq, Key)>,
}

impl State {
    /// `seq` is the record that changes the cell; for lazy changes the newest one.
    pub(super) fn put(&mut self, seq: Seq, put: Put) {
        let key = (put.table.0, put.key);
        if self.dirty.insert(key.clone(), put.value).is_none() {
            self.queue.push_back((seq, key));
        }
    }

    /// A change that is written with the group itself: the disk is newer than anything held here.
    pub(super) fn written(&mut self, put: &Put) {
        self.dirty.remove(&(put.table.0, put.key.clone()));
    }

    pub(super) fn get(&self, store: &Store, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.dirty.get(&(table.0, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => store.get(table, key),
        }
    }

    /// Merges what is held here with what is on disk, in key order.
    pub(super) fn scan(&self, store: &Store, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        let mut stored = store.scan(table, from).peekable();
        let mut held = self.dirty.range((table.0, from.to_vec())..).take_while(|((t, _), _)| *t == table.0).peekable();
        loop {
            let flow = match (held.peek(), stored.peek()) {
                (None, None) => return Ok(()),
                (_, Some(Err(_))) => match stored.next() {
                    Some(Err(error)) => return Err(error),
                    _ => return Ok(()),
                },
                (Some(((_, key), value)), Some(Ok((on_disk, _)))) if key <= on_disk => {
                    let flow = value.as_ref().map(|value| each(key, value));
                    if key == on_disk {
                        stored.next();
                    }
                    held.next();
                    flow
                }
                (Some(((_, key), value)), None) => {
                    let flow = value.as_ref().map(|value| each(key, value));
                    held.next();
                    flow
                }
                (_, Some(Ok((key, value)))) => {
                    let flow = each(key, value);
                    stored.next();
                    Some(flow)
                }
            };
            if flow.is_some_and(|flow| flow.is_break()) {
                return Ok(());
            }
        }
    }

    pub(super) fn dirty(&self) -> usize {
        self.queue.len()
    }

    /// Takes the cells that ride on the group that ends at `last` and says up to where the state is folded once they
    /// are written; `None` if nothing rides. With `all`, as many as one group may carry.
    pub(super) fn checkpoint(&mut self, last: Seq, all: bool, puts: &mut Vec<Put>) -> Option<Seq> {
        if self.queue.is_empty() || (!all && self.queue.len() < RIDE_FROM) {
            return None;
        }
        let share = if all { CELLS_MAX } else { (self.queue.len() / PACE).min(CELLS_MAX) };
        let (mut taken, mut bytes) = (0, 0);
        while taken < share && bytes < CELLS_BYTES_MAX {
            let Some((_, key)) = self.queue.pop_front() else { break };
            // Gone if it was written with a group since.
            let Some(value) = self.dirty.remove(&key) else { continue };
            let put = Put { table: Table(key.0), key: key.1, value };
            bytes += put.bytes();
            taken += 1;
            puts.push(put);
        }
        Some(self.queue.front().map_or(last, |(first, _)| Seq(first.0.saturating_sub(1))))
    }
}
