//! Every bound of the front, with what happens when it is reached.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::tls::Tls;
use crate::mailbox::MailLimits;

/// How the front listens and where its limits are. `Default` suits one store: a hundred devices on a small box.
#[derive(Debug, Clone)]
pub struct FrontConfig {
    /// Where to listen. v3.1.1 and v5 clients share the port.
    pub listen: SocketAddr,
    /// Without it connections are in the clear.
    pub tls: Option<Tls>,
    /// Clients connected at once. The next one gets CONNACK "server unavailable" (v5: 0x97); a takeover always fits.
    pub connections_max: usize,
    /// Sockets beyond `connections_max` that may be between accept and CONNACK. More are closed at once, unread.
    pub handshakes_max: usize,
    /// Of these, sockets of one address (IPv6: of one /64). More are closed at once, unread.
    pub handshakes_per_peer: usize,
    /// Bytes of one MQTT packet, header included. A longer one closes the connection (v5: 0x95) before it is read.
    pub packet_bytes_max: usize,
    /// From accept to the end of the TLS handshake. A slower client is closed without a word.
    pub handshake_timeout: Duration,
    /// From accept, or the end of the TLS handshake, to a complete CONNECT. A slower client is closed without a word.
    pub connect_timeout: Duration,
    /// How long one write may make no progress to its end. A reader that stalls longer is closed; its will is published.
    pub write_timeout: Duration,
    /// How long a takeover waits for the old connection to let go. After that the new one gets "server unavailable".
    pub takeover_timeout: Duration,
    /// What connections get to finish in when the process stops. After that they are cut.
    pub shutdown_timeout: Duration,
    /// Longest keep alive, in seconds, that a v5 client may ask for: more (or none) is lowered, and it is told so by
    /// Server Keep Alive. v3.1.1 has no way to be told, so there the client's wish stands, and 0 means none.
    pub keepalive_s_max: u16,
    /// Subscriptions of one client. Further filters are refused (0x80; v5: 0x97).
    pub subscriptions_max: usize,
    /// Subscriptions of all clients that are connected. Further filters are refused (0x80; v5: 0x97).
    pub subscriptions_total_max: usize,
    /// Distinct filters of all clients over the life of the router, which never frees one (6 KB each, and a log of
    /// up to four `segment_bytes`). New ones beyond it are refused (0x80; v5: 0x97) until a new router takes its place.
    pub filters_max: usize,
    /// What the router may hold of filters, topics and messages, roughly. Past it, or past half of `filters_max` if many of
    /// those are nobody's any more, a new router takes its place; what it had not delivered to clean sessions is lost.
    pub router_bytes_max: usize,
    /// Bytes of one segment of the router's log per filter, at most: a router that is made anew takes smaller ones if
    /// those of all live filters would fill it. Four are kept; a subscriber that falls further behind loses the oldest
    /// messages.
    pub segment_bytes: usize,
    /// Retained topics. A new topic beyond it is delivered but not retained, and counted.
    pub retained_max: usize,
    /// Bytes of all retained topics and payloads. What would exceed it is delivered but not retained, and counted.
    pub retained_bytes_max: usize,
    /// Messages of the process's own [`Publisher`](super::Publisher) that wait for the router. When full, retained
    /// topics are sent later with their latest value; others are dropped and counted.
    pub publish_queue_max: usize,
    /// How long an absent client's session is kept; an absence starts over with the process. v5 clients may ask for less; v3.1.1 clients with clean session
    /// off always get this.
    pub session_expiry_max: Duration,
    /// Sessions kept for absent clients. When full, a CONNECT that wants to be kept is refused ("server unavailable",
    /// v5: 0x97); those that are kept already may return.
    pub sessions_max: usize,
    /// Of these, sessions of one name. The next is refused in the same way, so that one password does not take the places of all.
    pub sessions_per_name: usize,
    /// Topic aliases that a v5 client may set. A higher one closes the connection (0x94).
    pub topic_aliases_max: u16,
    /// Bytes that the v5 properties of one publish may take in memory, which the router's log does not count. More
    /// makes the publish a refused one: recorded, not forwarded.
    pub properties_bytes_max: usize,
    /// How long the router may leave a probe unanswered. After that a new one is built and connections attach again. (A
    /// router whose thread died is replaced at once.)
    pub router_timeout: Duration,
    /// What is kept for persistent sessions.
    pub mail: MailLimits,
}

impl Default for FrontConfig {
    fn default() -> FrontConfig {
        FrontConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            tls: None,
            connections_max: 1024,
            handshakes_max: 128,
            handshakes_per_peer: 1024,
            packet_bytes_max: 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
            takeover_timeout: Duration::from_secs(5),
            shutdown_timeout: Duration::from_secs(5),
            keepalive_s_max: 1200,
            subscriptions_max: 64,
            subscriptions_total_max: 65_536,
            filters_max: 4096,
            router_bytes_max: 32 << 20,
            segment_bytes: 160 * 1024,
            retained_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            publish_queue_max: 4096,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            sessions_max: 4096,
            sessions_per_name: 64,
            topic_aliases_max: 32,
            properties_bytes_max: 2048,
            router_timeout: Duration::from_secs(10),
            mail: MailLimits::default(),
        }
    }
}
