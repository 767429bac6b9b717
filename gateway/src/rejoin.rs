//! The command `rejoin`: a stopped gateway's ledger is set apart, and its next start begins a new one.

use std::path::PathBuf;

use broker::ledger::{has_fork, owner, set_apart};
use clap::Args;

use crate::config::Config;

/// Begin a new ledger for this store, when the hub will not go on with the one that is here: after a backup was
/// restored, after two boxes ran under one name.
///
/// Nothing is lost by it. The journal goes to the folder `fork` beside the new one; the gateway takes over from the hub
/// what it has of this store (stock, items, requests that were answered), journals again what only this box has, and
/// removes the folder when all of it is there. The shop may sell meanwhile.
///
/// A gateway that is turned away while it takes over an earlier ledger may rejoin again: both are taken over then, the
/// newer one first.
#[derive(Debug, Args)]
#[command(after_help = "\
What goes: sessions of devices that asked for persistent ones (they subscribe again), and what waited in them.
Exit codes: 0 done, or said what would be done; 74 there is no ledger, the gateway runs, or nine earlier ones wait
to be taken over.")]
pub(crate) struct RejoinArgs {
    /// The data folder of the stopped gateway.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Do it; without this it only says what it would do.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn rejoin(args: &RejoinArgs) -> anyhow::Result<()> {
    let dir = args.data.clone().unwrap_or_else(|| Config::default().data);
    let Some(replica) = owner(&dir)? else { anyhow::bail!("there is no ledger in {}", dir.display()) };
    let shown = dir.display();
    println!("The ledger {replica} in {shown} is closed for good; its journal is kept in {shown}/fork.");
    println!(
        "The next start begins a new one. With the hub in reach it takes over the store's stock, items and answered"
    );
    println!("requests from there, then what only this box has from {shown}/fork, and removes that folder at the end.");
    if has_fork(&dir) {
        println!("The earlier ledger that it was taking over waits in {shown}/fork.waiting.N and comes after it.");
    }
    if !args.yes {
        println!("Nothing is done yet: say it again with --yes.");
        return Ok(());
    }
    set_apart(&dir, "a person said `rejoin`")?;
    println!("Done: start the gateway; its `status` shows how far it is.");
    Ok(())
}
