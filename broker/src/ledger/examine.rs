//! A close look at the ledger of a node that does not run. The journal is read where it is; the database, which cannot
//! be opened without being written to, is looked at in a copy. The original is never touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::chunk;
use proto::id::Seq;
use serde::Serialize;

use super::core::Table;
use super::error::LedgerError;
use super::log::{self, journal_dir};
use super::open::{Closed, damaged_dir, lock_of_stopped};
use super::store::{Older, Store, StoreFault, database_dir};
use super::{sectors, snapshot};

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Examination {
    pub dir: PathBuf,
    pub format: u64,
    pub replica: String,
    /// The last run said good-bye.
    pub clean: bool,
    /// Seq of the oldest record that is still here, and of the newest.
    pub first_seq: u64,
    pub last_seq: u64,
    pub records: u64,
    pub chunks: u64,
    pub commits: u64,
    pub segments: u64,
    /// First digits of the hash that names the whole journal.
    pub chain: String,
    /// Up to where the state on disk holds the journal; a start replays the rest.
    pub folded_seq: u64,
    pub snapshot_seq: Option<u64>,
    /// When the oldest and the newest record were stamped, milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    pub newest_ms: Option<u64>,
    pub powered_on_s: u64,
    pub state_cells: u64,
    pub bytes: Parts,
    /// Records that were dropped for want of room or lost to damage earlier, and where: known to HQ once it has them.
    pub gone: Vec<Gone>,
    /// A commit that was under way when the node died. Nobody was told of it; the next start cuts it off.
    pub torn_bytes: u64,
    /// What is wrong. The next start mends it, as far as `advice` says.
    pub faults: Vec<FoundFault>,
}

/// Size on disk by part.
#[derive(Debug, Default, Serialize)]
pub struct Parts {
    pub journal: u64,
    pub state: u64,
    /// What the state's cells take without the database around them.
    pub state_content: u64,
    pub snapshot: u64,
    /// Copies of damaged files, kept for a person.
    pub damaged: u64,
    pub total: u64,
}

#[derive(Debug, Serialize)]
pub struct Gone {
    pub first_seq: u64,
    pub last_seq: u64,
    pub class: &'static str,
    pub records: u64,
}

#[derive(Debug, Serialize)]
pub struct FoundFault {
    pub place: String,
    pub what: String,
    pub advice: &'static str,
}

/// Reads a cell of the copied state.
pub type ReadCell<'a> = &'a dyn Fn(Table, &[u8]) -> Option<Vec<u8>>;

const MENDS: &str = "the next start keeps a copy in damaged/, names the records that are gone and tells HQ";
const REPLACES: &str =
    "the node replaces it when it next drops a part of the journal; until then the state cannot be made anew from it";
const REMAKES: &str = "the next start makes it anew from the journal and the last snapshot";

