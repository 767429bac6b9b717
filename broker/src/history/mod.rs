//! `history SITE`: what a site's journal says, as the hub holds it, with the times at which things happened.

mod rows;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use proto::chunk::{self, Chunk};
use proto::gtin::Gtin;
use proto::id::SiteName;
use proto::wire::Event;
use proto::wire::record::Of;
use serde_json::{Value, json};

use self::rows::{Anchors, Row, own_rows, rows_of};
use crate::ledger::{LedgerError, Reader, read_stopped};
use crate::node::admin::ask_if_running;
use crate::node::process::LookUp;
use crate::node::show;

/// The most that one answer lists.
const LIST_MAX: usize = 10_000;
/// How far a running hub looks back, in events.
const LOOK_BACK_EVENTS: u64 = 500_000;

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The site; `hub` for the hub's own security events.
    site: SiteName,
    /// Only what is about this item.
    #[arg(long, value_name = "GTIN")]
    item: Option<Gtin>,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many records, at most 10000.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Which records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    site: SiteName,
    item: Option<Gtin>,
    limit: usize,
}

impl Wanted {
    fn to_words(&self) -> String {
        let item = self.item.map_or("-".to_owned(), |gtin| gtin.to_string());
        format!("history {} {} {item}", self.site, self.limit)
    }

    fn of_words(words: &[&str]) -> Option<Wanted> {
        let ["history", site, limit, item] = words else { return None };
        let item = if *item == "-" { None } else { Some(item.parse().ok()?) };
        Some(Wanted { site: site.parse().ok()?, item, limit: limit.parse::<usize>().ok()?.min(LIST_MAX) })
    }
}

/// A running hub's answer to the question, if it is this one.
pub(crate) fn of_words(words: &[&str]) -> Option<LookUp> {
    let wanted = Wanted::of_words(words)?;
    Some(Box::new(move |reader| of_running(reader, &wanted)))
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn run(args: HistoryArgs, default: &Path) -> anyhow::Result<()> {
    let dir = args.data.as_deref().unwrap_or(default);
    let wanted = Wanted { site: args.site, item: args.item, limit: args.limit.min(LIST_MAX) };
    let found = match ask_if_running(dir, &wanted.to_words())? {
        Some(found) => found,
        None => of_stopped(dir, &wanted)?,
    };
    if args.json {
        println!("{found}");
        return Ok(());
    }
    let none = Vec::new();
    let records = found["records"].as_array().unwrap_or(&none);
    for record in records.iter().rev() {
        let at = record["at_ms"].as_u64().map_or("at an unknown time".to_owned(), show::when);
        let about = if record["time"] == "about" { "before " } else { "" };
        println!(
            "{about}{at}  {}  {}  {}",
            show::number(&record["seq"]),
            show::number(&record["device"]),
            record["what"]
        );
    }
    println!("{} shown, oldest first", records.len());
    Ok(())
}

/// Of a running hub: from its newest record back.
fn of_running(reader: &Reader, wanted: &Wanted) -> Result<Value, LedgerError> {
    let (mut rows, mut anchors, mut looked) = (VecDeque::new(), Anchors::default(), 0);
    let own = Some(reader.replica()).filter(|ours| ours.site == wanted.site && wanted.item.is_none());
    reader.events_back(&mut |first, stamp, event| {
        looked += 1;
        if let Some(ours) = &own {
            rows.extend(own_rows(ours.epoch, first, stamp.ms().0, event).into_iter().rev());
        }
        for chunk in chunks_in(event, &wanted.site).rev() {
            anchors.read(&chunk);
            rows.extend(rows_of(&chunk, wanted.item).into_iter().rev());
        }
        let over = rows.len() >= wanted.limit || looked >= LOOK_BACK_EVENTS;
        if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    rows.truncate(wanted.limit);
    Ok(answer(wanted, rows.iter(), &anchors))
}

fn of_stopped(dir: &Path, wanted: &Wanted) -> Result<Value, LedgerError> {
    let (mut rows, mut anchors) = (VecDeque::new(), Anchors::default());
    read_stopped(dir, &mut |ours| {
        let own = ours.head.replica.site == wanted.site && wanted.item.is_none();
        for (first, stamp, event) in ours.events() {
            if own {
                rows.extend(own_rows(ours.head.replica.epoch, first, stamp.ms().0, event));
            }
            for chunk in chunks_in(event, &wanted.site) {
                anchors.read(&chunk);
                rows.extend(rows_of(&chunk, wanted.item));
                while rows.len() > wanted.limit {
                    rows.pop_front();
                }
            }
        }
    })?;
    Ok(answer(wanted, rows.iter().rev(), &anchors))
}

/// Newest first.
fn answer<'a>(wanted: &Wanted, rows: impl Iterator<Item = &'a Row>, anchors: &Anchors) -> Value {
    let records: Vec<Value> = rows.map(|row| row.json(anchors)).collect();
    json!({ "site": wanted.site.as_str(), "records": records })
}

/// The site's chunks in one event of the hub.
fn chunks_in<'a>(event: &'a Event, site: &'a SiteName) -> impl DoubleEndedIterator<Item = Chunk> + 'a {
    event.records.iter().filter_map(move |record| match &record.of {
        Some(Of::SiteChunk(embedded)) if chunk::head(&embedded.chunk).is_ok_and(|head| head.replica.site == *site) => {
            chunk::open(&embedded.chunk).ok()
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_the_admin_socket() {
        let item = "4006381333931".parse().ok();
        for wanted in [item, None].map(|item| Wanted { site: "hill".parse().unwrap(), item, limit: 7 }) {
            let text = wanted.to_words();
            assert_eq!(Wanted::of_words(&text.split(' ').collect::<Vec<_>>()), Some(wanted));
        }
        assert_eq!(Wanted::of_words(&["history", "hill", "x", "-"]), None);
    }
}
