//! Which filters the router has to serve now, so that what nobody wants does not go through it.
//!
//! A subscriber that does not read is as good as none: while its socket takes nothing, its filters rest, and what only
//! such filters match is not fanned out but counted as lost to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crossbeam_utils::sync::ShardedLock;

use crate::mailbox::FilterTree;

/// The filters of all clean sessions that are connected. No more than the router was asked to serve, which
/// `filters_max` and `subscriptions_max` bound. The locks are sharded: every thread reads for each message, and changes are
/// few.
#[derive(Debug, Default)]
pub(super) struct LiveFilters {
    tree: ShardedLock<FilterTree<u64, ()>>,
    resting: ShardedLock<Resting>,
    any_resting: AtomicBool,
    serial: AtomicU64,
}

/// One entry a filter, however many subscribers of it do not read.
#[derive(Debug, Default)]
struct Resting {
    tree: FilterTree<u64, Arc<AtomicU64>>,
    subscribers: BTreeMap<String, (u64, Arc<AtomicU64>)>,
}

/// What is to become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It goes to the router. A subscriber that was told so by its SUBACK is always seen.
    Yes,
    /// Nobody hears it; so many do not because they do not read.
    No { lost: u64 },
}

impl LiveFilters {
    pub(super) fn wants(&self, topic: &str) -> Wanted {
        if self.tree.read().unwrap_or_else(PoisonError::into_inner).wants(topic) {
            return Wanted::Yes;
        }
        let mut lost = 0;
        if self.any_resting.load(Ordering::Acquire) {
            let resting = self.resting.read().unwrap_or_else(PoisonError::into_inner);
            resting.tree.each_match(topic, &mut |_, subscribers| lost += subscribers.load(Ordering::Relaxed));
        }
        Wanted::No { lost }
    }

    /// No fewer than there are distinct ones.
    pub(super) fn count(&self) -> usize {
        let resting = self.resting.read().unwrap_or_else(PoisonError::into_inner).subscribers.len();
        self.tree.read().unwrap_or_else(PoisonError::into_inner).entries() + resting
    }

    pub(super) fn member(self: &Arc<Self>) -> Member {
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        Member { all: self.clone(), number, filters: BTreeSet::new(), resting: false }
    }

    fn rest(&self, filter: &str, number: u64) {
        let mut resting = self.resting.write().unwrap_or_else(PoisonError::into_inner);
        let Resting { tree, subscribers } = &mut *resting;
        let (_, count) = subscribers.entry(filter.to_owned()).or_insert_with(|| {
            let count = Arc::<AtomicU64>::default();
            tree.insert(filter, number, count.clone());
            (number, count)
        });
        count.fetch_add(1, Ordering::Relaxed);
        self.any_resting.store(true, Ordering::Release);
    }

    fn rise(&self, filter: &str) {
        let mut resting = self.resting.write().unwrap_or_else(PoisonError::into_inner);
        let Resting { tree, subscribers } = &mut *resting;
        if let Some((number, count)) = subscribers.get(filter)
            && count.fetch_sub(1, Ordering::Relaxed) == 1
        {
            tree.remove(filter, *number);
            subscribers.remove(filter);
        }
        self.any_resting.store(!subscribers.is_empty(), Ordering::Release);
    }
}

/// One connection's share. Dropping it takes its filters away, also in a panic or an abort.
#[derive(Debug)]
pub(super) struct Member {
    all: Arc<LiveFilters>,
    number: u64,
    filters: BTreeSet<String>,
    resting: bool,
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

    pub(super) fn resting(&self) -> bool {
        self.resting
    }

    /// The subscriber does not read.
    pub(super) fn rest(&mut self) {
        if !std::mem::replace(&mut self.resting, true) {
            self.leave();
            self.filters.iter().for_each(|filter| self.all.rest(filter, self.number));
        }
    }

    /// It reads again.
    pub(super) fn rise(&mut self) {
        if std::mem::replace(&mut self.resting, false) {
            let mut tree = self.all.tree.write().unwrap_or_else(PoisonError::into_inner);
            self.filters.iter().for_each(|filter| tree.insert(filter, self.number, ()));
            drop(tree);
            self.filters.iter().for_each(|filter| self.all.rise(filter));
        }
    }

    fn leave(&self) {
        let mut tree = self.all.tree.write().unwrap_or_else(PoisonError::into_inner);
        for filter in &self.filters {
            tree.remove(filter, self.number);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.rise();
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_is_as_good_as_nobody_and_counted() {
        let live = Arc::<LiveFilters>::default();
        let mut members: Vec<_> = (0..3).map(|_| live.member()).collect();
        members.iter_mut().for_each(|member| member.add("dev/#"));
        members[2].add("dev/+/reply");
        assert_eq!(live.wants("dev/1/reply"), Wanted::Yes);
        members.iter_mut().for_each(Member::rest);
        members[0].rest();
        assert_eq!(live.wants("dev/1/reply"), Wanted::No { lost: 4 });
        assert_eq!(live.wants("dev/1/scan"), Wanted::No { lost: 3 });
        assert_eq!(live.wants("store/status"), Wanted::No { lost: 0 });
        members[0].rise();
        assert_eq!(live.wants("dev/1/scan"), Wanted::Yes);
        drop(members);
        assert_eq!(live.wants("dev/1/reply"), Wanted::No { lost: 0 });
        assert!(!live.any_resting.load(Ordering::Relaxed));
    }
}
