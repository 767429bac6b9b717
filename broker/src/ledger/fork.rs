//! The ledger of an earlier life, set apart so that a new one begins beside it: its journal is kept until the new one has
//! taken over what nobody else has.
//!
//! The note `fork.begun` is the moment: before it the old ledger stands as it is; after it every start first finishes
//! the move, and then finds a folder without a ledger, which it begins.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::id::ReplicaId;
use tokio::sync::watch;

use super::compact;
use super::error::LedgerError;
use super::log::{self, Log, Opening, journal_dir};
use super::open::{self, Closed, Recovery, damaged_dir};
use super::reader::{LedgerStats, Reader};
use super::store::sync_path;

/// Forks that wait behind the one that is being taken over: a person does not `rejoin` that often.
const WAITING_MAX: usize = 9;
/// What belongs to one life of a ledger and goes with it.
/// `lineage` is the gateway's.
const MOVED: [&str; 5] = ["journal", "ledger", "state.snapshot", "ledger.closed", "lineage"];
/// What it left that means nothing without it.
const DROPPED: [&str; 2] = ["ledger.created", "state.damaged"];
const REMAKING: &str = "ledger.remaking";
/// Why it was set apart; the last file that comes into the folder.
const WHY: &str = "why";

/// The journal of the life before this one.
#[derive(Clone)]
pub struct Fork {
    pub reader: Reader,
    /// In a person's words.
    pub why: String,
}

fn fork_dir(dir: &Path) -> PathBuf {
    dir.join("fork")
}

fn begun_path(dir: &Path) -> PathBuf {
    dir.join("fork.begun")
}

/// A place for a fork that cannot be taken over in full. Nobody needs a tenth.
fn unfinished_dir(dir: &Path) -> Option<PathBuf> {
    (1..10).map(|n| dir.join(format!("fork.unfinished.{n}"))).find(|place| !place.exists())
}

/// A fork whose own taking over was broken off: the life that did it is the fork now. The highest number is the newest.
fn waiting_dir(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("fork.waiting.{n}"))
}

/// The newest of those that wait; 0 if none does.
fn newest_waiting(dir: &Path) -> usize {
    (1..=WAITING_MAX).rev().find(|n| waiting_dir(dir, *n).exists()).unwrap_or(0)
}

fn done_dir(dir: &Path) -> PathBuf {
    dir.join("fork.done")
}

/// Whose ledger a stopped node has in its folder; nothing is changed.
pub fn owner(dir: &Path) -> Result<Option<ReplicaId>, LedgerError> {
    log::owner(&journal_dir(dir))
}

/// Whether the journal of an earlier life still waits to be taken over.
pub fn has_fork(dir: &Path) -> bool {
    fork_dir(dir).exists() || begun_path(dir).exists()
}

/// Whether there are forks behind the one that is being taken over.
pub fn forks_wait(dir: &Path) -> bool {
    newest_waiting(dir) > 0
}

/// Once no fork is being taken over: the newest of those that wait is the next. The newest first, since what a later life
/// said of an earlier one's records counts.
///
/// # Errors
/// The disk fails.
pub fn next_fork(dir: &Path) -> Result<(), LedgerError> {
    let newest = newest_waiting(dir);
    if newest == 0 || has_fork(dir) {
        return Ok(());
    }
    fs::rename(waiting_dir(dir, newest), fork_dir(dir)).and_then(|()| sync_path(dir)).map_err(cannot)
}

/// The ledger that takes over a fork is set apart itself: the fork waits. A crash right after leaves that ledger as it is,
/// and [`next_fork`] gives it its fork back.
fn put_behind(dir: &Path) -> Result<(), LedgerError> {
    let place = newest_waiting(dir) + 1;
    if place > WAITING_MAX {
        let why =
            format!("{WAITING_MAX} earlier ledgers wait to be taken over: start the gateway and let it finish first");
        return Err(LedgerError::Open { dir: dir.into(), why });
    }
    fs::rename(fork_dir(dir), waiting_dir(dir, place)).and_then(|()| sync_path(dir)).map_err(cannot)
}

