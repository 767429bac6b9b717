//! A node's own certificates: the CA in `DIR/pki`, what it issues, and when that is renewed.
//!
//! The hub has one that makes its server certificate and those of the sites; a gateway has one for its store, that makes
//! its server certificate and those of devices. All keys are ECDSA P-256, drawn on the box that uses them. Nothing here
//! reads the clock but `keeper`, which lives in a running node.

mod authority;
mod device;
mod facts;
mod files;
mod init;
mod keeper;
mod own;
mod renewal;
mod request;

pub(crate) use authority::key_of_request;
pub use authority::{Authority, Issued};
pub use device::{DeviceCertificate, issue_device, open_or_create};
pub use facts::Facts;
pub use files::{PkiError, lock, make_folder, read_bounded, remove, write_private, write_public};
pub(crate) use init::{InitArgs, init};
pub use keeper::{Keeper, shown};
pub use own::{Own, OwnPaths};
pub use renewal::{RETRY_MOST_MS, due_ms};
pub use request::OwnKey;

/// A certificate for a server of ours that nobody renews by hand.
pub const SERVER_VALID_MS: u64 = 365 * DAY_MS;
/// What a gateway gets when it joins, and at each renewal.
pub const SITE_VALID_MS: u64 = 90 * DAY_MS;
/// A device's: most have no way to renew theirs.
pub const DEVICE_VALID_MS: u64 = 2 * 365 * DAY_MS;
pub const DAY_MS: u64 = 24 * 3_600_000;
