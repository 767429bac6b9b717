//! What a backup says of itself: written last, so a folder without it is no backup.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::ledger::Inventory;

/// The layout of a backup. A newer one is refused.
const FORMAT: u64 = 1;
/// The longest manifest that is believed: far beyond what a disk holds in segments.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
const NAME: &str = "manifest.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u64,
    /// The hub that was copied, by what its journal says; none if it never said.
    pub(super) incarnation: Option<String>,
    /// When the copy was begun, milliseconds since 1970.
    pub(super) made_ms: u64,
    /// The version of the software that made it.
    pub(super) software: String,
    pub(super) log: Inventory,
    /// blake3 of each of the log's files, in hex and in their order.
    pub(super) checksums: Vec<String>,
    /// The copy of the state from which the hub began, if the log does not reach back to its beginning.
    pub(super) snapshot: Option<Sum>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) blake3: String,
}

/// Where a backup has the log's files. Not where a data folder has them: a hub that is started in a backup by mistake
/// must not go on with it.
pub(super) fn segments_dir(backup: &Path) -> PathBuf {
    backup.join("segments")
}

pub(super) fn snapshot_path(backup: &Path) -> PathBuf {
    backup.join("state.snapshot")
}

impl Manifest {
    pub(super) fn new(log: Inventory, made_ms: u64) -> Manifest {
        let software = env!("CARGO_PKG_VERSION").to_owned();
        Manifest { format: FORMAT, incarnation: None, made_ms, software, log, checksums: Vec::new(), snapshot: None }
    }

    /// On disk when it returns.
    pub(super) fn write(&self, backup: &Path) -> anyhow::Result<()> {
        let (path, unfinished) = (backup.join(NAME), backup.join("manifest.unfinished"));
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(backup)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    pub(super) fn read(backup: &Path) -> anyhow::Result<Manifest> {
        let path = backup.join(NAME);
        let meta = fs::metadata(&path);
        let bytes =
            meta.with_context(|| format!("read {}: that is no backup, or it was not finished", path.display()))?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            bail!("{} is no manifest: it has {} bytes", path.display(), bytes.len());
        }
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        #[derive(Deserialize)]
        struct Versioned {
            format: u64,
        }
        let damaged = || format!("{} is not what was written", path.display());
        let Versioned { format } = serde_json::from_slice(&text).with_context(damaged)?;
        if format > FORMAT {
            bail!("the backup has format {format}, this software reads up to {FORMAT}: restore it with a newer one");
        }
        let manifest: Manifest = serde_json::from_slice(&text).with_context(damaged)?;
        let is_name = |name: &str| name.ends_with(".log") && !name.contains(['/', '\\']);
        let listed = &manifest.log.segments;
        if manifest.checksums.len() != listed.len() || !listed.iter().all(|part| is_name(&part.name)) {
            bail!("{} is not what was written: its list of files makes no sense", path.display());
        }
        Ok(manifest)
    }
}
