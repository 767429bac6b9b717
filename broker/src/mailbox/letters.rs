//! One session's queue: filled by the writer, emptied by the session's connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{MailLimits, MailStats};

/// What keeping one letter costs besides its message.
const LETTER_BYTES: usize = 64;
/// Packet ids of MQTT: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

/// A message as it is stored and delivered, shared by all who get it.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its place on disk.
    pub(super) number: u64,
    /// Topic, properties and payload, as `disk.rs` lays them out.
    pub(super) body: Bytes,
    /// Stored letters that need it; written by the writer alone.
    pub(super) letters: AtomicU32,
}

#[derive(Debug)]
pub(super) struct Letter {
    pub(super) index: u64,
    pub(super) qos: u8,
    /// v5 subscription identifiers.
    pub(super) ids: Box<[u32]>,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone)]
pub(super) enum Stage {
    Fresh(Arc<Message>),
    /// It may be with the client.
    Sent(Arc<Message>),
    /// It is given up, and its release is not on disk yet: nothing may be sent for it.
    Releasing,
    /// The client has it; what is left is PUBREL and PUBCOMP.
    Released,
}

/// What the connection is to send next.
#[derive(Debug)]
pub(crate) enum Delivery {
    Publish { index: u64, pkid: u16, qos: u8, dup: bool, ids: Box<[u32]>, message: Arc<Message> },
    Release { index: u64, pkid: u16 },
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    wake: Notify,
    stats: Arc<MailStats>,
}

#[derive(Debug)]
struct Inner {
    /// By index.
    letters: VecDeque<Letter>,
    next: u64,
    /// Letters up to here are on disk and may be seen.
    durable: u64,
    /// Letters with a message.
    messages: usize,
    bytes: usize,
    /// Somebody is there to take QoS 0.
    connected: bool,
}

/// What a letter that went away leaves to be written.
#[derive(Debug)]
pub(super) enum Dropped {
    /// The letter is gone. `None`: it was never stored.
    Gone { index: u64, message: Option<Arc<Message>> },
    /// Its message is gone. Its release stays, and must be on disk before anything is sent for it.
    Released { index: u64, message: Arc<Message> },
}

impl Mailbox {
    /// `next` is the index of the next letter.
    pub(super) fn new(stats: Arc<MailStats>, letters: Vec<Letter>, next: u64) -> Mailbox {
        debug_assert!(letters.iter().all(|letter| letter.index < next));
        let with_message = || letters.iter().filter_map(|letter| letter.stage.message());
        let (messages, bytes) = (with_message().count(), with_message().map(|message| cost(message)).sum());
        stats.messages.add(messages as u64);
        stats.bytes.add(bytes as u64);
        let inner = Inner { letters: letters.into(), next, durable: next - 1, messages, bytes, connected: false };
        Mailbox { inner: Mutex::new(inner), wake: Notify::new(), stats }
    }

    /// Appends a letter that nobody sees yet, after making room for it. `None` if there is none. What had to go is
    /// added to `dropped`.
    pub(super) fn push(
        &self,
        message: &Arc<Message>,
        qos: u8,
        ids: Box<[u32]>,
        limits: &MailLimits,
        dropped: &mut Vec<Dropped>,
    ) -> Option<u64> {
        let mut inner = self.lock();
        if qos == 0 && !inner.connected {
            return None;
        }
        let cost = cost(message);
        let total_full = || self.stats.bytes.get() as usize + cost > limits.bytes_total_max;
        while inner.messages > 0
            && (inner.messages >= limits.messages_max || inner.bytes + cost > limits.bytes_max || total_full())
        {
            self.stats.dropped.inc();
            // What is not stored never pushes out what is.
            if qos == 0 {
                return None;
            }
            dropped.extend(inner.drop_oldest(&self.stats, limits.messages_max));
        }
        if total_full() {
            self.stats.dropped.inc();
            return None;
        }
        let index = inner.next_index();
        inner.letters.push_back(Letter { index, qos, ids, stage: Stage::Fresh(message.clone()) });
        inner.messages += 1;
        inner.bytes += cost;
        self.stats.messages.inc();
        self.stats.bytes.add(cost as u64);
        self.stats.queued.inc();
        Some(index)
    }

    /// All that was pushed is on disk.
    pub(super) fn committed(&self) {
        let mut inner = self.lock();
        inner.durable = inner.next - 1;
        drop(inner);
        self.wake.notify_one();
    }

    /// Whether a PUBREC for this letter means something: `Some` while it may be with the client and is not released.
    pub(super) fn may_release(&self, index: u64) -> bool {
        let inner = self.lock();
        inner.at(index).is_some_and(|at| inner.letters[at].qos == 2 && inner.letters[at].stage.message().is_some())
    }

    /// The release is on disk. Gives back the message that nobody will send again.
    pub(super) fn release(&self, index: u64) -> Option<Arc<Message>> {
        let mut inner = self.lock();
        let at = inner.at(index)?;
        inner.release(at, &self.stats)
    }

    /// Takes a letter out: `None` if there is none.
    pub(super) fn remove(&self, index: u64) -> Option<Dropped> {
        let mut inner = self.lock();
        let at = inner.at(index)?;
        Some(inner.remove(at, &self.stats))
    }

