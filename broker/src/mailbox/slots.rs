//! Places of pages on disk. One is used again once nothing of its page is wanted.

use std::collections::BTreeSet;

use super::disk;
use crate::ledger::Put;

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The last one is used first, so that few cells change.
    free: Vec<u32>,
    /// Free ones whose cell may still be there.
    stale: BTreeSet<u32>,
    end: u32,
}

impl Slots {
    /// After a start: all up to the last of `used` that are not among them are free.
    pub(super) fn restore(&mut self, used: &BTreeSet<u32>) {
        self.end = used.last().map_or(0, |last| last + 1);
        self.free = (0..self.end).rev().filter(|slot| !used.contains(slot)).collect();
    }

    pub(super) fn take(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.stale.remove(&slot);
        slot
    }

    pub(super) fn give_back(&mut self, slot: Option<u32>) {
        if let Some(slot) = slot {
            self.free.push(slot);
            self.stale.insert(slot);
        }
    }

    /// Takes cells out whose place was not used again.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Put> + use<> {
        std::mem::take(&mut self.stale).into_iter().map(disk::no_page)
    }
}
