//! What the configuration says of limits: rates, connections, subscriptions, packets, deadlines.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::front::{Allowance, FrontConfig, Rate};
use crate::node::settings::Settings;

/// Bounds of the front that an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    pub connections_max: usize,
    pub handshakes_max: usize,
    pub handshakes_per_peer: usize,
    pub handshake_timeout: Duration,
    pub connect_timeout: Duration,
    pub packet_bytes_max: usize,
    pub subscriptions_max: usize,
    pub connections_per_account: usize,
    pub subscriptions_per_account: usize,
}

impl Caps {
    /// Of a node for so many clients.
    pub fn of(connections_max: usize, handshakes_per_peer: usize, connections_per_account: usize) -> Caps {
        Caps {
            connections_max,
            handshakes_max: 128,
            handshakes_per_peer,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            packet_bytes_max: 1 << 20,
            subscriptions_max: 65_536,
            connections_per_account,
            subscriptions_per_account: 256,
        }
    }

    /// Reads the keys; what is not there is as in `default`.
    pub fn read(settings: &mut Settings, default: &Caps) -> Caps {
        let mut count = |key: &str, default: usize, range: RangeInclusive<u64>| {
            settings.number(key, default as u64, range) as usize
        };
        let connections_max = count("connections_max", default.connections_max, 1..=100_000);
        let handshakes_max = count("handshakes_max", default.handshakes_max, 1..=10_000);
        let handshakes_per_peer = count("handshakes_per_peer", default.handshakes_per_peer, 1..=100_000);
        let packet_kib = count("packet_kib_max", default.packet_bytes_max >> 10, 64..=4_096);
        let subscriptions_max = count("subscriptions_max", default.subscriptions_max, 1..=10_000_000);
        let connections_per_account = count("connections_per_account", default.connections_per_account, 1..=100_000);
        let subscriptions_per_account =
            count("subscriptions_per_account", default.subscriptions_per_account, 1..=1_000_000);
        let mut wait = |key: &str, default: Duration| {
            Duration::from_millis(settings.number(key, default.as_millis() as u64, 100..=600_000))
        };
        Caps {
            connections_max,
            handshakes_max,
            handshakes_per_peer,
            handshake_timeout: wait("handshake_timeout_ms", default.handshake_timeout),
            connect_timeout: wait("connect_timeout_ms", default.connect_timeout),
            packet_bytes_max: packet_kib << 10,
            subscriptions_max,
            connections_per_account,
            subscriptions_per_account,
        }
    }

    /// A front with these bounds, and others as they are by default.
    pub fn front(&self) -> FrontConfig {
        FrontConfig {
            connections_max: self.connections_max,
            handshakes_max: self.handshakes_max,
            handshakes_per_peer: self.handshakes_per_peer,
            handshake_timeout: self.handshake_timeout,
            connect_timeout: self.connect_timeout,
            packet_bytes_max: self.packet_bytes_max,
            subscriptions_total_max: self.subscriptions_max,
            // A few for each, and some for those that come and go.
            filters_max: 4 * self.connections_max + 1024,
            ..FrontConfig::default()
        }
    }

    /// What one account may take.
    pub fn allowance(&self, rate: Rate) -> Allowance {
        Allowance {
            rate: Some(rate),
            connections_max: self.connections_per_account,
            subscriptions_max: self.subscriptions_per_account,
        }
    }
}

/// Reads `{of}_messages_per_s` and `{of}_kib_per_s`.
pub fn rate(settings: &mut Settings, of: &str, default: Rate) -> Rate {
    let messages = settings.number(&format!("{of}_messages_per_s"), default.messages.into(), 1..=1_000_000) as u32;
    let kib = settings.number(&format!("{of}_kib_per_s"), u64::from(default.bytes >> 10), 64..=4_000_000) as u32;
    Rate { messages, bytes: kib << 10 }
}
