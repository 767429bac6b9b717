//! What the front counts, for `status` and for tests. Counters only grow; gauges are marked as such.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::MailStats;

/// A number that many tasks add to and anybody reads. Relaxed: each is exact by itself, not against the others. On a
/// cache line of its own, so that two threads wait for each other only if they count the same thing.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(super) fn dec(&self) {
        self.sub(1);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct FrontStats {
    /// Gauge: clients between CONNACK and close.
    pub connections: Counter,
    pub connections_total: Counter,
    /// Closed at accept because too many sockets were open.
    pub refused_sockets: Counter,
    /// CONNECT refused: neither v3.1.1 nor v5.
    pub refused_version: Counter,
    pub refused_client_id: Counter,
    pub refused_credentials: Counter,
    pub refused_authorization: Counter,
    /// CONNECT refused: a will that may not be published.
    pub refused_will: Counter,
    /// CONNECT refused: `connections_max` or `sessions_max` reached.
    pub refused_full: Counter,
    /// CONNECT refused: as many connections of its name as there may be.
    pub refused_full_name: Counter,
    /// CONNECT refused unlooked at: too many wrong ones before.
    pub refused_throttled: Counter,
    /// Closed at accept: as many sockets of this address as there may be had not said who they are.
    pub refused_peer: Counter,
    /// CONNECT refused: router or writer not there, or the old connection did not let go.
    pub refused_unavailable: Counter,
    /// Closed because an operator took away the right to be connected, or to a subscription.
    pub revoked: Counter,
    /// Times that a socket was left unread for a while because its identity was over its rate.
    pub slowed: Counter,
    /// Gauge: subscriptions of clients that are connected.
    pub subscriptions: Counter,
    /// Closed because the TLS handshake failed.
    pub tls_failures: Counter,
    /// The TLS handshake was not done in time.
    pub handshake_timeouts: Counter,
    /// No complete CONNECT in time.
    pub connect_timeouts: Counter,
    pub publishes_qos0: Counter,
    pub publishes_qos1: Counter,
    pub publishes_qos2: Counter,
    /// PUBACK, PUBREC and PUBCOMP written.
    pub acks: Counter,
    /// Publishes that the front or the policy denied; they went to the intake as such.
    pub denied: Counter,
    /// Publishes that the intake had no room for.
    pub no_room: Counter,
    pub subscribes_refused: Counter,
    pub protocol_errors: Counter,
    /// Panics of the codec that were caught; the connection was closed.
    pub codec_panics: Counter,
    pub keepalive_timeouts: Counter,
    /// Readers that stalled past the write timeout.
    pub stalled: Counter,
    pub takeovers: Counter,
    pub wills: Counter,
    /// Messages that the router was given.
    pub routed: Counter,
    /// Messages written to subscribers, retained ones included.
    pub delivered: Counter,
    /// Messages that subscribers lost because they fell behind the router's log. Counted when the next one arrives;
    /// exact for a client with one subscription, an estimate for one with several. A lower bound: what is lost before
    /// the first message after a SUBSCRIBE or UNSUBSCRIBE is not seen.
    pub overflow_lost: Counter,
    /// Gauge: bytes that clients are being written and have not taken yet.
    pub unread_bytes: Counter,
    /// Messages dropped because they exceed a subscriber's Maximum Packet Size.
    pub oversize_dropped: Counter,
    /// The process's own messages dropped because the queue to the router was full.
    pub replies_dropped: Counter,
    /// Retained topics that had to wait for room in that queue.
    pub retained_late: Counter,
    /// Messages delivered but not retained, because the store was full.
    pub retained_refused: Counter,
    /// Gauge.
    pub retained: Counter,
    /// Gauge: topics and payloads.
    pub retained_bytes: Counter,
    /// Gauge: sessions that outlive their connection, as of the last one that ended.
    pub sessions_kept: Counter,
    pub sessions_expired: Counter,
    pub router_restarts: Counter,
    /// Times that the router held too much and a new one took its place.
    pub router_renewals: Counter,
    /// Publishes that no filter in the router matched, so that it never saw them.
    pub unrouted: Counter,
    /// Of those, what subscribers lost because they did not read: one for each of them.
    pub unread_lost: Counter,
    pub mail: Arc<MailStats>,
}

impl FrontStats {
    /// Messages to be fanned out, whether or not anybody subscribed.
    pub fn forwarded(&self) -> u64 {
        self.routed.get() + self.unrouted.get()
    }

    /// Every count by its name.
    pub fn to_json(&self) -> serde_json::Value {
        let counts = [
            ("connections", &self.connections),
            ("connections_total", &self.connections_total),
            ("refused_sockets", &self.refused_sockets),
            ("refused_version", &self.refused_version),
            ("refused_client_id", &self.refused_client_id),
            ("refused_credentials", &self.refused_credentials),
            ("refused_authorization", &self.refused_authorization),
            ("refused_will", &self.refused_will),
            ("refused_full", &self.refused_full),
            ("refused_full_name", &self.refused_full_name),
            ("refused_throttled", &self.refused_throttled),
            ("refused_peer", &self.refused_peer),
            ("refused_unavailable", &self.refused_unavailable),
            ("revoked", &self.revoked),
            ("slowed", &self.slowed),
            ("subscriptions", &self.subscriptions),
            ("tls_failures", &self.tls_failures),
            ("handshake_timeouts", &self.handshake_timeouts),
            ("connect_timeouts", &self.connect_timeouts),
            ("publishes_qos0", &self.publishes_qos0),
            ("publishes_qos1", &self.publishes_qos1),
            ("publishes_qos2", &self.publishes_qos2),
            ("acks", &self.acks),
            ("denied", &self.denied),
            ("no_room", &self.no_room),
            ("subscribes_refused", &self.subscribes_refused),
            ("protocol_errors", &self.protocol_errors),
            ("codec_panics", &self.codec_panics),
            ("keepalive_timeouts", &self.keepalive_timeouts),
            ("stalled", &self.stalled),
            ("takeovers", &self.takeovers),
            ("wills", &self.wills),
            ("routed", &self.routed),
            ("delivered", &self.delivered),
            ("unread_bytes", &self.unread_bytes),
            ("oversize_dropped", &self.oversize_dropped),
            ("overflow_lost", &self.overflow_lost),
            ("replies_dropped", &self.replies_dropped),
            ("retained_late", &self.retained_late),
            ("retained_refused", &self.retained_refused),
            ("retained", &self.retained),
            ("retained_bytes", &self.retained_bytes),
            ("sessions_kept", &self.sessions_kept),
            ("sessions_expired", &self.sessions_expired),
            ("router_restarts", &self.router_restarts),
            ("router_renewals", &self.router_renewals),
            ("unrouted", &self.unrouted),
            ("unread_lost", &self.unread_lost),
        ];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count.get().into()));
        let forwarded = ("forwarded".to_owned(), self.forwarded().into());
        let mailboxes = ("mailboxes".to_owned(), self.mail.to_json());
        serde_json::Value::Object(counts.chain([forwarded, mailboxes]).collect())
    }
}
