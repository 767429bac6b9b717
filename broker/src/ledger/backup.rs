//! What a backup needs of a ledger: where its log stands, whether a copy of it is whole, and a data folder that no node
//! starts in before its log is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::core::Put;
use super::error::LedgerError;
use super::log::{Inventory, inventory, journal_dir};
use super::open::{Closed, lock, lock_of_stopped, make_lasting, write_marker_of};
use super::snapshot;
use super::store::sync_path;

/// Where the files of a data folder's log are, and the copy of its state, if it has one.
pub fn log_dir(dir: &Path) -> PathBuf {
    journal_dir(dir)
}

pub fn snapshot_path(dir: &Path) -> PathBuf {
    snapshot::path(dir)
}

/// The log of a stopped node, and the lock that keeps it stopped.
pub fn inventory_of_stopped(dir: &Path) -> Result<(Inventory, Option<File>), LedgerError> {
    let lock = lock_of_stopped(dir)?;
    let found = inventory::take(&journal_dir(dir), &mut |_| {})?;
    if let Some(end) = Closed::read(dir).filter(|end| end.position.seq.0 > found.seq) {
        let why =
            format!("its journal ends at seq {}, the last stop wrote {}: start it once", found.seq, end.position.seq);
        return Err(LedgerError::Open { dir: dir.into(), why });
    }
    Ok((found, lock))
}

/// Reads the copy of a log in `journal` whole and says whether it is that log, to the byte. `each_put` sees what its
/// commits put besides their chunks, in order.
pub fn check_copy(journal: &Path, of: &Inventory, each_put: &mut dyn FnMut(&Put)) -> Result<(), LedgerError> {
    let found = inventory::take(journal, &mut |put| each_put(&put))?;
    if found == *of {
        return Ok(());
    }
    let why = format!(
        "it holds {} segments of {} up to seq {}, not {} of {} up to {}",
        found.segments.len(),
        found.replica,
        found.seq,
        of.segments.len(),
        of.replica,
        of.seq
    );
    Err(LedgerError::Open { dir: journal.into(), why })
}

/// A data folder in the making. A node that is started in it before it is finished refuses, since a ledger is said to
/// have been here and its files are not.
pub struct Restoring {
    dir: PathBuf,
    _lock: File,
}

impl Restoring {
    /// `dir` must not exist, or be empty.
    pub fn begin(dir: &Path, replica: &str) -> Result<Restoring, LedgerError> {
        if !is_empty(dir).map_err(restoring)? {
            let why = "it is not empty: name a new folder, or empty this one if a restore was interrupted in it";
            return Err(LedgerError::Open { dir: dir.into(), why: why.into() });
        }
        make_lasting(dir).map_err(restoring)?;
        let unfinished = Restoring { dir: dir.into(), _lock: lock(dir)? };
        write_marker_of(dir, replica)?;
        fs::create_dir(unfinished.journal()).map_err(restoring)?;
        Ok(unfinished)
    }

    /// Where the log's files go meanwhile.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal.restoring")
    }

    /// Checks what was brought here and makes it a ledger.
    pub fn finish(self, of: &Inventory) -> Result<(), LedgerError> {
        check_copy(&self.journal(), of, &mut |_| {})?;
        let put_in_place = || {
            sync_path(&self.journal())?;
            sync_path(&self.dir)?;
            fs::rename(self.journal(), journal_dir(&self.dir))?;
            sync_path(&self.dir)
        };
        put_in_place().map_err(restoring)
    }
}

/// True of a folder that holds nothing or does not exist.
pub fn is_empty(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes a folder whose name will be there after a power cut.
pub fn make_folder(dir: &Path) -> io::Result<()> {
    make_lasting(dir)
}

fn restoring(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "restore the ledger", why: error.to_string() }
}
