//! The retained messages. They are the process's own: what devices send with the retain flag is not stored.
//!
//! The router never sees a retain flag, since it delivers at most 200 retained messages per SUBSCRIBE.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::stats::FrontStats;
use super::topic_rules;

/// Topics looked at under one lock, so that a filter that matches little cannot hold the writer up.
const SCANNED_MAX: usize = 4096;
/// Messages and bytes of one page.
pub(super) const PAGE_MESSAGES_MAX: usize = 256;
pub(super) const PAGE_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Retained {
    store: RwLock<Store>,
    messages_max: usize,
    bytes_max: usize,
    stats: Arc<FrontStats>,
}

#[derive(Default)]
struct Store {
    by_topic: BTreeMap<Arc<str>, Bytes>,
    bytes: usize,
}

/// Some of the messages that match a filter, in topic order.
pub(super) struct Page {
    pub(super) messages: Vec<(Arc<str>, Bytes)>,
    /// Where the next page begins (exclusive). `None`: this was the last.
    pub(super) next: Option<Arc<str>>,
}

impl Retained {
    pub(super) fn new(messages_max: usize, bytes_max: usize, stats: Arc<FrontStats>) -> Retained {
        Retained { store: RwLock::default(), messages_max, bytes_max, stats }
    }

    /// Keeps `payload` as the topic's latest value; an empty one erases. False if there was no room: then an older
    /// value is erased too, since a stale value is worse than none.
    pub(super) fn set(&self, topic: &str, payload: Bytes) -> bool {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = store.by_topic.remove(topic) {
            store.bytes -= topic.len() + old.len();
        }
        let bytes = topic.len() + payload.len();
        let fits = store.by_topic.len() < self.messages_max && store.bytes + bytes <= self.bytes_max;
        if !payload.is_empty() && fits {
            store.bytes += bytes;
            store.by_topic.insert(topic.into(), payload.clone());
        }
        self.stats.retained.set(store.by_topic.len() as u64);
        self.stats.retained_bytes.set(store.bytes as u64);
        payload.is_empty() || fits
    }

    pub(super) fn get(&self, topic: &str) -> Option<Bytes> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).by_topic.get(topic).cloned()
    }

    /// The matching messages after `after`, at most a page of them (one message always fits).
    pub(super) fn page(&self, filter: &str, after: Option<&str>) -> Page {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let prefix = topic_rules::literal_prefix(filter);
        let from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let mut page = Page { messages: Vec::new(), next: None };
        let mut bytes = 0;
        let candidates = store.by_topic.range::<str, _>((from, Bound::Unbounded));
        for (scanned, (topic, payload)) in candidates.take_while(|(topic, _)| topic.starts_with(prefix)).enumerate() {
            if topic_rules::matches(filter, topic) {
                bytes += topic.len() + payload.len();
                page.messages.push((topic.clone(), payload.clone()));
            }
            if page.messages.len() == PAGE_MESSAGES_MAX || bytes >= PAGE_BYTES_MAX || scanned + 1 == SCANNED_MAX {
                page.next = Some(topic.clone());
                break;
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(messages_max: usize, bytes_max: usize) -> Retained {
        Retained::new(messages_max, bytes_max, Arc::default())
    }

    fn all(store: &Retained, filter: &str) -> Vec<String> {
        let (mut topics, mut after) = (Vec::new(), None::<Arc<str>>);
        loop {
            let page = store.page(filter, after.as_deref());
            assert!(page.messages.len() <= PAGE_MESSAGES_MAX);
            topics.extend(page.messages.iter().map(|(topic, _)| topic.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => return topics,
            }
        }
    }

    #[test]
    fn every_match_comes_once_over_pages() {
        let store = store(100_000, 1 << 30);
        for i in 0..10_000 {
            assert!(store.set(&format!("hq/{i:05}/a"), Bytes::from_static(b"x")));
            assert!(store.set(&format!("hqx/{i}"), Bytes::from_static(b"x")));
        }
        assert_eq!(all(&store, "hq/#").len(), 10_000);
        assert_eq!(all(&store, "+/09999/a"), ["hq/09999/a"]);
        assert_eq!(all(&store, "hq/00001/a"), ["hq/00001/a"]);
        assert_eq!(all(&store, "#").len(), 20_000);
        assert_eq!(all(&store, "nothing/#").len(), 0);
    }

    #[test]
    fn an_empty_payload_erases_and_bounds_hold() {
        let store = store(2, 20);
        assert!(store.set("a", Bytes::from_static(b"1")));
        assert!(store.set("b", Bytes::from_static(b"1")));
        assert!(!store.set("c", Bytes::from_static(b"1")), "third topic");
        assert!(store.set("a", Bytes::new()));
        assert_eq!(store.get("a"), None);
        assert!(!store.set("b", Bytes::from(vec![0; 20])), "bytes");
        assert_eq!(store.get("b"), None, "no stale value stays behind a refused one");
        assert_eq!((store.stats.retained.get(), store.stats.retained_bytes.get()), (0, 0));
    }
}
