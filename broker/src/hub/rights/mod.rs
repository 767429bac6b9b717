//! Pools and rights at the hub: how much of an item may be promised, by whom, and what the records of it mean.
//!
//! `part.rs` is the arithmetic of one life of a site's ledger, `pools.rs` all of it in memory, `fold.rs` what the records mean
//! for the state. `policy.rs` decides who gets how much by what `demand.rs` has seen, `grants.rs` journals that, `spent.rs`
//! takes over what sites say, `reported.rs` waits for them after a restore, `office.rs` does what people ask, `told.rs` is
//! what they see, `replay.rs` makes it all from a journal.

mod demand;
pub(super) mod fold;
mod grants;
mod office;
mod part;
mod policy;
mod pools;
mod replay;
mod reported;
mod spent;
mod told;

pub(super) use self::grants::Desk;
pub use self::office::{POOL_UNITS_MAX, PoolChange, RightsAsk, RightsChange, RightsNote};
pub use self::part::Part;
pub use self::policy::RightsRules;
pub use self::pools::{Pools, Totals};
