//! `DIR/audit.pending`: what commands did while the node was stopped, for it to journal when it starts.
//!
//! Each line has an id of its own, which goes into the record. The file is removed after its records are committed; a
//! crash between the two leaves lines whose ids the journal has, and those are left out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto::wire;
use serde::{Deserialize, Serialize};

use super::audit::SecurityEvent;
use crate::node::whole_file;

const FILE: &str = "audit.pending";
/// Past it a command is refused until the node has run.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    at_ms: u64,
    what: String,
    who: String,
    by: String,
    detail: String,
}

/// Writes an event down. It is on disk when this returns.
///
/// # Errors
/// It could not be written, or there are too many already.
pub fn leave(dir: &Path, event: &SecurityEvent, at_ms: u64) -> io::Result<()> {
    let wire::SecurityEvent { what, who, by, detail, .. } = event.to_wire(1);
    let id = format!("{:016x}", getrandom::u64().map_err(io::Error::from)?);
    let line = serde_json::to_string(&Line { id, at_ms, what, who, by, detail })?;
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(FILE))?;
    whole_file::give_to_owner_of_folder(&file, &dir.join(FILE))?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("too much waits to be journalled: start the node once"));
    }
    // A line that a crash left unfinished does not take this one with it.
    file.write_all(format!("\n{line}\n").as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// What was left, in order. A line that cannot be read is one that a crash left unfinished.
///
/// # Errors
/// The file is there and cannot be read.
pub(crate) fn read(dir: &Path) -> io::Result<Vec<wire::SecurityEvent>> {
    let text = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    Ok(lines
        .map(|Line { id, at_ms, what, who, by, detail }| wire::SecurityEvent {
            what,
            who,
            by,
            detail,
            at_ms,
            id,
            count: 1,
            peer: String::new(),
        })
        .collect())
}

/// They are in the journal.
///
/// # Errors
/// The file could not be removed; what is left in it is known by its ids.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::open(dir)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::audit::What;
    use super::*;

    #[test]
    fn what_is_left_is_found_in_order_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let event = |who: &str| SecurityEvent {
            what: What::AccountAdded,
            who: who.into(),
            by: "root".into(),
            peer: String::new(),
            detail: "pos".into(),
        };
        leave(dir.path(), &event("pos-1"), 7).unwrap();
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        file.write_all(b"{\"id\":\"12").unwrap();
        leave(dir.path(), &event("pos-2"), 8).unwrap();
        let found = read(dir.path()).unwrap();
        let said: Vec<_> = found.iter().map(|event| (event.who.as_str(), event.at_ms, event.by.as_str())).collect();
        assert_eq!(said, [("pos-1", 7, "root"), ("pos-2", 8, "root")]);
        assert_ne!(found[0].id, found[1].id);
        clear(dir.path()).unwrap();
        clear(dir.path()).unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
    }
}
