//! Pools and rights at the hub: how much of an item may be promised, by whom, and what the records of it mean.
//!
//! `part.rs` is the arithmetic of one life of a site's ledger, `fold.rs` what the records mean for the state, `pools.rs` all of it in memory.

pub(super) mod fold;
mod part;
mod pools;

pub use self::part::Part;
pub use self::pools::{Pools, Totals};
