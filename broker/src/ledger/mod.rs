//! A node's durable store: a log of commits, the state folded from it, one writer. The only folder that names sled.
//!
//! `log/` is the truth: an append-only journal in which each commit is one frame. `store.rs` holds what it folds to, in
//! sled; it is written by checkpoints beside the commits, and made anew from the log when it cannot be trusted.
//! `writer.rs` turns inputs into commits and speaks only after them; `house.rs` keeps the files in order meanwhile;
//! `backup.rs` says what a copy of a log must be; `open.rs` mends what a crash or a bad disk left; `fork.rs` sets a ledger
//! apart for a new one; `reader.rs` is everybody else's view.

mod backup;
mod clocks;
mod compact;
mod core;
mod digest;
mod error;
mod examine;
mod fault;
mod fork;
mod group;
mod handle;
mod house;
mod inspect;
mod janitor;
mod log;
mod migrate;
mod open;
mod post;
mod reader;
mod replay;
mod room;
mod sabotage;
mod sectors;
mod snapshot;
mod start;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use backup::{Restoring, check_copy, inventory_of_stopped, is_empty, log_dir, make_folder, snapshot_path};
pub use core::{Core, Draft, EachCell, EachEvent, Now, Placed, Put, Read, Step, Table};
pub use error::LedgerError;
pub use examine::{Examination, FoundFault, Gone, Parts, ReadCell, examine};
pub use fork::{Fork, discard_fork, forks_wait, has_fork, next_fork, open_fork, owner, set_apart};
pub use handle::Handle;
pub use house::EvictedStats;
pub use inspect::{Walked, read_stopped, walk_journal};
pub use log::{Inventory, Part};
pub use open::Recovery;
pub use reader::{LedgerStats, Reader};
pub use room::Limits;
pub use sabotage::Sabotage;
pub use writer::{Options, Perform, Stopped, Writer};
