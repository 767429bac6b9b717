//! Who belongs: the accounts of a node, their credentials and rights, and what is told of them.
//!
//! `account.rs` and `book.rs` are what is on disk, `change.rs` what becomes of it, by `commands.rs` or by the running
//! node's `guard.rs`. `door.rs` judges who connects, with `password.rs` and `throttle.rs`; `rights.rs` what they may do
//! beyond what their kind may, as `policy_file.rs` reads it. `audit.rs` tells the journal, `pending.rs` keeps what a
//! stopped node could not be told.

mod account;
pub mod audit;
mod book;
mod change;
pub mod commands;
mod door;
mod filters;
mod guard;
pub mod invite;
mod password;
pub mod pending;
mod policy_file;
mod rights;
mod scheme;
mod throttle;

pub use account::{Account, Fingerprint, FingerprintError, Kind};
pub use audit::{AuditSender, SecurityEvent};
pub use book::{ACCOUNTS_MAX, Book, BookError, SharedBook};
pub use change::{Change, ChangeError, Proof};
pub use door::Door;
pub use guard::Guard;
pub use password::{PasswordError, draw, hash};
pub use rights::{Rights, Say, SharedRights, is_within};
pub use scheme::{Scheme, is_reserved};
