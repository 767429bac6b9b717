//! `rejects list`, `rejects show` and `rejects retry`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use proto::id::Seq;
use serde_json::{Value, json};

use super::{find, hex};
use crate::node::{admin, show};

/// What can be seen of rejects, at any node.
#[derive(Debug, Subcommand)]
pub enum Look {
    /// The newest, newest first.
    List(ListArgs),
    /// All of one, with its payload.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The node's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many, at most 1000.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its seq, as `list` shows it.
    seq: u64,
    /// The node's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Its seq, as `list` shows it.
    seq: u64,
    /// The gateway's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// With the bytes as they came. This is what happens if nothing else is said.
    #[arg(long, conflicts_with = "payload")]
    as_is: bool,
    /// With the bytes of this file, corrected.
    #[arg(long)]
    payload: Option<PathBuf>,
    /// The reply as JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries out `list` or `show`. `default` is the data folder if none is named.
pub fn look(look: Look, default: &Path) -> anyhow::Result<()> {
    match look {
        Look::List(ListArgs { data, limit, json }) => {
            let dir = data.as_deref().unwrap_or(default);
            let found = match admin::ask_if_running(dir, &format!("rejects list {limit}"))? {
                Some(found) => found,
                None => find::list_stopped(dir, limit)?,
            };
            if json { println!("{found}") } else { print_list(&found) }
        }
        Look::Show(ShowArgs { seq, data, json }) => {
            let dir = data.as_deref().unwrap_or(default);
            let found = match admin::ask_if_running(dir, &format!("rejects show {seq}"))? {
                Some(found) => found,
                None => match find::show_stopped(dir, Seq(seq))? {
                    Some(reject) => reject.whole(),
                    None => bail!("record {seq} is no refusal, or no longer in the journal"),
                },
            };
            if json { println!("{found}") } else { print_one(&found) }
        }
    }
    Ok(())
}

/// Hands a refused request in again.
pub fn retry(args: RetryArgs, default: &Path) -> anyhow::Result<()> {
    let dir = args.data.as_deref().unwrap_or(default);
    let mut question = format!("rejects retry {}", args.seq);
    if let Some(file) = &args.payload {
        let payload = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        if payload.len() > admin::PAYLOAD_BYTES_MAX {
            bail!("{} has more than {} bytes: no device may send that", file.display(), admin::PAYLOAD_BYTES_MAX);
        }
        question = format!("{question} {}", hex::encode(&payload));
    }
    let Some(reply) = admin::ask_if_running(dir, &question)? else {
        bail!("the gateway does not run: start it, a retry goes through its rules and its ledger like any request");
    };
    if args.json {
        println!("{reply}");
        return Ok(());
    }
    println!("{}: {}", args.seq, reply["status"].as_str().unwrap_or("no answer"));
    for refused in reply["refused"].as_array().into_iter().flatten().chain(reply.get("code").map(|_| &reply)) {
        println!("  {} {}", text(&refused["code"]), text(&refused["reason"]));
    }
    if let Some(seq) = reply["seq"].as_u64() {
        println!("  record {seq}");
    }
    Ok(())
}

fn print_list(found: &Value) {
    let none = Vec::new();
    let rejects = found["rejects"].as_array().unwrap_or(&none);
    for reject in rejects {
        println!("{}", line(reject));
    }
    let extent = match found["whole_journal"] == json!(true) {
        true => "that is all that the journal holds".to_owned(),
        false => format!("older ones than seq {} were not looked for", show::number(&found["looked_back_to_seq"])),
    };
    println!("{} shown; {} events looked at, {extent}", rejects.len(), show::number(&found["looked_at_events"]));
}

fn line(reject: &Value) -> String {
    let about = match (reject["span"].as_array(), reject["line"].as_u64()) {
        (Some(span), _) => format!(" (its records {} to {})", span[0], span[1]),
        (None, Some(line @ 1..)) => format!(" (line {line})"),
        _ => String::new(),
    };
    let retried = match &reject["retried"] {
        Value::Null => String::new(),
        retried => format!("  [retried: {}, record {}]", text(&retried["status"]), retried["seq"]),
    };
    format!(
        "{}  {}  {}  {}{about}: {}  {}, {} bytes{retried}",
        reject["seq"],
        show::when(reject["at_ms"].as_u64().unwrap_or(0)),
        dash(&reject["device"]),
        text(&reject["code"]),
        text(&reject["reason"]),
        dash(&reject["topic"]),
        reject["bytes"],
    )
}

fn print_one(reject: &Value) {
    println!("{}", line(reject));
    if let Some(of) = reject["retry_of"].as_u64() {
        println!("handed in again after record {of} was refused");
    }
    if reject["cut_bytes"].as_u64() > Some(0) {
        println!("CUT: only the first {} of {} bytes were kept", reject["bytes_kept"], reject["bytes"]);
    }
    match (reject["text"].as_str(), reject["hex"].as_str()) {
        (Some(payload), _) => println!("{payload}"),
        (_, Some(payload)) => println!("not text, in hex:\n{payload}"),
        _ => {}
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn dash(value: &Value) -> &str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_person_wants_to_know() {
        let reject = json!({
            "seq": 7, "at_ms": 0, "device": "", "code": "qty_zero", "reason": "the quantity is 0", "line": 2,
            "topic": "dev/pos-1/sale", "bytes": 40, "span": null, "retried": { "seq": 9, "status": "ok" },
        });
        let shown = "7  1970-01-01T00:00:00Z  -  qty_zero (line 2): the quantity is 0  dev/pos-1/sale, 40 bytes  \
                     [retried: ok, record 9]";
        assert_eq!(line(&reject), shown);
    }
}
