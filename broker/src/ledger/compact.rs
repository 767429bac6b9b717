//! A database that is mostly empty is written anew at a start: sled's file never shrinks. The old one stays until the
//! new one is whole and on disk, so an interruption loses nothing and is finished by the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::LedgerError;
use super::open::Recovery;
use super::store::{Folded, Pace, Store, StoreFault, database_dir, sync_path};

/// Smaller databases are left alone.
const COMPACT_FROM_BYTES: u64 = 32 << 20;
/// Files so many times as large as what is in them are worth the writing.
const MOSTLY_EMPTY: u64 = 3;
const BATCH: usize = 512;

fn unfinished(dir: &Path) -> PathBuf {
    dir.join("ledger.compacting")
}

fn finished(dir: &Path) -> PathBuf {
    dir.join("ledger.compacted")
}

fn old(dir: &Path) -> PathBuf {
    dir.join("ledger.old")
}

/// `Ok(Err(why))` if the database turns out to be damaged. One that cannot be compacted stays as it is.
pub(super) fn if_mostly_empty(
    dir: &Path,
    store: Store,
    recovery: &mut Recovery,
) -> Result<Result<Store, String>, LedgerError> {
    let before = store.disk_bytes();
    if before < COMPACT_FROM_BYTES {
        return Ok(Ok(store));
    }
    let (cells, bytes) = match store.verify() {
        Ok(found) => found,
        Err(StoreFault::Damaged(why)) => return Ok(Err(why)),
        Err(StoreFault::Final(error)) => return Err(error),
    };
    if bytes.saturating_mul(MOSTLY_EMPTY) > before {
        return Ok(Ok(store));
    }
    tracing::info!(cells, bytes, file = before, "the database is mostly empty: compacting it");
    if let Err(error) = copy(dir, &store) {
        tracing::warn!(%error, "the database is not compacted");
        remove(&unfinished(dir))?;
        return Ok(Ok(store));
    }
    drop(store);
    fs::rename(unfinished(dir), finished(dir)).and_then(|()| sync_path(dir)).map_err(io)?;
    finish(dir)?;
    let store = Store::open(&database_dir(dir)).map_err(StoreFault::into_error)?;
    recovery.compacted = Some((before, store.disk_bytes()));
    Ok(Ok(store))
}

fn copy(dir: &Path, store: &Store) -> Result<(), LedgerError> {
    let fresh = Store::create(&unfinished(dir), &store.replica)?;
    let mut batch = Vec::with_capacity(BATCH);
    for cell in store.cells() {
        batch.push(cell?);
        if batch.len() == BATCH {
            write(&fresh, &batch, Folded::default())?;
            batch.clear();
        }
    }
    write(&fresh, &batch, store.folded())?;
    fresh.close()?;
    match fresh.digest() == store.digest() {
        true => Ok(()),
        false => Err(LedgerError::State("its compacted copy differs".into())),
    }
}

fn write(to: &Store, cells: &[(sled::IVec, sled::IVec)], folded: Folded) -> Result<(), LedgerError> {
    use super::core::Table;
    to.checkpoint(cells.iter().map(|(key, value)| (Table(key[0]), &key[1..], Some(&value[..]))), folded, Pace::Hurried)
}

/// Goes on where a compaction was interrupted.
pub(super) fn finish(dir: &Path) -> Result<(), LedgerError> {
    let database = database_dir(dir);
    remove(&unfinished(dir))?;
    if finished(dir).exists() {
        if database.exists() {
            remove(&old(dir))?;
            fs::rename(&database, old(dir)).map_err(io)?;
        }
        fs::rename(finished(dir), &database).and_then(|()| sync_path(dir)).map_err(io)?;
    }
    remove(&old(dir))
}

fn remove(folder: &Path) -> Result<(), LedgerError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io(e)),
        _ => Ok(()),
    }
}

fn io(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "compact the database", why: error.to_string() }
}
