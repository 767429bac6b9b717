//! `conflicts list`, `conflicts show` and `conflicts restore`: of a running hub by its admin socket; the first two also
//! of a stopped one, from its journal.

mod stopped;
mod words;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use proto::gtin::Gtin;
use proto::id::Seq;
use proto::register::RegisterKey;
use serde_json::Value;

use crate::hub::{Ask, Wanted};
use crate::node::admin::ask_if_running;
use crate::node::note::NoteArgs;
use crate::node::show;

pub(crate) use self::words::{of_words, to_words};

#[derive(Debug, Subcommand)]
pub(crate) enum Conflicts {
    /// The newest, newest first, with both sides.
    List(ListArgs),
    /// All of one: what each side had seen, and what the register holds now.
    Show(ShowArgs),
    /// Write the losing value again, so that every site gets it. The hub must be running. Once for each conflict.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only of this item: its fields and its tasting notes.
    #[arg(long, value_name = "GTIN")]
    item: Option<Gtin>,
    /// Only of registers whose key starts like this, such as item/04006381333931/price_cents.
    #[arg(long, value_name = "PREFIX", conflicts_with = "item")]
    key: Option<String>,
    /// How many, at most 1000.
    #[arg(short, long, default_value_t = 20)]
    number: usize,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id, as `list` shows it.
    id: u64,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Its id, as `list` shows it.
    id: u64,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    note: NoteArgs,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries one of them out. `default` is the data folder if none is named.
pub(crate) fn run(command: Conflicts, default: &Path) -> anyhow::Result<()> {
    match command {
        Conflicts::List(args) => list(args, default),
        Conflicts::Show(ShowArgs { id, data, json }) => {
            let dir = data.as_deref().unwrap_or(default);
            let found = match ask_if_running(dir, &to_words(&Ask::Show(Seq(id))))? {
                Some(found) => found,
                None => match stopped::show(dir, Seq(id))? {
                    Some(found) => found,
                    None => bail!("record {id} is no conflict, or no longer in the journal"),
                },
            };
            if json {
                println!("{found}")
            } else {
                print_one(&found)
            }
            Ok(())
        }
        Conflicts::Restore(args) => restore(args, default),
    }
}

fn list(args: ListArgs, default: &Path) -> anyhow::Result<()> {
    let dir = args.data.as_deref().unwrap_or(default);
    let prefixes = match (args.item, args.key) {
        (Some(gtin), _) => vec![RegisterKey::item_prefix(gtin), RegisterKey::note_prefix(gtin)],
        (None, Some(key)) if key.contains(char::is_whitespace) => bail!("no register's key has a space in it: {key:?}"),
        (None, key) => key.into_iter().collect(),
    };
    let wanted = Wanted { limit: args.number, prefixes };
    let found = match ask_if_running(dir, &to_words(&Ask::List(wanted.clone())))? {
        Some(found) => found,
        None => stopped::list(dir, &wanted)?,
    };
    if args.json {
        println!("{found}");
        return Ok(());
    }
    let none = Vec::new();
    let conflicts = found["conflicts"].as_array().unwrap_or(&none);
    conflicts.iter().for_each(print_both);
    println!("{} shown of {} kept", conflicts.len(), show::number(&found["kept"]));
    Ok(())
}

fn restore(args: RestoreArgs, default: &Path) -> anyhow::Result<()> {
    let dir = args.data.as_deref().unwrap_or(default);
    args.note.check()?;
    let (id, NoteArgs { by, why }) = (args.id, args.note);
    let Some(done) = ask_if_running(dir, &to_words(&Ask::Restore { conflict: Seq(id), by, why }))? else {
        bail!("the hub does not run: start it, what is brought back goes through its ledger and to every site");
    };
    if args.json {
        println!("{done}");
        return Ok(());
    }
    println!("{id}: {} restored as record {}", text(&done["key"]), show::number(&done["restored"]["seq"]));
    println!("  now       {}", line(&done["now"]));
    if !done["replaced"].is_null() {
        println!("  replaced  {}", line(&done["replaced"]));
    }
    Ok(())
}

fn print_both(conflict: &Value) {
    let when = show::when(conflict["seen_ms"].as_u64().unwrap_or(0));
    println!("{}  {when}  {}", conflict["id"], text(&conflict["key"]));
    println!("  kept      {}", line(&conflict["winner"]));
    println!("  lost      {}", line(&conflict["loser"]));
    let restored = &conflict["restored"];
    if !restored.is_null() {
        let why = restored["why"].as_str().filter(|why| !why.is_empty()).map(|why| format!(": {why:?}"));
        let at = show::when(restored["at_ms"].as_u64().unwrap_or(0));
        let by = restored["by"].as_str().filter(|by| !by.is_empty()).unwrap_or("-");
        println!("  RESTORED  {at} by {by:?} as record {}{}", restored["seq"], why.unwrap_or_default());
    }
}

fn print_one(conflict: &Value) {
    print_both(conflict);
    match &conflict["now"] {
        Value::Null => println!("  now       there is no such register any more"),
        now => println!("  now       {}", line(now)),
    }
    for (name, side) in [("kept one", &conflict["winner"]), ("lost one", &conflict["loser"])] {
        let seen: Vec<&str> = side["seen"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        println!("  the {name} had seen {}", seen.join(", "));
    }
}

fn line(side: &Value) -> String {
    let value = if side["deleted"] == true { "(deleted)".to_owned() } else { side["value"].to_string() };
    let when = show::when(side["at_ms"].as_u64().unwrap_or(0));
    let device = side["device"].as_str().filter(|device| !device.is_empty()).unwrap_or("-");
    format!("{value}  {}  {when}  {device}", text(&side["dot"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
