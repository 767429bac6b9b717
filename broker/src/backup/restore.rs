//! `restore`: a data folder from a backup, checked, and marked so that its hub is a new one to the gateways.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::manifest::{Manifest, Sum, segments_dir, snapshot_path};
use super::{Progress, copy, mark};
use crate::ledger::{self, Restoring};
use crate::node::{self, show};

/// Make a data folder from a backup.
///
/// Every checksum is verified. The hub that is started there draws a new incarnation: gateways then send again what it
/// lacks, as far as they keep it, and take over its registers from the beginning. Stop the old hub for good first.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 the folder is whole and on disk, 74 it is not: nothing was started in it, and what was made is removed.")]
pub(crate) struct RestoreArgs {
    /// The folder that `backup` made.
    backup: PathBuf,
    /// The new data folder; must not exist, or be empty.
    #[arg(long)]
    data: PathBuf,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { backup, data: dir, json } = args;
    let manifest = Manifest::read(backup)?;
    let incarnation = node::random()?;
    let restoring = Restoring::begin(dir, &manifest.log.replica)?;
    let journal = restoring.journal();
    if let Err(why) = bring(&manifest, backup, dir, restoring, incarnation) {
        // The folder was empty, and nothing that is whole is in it.
        for made in [journal, dir.to_owned()] {
            remove_files(&made);
        }
        return Err(why);
    }
    let log = &manifest.log;
    if *json {
        println!(
            "{}",
            json!({
                "data": dir,
                "replica": log.replica,
                "last_seq": log.seq,
                "incarnation": format!("{incarnation:016x}"),
                "made_ms": manifest.made_ms,
            })
        );
        return Ok(());
    }
    let (seq, when) = (show::number(&json!(log.seq)), show::when(manifest.made_ms));
    println!("{} up to record {seq}, as of {when}, is in {}", log.replica, dir.display());
    println!(
        "start it with --data {}: it makes its state anew first, and is incarnation {incarnation:016x}",
        dir.display()
    );
    Ok(())
}

/// The log comes last and in one step: before that no hub starts in the folder.
fn bring(manifest: &Manifest, backup: &Path, dir: &Path, restoring: Restoring, incarnation: u64) -> anyhow::Result<()> {
    mark::leave(dir, incarnation).context("mark the folder as restored")?;
    if let Some(sum) = &manifest.snapshot {
        check(&snapshot_path(backup), &ledger::snapshot_path(dir), sum)?;
    }
    let log = &manifest.log;
    let (from, to) = (segments_dir(backup), restoring.journal());
    let mut progress = Progress::start(log.segments.len(), log.bytes());
    for (part, sum) in log.segments.iter().zip(&manifest.checksums) {
        let sum = Sum { bytes: part.bytes, blake3: sum.clone() };
        check(&from.join(&part.name), &to.join(&part.name), &sum)?;
        progress.copied(part.bytes);
    }
    restoring.finish(log).context("check what was restored")
}

fn check(from: &Path, to: &Path, sum: &Sum) -> anyhow::Result<()> {
    let copied = File::open(from).and_then(|mut file| {
        let bytes = file.metadata()?.len();
        copy(&mut file, to, sum.bytes).map(|found| (bytes, found))
    });
    let (bytes, found) = copied.with_context(|| format!("copy {}", from.display()))?;
    if bytes != sum.bytes || found != sum.blake3 {
        bail!("{} is not what was backed up: its length or its checksum is another", from.display());
    }
    Ok(())
}

fn remove_files(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What cannot be removed makes the next restore refuse the folder, with its name.
        let _ = fs::remove_file(entry.path());
    }
    // The data folder itself may have been there, and empty; then it may as well be gone.
    let _ = fs::remove_dir(dir);
}
