//! What a node refused or set aside, looked up in its journal: for people who want to know what went wrong, and to hand
//! it in again.
//!
//! `entry.rs` is one of them, `find.rs` looks in a running or a stopped node, `command.rs` is the command line.

mod command;
mod entry;
mod find;
pub mod hex;

use bytes::Bytes;
use proto::id::Seq;
use serde_json::Value;
use tokio::sync::oneshot;

pub use command::{Look, RetryArgs, look, retry};
pub use entry::{Reject, Retried};
pub use find::{LIST_MAX, list, show, to_retry};

/// A refused request that a person hands in again, as if its device had sent it.
#[derive(Debug)]
pub struct Again {
    /// Its refusal.
    pub of: Seq,
    pub device: String,
    pub topic: String,
    pub payload: Bytes,
    /// Gets the reply, after its commit.
    pub answer: oneshot::Sender<Value>,
}
