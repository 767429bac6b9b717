//! From older formats to this one. Each step can be repeated: a crash between two leaves what the next start goes on with.

use std::fs;
use std::io;
use std::path::Path;

use proto::chunk;
use proto::id::Seq;

use super::error::LedgerError;
use super::log::{self, Commit, End, Opening, journal_dir};
use super::open::{damaged_dir, segment_bytes};
use super::store::{Folded, Older, StoreFault, sync_path};

/// Format 1 kept the journal in the database, a chunk under its first seq.
pub(super) fn from_1(dir: &Path, database: &Path) -> Result<(), LedgerError> {
    let io = |e: io::Error| LedgerError::Io { doing: "migrate the ledger", why: e.to_string() };
    let Some(older) = Older::open(database).map_err(StoreFault::into_error)? else { return Ok(()) };
    let replica = older.replica()?.ok_or_else(|| LedgerError::State("it does not say whose it is".into()))?;
    tracing::info!(%replica, "migrating a ledger of format 1");
    let (journal, beside) = (journal_dir(dir), dir.join("journal.migrating"));
    if !journal.exists() {
        if beside.exists() {
            fs::remove_dir_all(&beside).map_err(io)?;
        }
        let opening = Opening {
            dir: &beside,
            aside: &damaged_dir(dir),
            segment_bytes: segment_bytes(u64::MAX),
            clean: true,
            end: End::default(),
        };
        let (_, mut appender, _) = log::open(&opening, &replica)?;
        for stored in older.chunks()? {
            let stored = stored?;
            let head = chunk::head(&stored).map_err(|why| LedgerError::Chunk { at: Seq::ZERO, why })?;
            let chunks = vec![(head.before(), head.after(), stored.to_vec())];
            appender.append(Commit { chunks, puts: vec![], powered_on_s: 0 })?;
        }
        drop(appender);
        fs::rename(&beside, &journal).and_then(|()| sync_path(dir)).map_err(io)?;
    }
    let folded_seq = older.folded_seq()?;
    let opening = Opening {
        dir: &journal,
        aside: &damaged_dir(dir),
        segment_bytes: segment_bytes(u64::MAX),
        clean: true,
        end: End::default(),
    };
    let (log, ..) = log::open(&opening, &replica)?;
    let mut folded = Folded::default();
    log.frames_after(0, &mut |frame, chunks, _| {
        if let Some(stored) = chunks.last().filter(|stored| stored.head.last <= folded_seq) {
            folded = Folded { frame, position: stored.head.after() };
        }
        Ok(())
    })?;
    older.convert(database, folded)
}
