//! Pages: what one commit keeps for the same rings, as one value.
//!
//! A message on its own would cost a cell, a place and several allocations. Those of a page are written together, held
//! together and gone together: they are of one commit and for the same rings, so they go at about the same time. Until
//! then all of it counts as held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;

use super::disk::Place;
use super::letters::Message;

/// What keeping a message costs besides its body.
const MESSAGE_BYTES: usize = 64;

/// The counts are changed under the office's lock alone.
#[derive(Debug)]
pub(super) struct Page {
    /// Its place on disk, if it has one.
    pub(super) slot: Option<u32>,
    /// The cell's value.
    pub(super) bytes: Bytes,
    /// Those that any of its messages may be in.
    pub(super) rings: Arc<[u64]>,
    /// Messages of it that are in a ring, and one while it is being filled.
    held: AtomicU32,
    /// Of all that were.
    cost: AtomicUsize,
}

impl Page {
    /// Held by who fills it.
    pub(super) fn new(slot: Option<u32>, bytes: Bytes, rings: Arc<[u64]>) -> Arc<Page> {
        Arc::new(Page { slot, bytes, rings, held: AtomicU32::new(1), cost: AtomicUsize::new(0) })
    }

    pub(super) fn message(self: &Arc<Page>, number: u64, at: Place) -> Message {
        Message { number, page: self.clone(), at }
    }

    pub(super) fn hold(&self, cost: usize) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.cost.fetch_add(cost, Ordering::Relaxed);
    }

    /// True if that was the last one.
    pub(super) fn let_go(&self) -> bool {
        self.held.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(super) fn cost(&self) -> usize {
        self.cost.load(Ordering::Relaxed)
    }
}

pub(super) fn cost(body_bytes: usize) -> usize {
    body_bytes + MESSAGE_BYTES
}
