//! `tillsync-broker pool …`, `rights …` and `audit …`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use proto::gtin::Gtin;
use proto::id::SiteName;
use serde_json::Value;

use super::words::to_words;
use super::{audit as log, chain, stopped};
use crate::hub::{POOL_UNITS_MAX, PoolChange, RightsAsk, RightsChange, RightsNote};
use crate::node::admin::ask_if_running;
use crate::node::note::SaidArgs;
use crate::node::{self, show};

/// What may be promised of an item in all. Only an item with a pool is gated.
#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// Begin to sell an item from a pool of so many units. The hub must be running.
    Create(ChangeArgs),
    /// Add units. The hub must be running.
    Add(ChangeArgs),
    /// Take units out, as far as they are free. The hub must be running.
    Withdraw(WithdrawArgs),
    /// Show all pools.
    List(ListArgs),
    /// Show one pool: what each site has of it, and what is free.
    Show(ShowArgs),
}

/// Who may promise how much of an item's pool. The hub must be running.
#[derive(Debug, Subcommand)]
pub(crate) enum Rights {
    /// Give a site rights to so many units more, from what is free.
    Grant(SiteArgs),
    /// Ask a site to give back so many units; it answers when it hears it, with what it has free then.
    Ask(SiteArgs),
    /// Ask a site for so many units on behalf of another, which gets what comes back.
    Move(MoveArgs),
    /// Take back what an earlier life of a site's ledger had left: of a box that was replaced or declared lost.
    Reclaim(ReclaimArgs),
}

