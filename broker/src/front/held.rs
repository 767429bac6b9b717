//! What the router holds, which gives nothing back: a log for every filter that it ever heard of, and a list for every topic
//! that matched one of them. Counted here, so that a new router takes its place before it is too much.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::mailbox::FilterTree;

/// Of a filter, a message in one log, and a topic, besides their text: measured, and rounded up.
const FILTER_BYTES: usize = 8 << 10;
const MESSAGE_BYTES: usize = 320;
const TOPIC_BYTES: usize = 160;

/// One life of a router. Everything only grows.
pub(super) struct Held {
    filters: HashSet<String>,
    logs: FilterTree<usize, Log>,
    /// By their hash.
    topics: HashSet<u64>,
    hasher: RandomState,
    bytes: usize,
    filters_max: usize,
    bytes_max: usize,
    log_bytes_max: usize,
}

/// What the router counts of a filter's log; once it is full, what comes pushes out as much.
#[derive(Default)]
struct Log(Cell<usize>);

impl Held {
    pub(super) fn new(filters_max: usize, bytes_max: usize, log_bytes_max: usize) -> Held {
        Held {
            filters: HashSet::new(),
            logs: FilterTree::default(),
            topics: HashSet::new(),
            hasher: RandomState::new(),
            bytes: 0,
            filters_max,
            bytes_max,
            log_bytes_max,
        }
    }

    /// All of it is gone, with its router.
    pub(super) fn clear(&mut self) {
        *self = Held::new(self.filters_max, self.bytes_max, self.log_bytes_max);
    }

    pub(super) fn knows(&self, filter: &str) -> bool {
        self.filters.contains(filter)
    }

    /// False if there are as many as may be.
    pub(super) fn filter(&mut self, filter: &str) -> bool {
        if self.knows(filter) {
            return true;
        }
        let room = self.filters.len() < self.filters_max;
        if room {
            self.keep(filter);
        }
        room
    }

    /// One that a router before this had: whoever holds it keeps it, though others were faster and took all the room.
    pub(super) fn filter_again(&mut self, filter: &str) {
        if !self.knows(filter) {
            self.keep(filter);
        }
    }

    fn keep(&mut self, filter: &str) {
        self.logs.insert(filter, self.filters.len(), Log::default());
        self.filters.insert(filter.to_owned());
        self.bytes += FILTER_BYTES;
    }

    /// A message goes into the log of every filter that ever matched it. `counted`: topic and payload, all that the router
    /// counts; `besides`: the properties.
    pub(super) fn message(&mut self, topic: &str, counted: usize, besides: usize) {
        let (mut logs, mut more) = (0, 0);
        let max = self.log_bytes_max;
        self.logs.each_match(topic, &mut |_, Log(log)| {
            logs += 1;
            if log.get() < max {
                log.set(log.get() + counted);
                more += MESSAGE_BYTES + counted + besides;
            }
        });
        if logs > 0 && self.topics.insert(self.hasher.hash_one(topic)) {
            more += TOPIC_BYTES + topic.len() + logs * size_of::<usize>();
        }
        self.bytes += more;
    }

    /// Whether a new router would hold much less, of which `live` filters would be there again at once.
    pub(super) fn is_spent(&self, live: usize) -> bool {
        let bytes_max = self.bytes_max.max(live * FILTER_BYTES + self.bytes_max / 2);
        let many = self.filters.len() > self.filters_max / 2;
        let dead = self.filters.len().saturating_sub(live);
        (many && dead > self.filters_max / 8) || self.bytes > bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_messages_and_topics_add_up_and_a_full_log_takes_no_more() {
        let mut held = Held::new(100, 1 << 20, 4_000);
        assert!(held.filter("a/#") && held.filter("a/+") && held.filter("a/#"));
        assert_eq!(held.bytes, 2 * FILTER_BYTES);
        held.message("b/1", 100, 0);
        assert_eq!(held.bytes, 2 * FILTER_BYTES, "nobody wants it");
        for _ in 0..100 {
            held.message("a/1", 100, 50);
        }
        let logs = 2 * 40 * (MESSAGE_BYTES + 150);
        assert_eq!(held.bytes, 2 * FILTER_BYTES + logs + TOPIC_BYTES + 3 + 16);
        assert!(!held.is_spent(2));
        for n in 0..7_000 {
            held.message(&format!("a/{n}"), 100, 0);
        }
        assert!(held.is_spent(2), "topics alone are too many");
        held.clear();
        assert!(!held.is_spent(2) && !held.knows("a/#"));
    }

    #[test]
    fn a_new_router_is_wanted_only_where_it_helps() {
        let mut held = Held::new(100, 1 << 30, 4_000);
        (0..100).for_each(|n| assert!(held.filter(&n.to_string())));
        assert!(!held.filter("one more") && held.filter("7"));
        assert!(held.is_spent(20), "most of them are nobody's");
        assert!(held.is_spent(60) && !held.is_spent(95), "they would all be there again");
        held.filter_again("held before");
        assert!(held.knows("held before"), "who was connected keeps its filter, however full the new router is");
    }
}
