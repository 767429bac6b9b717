//! What persistent sessions have subscribed to and not received yet, kept in the ledger.
//!
//! Messages are kept by filter, not by session: a ring (`ring.rs`) holds what came for one filter, once for all
//! sessions that have it, and a session is a place in its rings. So a message costs the same for one session as for a
//! thousand, and one that stands still costs nothing.
//!
//! A [`Mail`] belongs to the writer: it finds the rings of a message and says what must be written for it, in the same
//! commit as what caused it. A [`Mailbox`] belongs to the session's connection, which sees a message only once it is
//! durable. `filters.rs` finds rings by topic, `disk.rs` is the table, `recover.rs` reads it, `office.rs` is what the
//! two share. Pure but for two locks: no disk, no clock, no socket.
//!
//! The rules that keep delivery exactly once:
//!
//! - A letter's packet id follows from its message's number, which is on disk: sent again, it has the same one.
//! - QoS 1 is forgotten lazily after its PUBACK. If that is lost with a crash, the letter comes again, with DUP.
//! - QoS 2 is marked released, durably, before its PUBREL. From then on only the PUBREL is ever sent. The mark and what
//!   is done are one cell, so none can be lost without the other.
//! - A QoS 2 letter that may have been sent is never dropped whole: it is marked released with what drops it, so that
//!   the client forgets the packet id before it means another message.

mod counter;
mod disk;
mod filters;
mod gather;
mod keep;
mod letters;
mod mail;
mod office;
mod page;
mod recover;
mod ring;
mod session;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::disk::TABLE;
pub(crate) use self::filters::FilterTree;
pub(crate) use self::letters::{Attached, Delivery, Mailbox, Message};
pub use self::mail::{Changes, Mail};
use self::office::{Office, lock};
use crate::front::Counter;

/// Letters in flight per connection, if its client does not want fewer. After a start, as many of a session's QoS 2
/// letters count as sent.
pub(crate) const IN_FLIGHT_MAX: usize = 100;
/// Packet ids of MQTT: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

/// A change of a persistent session, made durable by the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The session exists, or belongs to somebody else or for another time from now on.
    Open {
        owner: Option<Arc<str>>,
        /// How long it outlives its connection.
        expiry_s: u32,
    },
    Subscribed(Vec<(String, Grant)>),
    Unsubscribed(Vec<String>),
    /// PUBREC: the letter with this number is with the client and must never be sent again.
    Received(u64),
    /// PUBACK or PUBCOMP.
    Done(u64),
}

/// What a subscription was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub qos: u8,
    /// v5 subscription identifier.
    pub id: Option<u32>,
}

/// Bounds of mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailLimits {
    /// Undelivered messages of one filter. Past it the oldest goes, counted for each session that did not get it.
    pub messages_max: usize,
    /// Bytes of them, with 64 for each message's own keeping. Past it the oldest goes, counted.
    pub bytes_max: usize,
    /// Bytes of all messages, each once. At it, a filter pays for a new message with its own oldest; if it has none,
    /// the new one is dropped. Counted.
    pub bytes_total_max: usize,
    /// A message longer than this is not kept for persistent sessions but dropped, counted: it would not fit well
    /// into one commit, and the state takes no values of 128 KiB.
    pub message_bytes_max: usize,
}

impl Default for MailLimits {
    fn default() -> MailLimits {
        MailLimits { messages_max: 1_000, bytes_max: 1 << 20, bytes_total_max: 16 << 20, message_bytes_max: 96 << 10 }
    }
}

/// What mailboxes count. Counters only grow; gauges are marked as such.
#[derive(Debug, Default)]
pub struct MailStats {
    /// Gauge: sessions with a mailbox, connected ones included.
    pub sessions: Counter,
    /// Sessions found in the ledger at the start.
    pub restored: Counter,
    /// Gauge: messages that some persistent session has not acknowledged, each once.
    pub messages: Counter,
    /// Gauge: their bytes.
    pub bytes: Counter,
    /// Messages kept for persistent sessions, each once.
    pub queued: Counter,
    /// Messages that a session lost because of a bound, oldest first: counted for each session.
    pub dropped: Counter,
    /// Messages sent again to a session that came back.
    pub redelivered: Counter,
}

impl MailStats {
    /// Every count by its name.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "sessions": self.sessions.get(),
            "restored": self.restored.get(),
            "messages": self.messages.get(),
            "bytes": self.bytes.get(),
            "queued": self.queued.get(),
            "dropped": self.dropped.get(),
            "redelivered": self.redelivered.get(),
        })
    }
}

/// All mailboxes, as the front sees them.
#[derive(Debug, Default)]
pub struct Mailboxes {
    office: Arc<Mutex<Office>>,
    restored: Mutex<Vec<Restored>>,
    limits: OnceLock<MailLimits>,
    stats: Arc<MailStats>,
}

/// A session that the ledger had when the process started.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) client: Arc<str>,
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) expiry_s: u32,
    pub(crate) filters: BTreeMap<String, Grant>,
}

impl Mailboxes {
    /// The mailbox of a session that is open.
    pub(crate) fn of(&self, client: &str) -> Option<Arc<Mailbox>> {
        lock(&self.office).mailbox(client)
    }

    /// The sessions that were found at the start, once.
    pub(crate) fn take_restored(&self) -> Vec<Restored> {
        std::mem::take(&mut self.restored.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the bounds, once, before the writer runs.
    pub(crate) fn limit(&self, limits: MailLimits) {
        // A second front on one ledger would be a mistake; the first one's bounds stay.
        let _ = self.limits.set(limits);
    }

    pub(crate) fn stats(&self) -> Arc<MailStats> {
        self.stats.clone()
    }

    fn limits(&self) -> MailLimits {
        *self.limits.get_or_init(MailLimits::default)
    }
}
