//! Opening a ledger: whose it is, whether the last run ended well, what has to be mended, migrated or made anew.
//!
//! The log is the truth; the store is what it folds to, and is made anew from it, and from the last snapshot, whenever
//! it cannot be trusted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::chunk::{ChainHash, Position};
use proto::id::{Epoch, ReplicaId, Seq};
use serde::{Deserialize, Serialize};

use super::core::Put;
use super::error::LedgerError;
use super::log::{self, Appender, End, Log, Lost, Opening, journal_dir};
use super::store::{Folded, Pace, Store, StoreFault, database_dir, sync_path};
use super::{Options, compact, fork, migrate, snapshot};

/// What was found at a start, for the status and for a person.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Recovery {
    /// The last run said good-bye, and nothing had to be replayed.
    pub clean: bool,
    /// Bytes of a commit that was under way and that nobody was told of.
    pub torn_bytes: u64,
    /// Copies of files in which something else stood than was written, or which could not be read; a file of the journal
    /// itself while there is no room to mend it.
    pub damaged: Vec<PathBuf>,
    /// Spans of records that this disk no longer holds, as first and last seq.
    pub lost: Vec<(u64, u64)>,
    /// Why the state was made anew, if it was.
    pub state_remade: Option<String>,
    /// The state was made anew from a journal that does not reach back far enough: stock must be counted.
    pub state_incomplete: bool,
    /// Why this start set the earlier ledger apart and began a new one, if it did.
    pub set_apart: Option<String>,
    pub migrated_from: Option<u64>,
    /// Bytes of the database before and after it was compacted.
    pub compacted: Option<(u64, u64)>,
    pub replayed_records: u64,
}

pub(super) struct Opened {
    pub(super) store: Arc<Store>,
    pub(super) log: Log,
    pub(super) appender: Appender,
    /// Up to where a snapshot of the state reaches.
    pub(super) snapshot: Folded,
    pub(super) recovery: Recovery,
    /// Held for as long as the ledger is open: one process at a time.
    pub(super) lock: File,
}

/// What a clean stop leaves, and the next start takes away.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Closed {
    frame: u64,
    seq: u64,
    hash: [u8; 32],
}

impl Closed {
    pub(super) fn read(dir: &Path) -> Option<End> {
        let text = fs::read(closed_path(dir)).ok()?;
        // One line, and its checksum on the next.
        let (line, sum) = text.split_at(text.iter().position(|byte| *byte == b'\n')?);
        if sum[1..] != *blake3::hash(line).to_hex().as_bytes() {
            tracing::warn!("the note of the last stop is not what was written");
            return None;
        }
        let closed: Closed = serde_json::from_slice(line).ok()?;
        Some(End { frame: closed.frame, position: Position { seq: Seq(closed.seq), hash: ChainHash(closed.hash) } })
    }
}

pub(super) fn open(options: &Options, epoch: Epoch) -> Result<Opened, LedgerError> {
    let dir = options.dir.as_path();
    make_lasting(dir).map_err(|e| cannot("create the data folder", &e))?;
    let lock = lock(dir)?;
    fork::finish(dir)?;
    compact::finish(dir)?;
    let mut recovery = Recovery::default();
    let closed = Closed::read(dir);
    recovery.clean = closed.is_some();

    let (journal, database) = (journal_dir(dir), database_dir(dir));
    let mut store = open_store(dir, &database, &mut recovery)?;
    let replica = match (log::owner(&journal)?, &store) {
        (Some(owner), _) => owner,
        (None, Some(Ok(store))) => store.replica.clone(),
        (None, _) if marker_path(dir).exists() => return Err(LedgerError::OpenedEmpty(dir.into())),
        (None, _) => ReplicaId { site: options.site.clone(), epoch },
    };
    if replica.site != options.site {
        let (found, wanted) = (replica.site.to_string(), options.site.to_string());
        return Err(LedgerError::OtherSite { dir: dir.into(), found, wanted });
    }
    if let Some(Ok(other)) = store.as_ref().filter(|s| s.as_ref().is_ok_and(|store| store.replica != replica)) {
        let (path, found, wanted) = (database, other.replica.to_string(), replica.to_string());
        return Err(LedgerError::Stranger { path, found, wanted });
    }
    // Also after a clean stop: a disk may have gone bad since, and now is when the state can be made anew.
    if let Some(Ok(sound)) = &store
        && let Err(fault) = sound.verify()
    {
        store = Some(Err(damage(fault)?));
    }

    let vouched = store.as_ref().and_then(|store| store.as_ref().ok()).map(|store| store.folded());
    let vouched = vouched.map_or(End::default(), |folded| End { frame: folded.frame, position: folded.position });
    let end = closed.into_iter().chain([vouched]).max_by_key(|end| end.position.seq).unwrap_or_default();
    let opening = Opening {
        dir: &journal,
        aside: &damaged_dir(dir),
        segment_bytes: segment_bytes(options.limits.journal_bytes_max),
        clean: recovery.clean,
        end,
    };
    let (log, appender, found) = log::open(&opening, &replica)?;
    recovery.torn_bytes = found.torn_bytes;
    recovery.damaged.extend(found.damaged);
    recovery.lost = found.lost.iter().map(|Lost { first, last }| (first.0, last.0)).collect();

    let store = match store {
        Some(Ok(store)) if store.folded().frame + 1 < log.numbers().0 => {
            let why = "it lacks what the journal no longer holds".to_owned();
            drop(store);
            remake(options, &replica, &log, why, &mut recovery)?
        }
        Some(Ok(store)) => store,
        Some(Err(why)) => remake(options, &replica, &log, why, &mut recovery)?,
        None if log.numbers().1 > 0 => remake(options, &replica, &log, "it is gone".into(), &mut recovery)?,
        None => {
            // There was no last run, or it was cut while it made the first files: nobody was told of anything.
            recovery.clean = true;
            remove_unborn(&database)?;
            Store::create(&database, &replica)?
        }
    };
    let store = match compact::if_mostly_empty(dir, store, &mut recovery)? {
        Ok(store) => store,
        Err(why) => remake(options, &replica, &log, why, &mut recovery)?,
    };
    write_marker(dir, &replica)?;
    forget_closed(dir)?;
    report(&recovery);
    let snapshot = snapshot::stands(dir).unwrap_or_default();
    Ok(Opened { store: Arc::new(store), log, appender, snapshot, recovery, lock })
}

