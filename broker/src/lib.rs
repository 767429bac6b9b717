//! rumqttd made durable and authorised, with the ledger behind it.
//!
//! `front` speaks MQTT, `ledger` owns the disk, `hub` is what HQ runs. The gateway embeds `front` and
//! `ledger`; see ARCHITECTURE.md for who may import whom.

mod api;
mod backup;
pub mod cli;
pub mod config;
mod conflicts;
mod doors;
pub mod exactly_once;
mod face;
pub mod front;
mod history;
pub mod hub;
pub mod identity;
pub mod join;
pub mod ledger;
pub mod mailbox;
pub mod node;
pub mod pki;
pub mod policy;
mod pools;
pub mod quota;
pub mod recall;
mod sites;
mod verify;
