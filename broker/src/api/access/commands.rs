//! `tillsync-broker token …`: on the file, which a running hub looks at twice a second.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Role;
use super::local::{Token, Tokens};
use crate::node::show;
use crate::node::wall_ms;
use crate::pki::DAY_MS;

/// Tokens for the HTTPS listener.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Give out a token: it is printed once, and kept only as a hash.
    Add(AddArgs),
    /// Show who has one.
    List(Place),
    /// Refuse a token from now on; a running hub does so within a second.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Whose it is, as the journal names who did something: 1 to 64 of A-Z a-z 0-9 _ : -
    name: String,
    /// What its bearer may do; each may do all that the ones before it may.
    #[arg(long, value_enum)]
    role: Role,
    /// Days until it ends; without it, it is good until it is removed.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: Option<u64>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Whose.
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The hub's data folder; the hub may run or not.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Carries one of them out. `default` is the data folder if none is named.
pub(crate) fn run(command: TokenCommand, default: &Path) -> anyhow::Result<()> {
    let now_ms = wall_ms();
    match command {
        TokenCommand::Add(args) => {
            let dir = args.place.data.as_deref().unwrap_or(default);
            let expires_ms = args.days.map(|days| now_ms.saturating_add(days * DAY_MS));
            let secret = Tokens::edit(dir, |tokens| tokens.add(&args.name, args.role, now_ms, expires_ms))?;
            let added = json!({
                "name": args.name, "role": args.role, "token": secret.to_string(), "expires_ms": expires_ms,
            });
            print(&args.place, &added, || {
                println!(
                    "{} may ask as {}{}, with the token\n\n    {secret}\n",
                    args.name,
                    args.role,
                    until(expires_ms)
                );
                println!("It is not shown again. `token remove {}` ends it.", args.name);
            });
        }
        TokenCommand::List(place) => {
            let tokens = Tokens::load(place.data.as_deref().unwrap_or(default))?;
            let all: Vec<Value> = tokens.iter().map(|token| listed(token, now_ms)).collect();
            print(&place, &json!({ "tokens": all }), || list(&tokens, now_ms));
        }
        TokenCommand::Remove(args) => {
            Tokens::edit(args.place.data.as_deref().unwrap_or(default), |tokens| tokens.remove(&args.name))?;
            print(&args.place, &json!({ "name": args.name, "state": "removed" }), || {
                println!("{}: removed", args.name)
            });
        }
    }
    Ok(())
}

fn print(place: &Place, json: &Value, text: impl FnOnce()) {
    if place.json { println!("{json}") } else { text() }
}

fn listed(token: &Token, now_ms: u64) -> Value {
    let Token { name, role, since_ms, expires_ms, .. } = token;
    json!({
        "name": name, "role": role, "since_ms": since_ms, "expires_ms": expires_ms, "expired": token.is_over(now_ms),
    })
}

fn list(tokens: &Tokens, now_ms: u64) {
    let width = tokens.iter().map(|token| token.name.len()).max();
    let Some(width) = width else { return println!("no tokens; `token add NAME --role viewer` gives one out") };
    for token in tokens.iter() {
        let ended = if token.is_over(now_ms) { "  EXPIRED" } else { "" };
        let (since, until) = (show::when(token.since_ms), until(token.expires_ms));
        println!("{:width$}  {:8}  since {since}{until}{ended}", token.name, token.role.to_string());
    }
}

fn until(expires_ms: Option<u64>) -> String {
    expires_ms.map(|at| format!(" until {}", show::when(at))).unwrap_or_default()
}
