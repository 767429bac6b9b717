//! sled 0.34.7 under the rules that make it keep what was acknowledged. Every rule here was paid for: see the
//! table "What sled needs" in ARCHITECTURE.md before changing one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};

use super::core::{Put, Table};
use super::error::{FORMAT, LedgerError, read_error};

/// 8 MiB. With smaller segments chunks spill into blob files, which nothing syncs. Fixed when a ledger is created.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// The page cache. sled's default is 1 GiB.
pub(super) const CACHE_BYTES: u64 = 32 << 20;
/// A copy is kept before opening after an unclean stop, if the database is no larger than this.
const COPY_BYTES_MAX: u64 = 64 << 20;

const OWN: Table = Table(0);
const KEY_FORMAT: &[u8] = b"format";
const KEY_SITE: &[u8] = b"site";
const KEY_EPOCH: &[u8] = b"epoch";
const KEY_FOLDED: &[u8] = b"folded";

/// Where a ledger lives and what bounds it.
#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    pub site: SiteName,
    /// The journal's bytes past which applied chunks are trimmed; past it and nothing to trim, publishes are refused.
    pub journal_bytes_max: u64,
    /// Free space of the file system below which publishes are refused, before a commit is started.
    pub disk_reserve_bytes: u64,
    pub sabotage: Option<super::Sabotage>,
}

/// The open database: two trees, one commit path.
pub(super) struct Store {
    dir: PathBuf,
    journal: sled::Tree,
    state: sled::Tree,
    db: sled::Db,
    data: File,
    pub(super) replica: ReplicaId,
    pub(super) folded: Seq,
}

/// One group's changes, written together or not at all.
#[derive(Default)]
pub(super) struct Group {
    pub(super) chunk: Option<(Seq, Vec<u8>)>,
    pub(super) puts: Vec<Put>,
    pub(super) folded: Option<Seq>,
    pub(super) trimmed: Vec<Seq>,
}

pub(super) fn database_dir(dir: &Path) -> PathBuf {
    dir.join("ledger")
}

fn marker_path(dir: &Path) -> PathBuf {
    dir.join("ledger.created")
}

fn running_path(dir: &Path) -> PathBuf {
    dir.join("ledger.running")
}

impl Store {
    /// Opens or creates the ledger of `site` in `dir`. `epoch` is used only if it has to be created.
    pub(super) fn open(dir: &Path, site: &SiteName, epoch: Epoch) -> Result<Store, LedgerError> {
        let fail = |why: String| LedgerError::Open { dir: dir.into(), why };
        let io = |what: &str, e: io::Error| fail(format!("{what}: {e}"));
        let database = database_dir(dir);
        fs::create_dir_all(&database).map_err(|e| io("create the folder", e))?;
        if running_path(dir).exists() {
            tracing::warn!(dir = %dir.display(), "the last stop was not clean: recovering");
            // Evidence is worth having; a store that sells is worth more, and a full disk is when both are needed.
            if let Err(error) = keep_copy(dir) {
                tracing::warn!(%error, "no copy is kept before recovery");
            }
        }
        remove_torn_snapshots(&database).map_err(|e| io("remove unfinished snapshots", e))?;
        fs::write(running_path(dir), b"").map_err(|e| io("write the running marker", e))?;

        let db = sled::Config::new()
            .path(&database)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(500))
            .open()
            .map_err(|e| fail(open_advice(&e)))?;
        check_segment_size(&database).map_err(fail)?;
        let tree = |name: &str| db.open_tree(name).map_err(|e| fail(e.to_string()));
        let (journal, state) = (tree("journal")?, tree("state")?);
        let data = File::open(database.join("db")).map_err(|e| io("open the data file", e))?;