/// Examines the ledger in `dir`. `scratch` takes the copy of its database; `look` may read cells of that copy.
pub fn examine(dir: &Path, scratch: &Path, look: &mut dyn FnMut(ReadCell<'_>)) -> Result<Examination, LedgerError> {
    let _lock = lock_of_stopped(dir)?;
    let mut found = Examination { dir: dir.into(), ..Examination::default() };
    found.clean = Closed::read(dir).is_some();
    found.bytes = parts(dir);
    let copy = scratch.join("ledger");
    let database = database_dir(dir);
    if database.exists() {
        copy_files(&database, &copy, &mut found.faults)
            .map_err(|e| LedgerError::Io { doing: "copy the database", why: e.to_string() })?;
    }
    match log::owner(&journal_dir(dir))? {
        Some(replica) => {
            found.format = super::error::FORMAT;
            found.replica = replica.to_string();
            journal(dir, &replica, &mut found)?;
            state(&copy, &mut found, look);
        }
        None if copy.exists() => older(&copy, dir, &mut found)?,
        None => return Err(LedgerError::Open { dir: dir.into(), why: "there is no ledger here".into() }),
    }
    if snapshot::path(dir).exists() {
        let whole = snapshot::read(dir, &mut |_| Ok(()))?;
        found.snapshot_seq = whole.map(|folded| folded.position.seq.0);
        if whole.is_none() {
            let (place, what) = ("snapshot".into(), "it cannot be read, or is not what was written".into());
            found.faults.push(FoundFault { place, what, advice: REPLACES });
        }
    }
    Ok(found)
}

fn journal(dir: &Path, replica: &proto::id::ReplicaId, found: &mut Examination) -> Result<(), LedgerError> {
    let survey = log::survey(&journal_dir(dir), replica, &mut |stored| {
        take(&stored.head, &stored.bytes, found);
        Ok(())
    })?;
    (found.segments, found.commits, found.torn_bytes) = (survey.segments, survey.frames, survey.torn_bytes);
    if found.clean && survey.torn_bytes > 0 {
        let what = format!("{} bytes at the end are not what the last stop wrote", survey.torn_bytes);
        found.faults.push(FoundFault { place: "journal".into(), what, advice: MENDS });
    }
    for fault in survey.faults.iter().filter(|fault| fault.to > fault.from) {
        let how = if fault.unread { "cannot be read" } else { "are not what was written" };
        let what = format!("bytes {} to {} {how}", fault.from, fault.to);
        found.faults.push(FoundFault { place: fault.path.display().to_string(), what, advice: MENDS });
    }
    for lost in survey.lost {
        let what = format!("the records from seq {} to {} are gone", lost.first, lost.last);
        found.faults.push(FoundFault { place: "journal".into(), what, advice: MENDS });
    }
    Ok(())
}

fn take(head: &chunk::Head, bytes: &[u8], found: &mut Examination) {
    if found.chunks == 0 {
        found.first_seq = head.first.0;
    }
    found.chunks += 1;
    found.last_seq = head.last.0;
    found.chain = head.hash.short();
    match chunk::open(bytes) {
        Ok(chunk) => {
            for loss in &chunk.body.losses {
                let (class, records) = (loss.class().as_str_name(), loss.records);
                found.gone.push(Gone { first_seq: head.first.0, last_seq: head.last.0, class, records });
            }
            for (_, stamp, event) in chunk.events() {
                found.records += event.records.len() as u64;
                found.oldest_ms.get_or_insert(stamp.ms().0);
                found.newest_ms = Some(stamp.ms().0);
            }
            found.powered_on_s = found.powered_on_s.max(chunk.body.powered_on_s);
        }
        Err(why) => {
            let place = format!("chunk of seq {} to {}", head.first, head.last);
            found.faults.push(FoundFault { place, what: why.to_string(), advice: MENDS });
        }
    }
}

fn state(copy: &Path, found: &mut Examination, look: &mut dyn FnMut(ReadCell<'_>)) {
    let mut fault = |what: String| {
        found.faults.push(FoundFault { place: "state".into(), what, advice: REMAKES });
    };
    if !copy.join("db").exists() {
        return fault("the database is gone".into());
    }
    match Store::open(copy) {
        Err(StoreFault::Damaged(why)) => fault(why),
        Err(StoreFault::Final(error)) => fault(error.to_string()),
        Ok(store) => {
            if store.replica.to_string() != found.replica {
                fault(format!("it belongs to {}", store.replica));
            } else {
                match store.verify() {
                    Ok((cells, bytes)) => (found.state_cells, found.bytes.state_content) = (cells, bytes),
                    Err(why) => fault(why.into_error().to_string()),
                }
            }
            found.folded_seq = store.folded().position.seq.0;
            look(&|table, key| store.get(table, key).ok().flatten());
        }
    }
}

fn older(copy: &Path, dir: &Path, found: &mut Examination) -> Result<(), LedgerError> {
    let older = Older::open(copy).map_err(StoreFault::into_error)?;
    let Some(older) = older else {
        return Err(LedgerError::Open { dir: dir.into(), why: "its database is of no format that is known".into() });
    };
    found.format = 1;
    found.replica = older.replica()?.map_or_else(String::new, |replica| replica.to_string());
    found.folded_seq = older.folded_seq()?.0;
    for stored in older.chunks()? {
        let stored = stored?;
        match chunk::head(&stored) {
            Ok(head) => take(&head, &stored, found),
            Err(why) => {
                let place = format!("chunk after seq {}", Seq(found.last_seq));
                let advice = "run the software that wrote it, or keep the folder";
                found.faults.push(FoundFault { place, what: why.to_string(), advice });
            }
        }
    }
    Ok(())
}

fn parts(dir: &Path) -> Parts {
    let snapshot = fs::metadata(snapshot::path(dir)).map_or(0, |meta| meta.len());
    let (journal, state) = (folder_bytes(&journal_dir(dir)), folder_bytes(&database_dir(dir)));
    let damaged = folder_bytes(&damaged_dir(dir));
    Parts { journal, state, snapshot, damaged, total: folder_bytes(dir), state_content: 0 }
}

fn folder_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => folder_bytes(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.len()),
        _ => 0,
    };
    entries.map(size).sum()
}

fn copy_files(from: &Path, to: &Path, faults: &mut Vec<FoundFault>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
        if kind.is_dir() {
            copy_files(&entry.path(), &to.join(entry.file_name()), faults)?;
        } else if kind.is_file() {
            let unread = sectors::copy(&entry.path(), &to.join(entry.file_name()))?;
            if unread > 0 {
                let (place, what) = (entry.path().display().to_string(), format!("{unread} bytes cannot be read"));
                faults.push(FoundFault { place, what, advice: REMAKES });
            }
        }
    }
    Ok(())
}
