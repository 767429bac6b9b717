//! `site lost`: what an operator says of a site, to a running hub by its admin socket.

use std::io::{BufRead, Write, stderr, stdin};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use proto::id::SiteName;
use serde_json::Value;

use crate::hub::Lost;
use crate::node::admin::ask_if_running;
use crate::node::note::{SaidArgs, of_word, to_word};
use crate::node::show;
use crate::pools;

#[derive(Debug, Args)]
pub(crate) struct LostArgs {
    /// The site's name.
    #[arg(value_name = "SITE")]
    site: SiteName,
    /// What the box had left of its rights may be promised again, though it may have promised it; without this it counts
    /// as spent.
    #[arg(long)]
    reclaim: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    said: SaidArgs,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries it out. `default` is the data folder if none is named.
pub(super) fn lost(args: LostArgs, default: &Path) -> anyhow::Result<()> {
    args.said.check()?;
    let dir = args.data.as_deref().unwrap_or(default);
    let stopped = "the hub does not run: start it, it must stand in its ledger that the box is lost";
    let Some(left) = ask_if_running(dir, &pools::at_risk(&args.site))? else { bail!(stopped) };
    if !args.json {
        at_risk(&left["rights"], args.reclaim);
        if let Some(unheard) = left["unheard"].as_str() {
            println!("{unheard}");
        }
    }
    if !args.yes && !confirmed(&args.site)? {
        bail!("nothing is done");
    }
    let SaidArgs { note, reference } = args.said;
    let lost = Lost { site: args.site, by: note.by, why: note.why, reference, reclaim: args.reclaim };
    let Some(done) = ask_if_running(dir, &to_words(&lost))? else { bail!(stopped) };
    if args.json {
        println!("{done}");
        return Ok(());
    }
    let (site, epoch) = (&lost.site, show::number(&done["epoch"]));
    match done["seq"].as_u64() {
        Some(seq) => println!("{site}: ledger {epoch} is lost, by record {seq}; nothing waits for it any more"),
        None => println!("{site}: that ledger {epoch} is lost was said before"),
    }
    if args.reclaim {
        println!("{site}: {} units may be promised again", show::number(&done["reclaimed"]));
    }
    Ok(())
}

/// Before anybody says yes.
fn at_risk(rights: &Value, reclaim: bool) {
    for item in rights.as_array().into_iter().flatten() {
        let (units, gtin) = (show::number(&item["units"]), show::number(&item["gtin"]));
        match reclaim {
            true => println!("at risk: {units} of {gtin}: what of them the box promised is promised twice"),
            false => println!("{units} of {gtin} count as spent"),
        }
    }
}

fn confirmed(site: &SiteName) -> anyhow::Result<bool> {
    eprint!("The box of {site} is lost, and must rejoin if it comes back. Say yes to go on: ");
    stderr().flush()?;
    let mut said = String::new();
    stdin().lock().read_line(&mut said)?;
    Ok(said.trim() == "yes")
}

/// The line on the admin socket that [`of_words`] reads.
fn to_words(Lost { site, by, why, reference, reclaim }: &Lost) -> String {
    let rights = if *reclaim { "reclaim" } else { "spent" };
    let [by, why, reference] = [('b', by), ('w', why), ('r', reference)].map(|(letter, text)| to_word(letter, text));
    format!("site lost {site} {by} {why} {reference} {rights}")
}

/// `None` if it is nothing about a lost site.
pub(crate) fn of_words(words: &[&str]) -> Option<Lost> {
    let (site, by, why, reference, reclaim) = match words {
        ["site", "lost", site, by, why, reference, "reclaim"] => (site, by, why, reference, true),
        ["site", "lost", site, by, why, reference, "spent"] => (site, by, why, reference, false),
        // As earlier versions said it.
        ["site", "lost", site, by, why, "reclaim"] => (site, by, why, &"r", true),
        ["site", "lost", site, by, why] | ["site", "lost", site, by, why, "spent"] => (site, by, why, &"r", false),
        _ => return None,
    };
    let (by, why, reference) = (of_word('b', by)?, of_word('w', why)?, of_word('r', reference)?);
    Some(Lost { site: site.parse().ok()?, by, why, reference, reclaim })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::note::NOTE_BYTES_MAX;

    #[test]
    fn what_is_said_arrives_as_it_was_meant() {
        let lost = |by: &str, why: &str| {
            let (site, reclaim) = ("hill".parse().unwrap(), !why.is_empty());
            Lost { site, by: by.into(), why: why.into(), reference: why.into(), reclaim }
        };
        for said in [lost("", ""), lost("Anna K.", "a fire,\nthe box is gone")] {
            let words = to_words(&said);
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), Some(said), "{words}");
        }
        let earlier = ["site", "lost", "hill", "b", "w", "reclaim"];
        let said = of_words(&earlier).unwrap();
        assert_eq!((said.reclaim, said.reference.as_str()), (true, ""));
        assert_eq!(of_words(&earlier[..5]).map(|said| said.reclaim), Some(false));
        let long = to_words(&lost(&"x".repeat(NOTE_BYTES_MAX + 1), ""));
        for words in ["site", "site lost hill", "site lost Hill/ b w", "site lost hill b6 w", &long] {
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), None, "{words}");
        }
    }
}