/// Who did what with pools, rights and holds, and whether that record is whole.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List grants, returns, promises, holds and what people did, oldest first.
    Show(log::ShowArgs),
    /// Read the hub's whole journal and every site's in it, and check that nothing was changed, removed or put in. Exit code
    /// 1 if something was.
    Verify(chain::VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The hub's data folder.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

impl Place {
    pub(super) fn dir<'a>(&'a self, default: &'a Path) -> &'a Path {
        self.data.as_deref().unwrap_or(default)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    gtin: Gtin,
    #[arg(value_parser = clap::value_parser!(u64).range(1..=POOL_UNITS_MAX))]
    units: u64,
    #[command(flatten)]
    said: SaidArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Also what is not free: sites are asked to give it back, and nothing is granted or promised before they have.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    gtin: Gtin,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    gtin: Gtin,
    site: SiteName,
    #[arg(value_parser = clap::value_parser!(u64).range(1..=POOL_UNITS_MAX))]
    units: u64,
    #[command(flatten)]
    said: SaidArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    gtin: Gtin,
    from: SiteName,
    to: SiteName,
    #[arg(value_parser = clap::value_parser!(u64).range(1..=POOL_UNITS_MAX))]
    units: u64,
    #[command(flatten)]
    said: SaidArgs,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ReclaimArgs {
    gtin: Gtin,
    site: SiteName,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    said: SaidArgs,
    #[command(flatten)]
    place: Place,
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn pool(command: Pool, default: &Path) -> anyhow::Result<()> {
    let (change, all) = match command {
        Pool::List(ListArgs { place }) => {
            let dir = place.dir(default);
            let found = match ask_if_running(dir, &to_words(&RightsAsk::List))? {
                Some(found) => found,
                None => stopped::list(dir)?,
            };
            if place.json {
                println!("{found}")
            } else {
                print_list(&found)
            }
            return Ok(());
        }
        Pool::Show(ShowArgs { gtin, place }) => {
            let dir = place.dir(default);
            let found = match ask_if_running(dir, &to_words(&RightsAsk::Show(gtin)))? {
                Some(found) => found,
                None => stopped::show(dir, gtin)?.with_context(|| format!("{gtin} has no pool"))?,
            };
            if place.json {
                println!("{found}")
            } else {
                print_pool(&found)
            }
            return Ok(());
        }
        Pool::Create(args) => (args, PoolChange::Create as fn(u64) -> PoolChange),
        Pool::Add(args) => (args, PoolChange::Add as fn(u64) -> PoolChange),
        Pool::Withdraw(WithdrawArgs { change, all: true }) => {
            (change, PoolChange::WithdrawAll as fn(u64) -> PoolChange)
        }
        Pool::Withdraw(WithdrawArgs { change, all: false }) => (change, PoolChange::Withdraw as fn(u64) -> PoolChange),
    };
    let ChangeArgs { gtin, units, said, place } = change;
    let done = carried_out(&RightsAsk::Pool(gtin, all(units), note(said)?), &place, default)?;
    if !place.json {
        let (change, now) = (show::number(&done["change"]), show::number(&done["units"]));
        println!("{gtin}: {change} units, now {now}, {} free; record {}", show::number(&done["free"]), done["seq"]);
        if let Some(asked @ 1..) = done["asked"].as_u64() {
            println!("{gtin}: sites are asked for {asked} units");
        }
    }
    Ok(())
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn rights(command: Rights, default: &Path) -> anyhow::Result<()> {
    let (gtin, site, change, said, place) = match command {
        Rights::Grant(args) => (args.gtin, args.site, RightsChange::Grant(args.units), args.said, args.place),
        Rights::Ask(args) => (args.gtin, args.site, RightsChange::Ask(args.units), args.said, args.place),
        Rights::Move(args) => (args.gtin, args.from, RightsChange::Move(args.units, args.to), args.said, args.place),
        Rights::Reclaim(args) => {
            if !args.yes && !reclaim_confirmed(&args, default)? {
                bail!("nothing is done");
            }
            (args.gtin, args.site, RightsChange::Reclaim, args.said, args.place)
        }
    };
    let done = carried_out(&RightsAsk::Site(gtin, site.clone(), change.clone(), note(said)?), &place, default)?;
    if place.json {
        return Ok(());
    }
    match change {
        RightsChange::Grant(units) => println!("{site} may promise {units} of {gtin} more"),
        RightsChange::Ask(units) => println!("{site} is asked for {units} of {gtin}"),
        RightsChange::Move(units, to) => println!("{site} is asked for {units} of {gtin}; {to} gets what comes back"),
        RightsChange::Reclaim => println!("{} of {gtin} may be promised again", show::number(&done["reclaimed"])),
    }
    Ok(())
}

/// Carries it out. `default` is the data folder if none is named.
pub(crate) fn audit(command: Audit, default: &Path) -> ExitCode {
    let verified = match command {
        Audit::Show(args) => return node::exit(log::show(&args, default)),
        Audit::Verify(args) => chain::verify(&args, default),
    };
    match verified {
        Ok(false) => ExitCode::FAILURE,
        other => node::exit(other.map(|_| ())),
    }
}

fn note(said: SaidArgs) -> anyhow::Result<RightsNote> {
    said.check()?;
    Ok(RightsNote { by: said.note.by, why: said.note.why, reference: said.reference })
}

fn carried_out(ask: &RightsAsk, place: &Place, default: &Path) -> anyhow::Result<Value> {
    let Some(done) = ask_if_running(place.dir(default), &to_words(ask))? else {
        bail!("the hub does not run: start it, it must stand in its ledger");
    };
    if place.json {
        println!("{done}");
    }
    Ok(done)
}

fn reclaim_confirmed(args: &ReclaimArgs, default: &Path) -> anyhow::Result<bool> {
    let ask = to_words(&RightsAsk::Show(args.gtin));
    let Some(pool) = ask_if_running(args.place.dir(default), &ask)? else {
        bail!("the hub does not run: start it, it must stand in its ledger");
    };
    let (gtin, left) = (args.gtin, &pool["sites"][args.site.as_str()]["written_off"]);
    eprint!("at risk: {} of {gtin}: what of them the box promised is promised twice. Say yes: ", show::number(left));
    let mut said = String::new();
    std::io::stdin().read_line(&mut said)?;
    Ok(said.trim() == "yes")
}

fn print_list(found: &Value) {
    let pools = found["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
    if pools.is_empty() {
        println!("no item has a pool; `pool create GTIN UNITS` makes one");
    }
    for pool in pools {
        println!("{}  {}", show::number(&pool["gtin"]), sums(pool));
    }
    print_waits(found);
}

fn print_pool(pool: &Value) {
    println!("{}  {}", show::number(&pool["gtin"]), sums(pool));
    let hub = &pool["hub"];
    println!("  the hub's own  promised {}, held {}", show::number(&hub["promised"]), show::number(&hub["held"]));
    for (site, of) in pool["sites"].as_object().into_iter().flatten() {
        let n = |key: &str| show::number(&of[key]);
        let asked = of["asked"].as_u64().filter(|asked| *asked > 0);
        let asked = asked.map(|asked| format!(", asked for {asked}")).unwrap_or_default();
        let off = of["written_off"].as_u64().filter(|off| *off > 0);
        let off = off.map(|off| format!(", written off {off}")).unwrap_or_default();
        println!(
            "  {site}  available {}, granted {}, returned {}, promised {}, held {}{asked}{off}",
            n("available"),
            n("granted"),
            n("returned"),
            n("promised"),
            n("held"),
        );
    }
    print_waits(pool);
}

fn sums(pool: &Value) -> String {
    let n = |key: &str| show::number(&pool[key]);
    format!(
        "{} units, {} free; granted {}, returned {}, promised {}, held {}, refunded {}",
        n("units"),
        n("free"),
        n("granted"),
        n("returned"),
        n("promised"),
        n("held"),
        n("refunded"),
    )
}

fn print_waits(found: &Value) {
    if let Some(sites) = found["waits_for"].as_str() {
        println!("WAITS: this hub was restored, and these sites have not said what they hold: {sites}");
    }
}
