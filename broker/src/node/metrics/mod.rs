//! `/metrics`: the status once more, as Prometheus wants it. Every number is taken from the same answer that `status`
//! prints, so the two cannot disagree.

mod common;
mod serve;
mod text;

pub use common::common;
pub use serve::serve;
pub use text::{Exposition, Family, seconds};
