//! `tillsync-broker site …`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::act::{Act, Order, host};
use super::lost::{LostArgs, lost};
use crate::api;
use crate::identity::{invite, pending};
use crate::node::note::operator;
use crate::node::span::Span;
use crate::node::wall_ms;
use crate::node::{admin, show};

const DAY_MS: u64 = 24 * 3_600_000;
/// Codes are short-lived: whoever finds one later has nothing.
const VALID_MOST_MS: u64 = 7 * DAY_MS;

/// Sites and how they join.
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// Invite a store: prints a one-time code that its gateway joins with.
    Add(AddArgs),
    /// Show who joined, who is invited and who is disabled.
    List(ListArgs),
    /// Let a site in no longer; its records stay. It keeps serving its store.
    Disable(NamedArgs),
    /// Let a disabled site in again.
    Enable(NamedArgs),
    /// Forget a site's certificate and codes; its records stay. It can be added again.
    Remove(NamedArgs),
    /// Say that a site's box is lost, so that nothing waits for it any more. The hub must be running.
    ///
    /// Deleted items are kept until every site knows of it, so one box that never comes back keeps them for ever. After
    /// this the hub no longer waits for that box's ledger. If the box comes back after all it is turned away:
    /// `tillsync-gateway rejoin` there brings what it has under a new ledger, and what it wrote of items that were deleted
    /// meanwhile goes to the conflicts. A new box under the site's name needs none of this.
    Lost(LostArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The site's name: 1 to 64 of A-Z a-z 0-9 _ : -
    name: String,
    /// How long the code can be used: at most 7d.
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    valid: Span,
    /// The site has joined before: the box that uses this code takes the place of the other, which is then refused.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct NamedArgs {
    /// The site's name.
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// The hub's data folder; the hub may run or not.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: Site, default: &Path) -> anyhow::Result<()> {
    let (act, place) = match command {
        Site::Add(args) => {
            let valid_ms = args.valid.ms();
            anyhow::ensure!((1..=VALID_MOST_MS).contains(&valid_ms), "--valid: a span up to 7d");
            (Act::Add { site: args.name, valid_ms, replace: args.replace }, args.place)
        }
        Site::List(args) => (Act::List, args.place),
        Site::Disable(args) => (Act::Disable(args.name), args.place),
        Site::Enable(args) => (Act::Enable(args.name), args.place),
        Site::Remove(args) => (Act::Remove(args.name), args.place),
        Site::Lost(args) => return lost(args, default),
    };
    let dir = place.data.as_deref().unwrap_or(default);
    proto::id::check_name(act.site().unwrap_or("x")).map_err(|why| anyhow::anyhow!("the site's name {why}"))?;
    let order = Order { act, by: operator() };
    let act = &order.act;
    let mut done = match admin::ask_if_running(dir, &order.words())? {
        Some(done) => done,
        None => {
            let done = act.carry_out(dir, wall_ms()).with_context(|| format!("change {}", dir.display()))?;
            if let Some(event) = order.event() {
                pending::leave(dir, &event, wall_ms()).context("write down who did it")?;
            }
            look_again(dir, &order)?;
            done
        }
    };
    if matches!(act, Act::Add { .. }) {
        done["command"] = format!("tillsync-gateway join {} {}", hub(dir), text(&done["code"])).into();
    }
    if place.json {
        println!("{done}");
    } else {
        print(act, &done);
    }
    Ok(())
}

/// A hub that began to listen while its files were changed may have read them before: any question about sites makes it
/// read them again, and one that ends connections is asked once more.
fn look_again(dir: &Path, order: &Order) -> anyhow::Result<()> {
    let again = match &order.act {
        Act::Disable(_) => order.words(),
        _ => Order { act: Act::List, by: order.by.clone() }.words(),
    };
    admin::ask_if_running(dir, &again).map(drop)
}

/// Where gateways join: the hub's first name, and the port of its HTTPS listener.
fn hub(dir: &Path) -> String {
    let status = admin::ask(dir, "status").unwrap_or_default();
    let port =
        status["api"].as_str().and_then(|addr| addr.parse::<std::net::SocketAddr>().ok()).map(|addr| addr.port());
    let (host, port) = (host(dir), port.unwrap_or(api::DEFAULT_PORT));
    format!("{}:{port}", host.unwrap_or_else(|| "HUB".into()))
}

fn print(act: &Act, done: &Value) {
    let site = text(&done["site"]);
    match act {
        Act::Add { .. } => {
            let (command, until) = (text(&done["command"]), show::when(done["expires_ms"].as_u64().unwrap_or(0)));
            println!("{site} may join once, until {until}, with the code\n\n    {}\n", text(&done["code"]));
            println!("On its box:\n\n    {command}\n");
            if let Some(shown) = invite::drawn(command) {
                println!("{shown}");
            }
        }
        Act::List => list(&done["sites"]),
        _ => println!("{site}: {}", text(&done["state"])),
    }
}

fn list(sites: &Value) {
    let sites: Vec<&Value> = sites.as_array().into_iter().flatten().collect();
    if sites.is_empty() {
        println!("no site has joined; `site add NAME` invites one");
    }
    let width = sites.iter().map(|site| text(&site["site"]).len()).max().unwrap_or(0);
    for site in sites {
        let since = site["since_ms"].as_u64().map(|at| format!(" since {}", show::when(at))).unwrap_or_default();
        let invited = site["invited_until_ms"].as_u64();
        let invited = invited.map(|at| format!(", a code is open until {}", show::when(at))).unwrap_or_default();
        println!("{:width$}  {}{since}{invited}", text(&site["site"]), text(&site["state"]));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