        let mut store = Store {
            dir: dir.into(),
            journal,
            state,
            db,
            data,
            replica: ReplicaId { site: site.clone(), epoch },
            folded: Seq::ZERO,
        };
        match store.own(KEY_FORMAT)? {
            Some(format) => store.check_identity(format, site)?,
            None if marker_path(dir).exists() => return Err(LedgerError::OpenedEmpty(dir.into())),
            None => store.create()?,
        }
        store.write_marker()?;
        Ok(store)
    }

    fn create(&mut self) -> Result<(), LedgerError> {
        let puts = vec![
            Put::set(OWN, KEY_SITE, self.replica.site.as_str()),
            Put::set(OWN, KEY_EPOCH, self.replica.epoch.0.to_be_bytes()),
            // Last in the list, first looked for: a ledger without it was never spoken from.
            Put::set(OWN, KEY_FORMAT, FORMAT.to_be_bytes()),
        ];
        self.commit(Group { puts, ..Group::default() })?;
        let database = database_dir(&self.dir);
        for path in [database.join("conf"), database.join("blobs"), database, self.dir.clone()] {
            sync_path(&path)
                .map_err(|e| LedgerError::Io { doing: "sync a new ledger's folders", why: e.to_string() })?;
        }
        if let Some(parent) = self.dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_path(parent).map_err(|e| LedgerError::Io { doing: "sync the data folder", why: e.to_string() })?;
        }
        tracing::info!(replica = %self.replica, dir = %self.dir.display(), "created a ledger");
        Ok(())
    }

    /// The marker says: a database was here, so one that opens empty is a damaged one.
    fn write_marker(&self) -> Result<(), LedgerError> {
        let path = marker_path(&self.dir);
        if path.exists() {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            fs::write(&path, format!("{}\n", self.replica))?;
            sync_path(&path)?;
            sync_path(&self.dir)
        };
        write().map_err(|e| LedgerError::Io { doing: "write the ledger's marker", why: e.to_string() })
    }

    fn check_identity(&mut self, format: Vec<u8>, wanted: &SiteName) -> Result<(), LedgerError> {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap_or_default());
        let format = number(&format);
        if format != FORMAT {
            return Err(LedgerError::Format(format));
        }
        let site = String::from_utf8(self.own(KEY_SITE)?.unwrap_or_default()).unwrap_or_default();
        if site != wanted.as_str() {
            return Err(LedgerError::OtherSite { dir: self.dir.clone(), found: site, wanted: wanted.to_string() });
        }
        self.replica.epoch = Epoch(number(&self.own(KEY_EPOCH)?.unwrap_or_default()));
        self.folded = Seq(self.own(KEY_FOLDED)?.map_or(0, |bytes| number(&bytes)));
        Ok(())
    }

    fn own(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        self.get(OWN, key)
    }

    /// Writes the group in one transaction and returns when an fdatasync has passed. An error here is final: what
    /// is on disk is unknown until the next open, so nothing may be said and nothing tried again.
    pub(super) fn commit(&mut self, group: Group) -> Result<(), LedgerError> {
        let fail = |doing| move |why: String| LedgerError::Io { doing, why };
        let (journal, state) = batches(&group);
        (&self.journal, &self.state)
            .transaction(|(j, s)| {
                j.apply_batch(&journal)?;
                s.apply_batch(&state)?;
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|e| match e {
                TransactionError::Abort(()) => "the transaction was aborted".to_owned(),
                TransactionError::Storage(e) => e.to_string(),
            })
            .map_err(fail("write to the ledger"))?;
        // sled's flush is pwrite and sync_file_range: it orders the writes, only the fdatasync makes them last.
        self.db.flush().map_err(|e| fail("flush the ledger")(e.to_string()))?;
        self.data.sync_data().map_err(|e| fail("sync the ledger to disk")(e.to_string()))?;
        if let Some(folded) = group.folded {
            self.folded = folded;
        }
        Ok(())
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let found = self.state.get(state_key(table, key)).map_err(read_error)?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Cells of a table from the key `from` on, as stored.
    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), LedgerError>> + use<> {
        self.state.range(state_key(table, from)..vec![table.0 + 1]).map(|cell| {
            let (key, value) = cell.map_err(read_error)?;
            Ok((key[1..].to_vec(), value.to_vec()))
        })
    }

    pub(super) fn journal(&self) -> super::journal::Journal {
        super::journal::Journal::new(self.journal.clone())
    }

    /// Bytes of the database's files.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    /// After the last commit of a clean stop.
    pub(super) fn close(self) {
        let running = running_path(&self.dir);
        let Store { db, journal, state, .. } = self;
        drop((journal, state));
        if let Err(error) = db.flush() {
            tracing::error!(%error, "the last flush failed; the next start recovers");
            return;
        }
        drop(db);
        if let Err(error) = fs::remove_file(running) {
            tracing::warn!(%error, "cannot remove the running marker; the next start looks like a recovery");
        }
    }
}

fn batches(group: &Group) -> (sled::Batch, sled::Batch) {
    let (mut journal, mut state) = (sled::Batch::default(), sled::Batch::default());
    if let Some((first, bytes)) = &group.chunk {
        journal.insert(&first.0.to_be_bytes(), bytes.as_slice());
    }
    for first in &group.trimmed {
        journal.remove(&first.0.to_be_bytes());
    }
    for put in &group.puts {
        let key = state_key(put.table, &put.key);
        match &put.value {
            Some(value) => state.insert(key, value.as_slice()),
            None => state.remove(key),
        }
    }
    if let Some(folded) = group.folded {
        state.insert(state_key(OWN, KEY_FOLDED), &folded.0.to_be_bytes());
    }
    (journal, state)
}

fn state_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table.0);
    full.extend_from_slice(key);
    full
}

fn open_advice(error: &sled::Error) -> String {
    let text = error.to_string();
    if text.contains("lock") {
        return format!("{text}. Another process has it open; stop that one, or ask it through its admin socket");
    }
    text
}

/// A snapshot that a crash left half written makes sled's open fail; it is only ever an optimisation.
fn remove_torn_snapshots(database: &Path) -> io::Result<()> {
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "generating") {
            tracing::info!(path = %path.display(), "removing an unfinished snapshot");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Recovery overwrites evidence, so a database that is small enough is copied first; one copy is kept.
fn keep_copy(dir: &Path) -> io::Result<()> {
    let database = database_dir(dir);
    let bytes = match fs::metadata(database.join("db")) {
        Ok(meta) => meta.len(),
        Err(_) => return Ok(()),
    };
    if bytes > COPY_BYTES_MAX {
        tracing::info!(bytes, limit = COPY_BYTES_MAX, "the database is too large to keep a copy before recovery");
        return Ok(());
    }
    let copy = dir.join("ledger.before-recovery");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    fs::create_dir(&copy)?;
    for entry in fs::read_dir(&database)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn check_segment_size(database: &Path) -> Result<(), String> {
    // Text with a binary checksum behind it.
    let conf = fs::read(database.join("conf")).map_err(|e| format!("read conf: {e}"))?;
    let wanted = format!("segment_size: {SEGMENT_BYTES}\n");
    if conf.windows(wanted.len()).any(|text| text == wanted.as_bytes()) {
        return Ok(());
    }
    Err(format!("its segments are not {SEGMENT_BYTES} bytes: it was not created by tillsync"))
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
