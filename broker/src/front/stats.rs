//! What the front counts, for `status` and for tests. Counters only grow; gauges are marked as such.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::MailStats;

/// A number that many tasks add to and anybody reads. Relaxed: each is exact by itself, not against the others.
#[derive(Debug, Default)]
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
    /// CONNECT refused: router or writer not there, or the old connection did not let go.
    pub refused_unavailable: Counter,
    /// Closed because the TLS handshake failed.
    pub tls_failures: Counter,
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
    /// Messages to be fanned out, whether or not anybody subscribed.
    pub forwarded: Counter,
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
    /// Publishes that no filter in the router matched, so that it never saw them.
    pub unrouted: Counter,
    /// Of those, what subscribers lost because they did not read: one for each of them.
    pub unread_lost: Counter,
    pub mail: Arc<MailStats>,
}

impl FrontStats {
    /// Every count by its name.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "connections": self.connections.get(),
            "connections_total": self.connections_total.get(),
            "refused_sockets": self.refused_sockets.get(),
            "refused_version": self.refused_version.get(),
            "refused_client_id": self.refused_client_id.get(),
            "refused_credentials": self.refused_credentials.get(),
            "refused_authorization": self.refused_authorization.get(),
            "refused_will": self.refused_will.get(),
            "refused_full": self.refused_full.get(),
            "refused_unavailable": self.refused_unavailable.get(),
            "tls_failures": self.tls_failures.get(),
            "connect_timeouts": self.connect_timeouts.get(),
            "publishes_qos0": self.publishes_qos0.get(),
            "publishes_qos1": self.publishes_qos1.get(),
            "publishes_qos2": self.publishes_qos2.get(),
            "acks": self.acks.get(),
            "denied": self.denied.get(),
            "no_room": self.no_room.get(),
            "subscribes_refused": self.subscribes_refused.get(),
            "protocol_errors": self.protocol_errors.get(),
            "codec_panics": self.codec_panics.get(),
            "keepalive_timeouts": self.keepalive_timeouts.get(),
            "stalled": self.stalled.get(),
            "takeovers": self.takeovers.get(),
            "wills": self.wills.get(),
            "forwarded": self.forwarded.get(),
            "delivered": self.delivered.get(),
            "unread_bytes": self.unread_bytes.get(),
            "oversize_dropped": self.oversize_dropped.get(),
            "overflow_lost": self.overflow_lost.get(),
            "replies_dropped": self.replies_dropped.get(),
            "retained_late": self.retained_late.get(),
            "retained_refused": self.retained_refused.get(),
            "retained": self.retained.get(),
            "retained_bytes": self.retained_bytes.get(),
            "sessions_kept": self.sessions_kept.get(),
            "sessions_expired": self.sessions_expired.get(),
            "router_restarts": self.router_restarts.get(),
            "unrouted": self.unrouted.get(),
            "unread_lost": self.unread_lost.get(),
            "mailboxes": self.mail.to_json(),
        })
    }
}
