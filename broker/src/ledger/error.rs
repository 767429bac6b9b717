//! What can go wrong with a ledger.

use std::path::PathBuf;

use proto::chunk::ChunkError;
use proto::id::Seq;

/// The layout of log and state. A newer one is refused, an older one is migrated. Since 3 a commit may hold several
/// chunks.
pub(super) const FORMAT: u64 = 3;
/// Read as it is: what this software adds is what the older one would not read.
pub(super) const FORMAT_READ_FROM: u64 = 2;

/// What went wrong with the ledger, by what the caller does next: all of these stop the process; none is retried.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot open the ledger in {dir}: {why}")]
    Open { dir: PathBuf, why: String },
    #[error("the ledger in {dir} belongs to site {found}, not {wanted}: check --site or --data")]
    OtherSite { dir: PathBuf, found: String, wanted: String },
    #[error("the ledger has format {0}, this software reads up to {FORMAT}: run the newer tillsync that wrote it")]
    Format(u64),
    #[error(
        "the ledger in {0} was created before but its files are gone or empty: bring them back, or remove the \
             folder to start a new ledger"
    )]
    OpenedEmpty(PathBuf),
    #[error("{path} belongs to the ledger {found}, not to {wanted}: it was copied here by mistake, move it away")]
    Stranger { path: PathBuf, found: String, wanted: String },
    #[error("cannot {doing}: {why}")]
    Io { doing: &'static str, why: String },
    #[error(
        "the disk does not give back what was written, in {path} at byte {offset}: the next start sets the \
             damage aside and goes on from what is sound"
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error("the disk does not give back {path}: {why}. Check the disk and its cable, and start again; {advice}")]
    Unreadable { path: PathBuf, why: String, advice: &'static str },
    /// What sled was given may not be what is on disk.
    #[error("cannot {doing}: {why}; the next start makes the state anew from the journal")]
    StateWrite { doing: &'static str, why: String },
    #[error("the state is damaged: {0}; the next start makes it anew from the journal")]
    State(String),
    /// The state was lost, and what it was made of does not reach back far enough.
    #[error("the state is damaged ({0}), and journal and snapshot do not reach back far enough to make it anew")]
    Incomplete(String),
    #[error("frame {number} of the journal cannot be read: {why}: a newer tillsync may have written it")]
    Frame { number: u64, why: String },
    #[error("the journal is damaged at seq {at}: {why}")]
    Chunk { at: Seq, why: ChunkError },
    #[error("the journal's chain breaks before seq {at}: two ledgers are mixed in one folder")]
    Broken { at: Seq },
    #[error("a stored value of table {table} cannot be read: {why}")]
    Value { table: u8, why: String },
}
