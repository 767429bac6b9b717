//! The MQTT listener: the only folder that names rumqttd.
//!
//! Sockets, CONNECT, policy, keepalive, inbound QoS, wills, takeover and retained messages are ours; rumqttd's
//! router holds subscriptions and fans out. The router is a volatile cache: nothing that must last is in it.

mod intake;

pub use intake::{
    Batch, Closed, Credentials, Denial, Identity, Inbound, InboundPublish, Intake, Outcome, Policy, Refusal, Verdict,
};
