//! rumqttd made durable and authorised, with the ledger behind it.
//!
//! `front` speaks MQTT, `ledger` owns the disk, `hub` is what HQ runs. The gateway embeds `front` and
//! `ledger`; see ARCHITECTURE.md for who may import whom.

pub mod cli;
pub mod config;
pub mod exactly_once;
mod face;
pub mod front;
pub mod hub;
pub mod ledger;
pub mod mailbox;
pub mod node;
pub mod policy;
pub mod quota;
mod recall;
