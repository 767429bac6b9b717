//! The state's database: sled 0.34.7 under the rules that make it keep what was written. Every rule here was paid for:
//! see the table "What sled needs" in ARCHITECTURE.md before changing one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prost::Message;
use proto::chunk::{ChainHash, Position};
use proto::id::{Epoch, ReplicaId, Seq};
use proto::wire;
use sled::transaction::ConflictableTransactionError;

use super::core::Table;
use super::digest::{Digest, full_key};
use super::error::{FORMAT, FORMAT_READ_FROM, LedgerError};
pub(super) use super::fault::StoreFault;
use super::fault::{fault, io_error, read_error, transaction_error};
use super::sectors::is_of_the_disk;

/// 8 MiB. With smaller segments large values spill into blob files, which nothing syncs. Fixed when it is created.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// The page cache. sled's default is 1 GiB.
pub(super) const CACHE_BYTES: u64 = 8 << 20;

const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The store's own cells. They are no part of the state, and of its digest.
const OWN: Table = Table(0);
const KEY_FORMAT: &[u8] = b"format";
const KEY_SITE: &[u8] = b"site";
const KEY_EPOCH: &[u8] = b"epoch";
const KEY_FOLDED: &[u8] = b"folded";
/// The tree that held the journal in format 1.
const OLD_JOURNAL: &str = "journal";

/// How far the state is folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) frame: u64,
    pub(super) position: Position,
}

/// What a cell of the state becomes.
type Cell<'a> = (Table, &'a [u8], Option<&'a [u8]>);

/// How a checkpoint is written. Nobody reads the state while a transaction is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Whoever reads for a device goes first: some tenths of a millisecond each, and pauses longer than that.
    Calm,
    /// Commits will soon wait for it.
    Hurried,
}

impl Pace {
    fn cells_max(self) -> usize {
        match self {
            Pace::Calm => 32,
            Pace::Hurried => 64,
        }
    }

