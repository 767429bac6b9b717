//! What can go wrong with a ledger.

use std::path::PathBuf;

use proto::chunk::ChunkError;
use proto::id::Seq;

/// The layout of trees and tables. A newer one is refused.
pub(super) const FORMAT: u64 = 1;

/// What went wrong with the ledger, by what the caller does next: all of these stop the process; none is retried.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot open the ledger in {dir}: {why}")]
    Open { dir: PathBuf, why: String },
    #[error("the ledger in {dir} belongs to site {found}, not {wanted}: check --site or --data")]
    OtherSite { dir: PathBuf, found: String, wanted: String },
    #[error("the ledger has format {0}, this software reads {FORMAT}: run the newer tillsync that wrote it")]
    Format(u64),
    #[error("the ledger in {0} was created before but opened empty: its files are damaged; keep them and restore")]
    OpenedEmpty(PathBuf),
    #[error("cannot {doing}: {why}")]
    Io { doing: &'static str, why: String },
    #[error("the journal is damaged at seq {at}: {why}")]
    Chunk { at: Seq, why: ChunkError },
    #[error("the journal's chain breaks before seq {at}")]
    Broken { at: Seq },
    #[error("a stored value of table {table} cannot be read: {why}")]
    Value { table: u8, why: String },
}

pub(super) fn read_error(error: sled::Error) -> LedgerError {
    LedgerError::Io { doing: "read the ledger", why: error.to_string() }
}