/// `None` if there is no database; `Err` says why it cannot be trusted.
fn open_store(
    dir: &Path,
    database: &Path,
    recovery: &mut Recovery,
) -> Result<Option<Result<Store, String>>, LedgerError> {
    if !database.join("db").exists() {
        return Ok(None);
    }
    if distrust_path(dir).exists() {
        return Ok(Some(Err("the last run found it damaged".into())));
    }
    let opened = match Store::open(database) {
        Err(StoreFault::Final(LedgerError::Format(1))) => {
            migrate::from_1(dir, database)?;
            recovery.migrated_from = Some(1);
            Store::open(database)
        }
        other => other,
    };
    match opened {
        Ok(store) => {
            recovery.migrated_from = recovery.migrated_from.or(store.raise_format()?);
            Ok(Some(Ok(store)))
        }
        Err(fault) => damage(fault).map(|why| Some(Err(why))),
    }
}

/// Makes a folder whose name will be there after a power cut, as will those of the folders above it that had to be made.
pub(super) fn make_lasting(dir: &Path) -> io::Result<()> {
    let there = dir.ancestors().filter(|above| !above.as_os_str().is_empty()).find(|above| above.exists());
    let there = there.map(Path::to_owned);
    fs::create_dir_all(dir)?;
    if marker_path(dir).exists() {
        return Ok(());
    }
    // Also on a start that finds the folder without its marker: whoever made it may not have come to this.
    let parent = dir.canonicalize()?.parent().map(Path::to_owned);
    for made in dir.ancestors().skip(1).take_while(|above| there.as_deref() != Some(above)) {
        if !made.as_os_str().is_empty() {
            sync_path(made)?;
        }
    }
    there.into_iter().chain(parent).try_for_each(|above| sync_path(&above))
}

/// A database whose data file was never made holds nothing, and what there is of it may be torn.
fn remove_unborn(database: &Path) -> Result<(), LedgerError> {
    match fs::remove_dir_all(database) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cannot("remove an unfinished database", &e)),
        _ => Ok(()),
    }
}

fn damage(fault: StoreFault) -> Result<String, LedgerError> {
    match fault {
        StoreFault::Damaged(why) => Ok(why),
        StoreFault::Final(error) => Err(error),
    }
}

/// A state from the last snapshot; what the log holds after it is folded by whoever opens the ledger. It is made beside
/// the old one and takes its place when it is whole: until then every start begins it again.
fn remake(
    options: &Options,
    replica: &ReplicaId,
    log: &Log,
    why: String,
    recovery: &mut Recovery,
) -> Result<Store, LedgerError> {
    let dir = options.dir.as_path();
    let (database, beside) = (database_dir(dir), dir.join("ledger.remaking"));
    let cannot_remake = |e: io::Error| cannot("make the state anew", &e);
    fs::write(distrust_path(dir), b"").and_then(|()| sync_path(dir)).map_err(cannot_remake)?;
    remove_unborn(&beside)?;
    let store = Store::create(&beside, replica)?;
    // Read to its end before any of it is used.
    let whole = snapshot::read(dir, &mut |_| Ok(()))?;
    if let Some(folded) = whole {
        let again = snapshot::read(dir, &mut |puts: Vec<Put>| {
            store.checkpoint(
                puts.iter().map(|p| (p.table, p.key.as_slice(), p.value.as_deref())),
                Folded::default(),
                Pace::Hurried,
            )
        })?;
        if again != whole {
            return Err(LedgerError::State("its snapshot does not read the same twice".into()));
        }
        store.checkpoint(std::iter::empty(), folded, Pace::Hurried)?;
    }
    recovery.state_incomplete = store.folded().frame + 1 < log.numbers().0;
    if recovery.state_incomplete && options.begin_anew && fork::may_shelve(dir) {
        // The note of distrust stays: a crash before the ledger is set apart leads here again.
        return Err(LedgerError::Incomplete(why));
    }
    store.close()?;
    drop(store);
    if database.exists() {
        let aside = damaged_dir(dir).join("ledger");
        fs::create_dir_all(damaged_dir(dir)).map_err(cannot_remake)?;
        remove_unborn(&aside)?;
        fs::rename(&database, &aside).map_err(cannot_remake)?;
        recovery.damaged.push(aside);
    }
    fs::rename(&beside, &database).and_then(|()| sync_path(dir)).map_err(cannot_remake)?;
    fs::remove_file(distrust_path(dir)).and_then(|()| sync_path(dir)).map_err(cannot_remake)?;
    recovery.state_remade = Some(why);
    Store::open(&database).map_err(StoreFault::into_error)
}

