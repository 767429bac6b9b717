//! The process's own way to subscribers: a handle that never blocks, and the task that feeds the router from it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::{Packet, Publish, PublishProperties};
use tokio::sync::{Notify, mpsc};

use super::live::Wanted;
use super::retained::Retained;
use super::router::{FromRouter, LinkFor, Router, RouterGone};
use super::stats::FrontStats;
use super::topic_rules;

/// Messages handed to the router at once.
const FEED_BATCH_MAX: usize = 256;
/// What connections may have on its way to the router; past it they wait, and with them their sockets.
const FORWARDS_MAX: usize = 256;

/// A message on its way to subscribers, QoS 0, never with a retain flag.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) properties: Option<Box<PublishProperties>>,
}

impl Message {
    /// Valid UTF-8, or nothing that anybody could have subscribed to.
    pub(super) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }

    /// For the router, which keeps it in its log. One copy of exact size: a view would keep a whole read buffer.
    pub(super) fn into_packet(self) -> Packet {
        let mut copy = BytesMut::with_capacity(self.topic.len() + self.payload.len());
        copy.extend_from_slice(&self.topic);
        copy.extend_from_slice(&self.payload);
        let mut payload = copy.freeze();
        let topic = payload.split_to(self.topic.len());
        Packet::Publish(Publish::new(topic, payload, false), self.properties.map(|properties| *properties))
    }
}

/// Publishes in the process's own name. Never blocks, so the writer may call it between two commits.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Message>,
    /// What connections forward. A queue of its own, so that they wait and the process's own messages do not.
    forwards: mpsc::Sender<Packet>,
    router: Arc<Router>,
    retained: Arc<Retained>,
    late: Arc<Late>,
    stats: Arc<FrontStats>,
}

/// Retained topics that found the queue full. Their latest value goes out when there is room; no more than there
/// are retained topics, and those that were just erased.
#[derive(Default)]
struct Late {
    topics: Mutex<BTreeSet<Arc<str>>>,
    added: Notify,
}

impl Publisher {
    /// Delivers to the subscribers there are in clean sessions (persistent ones get it from the ledger); with `retain`
    /// also keeps it for those to come (an empty payload erases). When the queue is full, a retained topic goes out later with its latest value, any other message is
    /// dropped and counted in [`FrontStats::replies_dropped`].
    pub fn publish(&self, topic: &str, payload: Bytes, retain: bool) {
        if topic_rules::topic(topic.as_bytes()).is_err() {
            tracing::error!(topic, "not published: the process may not use this topic");
            return;
        }
        if retain {
            self.retain(topic, payload.clone());
        }
        // After it was retained: who subscribes from here on finds it there.
        if let Wanted::No { lost } = self.router.live.wants(topic) {
            return self.unrouted(1, lost);
        }
        let message = Message { topic: Bytes::copy_from_slice(topic.as_bytes()), payload, properties: None };
        match (self.queue.try_send(message), retain) {
            (Ok(()), _) => {}
            (Err(_), true) => {
                self.stats.retained_late.inc();
                self.late.topics.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.into());
                self.late.added.notify_one();
            }
            (Err(_), false) => self.stats.replies_dropped.inc(),
        }
    }

    fn unrouted(&self, messages: u64, lost: u64) {
        self.stats.unrouted.add(messages);
        self.stats.unread_lost.add(lost);
    }

    /// Sets a retained message without telling anybody: for the start, before the front listens.
    pub fn restore(&self, topic: &str, payload: Bytes) {
        if topic_rules::topic(topic.as_bytes()).is_err() {
            tracing::error!(topic, "not restored: the process may not use this topic");
            return;
        }
        self.retain(topic, payload);
    }

    fn retain(&self, topic: &str, payload: Bytes) {
        if !self.retained.set(topic, payload) {
            self.stats.retained_refused.inc();
            tracing::warn!(topic, "not retained: the store is full");
        }
    }

    /// Of a batch that clients published, takes away what nobody hears. Counted once for all: it is every message's
    /// way, and the counters are everybody's.
    pub(super) fn take_unheard<'a>(&self, batch: impl Iterator<Item = &'a mut Option<Message>>) {
        let (mut messages, mut unread) = (0, 0);
        for place in batch {
            if let Some(message) = place
                && let Wanted::No { lost } = self.router.live.wants(message.topic())
            {
                (messages, unread) = (messages + 1, unread + lost);
                *place = None;
            }
        }
        self.unrouted(messages, unread);
    }

    /// All that somebody hears.
    pub(super) async fn forward_heard(&self, batch: &mut [Option<Message>]) {
        self.take_unheard(batch.iter_mut());
        for message in batch.iter_mut().filter_map(Option::take) {
            self.forward(message).await;
        }
    }

    /// For what clients publish and somebody hears: waits for room.
    pub(super) async fn forward(&self, message: Message) {
        // Fails only when the process stops.
        let _ = self.forwards.send(message.into_packet()).await;
    }
}

