//! A node's durable store: journal in chunks, state folded from it, one writer. The only folder that names sled.
//!
//! The rules that make sled 0.34 keep what was acknowledged are in `store.rs`; `state.rs` holds what the journal
//! folds to; `writer.rs` turns inputs into commits and speaks only after them; `reader.rs` is everybody else's view.

mod clocks;
mod core;
mod error;
mod group;
mod handle;
mod inspect;
mod journal;
mod post;
mod reader;
mod room;
mod sabotage;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use core::{Core, Draft, EachCell, EachEvent, Now, Placed, Put, Read, Step, Table};
pub use error::LedgerError;
pub use handle::Handle;
pub use inspect::read_stopped;
pub use reader::{LedgerStats, Reader};
pub use sabotage::Sabotage;
pub use store::Options;
pub use writer::{Perform, Stopped, Writer};
