//! The box in the store: decodes what scanners and tills say, applies the shop's rules, keeps it in the ledger, and
//! forwards it to the hub when there is a network.

pub mod cli;
pub mod config;
pub mod core;
pub mod decode;
mod face;
mod fork;
pub mod hub_tls;
mod lineage;
mod membership;
mod our_chain;
pub mod policy;
pub mod privacy;
mod rejoin;
pub mod reply;
pub mod request;
mod secure;
mod source;
pub mod sync;
pub mod uplink;
pub mod wire;