/// The router's end: takes messages off the queue.
pub(super) struct Feed {
    queue: mpsc::Receiver<Message>,
    forwards: mpsc::Receiver<Packet>,
    publisher: Publisher,
    timeout: Duration,
}

impl Feed {
    pub(super) fn new(
        router: Arc<Router>,
        retained: Arc<Retained>,
        stats: Arc<FrontStats>,
        queue_max: usize,
        timeout: Duration,
    ) -> (Publisher, Feed) {
        let (sender, queue) = mpsc::channel(queue_max.max(1));
        let (forwarder, forwards) = mpsc::channel(FORWARDS_MAX);
        let late = Arc::default();
        let publisher = Publisher { queue: sender, forwards: forwarder, router, retained, late, stats };
        (publisher.clone(), Feed { queue, forwards, publisher, timeout })
    }

    /// Runs until dropped, over the life of more than one router.
    pub(super) async fn run(mut self) {
        loop {
            let Err(RouterGone) = self.feed().await;
            tracing::debug!("the feed attaches to the router again");
        }
    }

    async fn feed(&mut self) -> Result<std::convert::Infallible, RouterGone> {
        let mut link = self.publisher.router.link_soon(LinkFor::Process("feed")).await?;
        let mut messages = Vec::with_capacity(FEED_BATCH_MAX);
        let mut forwards = Vec::with_capacity(FEED_BATCH_MAX);
        let mut packets = Vec::with_capacity(FEED_BATCH_MAX);
        let mut overdue = Overdue::default();
        loop {
            tokio::select! {
                _ = self.queue.recv_many(&mut messages, FEED_BATCH_MAX) => {}
                _ = self.forwards.recv_many(&mut forwards, FEED_BATCH_MAX) => {}
                () = self.publisher.late.added.notified() => {}
                // It subscribes to nothing, so there is nothing to hear but the router's end.
                heard = link.next() => if let FromRouter::Unscheduled = heard? {
                    link.wake().await?;
                },
            }
            let sent = messages.len();
            self.publisher.stats.routed.add((sent + forwards.len()) as u64);
            packets.extend(messages.drain(..).map(Message::into_packet));
            packets.append(&mut forwards);
            overdue.collect(sent, self.queue.len(), &self.publisher, &mut packets);
            self.publisher.router.charge(&packets);
            link.send(&mut packets)?;
            tokio::time::timeout(self.timeout, link.room()).await.map_err(|_| RouterGone)??;
        }
    }
}

/// Late topics that the feed has taken over. They wait until everything that was queued before them is sent: an older
/// value of theirs may be among it, and the last one that subscribers see must be the latest.
#[derive(Default)]
struct Overdue {
    topics: BTreeSet<Arc<str>>,
    /// Messages of the queue that go first.
    behind: usize,
}

impl Overdue {
    /// Called when `sent` messages were taken off the queue. Adds a batch of what is now due to `packets`.
    fn collect(&mut self, sent: usize, queued: usize, publisher: &Publisher, packets: &mut Vec<Packet>) {
        self.behind = self.behind.saturating_sub(sent);
        if self.topics.is_empty() {
            self.topics = std::mem::take(&mut *publisher.late.topics.lock().unwrap_or_else(PoisonError::into_inner));
            self.behind = queued;
        }
        if self.behind > 0 || self.topics.is_empty() {
            return;
        }
        for topic in std::iter::from_fn(|| self.topics.pop_first()).take(FEED_BATCH_MAX) {
            let payload = publisher.retained.get(&topic).unwrap_or_default();
            let topic = Bytes::copy_from_slice(topic.as_bytes());
            packets.push(Message { topic, payload, properties: None }.into_packet());
        }
        // For the rest, and for those that came meanwhile.
        publisher.late.added.notify_one();
    }
}
