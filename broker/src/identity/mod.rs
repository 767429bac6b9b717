//! Who belongs: the accounts of a node, their credentials, and the file that keeps them.

mod account;
mod book;

pub use account::{Account, Fingerprint, FingerprintError, Kind};
pub use book::{ACCOUNTS_MAX, Book, BookError, SharedBook};
