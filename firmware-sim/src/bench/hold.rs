//! What rights cost at a till: a hold and its commit beside a plain durable publish, and a sale of an item from a pool beside
//! one off the shelf. The hub is stopped when all is granted: rights need no network.

mod till;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::time::sleep;

use self::till::{Spread, Tills, What};
use super::{Options, SITE, gateway_spec, hub_spec};
use crate::nodes::{self, Node};
use crate::seam::Role;
use crate::status;

/// At a pace that a store may have at its busiest, and each as fast as it is answered: then all wait for two processors.
const TILLS: [Tills; 6] = [
    Tills { connections: 1, per_s: Some(100) },
    Tills { connections: 10, per_s: Some(500) },
    Tills { connections: 50, per_s: Some(500) },
    Tills { connections: 1, per_s: None },
    Tills { connections: 10, per_s: None },
    Tills { connections: 50, per_s: None },
];
const POOLED: &str = "04006381333931";
const SHELF: &str = "05012345678900";
/// Far more than are taken.
const UNITS: u64 = 500_000_000;
const READY_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize)]
pub(super) struct Holds {
    rounds: u32,
    seconds: u64,
    shapes: Vec<Shape>,
}

/// Medians by rate over all rounds.
#[derive(Debug, Serialize)]
struct Shape {
    tills: Tills,
    /// Until PUBACK.
    publish: Spread,
    /// A hold until its reply, then its commit until its reply: two durable messages, one after the other.
    hold_and_commit: Spread,
    /// Of them the hold alone, until its reply.
    hold: Spread,
    /// The same until its PUBACK: what is durable then is all of it.
    hold_acked: Spread,
    /// Both sent at once, until both replies.
    hold_with_commit: Spread,
    /// Until PUBACK.
    shelf_sale: Spread,
    pooled_sale: Spread,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Holds> {
    let gateway = granted(dir).await?;
    let mut rounds: Vec<[Vec<Spread>; 7]> = TILLS.iter().map(|_| Default::default()).collect();
    let mut run = 0;
    for round in 1..=options.rounds {
        for (tills, [publish, pair, hold, acked, both, shelf, pooled]) in TILLS.into_iter().zip(&mut rounds) {
            eprintln!("hold: round {round} of {}, {}", options.rounds, tills.name());
            let mut load = async |what| {
                run += 1;
                tills.load(gateway.addr(), what, options.seconds, run).await
            };
            publish.push(load(What::Publish).await?[0]);
            for (spread, all) in load(What::HoldAndCommit).await?.into_iter().zip([pair, hold, acked]) {
                all.push(spread);
            }
            both.push(load(What::HoldWithCommit).await?[0]);
            shelf.push(load(What::Sale(SHELF)).await?[0]);
            pooled.push(load(What::Sale(POOLED)).await?[0]);
        }
    }
    gateway.stop().await?;
    let shapes = TILLS.into_iter().zip(rounds).map(|(tills, rounds)| {
        let [publish, hold_and_commit, hold, hold_acked, hold_with_commit, shelf_sale, pooled_sale] =
            rounds.map(median);
        let (publish, shelf_sale, pooled_sale) = (publish?, shelf_sale?, pooled_sale?);
        let (hold_and_commit, hold, hold_acked) = (hold_and_commit?, hold?, hold_acked?);
        let hold_with_commit = hold_with_commit?;
        Ok(Shape { tills, publish, hold_and_commit, hold, hold_acked, hold_with_commit, shelf_sale, pooled_sale })
    });
    Ok(Holds { rounds: options.rounds, seconds: options.seconds, shapes: shapes.collect::<Result<_>>()? })
}

/// A gateway with more rights than it will use.
async fn granted(dir: &Path) -> Result<Node> {
    let hub = Node::start(hub_spec(dir)).await?;
    let gateway = Node::start(gateway_spec(dir, SITE, Some(hub.addr()))).await?;
    let data = hub.dir().to_str().context("a folder's name in UTF-8")?.to_owned();
    let command = async |words: &[&str]| nodes::command(Role::Hub, &[words, &["--data", &data]].concat()).await;
    let deadline = Instant::now() + READY_WAIT;
    while !status::gateway(gateway.dir()).await?.uplink.connected {
        ensure!(Instant::now() < deadline, "the gateway is not connected after {} s", READY_WAIT.as_secs());
        sleep(LOOK_EVERY).await;
    }
    command(&["pool", "create", POOLED, &(2 * UNITS).to_string()]).await?;
    command(&["rights", "grant", POOLED, SITE, &UNITS.to_string()]).await?;
    loop {
        let rights = status::gateway(gateway.dir()).await?.rights;
        if rights.items.get(POOLED).is_some_and(|item| item.granted >= UNITS) {
            break;
        }
        ensure!(Instant::now() < deadline, "the gateway was granted nothing within {} s", READY_WAIT.as_secs());
        sleep(LOOK_EVERY).await;
    }
    hub.stop().await?;
    Ok(gateway)
}

fn median(mut rounds: Vec<Spread>) -> Result<Spread> {
    rounds.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    rounds.get(rounds.len() / 2).copied().context("at least one round")
}

impl Holds {
    pub(super) fn table(&self) -> String {
        let Holds { rounds, seconds, shapes } = self;
        let mut text = format!(
            "What a buyer waits at a till, p50 and p99 in ms; medians of {rounds} rounds of {seconds} s\n\n\
             | tills | plain publish | hold, PUBACK | ratio of p99 | hold, reply | hold, reply, commit, reply | \
             ratio of p99 | hold with commit, replies | ratio of p99 | sale off the shelf | sale from a pool | ratio of p99 |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for shape in shapes {
            let Shape { tills, publish, hold_and_commit, hold, hold_acked, hold_with_commit, shelf_sale, pooled_sale } =
                shape;
            let ratio = |a: &Spread, b: &Spread| f64::from(a.p99_us) / f64::from(b.p99_us.max(1));
            let (one, both) = (ratio(hold_acked, publish), ratio(hold_and_commit, publish));
            let (together, sales) = (ratio(hold_with_commit, publish), ratio(pooled_sale, shelf_sale));
            let [publish, acked, hold] = [publish, hold_acked, hold].map(cell);
            let [pair, with, shelf, pooled] = [hold_and_commit, hold_with_commit, shelf_sale, pooled_sale].map(cell);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {publish} | {acked} | {one:.1} | {hold} | {pair} | {both:.1} | {with} | {together:.1} | {shelf} | {pooled} | {sales:.1} |",
                tills.name()
            );
        }
        text
    }
}

fn cell(spread: &Spread) -> String {
    format!("{:.1}, {:.1}", f64::from(spread.p50_us) / 1e3, f64::from(spread.p99_us) / 1e3)
}
