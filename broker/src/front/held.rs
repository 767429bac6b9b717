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
/// What the router counts of a small message.
const SMALL_BYTES: usize = 128;

/// Segments of a filter's log.
pub(super) const SEGMENTS_MAX: usize = 4;
/// A segment is never smaller.
const SEGMENT_BYTES_MIN: usize = 8 << 10;

/// The bounds of what routers hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldMax {
    pub(super) filters: usize,
    pub(super) bytes: usize,
    /// The largest segments, which a router has while few filters are live.
    pub(super) segment_bytes: usize,
}

impl HeldMax {
    /// Segments with which the logs of so many live filters, all full of small messages, take three quarters of the room:
    /// else a router with many subscribers would be spent again and again by what they read.
    pub(super) fn segment_for(&self, live: usize) -> usize {
        let counted = self.bytes / 4 * 3 / (live.max(1) * SEGMENTS_MAX) * SMALL_BYTES / (SMALL_BYTES + MESSAGE_BYTES);
        counted.clamp(SEGMENT_BYTES_MIN.min(self.segment_bytes), self.segment_bytes)
    }

    /// What a new router would come to hold of so many.
    fn of_new(&self, live: usize) -> usize {
        let log = SEGMENTS_MAX * self.segment_for(live);
        live * (FILTER_BYTES + log / SMALL_BYTES * (SMALL_BYTES + MESSAGE_BYTES))
    }
}

/// One life of a router. Everything only grows.
pub(super) struct Held {
    filters: HashSet<String>,
    logs: FilterTree<usize, Log>,
    /// By their hash.
    topics: HashSet<u64>,
    hasher: RandomState,
    bytes: usize,
    max: HeldMax,
    /// Of this life.
    log_bytes_max: usize,
}

/// What the router counts of a filter's log; once it is full, what comes pushes out as much.
#[derive(Default)]
struct Log(Cell<usize>);

impl Held {
    /// Of a router that is made when so many filters are live.
    pub(super) fn new(max: HeldMax, live: usize) -> Held {
        Held {
            filters: HashSet::new(),
            logs: FilterTree::default(),
            topics: HashSet::new(),
            hasher: RandomState::new(),
            bytes: 0,
            max,
            log_bytes_max: SEGMENTS_MAX * max.segment_for(live),
        }
    }

    pub(super) fn knows(&self, filter: &str) -> bool {
        self.filters.contains(filter)
    }

    /// False if there are as many as may be.
    pub(super) fn filter(&mut self, filter: &str) -> bool {
        if self.knows(filter) {
            return true;
        }
        let room = self.filters.len() < self.max.filters;
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
        // A segment takes one message whatever its size.
        let max = self.log_bytes_max.max(SEGMENTS_MAX * counted);
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
        let bytes_max = self.max.bytes.max(self.max.of_new(live) + self.max.bytes / 4);
        let many = self.filters.len() > self.max.filters / 2;
        let dead = self.filters.len().saturating_sub(live);
        (many && dead > self.max.filters / 8) || self.bytes > bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_messages_and_topics_add_up_and_a_full_log_takes_no_more() {
        let max = HeldMax { filters: 100, bytes: 1 << 20, segment_bytes: 1_000 };
        let mut held = Held::new(max, 0);
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
        assert!(!Held::new(max, 2).is_spent(2));
    }

    #[test]
    fn a_new_router_is_wanted_only_where_it_helps() {
        let mut held = Held::new(HeldMax { filters: 100, bytes: 1 << 30, segment_bytes: 1_000 }, 0);
        (0..100).for_each(|n| assert!(held.filter(&n.to_string())));
        assert!(!held.filter("one more") && held.filter("7"));
        assert!(held.is_spent(20), "most of them are nobody's");
        assert!(held.is_spent(60) && !held.is_spent(95), "they would all be there again");
        held.filter_again("held before");
        assert!(held.knows("held before"), "who was connected keeps its filter, however full the new router is");
    }

    /// Whatever its subscribers read, a router is spent once at most by it.
    #[test]
    fn full_logs_of_live_filters_do_not_spend_a_router_again_and_again() {
        let max = HeldMax { filters: 4_096, bytes: 32 << 20, segment_bytes: 256 << 10 };
        let full = |live: usize, at_start: usize| {
            let mut held = Held::new(max, at_start);
            (0..live).for_each(|n| assert!(held.filter(&format!("dev/{n}/reply"))));
            for n in 0..live {
                (0..9_000).for_each(|_| held.message(&format!("dev/{n}/reply"), 128, 0));
            }
            held.is_spent(live)
        };
        assert!(full(50, 0), "its logs were for few filters");
        assert!(!full(2, 2) && !full(50, 50) && !full(400, 400));
        assert_eq!((max.segment_for(1), max.segment_for(50)), (256 << 10, 35_951));
    }
}
