//! One hot item: what a launch is. Durable decrements over HTTPS at the hub, beside PostgreSQL on one row.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Options, hub_spec};
use crate::door::{Door, Tls};
use crate::http::{Client, Request};
use crate::nodes::{self, Node, Spec};
use crate::postgres::Postgres;
use crate::seam::Role;

const CONNECTIONS: [u16; 2] = [64, 16];
const GTIN: &str = "04006381333931";
/// Far more than are taken.
const UNITS: u64 = 1_000_000_000;
/// The hub closes a connection after so many requests; the bench opens another one before.
const REQUESTS_MAX: u64 = 9_000;

#[derive(Debug, Serialize)]
pub(super) struct Decrements {
    postgres: String,
    rounds: u32,
    seconds: u64,
    shapes: Vec<Shape>,
}

/// Medians by rate over all rounds.
#[derive(Debug, Serialize)]
struct Shape {
    connections: u16,
    ours: Figures,
    /// Each request with an idempotency key of its own.
    ours_with_keys: Figures,
    postgres: Figures,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    done: u64,
    per_s: f64,
    p50_us: u32,
    p99_us: u32,
}

impl Figures {
    /// `took_us` in order.
    fn of(done: u64, per_s: f64, took_us: &[u32]) -> Figures {
        let at = |share: f64| took_us.get((took_us.len() as f64 * share) as usize).copied().unwrap_or(0);
        Figures { done, per_s, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// A hub with one item in a pool.
struct Stand {
    node: Node,
    door: Door,
    token: String,
}

impl Stand {
    async fn build(dir: &Path) -> Result<Stand> {
        let config = "api = \"127.0.0.1:0\"\napi_rate = 1000000\n".to_owned();
        let spec = Spec { config, ..hub_spec(dir) };
        let data = spec.dir.to_str().context("a folder's name in UTF-8")?.to_owned();
        let hub = async |words: &[&str]| nodes::command(Role::Hub, &[words, &["--data", &data]].concat()).await;
        hub(&["init", "--name", "localhost,127.0.0.1"]).await?;
        let added: Value =
            serde_json::from_str(&hub(&["token", "add", "bench", "--role", "operator", "--json"]).await?)
                .context("reading the token")?;
        let token = added["token"].as_str().context("a token")?.to_owned();
        let node = Node::start(spec).await?;
        hub(&["pool", "create", GTIN, &UNITS.to_string()]).await?;
        let status: Value = serde_json::from_str(&hub(&["status", "--json"]).await?).context("reading the status")?;
        let addr = status["api"].as_str().context("the hub has an HTTPS listener")?.parse().context("its address")?;
        let tls = Some(Tls::trusting(&Path::new(&data).join("pki/ca.crt"), Some("localhost"))?);
        Ok(Stand { node, door: Door { addr, tls, login: None }, token })
    }

    async fn promised(&self) -> Result<u64> {
        let mut client = Client::open(&self.door).await.context("connecting to the hub")?;
        let answer = client.ask(&Request::new("GET", &format!("/api/stock/{GTIN}"), &self.token, &[], "")).await?;
        answer.json()?["pool"]["promised"].as_u64().context("what was promised")
    }

    async fn load(&self, connections: u16, seconds: u64, with_keys: bool) -> Result<Figures> {
        let before = self.promised().await?;
        let mut clients = Vec::new();
        for n in 0..connections {
            clients.push((n, Client::open(&self.door).await.context("connecting to the hub")?));
        }
        let (started, mut all) = (Instant::now(), JoinSet::new());
        let until = started + Duration::from_secs(seconds);
        // No two runs have a key in common.
        let run = format!("{before}-{connections}");
        for (n, client) in clients {
            let keys = with_keys.then(|| format!("bench-{run}-{n}"));
            all.spawn(buy(client, self.door.clone(), self.token.clone(), keys, until));
        }
        let mut took = Vec::new();
        while let Some(one) = all.join_next().await {
            took.extend(one.context("a client of the bench died")??);
        }
        let seconds = started.elapsed().as_secs_f64();
        took.sort_unstable();
        let done = took.len() as u64;
        let promised = self.promised().await? - before;
        ensure!(promised == done, "{done} were answered and {promised} promised");
        Ok(Figures::of(done, done as f64 / seconds, &took))
    }
}

/// Buys one unit after the other; gives back how long each took, in microseconds.
async fn buy(mut client: Client, door: Door, token: String, keys: Option<String>, until: Instant) -> Result<Vec<u32>> {
    let body = format!("{{\"gtin\":\"{GTIN}\",\"units\":1}}");
    let request = |n: u64| {
        let key = keys.as_ref().map(|keys| format!("idempotency-key: {keys}-{n}"));
        let headers: Vec<&str> = key.as_deref().into_iter().collect();
        Request::new("POST", "/api/inventory/decrement", &token, &headers, &body)
    };
    let (mut took, same) = (Vec::new(), request(0));
    while Instant::now() < until {
        let n = took.len() as u64;
        if n % REQUESTS_MAX == REQUESTS_MAX - 1 {
            client = Client::open(&door).await.context("connecting to the hub")?;
        }
        let begun = Instant::now();
        let answer = match &keys {
            None => client.ask(&same).await?,
            Some(_) => client.ask(&request(n)).await?,
        };
        ensure!(answer.status == 200, "the hub answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        took.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(took)
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Decrements> {
    let mut rounds: Vec<[Vec<Figures>; 3]> = CONNECTIONS.iter().map(|_| Default::default()).collect();
    let mut version = String::new();
    for round in 1..=options.rounds {
        for (connections, [ours, with_keys, theirs]) in CONNECTIONS.into_iter().zip(&mut rounds) {
            eprintln!("decrement: round {round} of {}, {connections} connections", options.rounds);
            // One after the other: each has the machine for itself.
            let stand = Stand::build(&dir.join(format!("{round}-{connections}"))).await?;
            ours.push(stand.load(connections, options.seconds, false).await?);
            with_keys.push(stand.load(connections, options.seconds, true).await?);
            stand.node.stop().await?;
            let postgres = Postgres::start().await?;
            version = postgres.version().await?;
            theirs.push(beside(&postgres, connections, options.seconds).await?);
            postgres.stop().await?;
        }
    }
    let shapes = CONNECTIONS.into_iter().zip(rounds).map(|(connections, [ours, with_keys, theirs])| {
        let (ours, ours_with_keys, postgres) = (median(ours)?, median(with_keys)?, median(theirs)?);
        Ok(Shape { connections, ours, ours_with_keys, postgres })
    });
    let shapes = shapes.collect::<Result<_>>()?;
    Ok(Decrements { postgres: version, rounds: options.rounds, seconds: options.seconds, shapes })
}

async fn beside(postgres: &Postgres, connections: u16, seconds: u64) -> Result<Figures> {
    postgres.sql("CREATE TABLE stock (gtin bigint PRIMARY KEY, n bigint NOT NULL)").await?;
    postgres.sql(&format!("INSERT INTO stock VALUES ({GTIN}, {UNITS})")).await?;
    let statement = format!("UPDATE stock SET n = n - 1 WHERE gtin = {GTIN} AND n >= 1;");
    let run = postgres.load(&statement, connections, seconds).await?;
    let left: u64 = postgres.sql("SELECT n FROM stock").await?.parse().context("what is left")?;
    ensure!(UNITS - left == run.transactions, "{} were answered and {} taken", run.transactions, UNITS - left);
    Ok(Figures::of(run.transactions, run.per_s, &run.took_us))
}

fn median(mut rounds: Vec<Figures>) -> Result<Figures> {
    rounds.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    rounds.get(rounds.len() / 2).copied().context("at least one round")
}

impl Decrements {
    pub(super) fn table(&self) -> String {
        let Decrements { postgres, rounds, seconds, shapes } = self;
        let mut text = format!(
            "Durable decrements of one hot item per second (p50, p99 in ms); medians of {rounds} rounds of {seconds} s\n\n\
             | connections | tillsync, HTTPS | with idempotency keys | PostgreSQL {postgres}, one row | ratio |\n\
             |---|---|---|---|---|\n"
        );
        for Shape { connections, ours, ours_with_keys, postgres } in shapes {
            let ratio = ours.per_s / postgres.per_s;
            let (ours, with_keys, postgres) = (cell(ours), cell(ours_with_keys), cell(postgres));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {connections} | {ours} | {with_keys} | {postgres} | {ratio:.1} |");
        }
        text
    }
}

fn cell(figures: &Figures) -> String {
    let ms = |us: u32| f64::from(us) / 1_000.0;
    format!("{:.0} ({:.1}, {:.1})", figures.per_s, ms(figures.p50_us), ms(figures.p99_us))
}