/// After an error of the store: the next start must not trust it.
pub(super) fn distrust_state(dir: &Path) {
    let write = || fs::write(distrust_path(dir), b"").and_then(|()| sync_path(dir));
    if let Err(error) = write() {
        tracing::error!(%error, "cannot note that the state is damaged");
    }
}

/// The last word of a clean stop.
pub(super) fn note_closed(dir: &Path, end: End) -> io::Result<()> {
    let closed = Closed { frame: end.frame, seq: end.position.seq.0, hash: end.position.hash.0 };
    let unfinished = dir.join("ledger.closing");
    let line = serde_json::to_string(&closed)?;
    fs::write(&unfinished, format!("{line}\n{}", blake3::hash(line.as_bytes()).to_hex()))?;
    sync_path(&unfinished)?;
    fs::rename(&unfinished, closed_path(dir))?;
    sync_path(dir)
}

/// From here on a stop is unclean until it says otherwise; on disk before anything is appended.
fn forget_closed(dir: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(closed_path(dir)) {
        Ok(()) => sync_path(dir).map_err(|e| cannot("sync the data folder", &e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot("remove the note of the last stop", &e)),
    }
}

/// The marker says: a ledger was here, so one that opens empty is a damaged one.
fn write_marker(dir: &Path, replica: &ReplicaId) -> Result<(), LedgerError> {
    if marker_path(dir).exists() {
        return Ok(());
    }
    tracing::info!(%replica, dir = %dir.display(), "created a ledger");
    write_marker_of(dir, &replica.to_string())
}

pub(super) fn write_marker_of(dir: &Path, replica: &str) -> Result<(), LedgerError> {
    let path = marker_path(dir);
    let write =
        || fs::write(&path, format!("{replica}\n")).and_then(|()| sync_path(&path)).and_then(|()| sync_path(dir));
    write().map_err(|e| cannot("write the ledger's marker", &e))
}

/// Two processes must never work on one folder.
pub(super) fn lock(dir: &Path) -> Result<File, LedgerError> {
    let path = dir.join("ledger.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|e| cannot("open the ledger's lock", &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| LedgerError::Open {
        dir: dir.into(),
        why: "it is locked: another process has it open; stop that one, or ask it through its admin socket".into(),
    })?;
    Ok(file)
}

/// As [`lock`], for whoever only looks: nothing is created.
pub(super) fn lock_of_stopped(dir: &Path) -> Result<Option<File>, LedgerError> {
    if dir.join("ledger.lock").exists() { lock(dir).map(Some) } else { Ok(None) }
}

/// A thirty-second of the journal goes at a time, within reason.
pub(super) fn segment_bytes(journal_bytes_max: u64) -> u64 {
    (journal_bytes_max / 32).clamp(64 << 10, 4 << 20)
}

pub(super) fn damaged_dir(dir: &Path) -> PathBuf {
    dir.join("damaged")
}

fn marker_path(dir: &Path) -> PathBuf {
    dir.join("ledger.created")
}

fn closed_path(dir: &Path) -> PathBuf {
    dir.join("ledger.closed")
}

fn distrust_path(dir: &Path) -> PathBuf {
    dir.join("state.damaged")
}

fn report(recovery: &Recovery) {
    let Recovery { torn_bytes, damaged, lost, .. } = recovery;
    if !recovery.clean {
        tracing::info!(torn_bytes, "the last stop was not clean: recovered");
    }
    if !damaged.is_empty() || !lost.is_empty() {
        tracing::error!(?damaged, ?lost, "the ledger was damaged; copies are kept, and it goes on from what is sound");
    }
    if let Some(why) = &recovery.state_remade {
        tracing::error!(%why, incomplete = recovery.state_incomplete, "the state is made anew from the journal");
    }
}

fn cannot(doing: &'static str, error: &io::Error) -> LedgerError {
    LedgerError::Io { doing, why: error.to_string() }
}
