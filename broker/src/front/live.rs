//! Which filters the router has to serve now, so that what nobody wants does not go through it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::mailbox::FilterTree;

/// The filters of all clean sessions that are connected. No more than the router was asked to serve, which
/// `filters_max` and `subscriptions_max` bound.
#[derive(Debug, Default)]
pub(super) struct LiveFilters {
    tree: RwLock<FilterTree<u64, ()>>,
    serial: AtomicU64,
}

impl LiveFilters {
    /// Whether a publish must go to the router. A subscriber that was told so by its SUBACK is always seen.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.tree.read().unwrap_or_else(PoisonError::into_inner).wants(topic)
    }

    pub(super) fn member(self: &Arc<Self>) -> Member {
        Member { all: self.clone(), number: self.serial.fetch_add(1, Ordering::Relaxed), filters: BTreeSet::new() }
    }
}

/// One connection's share. Dropping it takes its filters away, also in a panic or an abort.
#[derive(Debug)]
pub(super) struct Member {
    all: Arc<LiveFilters>,
    number: u64,
    filters: BTreeSet<String>,
}

impl Member {
    /// Before the router is asked, so that no message falls between.
    pub(super) fn add(&mut self, filter: &str) {
        if self.filters.insert(filter.to_owned()) {
            self.all.tree.write().unwrap_or_else(PoisonError::into_inner).insert(filter, self.number, ());
        }
    }

    pub(super) fn remove(&mut self, filter: &str) {
        if self.filters.remove(filter) {
            self.all.tree.write().unwrap_or_else(PoisonError::into_inner).remove(filter, self.number);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut tree = self.all.tree.write().unwrap_or_else(PoisonError::into_inner);
        for filter in &self.filters {
            tree.remove(filter, self.number);
        }
    }
}
