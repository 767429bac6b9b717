//! The language both ends of tillsync speak: schema and rules.
//!
//! Nothing here does I/O, reads a clock, rolls dice or starts a thread; time and chance are arguments.

pub mod backoff;
pub mod check;
pub mod chunk;
pub mod clock;
pub mod counter;
pub mod dedupe;
pub mod gtin;
pub mod id;
pub mod lean;
pub mod loss;
pub mod pack;
pub mod present;
pub mod pseudonym;
pub mod register;
pub mod remnant;
pub mod topic;
pub mod version;

/// The protobuf messages, as `schema/*.proto` says.
pub mod wire {
    #![allow(unreachable_pub, clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/tillsync.v1.rs"));
}

/// What devices say and hear in protobuf, as `schema/pos.proto` says.
pub mod pos {
    #![allow(unreachable_pub, clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/tillsync.pos.v1.rs"));
}

/// The version of the sync protocol that this code speaks. A peer that offers a higher one is answered with this.
pub const PROTOCOL: u32 = 2;