/// Sets a stopped node's ledger apart. A crash leaves either the old ledger or none and the fork. A fork that it was
/// taking over itself waits behind it.
///
/// # Errors
/// It is open in another process, too many forks wait already, or the disk fails.
pub fn set_apart(dir: &Path, why: &str) -> Result<(), LedgerError> {
    let _lock = open::lock(dir)?;
    if begun_path(dir).exists() {
        return finish(dir);
    }
    if fork_dir(dir).exists() {
        put_behind(dir)?;
    }
    compact::finish(dir)?;
    let note = || {
        let mut file = File::create(begun_path(dir))?;
        file.write_all(why.as_bytes())?;
        file.sync_all()?;
        sync_path(dir)
    };
    note().map_err(cannot)?;
    finish(dir)
}

/// Whether [`shelve`] has a place for what is here.
pub(super) fn may_shelve(dir: &Path) -> bool {
    !fork_dir(dir).exists() || unfinished_dir(dir).is_some()
}

/// A ledger that lost its state no longer knows how much of the fork it had taken over: what is left of that is for a
/// person, and nothing is taken twice. `None` if there is nothing to put away, or no place.
pub(super) fn shelve(dir: &Path) -> Result<Option<PathBuf>, LedgerError> {
    let fork = fork_dir(dir);
    let Some(unfinished) = unfinished_dir(dir).filter(|_| fork.exists()) else { return Ok(None) };
    fs::rename(&fork, &unfinished).and_then(|()| sync_path(dir)).map_err(cannot)?;
    tracing::error!(folder = %unfinished.display(), "an earlier ledger was not taken over in full: it is kept there");
    Ok(Some(unfinished))
}

/// Goes on where a move, or the removal of what was taken over, was interrupted.
pub(super) fn finish(dir: &Path) -> Result<(), LedgerError> {
    remove_folder(&done_dir(dir)).map_err(cannot)?;
    if begun_path(dir).exists() { move_all(dir).map_err(cannot) } else { Ok(()) }
}

fn move_all(dir: &Path) -> io::Result<()> {
    let fork = fork_dir(dir);
    fs::create_dir_all(&fork)?;
    for name in MOVED {
        match fs::rename(dir.join(name), fork.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    sync_path(&fork)?;
    sync_path(dir)?;
    for name in DROPPED {
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    remove_folder(&dir.join(REMAKING))?;
    sync_path(dir)?;
    fs::rename(begun_path(dir), fork.join(WHY))?;
    sync_path(&fork)?;
    sync_path(dir)
}

/// Opens the journal that was set apart, if there is one, and makes it sound; nothing is added to it.
pub fn open_fork(dir: &Path) -> Result<Option<Fork>, LedgerError> {
    let dir = fork_dir(dir);
    let journal = journal_dir(&dir);
    if !journal.exists() {
        return Ok(None);
    }
    let Some(replica) = log::owner(&journal)? else {
        tracing::error!(dir = %dir.display(), "nothing of the earlier journal can be read: it stays where it is");
        return Ok(None);
    };
    let closed = Closed::read(&dir);
    let opening = Opening {
        dir: &journal,
        aside: &damaged_dir(&dir),
        segment_bytes: u64::MAX,
        clean: closed.is_some(),
        end: closed.unwrap_or_default(),
    };
    let (log, _, found) = log::open(&opening, &replica)?;
    if !found.lost.is_empty() {
        tracing::error!(lost = ?found.lost, "the earlier journal is damaged: what is sound of it is taken over");
    }
    let why = fs::read_to_string(dir.join(WHY)).unwrap_or_default();
    Ok(Some(Fork { reader: reader(log), why }))
}

/// Removes what was taken over.
pub fn discard_fork(dir: &Path) -> Result<(), LedgerError> {
    let (fork, done) = (fork_dir(dir), done_dir(dir));
    let remove = || {
        if fork.exists() {
            remove_folder(&done)?;
            fs::rename(&fork, &done)?;
            sync_path(dir)?;
        }
        remove_folder(&done)
    };
    remove().map_err(cannot)
}

/// Nobody writes to it, so its end stands still.
fn reader(log: Log) -> Reader {
    let stats = LedgerStats { durable: log.ends().1, first: log.extent().first, ..LedgerStats::default() };
    Reader { log, stats: watch::channel(stats).1, recovery: Recovery::default().into() }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn cannot(error: io::Error) -> LedgerError {
    LedgerError::Io { doing: "set the ledger apart", why: error.to_string() }
}
