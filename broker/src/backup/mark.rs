//! The mark that a restore leaves for the hub's first start: which incarnation it is from then on. It is drawn by the
//! restore and not by the start, so that a start that is cut short and done again comes to the same.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

fn path(dir: &Path) -> PathBuf {
    dir.join("hub.restored")
}

/// On disk when it returns.
pub(super) fn leave(dir: &Path, incarnation: u64) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path(dir))?;
    writeln!(file, "{incarnation:016x}")?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// The incarnation that a restore drew, if the hub does not have it yet for sure.
pub(crate) fn drawn(dir: &Path) -> anyhow::Result<Option<u64>> {
    let path = path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    match u64::from_str_radix(text.trim(), 16) {
        Ok(incarnation) => Ok(Some(incarnation)),
        Err(_) => bail!("{} is not what a restore wrote: restore the backup once more", path.display()),
    }
}

/// The incarnation is in the ledger. If the mark is there again after a power cut, it says the same again.
pub(crate) fn forget(dir: &Path) {
    if let Err(error) = fs::remove_file(path(dir)) {
        tracing::warn!(%error, "the mark of the restore stays; it says what the ledger says");
    }
}
