//! Messages, and a connection's way to those of its session.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::office::{Office, lock};

/// What keeping a message costs besides its body.
const MESSAGE_BYTES: usize = 64;

/// A message as it is stored and delivered, shared by all who get it.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its place in the order of all messages.
    pub(super) number: u64,
    /// Its place on disk, if it has one.
    pub(super) slot: Option<u32>,
    /// Topic, properties and payload, as `disk.rs` lays them out.
    pub(super) body: Bytes,
    /// Rings that hold it; changed under the office's lock alone.
    rings: AtomicU32,
}

/// What the connection is to send next. `index` is the message's number.
#[derive(Debug)]
pub(crate) enum Delivery {
    Publish { index: u64, pkid: u16, qos: u8, dup: bool, ids: Box<[u32]>, message: Arc<Message> },
    Release { index: u64, pkid: u16 },
}

/// The connection's handle of a session.
#[derive(Debug)]
pub(crate) struct Mailbox {
    session: u64,
    office: Arc<Mutex<Office>>,
    wake: Notify,
}

impl Mailbox {
    pub(super) fn new(session: u64, office: Arc<Mutex<Office>>) -> Mailbox {
        Mailbox { session, office, wake: Notify::new() }
    }

    /// Remembered if nobody waits.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The right to take letters: for the one connection that holds the session.
    pub(crate) fn attach(self: &Arc<Self>) -> Attached {
        lock(&self.office).attached(self.session, true);
        Attached { mailbox: self.clone(), cursor: 0 }
    }
}

/// A connection's place in its session. It begins with the oldest letter, whoever had it before.
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
        lock(&self.mailbox.office).next(self.mailbox.session, &mut self.cursor)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        lock(&self.mailbox.office).attached(self.mailbox.session, false);
    }
}

impl Message {
    pub(super) fn new(number: u64, slot: Option<u32>, body: Bytes) -> Message {
        Message { number, slot, body, rings: AtomicU32::new(0) }
    }

    pub(super) fn enter_ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
    }

    /// True if that was the last one.
    pub(super) fn leave_ring(&self) -> bool {
        self.rings.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(super) fn cost(&self) -> usize {
        cost(&self.body)
    }
}

pub(super) fn cost(body: &Bytes) -> usize {
    body.len() + MESSAGE_BYTES
}
