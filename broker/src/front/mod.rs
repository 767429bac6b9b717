//! The MQTT listener: the only folder that names rumqttd.
//!
//! Sockets, CONNECT, policy, keepalive, inbound QoS, wills, takeover and retained messages are ours; rumqttd's
//! router holds the subscriptions of clean sessions and fans out to them. It is a volatile cache: nothing that must
//! last is in it, and when it dies connections attach to the next one. Persistent sessions have a mailbox in the
//! ledger instead (`crate::mailbox`): the intake fills it, `mail` empties it.
//!
//! The rules that everything here keeps:
//!
//! - No PUBACK, PUBREC or PUBCOMP before the [`Intake`] answered for that message, and none if it did not.
//! - A publish goes to the router only if its verdict says so, as QoS 0, without a retain flag. Retained topics are
//!   the process's own ([`Publisher`]): what a device sends with the retain flag is delivered, not kept.
//! - Nothing reaches the router unchecked. It panics on a topic that starts with a non-ASCII character, on a second
//!   link for a client id, on shared subscriptions; see `router` and `topic_rules`.
//! - One client id, one connection: `sessions` holds a lock per id.
//! - Every queue has a bound in [`FrontConfig`] or beside its declaration.
//!
//! Not served: shared subscriptions (refused with 0x9E), No Local and Retain As Published (not looked at), AUTH.
//! Retained messages come at QoS 0; others at the QoS that was granted, whatever they were published with.

mod arrivals;
mod attach;
mod certified;
mod codec;
mod commit;
mod config;
mod connection;
mod deliver;
mod disconnector;
mod encode;
mod end;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod held;
mod intake;
mod leave;
mod listener;
mod live;
mod mail;
mod overflow;
mod publish;
mod publisher;
mod ration;
mod refused;
mod retained;
mod router;
mod sessions;
mod shared;
mod stats;
mod subscribe;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod topic_rules;
mod watchdog;
mod wills;

pub(crate) use arrivals::network_of;
pub use certified::Certified;
pub use config::FrontConfig;
pub use disconnector::Disconnector;
pub use intake::{
    Admission, Admitting, Batch, Closed, Credentials, Denial, Identity, Inbound, InboundPublish, Intake, Outcome,
    Policy, Refusal, Verdict,
};
pub use listener::Front;
pub use publisher::Publisher;
pub use ration::{Allowance, Rate};
pub use stats::{Counter, FrontStats};
pub use tls::{Tls, TlsError};
