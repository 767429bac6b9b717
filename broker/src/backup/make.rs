//! `backup`: asks the running hub where its log stands and copies it up to there, or takes a stopped one as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::manifest::{Manifest, Sum, segments_dir, snapshot_path};
use super::{Progress, copy};
use crate::hub::incarnation_put;
use crate::ledger::{self, Inventory, check_copy, inventory_of_stopped, is_empty, make_folder};
use crate::node::{admin, show};

/// A running hub whose files changed under the copy is asked again so often.
const TRIES: usize = 3;

/// Copy the hub's ledger while it runs, or of a stopped hub.
///
/// TARGET becomes a folder with the journal up to the last commit and a manifest with checksums. It is read back and
/// checked before it counts as finished. Nothing is held up meanwhile; what is committed after the copy began is not
/// in it, and comes back from the gateways, which keep what they sent (`retain_days`).
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 the backup is whole and on disk, 74 it is not.
Keep it on another disk. Bring it back with `tillsync-broker restore`, never by copying: a hub that goes on from
copied files would be taken for the one that was lost.")]
pub(crate) struct BackupArgs {
    /// A folder that does not exist yet, or is empty.
    target: PathBuf,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn backup(args: &BackupArgs, default: &Path) -> anyhow::Result<()> {
    let (dir, target) = (args.data.as_deref().unwrap_or(default), args.target.as_path());
    if !is_empty(target).with_context(|| format!("look into {}", target.display()))? {
        bail!("{} is not empty: name a new folder", target.display());
    }
    make_folder(target).with_context(|| format!("make {}", target.display()))?;
    let mut tried = 0;
    let (manifest, running) = loop {
        tried += 1;
        match attempt(dir, target) {
            Ok(done) => break done,
            // Segments of a running hub may be written anew. Nothing that was copied is wrong, but it is not one log.
            Err(Attempt::Changed(why)) if tried < TRIES => {
                eprintln!("the hub's files changed meanwhile ({why:#}): once more");
                clear(target)?;
            }
            Err(Attempt::Changed(why) | Attempt::Failed(why)) => {
                clear(target)?;
                return Err(why);
            }
        }
    };
    let log = &manifest.log;
    if args.json {
        println!(
            "{}",
            json!({
                "backup": target,
                "of": if running { "running" } else { "stopped" },
                "replica": log.replica,
                "incarnation": manifest.incarnation,
                "last_seq": log.seq,
                "hash": log.hash,
                "segments": log.segments.len(),
                "bytes": log.bytes(),
                "made_ms": manifest.made_ms,
            })
        );
        return Ok(());
    }
    let (seq, bytes) = (show::number(&json!(log.seq)), show::bytes(&json!(log.bytes())));
    println!("{} up to record {seq} is in {}: {bytes}, checked", log.replica, target.display());
    Ok(())
}

enum Attempt {
    Changed(anyhow::Error),
    Failed(anyhow::Error),
}

fn attempt(dir: &Path, target: &Path) -> Result<(Manifest, bool), Attempt> {
    // Opened before the log's end is asked for, so that it does not reach beyond it. It is only ever replaced as a whole.
    let snapshot = match File::open(ledger::snapshot_path(dir)) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Attempt::Failed(anyhow::Error::new(e).context("open the snapshot of the state"))),
    };
    let made_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let (log, _stays_stopped, running) = standing(dir).map_err(Attempt::Failed)?;
    let changed = |why: anyhow::Error| if running { Attempt::Changed(why) } else { Attempt::Failed(why) };
    let mut manifest = Manifest::new(log, made_ms);
    manifest.checksums = segments(&ledger::log_dir(dir), target, &manifest.log).map_err(changed)?;
    if let Some(mut file) = snapshot {
        let copied = || {
            let bytes = file.metadata()?.len();
            Ok::<_, io::Error>(Sum { bytes, blake3: copy(&mut file, &snapshot_path(target), bytes)? })
        };
        let copied = { copied }();
        manifest.snapshot = Some(copied.context("copy the snapshot of the state").map_err(Attempt::Failed)?);
    }
    let mut incarnation = None;
    check_copy(&segments_dir(target), &manifest.log, &mut |put| incarnation = incarnation_put(put).or(incarnation))
        .context("check the copy")
        .map_err(changed)?;
    manifest.incarnation = incarnation.map(|drawn| format!("{drawn:016x}"));
    manifest.write(target).map_err(Attempt::Failed)?;
    Ok((manifest, running))
}

/// The log as it stands, what keeps a stopped hub stopped, and whether it runs.
fn standing(dir: &Path) -> anyhow::Result<(Inventory, Option<File>, bool)> {
    match admin::ask_if_running(dir, "inventory")? {
        Some(answer) => Ok((serde_json::from_value(answer).context("understand the hub's answer")?, None, true)),
        None => {
            inventory_of_stopped(dir).map(|(log, lock)| (log, lock, false)).context("read the stopped hub's journal")
        }
    }
}

fn segments(from: &Path, target: &Path, log: &Inventory) -> anyhow::Result<Vec<String>> {
    let to = segments_dir(target);
    fs::create_dir(&to).with_context(|| format!("make {}", to.display()))?;
    let (mut sums, mut progress) = (Vec::new(), Progress::start(log.segments.len(), log.bytes()));
    for part in &log.segments {
        let path = from.join(&part.name);
        let copied = File::open(&path).and_then(|mut file| copy(&mut file, &to.join(&part.name), part.bytes));
        sums.push(copied.with_context(|| format!("copy {}", path.display()))?);
        progress.copied(part.bytes);
    }
    File::open(&to).and_then(|folder| folder.sync_all()).with_context(|| format!("sync {}", to.display()))?;
    Ok(sums)
}

/// Removes what an attempt made. The folder was empty before.
fn clear(target: &Path) -> anyhow::Result<()> {
    let clear = || {
        for made in [segments_dir(target), snapshot_path(target), target.join("manifest.unfinished")] {
            let gone = if made.is_dir() { fs::remove_dir_all(&made) } else { fs::remove_file(&made) };
            match gone {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    };
    clear().with_context(|| format!("clear {}", target.display()))
}
