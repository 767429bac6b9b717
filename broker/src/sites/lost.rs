//! `site lost`: what an operator says of a site, to a running hub by its admin socket.

use std::io::{BufRead, Write, stderr, stdin};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use proto::id::SiteName;

use crate::hub::Lost;
use crate::node::admin::ask_if_running;
use crate::node::rejects::hex;
use crate::node::show;

/// The longest name of who says it, and the longest reason.
const NOTE_BYTES_MAX: usize = 256;

#[derive(Debug, Args)]
pub(crate) struct LostArgs {
    /// The site's name.
    #[arg(value_name = "SITE")]
    site: SiteName,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// The hub's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Who says so, for the journal; if it is not said, the user who runs this.
    #[arg(long, value_name = "NAME", default_value_t = user(), hide_default_value = true)]
    by: String,
    /// Why, for the journal.
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries it out. `default` is the data folder if none is named.
pub(super) fn lost(args: LostArgs, default: &Path) -> anyhow::Result<()> {
    let LostArgs { site, by, why, .. } = args;
    if by.len().max(why.len()) > NOTE_BYTES_MAX {
        bail!("--by and --why take at most {NOTE_BYTES_MAX} bytes each");
    }
    if !args.yes && !confirmed(&site)? {
        bail!("nothing is done");
    }
    let lost = Lost { site, by, why };
    let Some(done) = ask_if_running(args.data.as_deref().unwrap_or(default), &to_words(&lost))? else {
        bail!("the hub does not run: start it, it must stand in its ledger that the box is lost");
    };
    if args.json {
        println!("{done}");
        return Ok(());
    }
    let (site, epoch) = (&lost.site, show::number(&done["epoch"]));
    match done["seq"].as_u64() {
        Some(seq) => println!("{site}: ledger {epoch} is lost, by record {seq}; nothing waits for it any more"),
        None => println!("{site}: that ledger {epoch} is lost was said before"),
    }
    Ok(())
}

fn confirmed(site: &SiteName) -> anyhow::Result<bool> {
    eprint!("The box of {site} is lost, and must rejoin if it comes back. Say yes to go on: ");
    stderr().flush()?;
    let mut said = String::new();
    stdin().lock().read_line(&mut said)?;
    Ok(said.trim() == "yes")
}

fn user() -> String {
    std::env::var("USER").unwrap_or_default()
}

/// The line on the admin socket that [`of_words`] reads. Texts are in hex behind a letter, so that each is one word even if
/// it is empty.
fn to_words(Lost { site, by, why }: &Lost) -> String {
    let [by, why] = [by, why].map(|text| hex::encode(text.as_bytes()));
    format!("site lost {site} b{by} w{why}")
}

/// `None` if it is nothing about sites.
pub(crate) fn of_words(words: &[&str]) -> Option<Lost> {
    let note = |word: &str, letter: char| {
        let text = String::from_utf8(hex::decode(word.strip_prefix(letter)?)?).ok()?;
        (text.len() <= NOTE_BYTES_MAX).then_some(text)
    };
    match words {
        ["site", "lost", site, by, why] => {
            Some(Lost { site: site.parse().ok()?, by: note(by, 'b')?, why: note(why, 'w')? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_as_it_was_meant() {
        let lost = |by: &str, why: &str| Lost { site: "hill".parse().unwrap(), by: by.into(), why: why.into() };
        for said in [lost("", ""), lost("Anna K.", "a fire,\nthe box is gone")] {
            let words = to_words(&said);
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), Some(said), "{words}");
        }
        let long = to_words(&lost(&"x".repeat(NOTE_BYTES_MAX + 1), ""));
        for words in ["site", "site lost hill", "site lost Hill/ b w", "site lost hill b6 w", &long] {
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), None, "{words}");
        }
    }
}
