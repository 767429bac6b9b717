//! The `doctor` command of every node: looks at a stopped ledger and says what it found.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::show;
use crate::ledger::{Examination, Parts, ReadCell, examine};

/// Exit code when something is wrong with the data (EX_DATAERR of sysexits).
pub const EXIT_DATA: u8 = 65;

/// Look at the ledger of a stopped node and say what is in it and what is wrong with it.
///
/// The journal is read where it is, the database is copied first: the original is never written to. Everything is
/// checked against its checksums, which takes about a second for each hundred megabytes.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all is sound, 65 something is damaged (what, and what the next start does about it, is in the output),
74 it could not be read: no ledger there, no room for the copy, or the node still runs (then ask `status`).")]
pub struct DoctorArgs {
    /// The data folder of the stopped node.
    pub dir: PathBuf,
    /// Where the copy of the database goes meanwhile; needs as much room as it takes.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Examines, prints, and says whether all is sound. `more` adds what only this kind of node knows.
pub fn doctor(args: &DoctorArgs, more: fn(ReadCell<'_>) -> Value) -> anyhow::Result<bool> {
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("tillsync-doctor-").tempdir_in(&scratch);
    let scratch = scratch.context("make a folder for the copy; --scratch names another place")?;
    let mut extra = Value::Null;
    let found = examine(&args.dir, scratch.path(), &mut |read| extra = more(read))?;
    if args.json {
        let mut shown = serde_json::to_value(&found)?;
        for (key, value) in extra.as_object().into_iter().flatten() {
            shown[key] = value.clone();
        }
        println!("{shown}");
    } else {
        print(&found, &extra);
    }
    Ok(found.faults.is_empty())
}

fn print(found: &Examination, extra: &Value) {
    let n = |n: u64| show::number(&json!(n));
    let size = |n: u64| show::bytes(&json!(n));
    let mut lines = vec![
        ("ledger", format!("{}, format {}", found.replica, found.format)),
        ("last stop", if found.clean { "clean".into() } else { "not clean: the next start recovers".to_owned() }),
        (
            "records",
            format!(
                "{} in {} chunks, seq {} to {}, chain {}",
                n(found.records),
                n(found.chunks),
                n(found.first_seq),
                n(found.last_seq),
                found.chain
            ),
        ),
        ("folded", format!("up to seq {}; a start replays the rest", n(found.folded_seq))),
    ];
    for (key, value) in extra.as_object().into_iter().flatten() {
        let key: &'static str = if key == "applied_seq" { "applied" } else { "more" };
        lines.push((key, format!("up to seq {} at HQ, as last heard", show::number(value))));
    }
    if let (Some(oldest), Some(newest)) = (found.oldest_ms, found.newest_ms) {
        let span = show::span(&json!(newest.saturating_sub(oldest)));
        lines.push(("oldest", format!("{oldest} ms since 1970; the newest came {span} later")));
    }
    let Parts { journal, state, state_content, snapshot, damaged, total } = &found.bytes;
    lines.push((
        "on disk",
        format!(
            "{}: journal {} in {} segments, state {} ({} cells, {}), snapshot {}, damaged copies {}",
            size(*total),
            size(*journal),
            n(found.segments),
            size(*state),
            n(found.state_cells),
            size(*state_content),
            size(*snapshot),
            size(*damaged)
        ),
    ));
    for gone in &found.gone {
        let what = format!(
            "{} records of class {} between seq {} and {}",
            n(gone.records),
            gone.class,
            gone.first_seq,
            gone.last_seq
        );
        lines.push(("gone", what));
    }
    if found.torn_bytes > 0 {
        lines.push((
            "torn",
            format!("{} of a commit that nobody was told of; the next start cuts it off", size(found.torn_bytes)),
        ));
    }
    for fault in &found.faults {
        lines.push(("FAULT", format!("{}: {}; {}", fault.place, fault.what, fault.advice)));
    }
    if found.faults.is_empty() {
        lines.push(("faults", "none".into()));
    }
    for (name, value) in lines {
        println!("{name:9}  {value}");
    }
}
