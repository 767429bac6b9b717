//! What the journal folds to. Cells that changed since they were last written are held here and shadow the disk; a
//! checkpoint takes the oldest of them to the store, beside the commits and never in their way.
//!
//! Folding is blind: an event says what a cell becomes, it never reads one. So a checkpoint need not be atomic:
//! replaying the log from `folded` on ends at the same state, whatever part of it had been written already.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::core::{EachCell, Put, Table};
use super::error::LedgerError;
use super::store::Store;

/// The most cells of one checkpoint, and their bytes: far below what sled may be given between two fdatasyncs.
const CELLS_MAX: usize = 1024;
const CELLS_BYTES_MAX: usize = 512 << 10;

pub(super) type Key = (Table, Vec<u8>);
/// Cells that a checkpoint writes.
pub(super) type Cells = BTreeMap<Key, Option<Bytes>>;

/// The writer keeps it bounded: it takes checkpoints as they are due, and waits for them past a bound.
#[derive(Default)]
pub(super) struct State {
    dirty: Cells,
    /// Dirty cells in the order of the frame that first made them so.
    queue: VecDeque<(u64, Key)>,
    /// On their way to the store: newer than what it says, older than what is dirty.
    leaving: Option<Arc<Cells>>,
    bytes: usize,
}

impl State {
    /// `frame` is the one that the change is in; for lazy changes the one that is being gathered.
    pub(super) fn put(&mut self, frame: u64, put: Put) {
        let key = (put.table, put.key);
        let (key_bytes, added) = (key.1.len(), put.value.as_ref().map_or(0, Bytes::len));
        match self.dirty.insert(key.clone(), put.value) {
            Some(old) => self.bytes -= old.map_or(0, |old| old.len()),
            None => {
                self.bytes += key_bytes;
                self.queue.push_back((frame, key));
            }
        }
        self.bytes += added;
    }

    pub(super) fn get(&self, store: &Store, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let full = (table, key.to_vec());
        let held = self.dirty.get(&full).or_else(|| self.leaving.as_ref().and_then(|leaving| leaving.get(&full)));
        match held {
            Some(value) => Ok(value.as_ref().map(|value| value.to_vec())),
            None => store.get(table, key),
        }
    }

    /// Merges what is held here with what is on disk, in key order.
    pub(super) fn scan(&self, store: &Store, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        let start = (table, from.to_vec());
        let mut layers =
            [Some(self.dirty.range(start.clone()..)), self.leaving.as_ref().map(|leaving| leaving.range(start..))]
                .map(|layer| layer.into_iter().flatten().take_while(move |((of, _), _)| *of == table).peekable());
        let mut stored = store.scan(table, from).peekable();
        loop {
            if let Some(Err(_)) = stored.peek() {
                return stored.next().map_or(Ok(()), |failed| failed.map(drop));
            }
            let on_disk = stored.peek().and_then(|cell| cell.as_ref().ok()).map(|(key, _)| key);
            let heads = layers.iter_mut().filter_map(|layer| layer.peek().map(|((_, key), _)| key));
            let Some(key) = heads.chain(on_disk).min().cloned() else { return Ok(()) };
            // The first layer that has the key is the newest; the others only step past it.
            let mut newest: Option<Option<Bytes>> = None;
            for layer in &mut layers {
                if let Some((_, value)) = layer.next_if(|((_, held), _)| *held == key) {
                    newest.get_or_insert_with(|| value.clone());
                }
            }
            if let Some(Ok((_, value))) = stored.next_if(|cell| cell.as_ref().is_ok_and(|(held, _)| *held == key)) {
                newest.get_or_insert(Some(value.into()));
            }
            if let Some(value) = newest.flatten()
                && each(&key, &value).is_break()
            {
                return Ok(());
            }
        }
    }

    pub(super) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the oldest dirty cells for a checkpoint, and says up to which frame the state is folded once they are
    /// written. `last` is the newest frame on disk: nothing of a later one may be dirty. One checkpoint at a time.
    pub(super) fn take(&mut self, last: u64) -> (Arc<Cells>, u64) {
        debug_assert!(self.leaving.is_none(), "one checkpoint at a time");
        let (mut cells, mut bytes) = (Cells::new(), 0);
        while cells.len() < CELLS_MAX && bytes < CELLS_BYTES_MAX {
            let Some((_, key)) = self.queue.pop_front() else { break };
            let Some(value) = self.dirty.remove(&key) else { continue };
            let size = key.1.len() + value.as_ref().map_or(0, Bytes::len);
            self.bytes -= size;
            bytes += size;
            cells.insert(key, value);
        }
        let cells = Arc::new(cells);
        self.leaving = Some(cells.clone());
        (cells, self.queue.front().map_or(last, |(first, _)| first - 1))
    }

    /// The checkpoint is in the store.
    pub(super) fn written(&mut self) {
        self.leaving = None;
    }
}