    pub(super) fn remove_all(&self) -> Vec<Dropped> {
        let mut inner = self.lock();
        std::iter::from_fn(|| (!inner.letters.is_empty()).then(|| inner.remove(0, &self.stats))).collect()
    }

    /// The right to take letters: for the one connection that holds the session.
    pub(crate) fn attach(self: &Arc<Self>) -> Attached {
        self.lock().connected = true;
        Attached { mailbox: self.clone(), cursor: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in its mailbox. It begins with the oldest letter, whoever had it before.
#[derive(Debug)]
pub(crate) struct Attached {
    mailbox: Arc<Mailbox>,
    cursor: u64,
}

impl Attached {
    /// Waits until there may be something. Cancel-safe.
    pub(crate) async fn woken(&self) {
        self.mailbox.wake.notified().await;
    }

    pub(crate) fn next(&mut self) -> Option<Delivery> {
        let mut inner = self.mailbox.lock();
        let at = inner.letters.partition_point(|letter| letter.index <= self.cursor);
        let durable = inner.durable;
        let letter = inner.letters.get_mut(at).filter(|letter| letter.index <= durable)?;
        let (index, pkid, qos) = (letter.index, packet_id(letter.index), letter.qos);
        let (dup, message) = match &letter.stage {
            // Soon: whoever commits wakes us.
            Stage::Releasing => return None,
            Stage::Released => {
                self.cursor = index;
                return Some(Delivery::Release { index, pkid });
            }
            Stage::Fresh(message) => (false, message.clone()),
            Stage::Sent(message) => (true, message.clone()),
        };
        self.cursor = index;
        let ids = letter.ids.clone();
        letter.stage = Stage::Sent(message.clone());
        if qos == 0 {
            inner.remove(at, &self.mailbox.stats);
        }
        if dup {
            self.mailbox.stats.redelivered.inc();
        }
        Some(Delivery::Publish { index, pkid, qos, dup, ids, message })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut inner = self.mailbox.lock();
        inner.connected = false;
        while let Some(at) = inner.letters.iter().position(|letter| letter.qos == 0) {
            inner.remove(at, &self.mailbox.stats);
        }
    }
}

impl Inner {
    fn at(&self, index: u64) -> Option<usize> {
        self.letters.binary_search_by_key(&index, |letter| letter.index).ok()
    }

    /// The next index whose packet id no letter has.
    fn next_index(&mut self) -> u64 {
        let taken = |index: u64, letters: &VecDeque<Letter>| {
            letters.front().is_some_and(|first| index - first.index >= PACKET_IDS)
                && letters.iter().any(|letter| packet_id(letter.index) == packet_id(index))
        };
        while taken(self.next, &self.letters) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }

    fn remove(&mut self, at: usize, stats: &MailStats) -> Dropped {
        let Some(letter) = self.letters.remove(at) else { unreachable!("asked for a letter that is there") };
        let message = letter.stage.message().cloned();
        if let Some(message) = &message {
            self.forget(message, stats);
        }
        Dropped::Gone { index: letter.index, message: message.filter(|_| letter.qos > 0) }
    }

    fn release(&mut self, at: usize, stats: &MailStats) -> Option<Arc<Message>> {
        let stage = std::mem::replace(&mut self.letters[at].stage, Stage::Released);
        let message = stage.message()?;
        self.forget(message, stats);
        Some(message.clone())
    }

    /// The oldest message goes. Releases are small and stay, up to as many as messages may.
    fn drop_oldest(&mut self, stats: &MailStats, released_max: usize) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        if self.letters.len() - self.messages > released_max {
            let oldest = self.letters.iter().position(|letter| letter.stage.message().is_none());
            dropped.extend(oldest.map(|at| self.remove(at, stats)));
        }
        let Some(at) = self.letters.iter().position(|letter| letter.stage.message().is_some()) else { return dropped };
        let Letter { index, qos, stage, .. } = &self.letters[at];
        let index = *index;
        match (qos, stage) {
            (2, Stage::Sent(_)) => {
                dropped.extend(self.release(at, stats).map(|message| Dropped::Released { index, message }));
                self.letters[at].stage = Stage::Releasing;
            }
            _ => dropped.push(self.remove(at, stats)),
        }
        dropped
    }

    fn forget(&mut self, message: &Message, stats: &MailStats) {
        self.messages -= 1;
        self.bytes -= cost(message);
        stats.messages.sub(1);
        stats.bytes.sub(cost(message) as u64);
    }
}

impl Stage {
    pub(super) fn message(&self) -> Option<&Arc<Message>> {
        match self {
            Stage::Fresh(message) | Stage::Sent(message) => Some(message),
            Stage::Releasing | Stage::Released => None,
        }
    }
}

impl Message {
    pub(super) fn add_letter(&self) {
        self.letters.fetch_add(1, Ordering::Relaxed);
    }

    /// True if that was the last one.
    pub(super) fn remove_letter(&self) -> bool {
        self.letters.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// The same for the same letter, over reconnects and restarts.
fn packet_id(index: u64) -> u16 {
    (index % PACKET_IDS) as u16 + 1
}

fn cost(message: &Message) -> usize {
    message.body.len() + LETTER_BYTES
}
