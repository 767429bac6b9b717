//! `verify SITE`: whether hub and site hold the same stock, and whether the hub's stock is what its journal says.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use proto::chunk;
use proto::id::{Seq, SiteName};
use proto::wire::record::Of;
use serde_json::{Value, json};

use crate::ledger::{LedgerError, Reader};
use crate::node::admin::ask_if_running;
use crate::node::process::LookUp;
use crate::node::show;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The site. It must be connected, unless only the hub's own journal is looked at.
    site: SiteName,
    /// Fold the site's stock again from the hub's journal and compare it with the hub's state, instead of asking the site.
    #[arg(long)]
    refold: bool,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn run(args: &VerifyArgs, default: &Path) -> anyhow::Result<()> {
    let (dir, site) = (args.data.as_deref().unwrap_or(default), &args.site);
    let ask = |question: String| match ask_if_running(dir, &question) {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => bail!("the hub does not run: start it, `doctor` looks at the ledger of a stopped one"),
        Err(error) => Err(error),
    };
    let outcome = if args.refold {
        let held = ask(format!("totals {site}"))?;
        compare(site, &held, &ask(format!("refold {site} {}", held["seq"]))?)
    } else {
        ask(format!("verify {site}"))?
    };
    if args.json {
        println!("{outcome}");
    } else {
        println!("{} items of {site} compared, {} differ", show::number(&outcome["keys"]), outcome["differed"]);
        for item in outcome["items"].as_array().into_iter().flatten() {
            println!("  {item}");
        }
    }
    match outcome["differed"].as_u64() {
        Some(0) => Ok(()),
        _ if args.refold => bail!("the hub's state is not what its journal says: stop it and look with `doctor`"),
        _ => bail!("what differed was set to what {site} says"),
    }
}

/// A running hub's answer to the question, if it is this one.
pub(crate) fn of_words(words: &[&str]) -> Option<LookUp> {
    let ["refold", site, upto] = words else { return None };
    let (site, upto) = (site.parse::<SiteName>().ok()?, Seq(upto.parse().ok()?));
    Some(Box::new(move |reader| refold(reader, &site, upto)))
}

/// The site's totals as the hub's journal has them up to a record: the newest of each counts.
fn refold(reader: &Reader, site: &SiteName, upto: Seq) -> Result<Value, LedgerError> {
    let mut totals: HashMap<(u64, u64), i64> = HashMap::new();
    reader.events_back(&mut |first, _, event| {
        for (offset, record) in (0..).zip(&event.records).collect::<Vec<(u64, _)>>().into_iter().rev() {
            if first.plus(offset) > upto {
                continue;
            }
            match &record.of {
                Some(Of::SiteChunk(embedded)) => {
                    let Ok(head) = chunk::head(&embedded.chunk) else { continue };
                    if head.replica.site != *site {
                        continue;
                    }
                    let Ok(chunk) = chunk::open(&embedded.chunk) else { continue };
                    for (n, total) in (0..).zip(&chunk.body.totals) {
                        if !embedded.overtaken.contains(&n) {
                            totals.entry((total.gtin, head.replica.epoch.0)).or_insert(total.units);
                        }
                    }
                }
                Some(Of::SitePresent(present)) if present.site == site.as_str() => {
                    for total in &present.totals {
                        totals.entry((total.gtin, present.epoch)).or_insert(total.units);
                    }
                }
                Some(Of::StockMoved(moved)) if moved.site == site.as_str() => {
                    totals.entry((moved.gtin, moved.incarnation)).or_insert(moved.total);
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    })?;
    let named = totals.into_iter().map(|((gtin, epoch), units)| (name(gtin, epoch), units));
    Ok(json!({ "totals": named.collect::<BTreeMap<String, i64>>() }))
}

/// An item in one life of a site's ledger, as both answers name it.
pub(crate) fn name(gtin: u64, epoch: u64) -> String {
    format!("{gtin:014}@{epoch:016x}")
}

fn compare(site: &SiteName, held: &Value, folded: &Value) -> Value {
    let totals = |of: &Value| of["totals"].as_object().cloned().unwrap_or_default();
    let (held, mut folded) = (totals(held), totals(folded));
    let keys = held.len();
    let mut items = Vec::new();
    for (item, units) in held {
        let journal = folded.remove(&item);
        if journal.as_ref() != Some(&units) {
            items.push(json!({ "item": item, "state": units, "journal": journal }));
        }
    }
    items.extend(folded.into_iter().map(|(item, units)| json!({ "item": item, "state": null, "journal": units })));
    json!({ "site": site.as_str(), "keys": keys, "differed": items.len(), "items": items })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_side_has_differs() {
        let of = |totals: &[(&str, i64)]| json!({ "totals": totals.iter().copied().collect::<BTreeMap<_, _>>() });
        let site = "hill".parse().unwrap();
        assert_eq!(compare(&site, &of(&[("a", 1)]), &of(&[("a", 1)]))["differed"], 0);
        let outcome = compare(&site, &of(&[("a", 1), ("b", 2), ("d", 0)]), &of(&[("a", 1), ("b", 3), ("c", 4)]));
        assert_eq!((&outcome["keys"], &outcome["differed"]), (&json!(3), &json!(3)), "{outcome}");
    }
}