    fn pause(self) {
        if self == Pace::Calm {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The open database. Written by one thread, read by any.
pub(super) struct Store {
    state: sled::Tree,
    db: sled::Db,
    data: File,
    pub(super) replica: ReplicaId,
    standing: Mutex<Standing>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    folded: Folded,
    digest: Digest,
}

pub(super) fn database_dir(dir: &Path) -> PathBuf {
    dir.join("ledger")
}

impl Store {
    /// Makes an empty database. `database` must not exist.
    pub(super) fn create(database: &Path, replica: &ReplicaId) -> Result<Store, LedgerError> {
        let db = open_db(database).map_err(StoreFault::into_error)?;
        let store = Store::of(db, database, replica.clone(), Standing::default())?;
        store.commit_own(&[
            (KEY_SITE, replica.site.as_str().as_bytes().to_vec()),
            (KEY_EPOCH, replica.epoch.0.to_be_bytes().to_vec()),
            (KEY_FORMAT, FORMAT.to_be_bytes().to_vec()),
        ])?;
        for path in [database.join("conf"), database.join("blobs"), database.to_owned()] {
            sync_path(&path).map_err(|e| io_error("sync a new database's files", &e))?;
        }
        if let Some(parent) = database.parent() {
            sync_path(parent).map_err(|e| io_error("sync the data folder", &e))?;
        }
        Ok(store)
    }

    pub(super) fn open(database: &Path) -> Result<Store, StoreFault> {
        let db = open_db(database)?;
        let damaged = |why: &str| StoreFault::Damaged(why.to_owned());
        let state = db.open_tree("state").map_err(fault)?;
        let own = |key: &[u8]| state.get(full_key(OWN, key)).map_err(fault);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
        let format = own(KEY_FORMAT)?.ok_or_else(|| damaged("it opened empty"))?;
        match number(&format) {
            Ok(FORMAT_READ_FROM..=FORMAT) => {}
            Ok(format) => return Err(StoreFault::Final(LedgerError::Format(format))),
            Err(_) => return Err(damaged("its format is no number")),
        }
        let site = own(KEY_SITE)?.and_then(|name| std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok()));
        let epoch = own(KEY_EPOCH)?.and_then(|epoch| number(&epoch).ok());
        let (Some(site), Some(epoch)) = (site, epoch) else { return Err(damaged("it does not say whose it is")) };
        let standing = match own(KEY_FOLDED)? {
            Some(bytes) => read_folded(&bytes).ok_or_else(|| damaged("it does not say how far it is folded"))?,
            None => Standing::default(),
        };
        if db.tree_names().iter().any(|name| name == OLD_JOURNAL.as_bytes()) {
            db.drop_tree(OLD_JOURNAL).map_err(fault)?;
        }
        let replica = ReplicaId { site, epoch: Epoch(epoch) };
        Store::of(db, database, replica, standing).map_err(StoreFault::Final)
    }

    fn of(db: sled::Db, database: &Path, replica: ReplicaId, standing: Standing) -> Result<Store, LedgerError> {
        let state = db.open_tree("state").map_err(read_error)?;
        let data = File::open(database.join("db")).map_err(|e| io_error("open the database's file", &e))?;
        Ok(Store { state, db, data, replica, standing: Mutex::new(standing) })
    }

    pub(super) fn folded(&self) -> Folded {
        self.standing().folded
    }

    pub(super) fn digest(&self) -> Digest {
        self.standing().digest
    }

    fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes cells, and how far the state is folded with them, and returns when an fdatasync has passed. An error here is
    /// final, as one of the log is.
    ///
    /// In several transactions, since nobody reads while one is under way: whoever is to answer a device would wait for
    /// all of a checkpoint. Each leaves the state's sum true; only the last moves how far it is folded, so what a crash
    /// leaves of the others is folded once more.
    pub(super) fn checkpoint<'a>(
        &self,
        mut cells: impl Iterator<Item = Cell<'a>>,
        folded: Folded,
        pace: Pace,
    ) -> Result<(), LedgerError> {
        let Standing { folded: before, mut digest } = self.standing();
        loop {
            let some: Vec<_> = cells.by_ref().take(pace.cells_max()).collect();
            let last = some.len() < pace.cells_max();
            digest = self.put(&some, if last { folded } else { before }, digest)?;
            if last {
                break;
            }
            pace.pause();
        }
        self.sync()?;
        *self.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Standing { folded, digest };
        Ok(())
    }

    /// One transaction. Gives back the sum over all cells after it.
    fn put(&self, cells: &[Cell<'_>], folded: Folded, before: Digest) -> Result<Digest, LedgerError> {
        let digest = self.state.transaction(|tree| {
            let mut digest = before;
            for (table, key, value) in cells {
                let full = full_key(*table, key);
                let old = match value {
                    Some(value) => tree.insert(&full[..], *value)?,
                    None => tree.remove(&full[..])?,
                };
                if let Some(old) = old {
                    digest.remove(&full, &old);
                }
                if let Some(value) = value {
                    digest.add(&full, value);
                }
            }
            tree.insert(full_key(OWN, KEY_FOLDED), folded_bytes(folded, digest))?;
            Ok::<Digest, ConflictableTransactionError<()>>(digest)
        });
        digest.map_err(transaction_error)
    }

    /// Notes that it is of this format from now on, so that older software leaves it alone. Gives back the older format
    /// that it was of, if it was.
    pub(super) fn raise_format(&self) -> Result<Option<u64>, LedgerError> {
        let found = self.state.get(full_key(OWN, KEY_FORMAT)).map_err(read_error)?;
        let format = found.and_then(|bytes| (*bytes).try_into().ok()).map_or(0, u64::from_be_bytes);
        if format == FORMAT {
            return Ok(None);
        }
        self.commit_own(&[(KEY_FORMAT, FORMAT.to_be_bytes().to_vec())])?;
        Ok(Some(format))
    }

    fn commit_own(&self, cells: &[(&[u8], Vec<u8>)]) -> Result<(), LedgerError> {
        self.state
            .transaction(|tree| {
                for (key, value) in cells {
                    tree.insert(full_key(OWN, key), value.as_slice())?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(transaction_error)?;
        self.sync()
    }

    /// sled's flush is pwrite and sync_file_range: it orders the writes, only the fdatasync makes them last.
    fn sync(&self) -> Result<(), LedgerError> {
        let failed = |doing| move |why: String| LedgerError::StateWrite { doing, why };
        self.db.flush().map_err(|e| failed("flush the state")(e.to_string()))?;
        self.data.sync_data().map_err(|e| failed("sync the state to disk")(e.to_string()))
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let found = self.state.get(full_key(table, key)).map_err(read_error)?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Cells of a table from the key `from` on, as stored.
    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), LedgerError>> + use<> {
        self.state.range(full_key(table, from)..vec![table.0 + 1]).map(|cell| {
            let (key, value) = cell.map_err(read_error)?;
            Ok((key[1..].to_vec(), value.to_vec()))
        })
    }

    /// Every cell of the state, with its full key.
    pub(super) fn cells(&self) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), LedgerError>> + use<> {
        self.state.range(vec![OWN.0 + 1]..).map(|cell| cell.map_err(read_error))
    }

    /// Walks over all cells and says what is wrong, or how many there are and how large.
    pub(super) fn verify(&self) -> Result<(u64, u64), StoreFault> {
        let (mut digest, mut count, mut bytes) = (Digest::default(), 0, 0);
        for cell in self.cells() {
            let (key, value) = cell.map_err(|e| StoreFault::Damaged(e.to_string()))?;
            digest.add(&key, &value);
            count += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        match digest == self.digest() {
            true => Ok((count, bytes)),
            false => Err(StoreFault::Damaged("its cells are not those that were written".into())),
        }
    }

    /// Bytes of the database's files.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }

    /// After the last checkpoint of a clean stop.
    pub(super) fn close(&self) -> Result<(), LedgerError> {
        self.sync()
    }
}

/// What format 1 held besides the state: the chunks, and up to which seq the state was folded.
pub(super) struct Older {
    db: sled::Db,
    state: sled::Tree,
}

impl Older {
    /// `None` if the database is not of format 1.
    pub(super) fn open(database: &Path) -> Result<Option<Older>, StoreFault> {
        let db = open_db(database)?;
        let state = db.open_tree("state").map_err(fault)?;
        let format = state.get(full_key(OWN, KEY_FORMAT)).map_err(fault)?;
        let older = format.is_some_and(|format| *format == 1u64.to_be_bytes());
        Ok(older.then_some(Older { db, state }))
    }

    pub(super) fn folded_seq(&self) -> Result<Seq, LedgerError> {
        let folded = self.state.get(full_key(OWN, KEY_FOLDED)).map_err(read_error)?;
        Ok(Seq(folded.and_then(|bytes| (*bytes).try_into().ok()).map_or(0, u64::from_be_bytes)))
    }

    pub(super) fn replica(&self) -> Result<Option<ReplicaId>, LedgerError> {
        let own = |key: &[u8]| self.state.get(full_key(OWN, key)).map_err(read_error);
        let site = own(KEY_SITE)?.and_then(|name| std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok()));
        let epoch = own(KEY_EPOCH)?.and_then(|bytes| (*bytes).try_into().ok()).map(u64::from_be_bytes);
        Ok(site.zip(epoch).map(|(site, epoch)| ReplicaId { site, epoch: Epoch(epoch) }))
    }

    /// Stored chunks, in order.
    pub(super) fn chunks(&self) -> Result<impl Iterator<Item = Result<sled::IVec, LedgerError>> + use<>, LedgerError> {
        let journal = self.db.open_tree(OLD_JOURNAL).map_err(read_error)?;
        Ok(journal.iter().values().map(|chunk| chunk.map_err(read_error)))
    }

    /// Makes it one of this format, whose chunks are in the log.
    pub(super) fn convert(self, database: &Path, folded: Folded) -> Result<(), LedgerError> {
        let mut digest = Digest::default();
        for cell in self.state.range(vec![OWN.0 + 1]..) {
            let (key, value) = cell.map_err(read_error)?;
            digest.add(&key, &value);
        }
        let replica = self.replica()?.ok_or_else(|| LedgerError::State("it does not say whose it is".into()))?;
        let store = Store::of(self.db, database, replica, Standing { folded, digest })?;
        store.commit_own(&[(KEY_FOLDED, folded_bytes(folded, digest)), (KEY_FORMAT, FORMAT.to_be_bytes().to_vec())])?;
        store.db.drop_tree(OLD_JOURNAL).map_err(read_error)?;
        store.close()
    }
}

fn open_db(database: &Path) -> Result<sled::Db, StoreFault> {
    let io = |doing: &'static str| {
        move |e: io::Error| match is_of_the_disk(&e) {
            true => StoreFault::Damaged(format!("cannot {doing}: {e}")),
            false => StoreFault::Final(io_error(doing, &e)),
        }
    };
    fs::create_dir_all(database).map_err(io("create the database's folder"))?;
    remove_torn_snapshots(database).map_err(io("remove unfinished snapshots"))?;
    let config = sled::Config::new()
        .path(database)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(500));
    // sled lets go of its file some time after its last handle is gone. The folder is ours: nobody else can have it.
    let deadline = Instant::now() + LOCK_WAIT;
    let db = loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => break opened.map_err(fault)?,
        }
    };
    check_segment_size(database).map_err(StoreFault::Damaged)?;
    Ok(db)
}

fn folded_bytes(folded: Folded, digest: Digest) -> Vec<u8> {
    let Folded { frame, position } = folded;
    wire::Folded { frame, seq: position.seq.0, hash: position.hash.0.to_vec().into(), digest: digest.0 }.encode_to_vec()
}

fn read_folded(bytes: &[u8]) -> Option<Standing> {
    let wire::Folded { frame, seq, hash, digest } = wire::Folded::decode(bytes).ok()?;
    let position = Position { seq: Seq(seq), hash: ChainHash::from_slice(&hash)? };
    Some(Standing { folded: Folded { frame, position }, digest: Digest(digest) })
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

fn check_segment_size(database: &Path) -> Result<(), String> {
    // Text with a binary checksum behind it.
    let conf = fs::read(database.join("conf")).map_err(|e| format!("read conf: {e}"))?;
    let wanted = format!("segment_size: {SEGMENT_BYTES}\n");
    if conf.windows(wanted.len()).any(|text| text == wanted.as_bytes()) {
        return Ok(());
    }
    Err(format!("its segments are not {SEGMENT_BYTES} bytes: it was not created by tillsync"))
}

/// Makes a file's content, or a folder's names, last.
pub(super) fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
