//! Messages, and a connection's way to those of its session.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::disk::{self, Place};
use super::office::{Office, lock};
use super::page::{self, Page};

/// A message as it is stored and delivered: a view of its page.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place in the order of all messages.
    pub(super) number: u64,
    pub(super) page: Arc<Page>,
    /// Where its topic, properties and payload are in it.
    pub(super) at: Place,
}

/// What the connection is to send next. `index` is the message's number.
#[derive(Debug)]
pub(crate) enum Delivery {
    Publish { index: u64, pkid: u16, qos: u8, dup: bool, ids: Box<[u32]>, message: Message },
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
    pub(crate) fn topic(&self) -> &[u8] {
        self.parts().0
    }

    pub(super) fn topic_text(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or_default()
    }

    /// v5 properties as they are sent, without their length and subscription identifiers.
    pub(crate) fn properties(&self) -> &[u8] {
        self.parts().1
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.parts().2
    }

    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        // Looked at when it was read; empty rather than a panic.
        disk::parts(self.at.of(&self.page.bytes)).unwrap_or_default()
    }

    /// False for what is only for those who are there.
    pub(super) fn is_kept(&self) -> bool {
        self.page.slot.is_some()
    }

    pub(super) fn cost(&self) -> usize {
        page::cost(self.at.bytes())
    }
}
