//! From a till in one store to a screen in another, through HQ and durable at all three; beside it mosquitto brokers
//! that are bridged through a third.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Options, gateway_spec, hub_spec};
use crate::client::{self, Client, Event};
use crate::mosquitto::{self, Broker, SAVES, SAVES_NOT};
use crate::mqtt::{Heard, Hello, Message, Qos, Wire};
use crate::nodes::{Node, Spec};
use crate::retail;
use crate::status;

/// The two stores.
const HERE: &str = "quay";
const THERE: &str = "mill";
const PER_SECOND: usize = 500;
const WARM_UP: usize = PER_SECOND;
/// Sold in turn, each again after a second, so that a figure names its sale.
const ITEMS: usize = 500;
const READY_WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For the last ones to arrive.
const LAST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
pub(super) struct Latency {
    mosquitto: String,
    per_second: usize,
    seconds: u64,
    ours: Spread,
    mosquitto_memory: Spread,
    mosquitto_saving: Spread,
}

/// From the sender's write to the receipt, the first second apart.
#[derive(Debug, Serialize)]
struct Spread {
    sent: usize,
    arrived: usize,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

pub(super) async fn measure(dir: &Path, options: &Options) -> Result<Latency> {
    let mosquitto = mosquitto::version().await?;
    let seconds = options.latency_seconds;
    let sales = WARM_UP + PER_SECOND * seconds as usize;
    eprintln!("latency: {PER_SECOND} sales a second for {seconds} s, from store to store");
    let ours = ours(&dir.join("tillsync"), sales).await.context("measuring tillsync")?;
    eprintln!("latency: the same between mosquitto brokers, in memory");
    let mosquitto_memory = bridged(&dir.join("memory"), SAVES_NOT, sales).await.context("measuring mosquitto")?;
    eprintln!("latency: the same, saving on every change");
    let mosquitto_saving = bridged(&dir.join("saving"), SAVES, sales).await.context("measuring mosquitto")?;
    Ok(Latency { mosquitto, per_second: PER_SECOND, seconds, ours, mosquitto_memory, mosquitto_saving })
}

async fn ours(dir: &Path, sales: usize) -> Result<Spread> {
    let hub = Node::start(hub_spec(dir)).await?;
    let here = Node::start(gateway_spec(dir, HERE, Some(hub.addr()))).await?;
    let spec = Spec { config: format!("follow = \"{HERE}\"\n"), ..gateway_spec(dir, THERE, Some(hub.addr())) };
    let there = Node::start(spec).await?;
    let deadline = Instant::now() + READY_WAIT;
    for node in [&here, &there] {
        while !status::gateway(node.dir()).await?.uplink.connected {
            if Instant::now() >= deadline {
                bail!("a store is not connected after {} s", READY_WAIT.as_secs());
            }
            sleep(LOOK_EVERY).await;
        }
    }
    let screen = Screen::open(there.addr(), true).await?;
    let sale = |n: usize| {
        let line = json!({"gtin": code(n % ITEMS), "qty": 1, "cents": 199});
        ("dev/pos-1/sale".to_owned(), json!({"id": format!("l{n}"), "lines": [line]}))
    };
    let spread = between(here.addr(), screen, sales, sale).await?;
    for mut node in [here, there, hub] {
        node.kill().await?;
    }
    Ok(spread)
}

/// What a store would have to say for itself there: the figure, on the topic of the other store.
async fn bridged(dir: &Path, config: &str, sales: usize) -> Result<Spread> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let hq = Broker::start(dir.join("hq"), "hq", config).await?;
    let bridge = |name: &str, way: &str| {
        format!(
            "{config}connection {name}\naddress {}\ntopic store/# {way} 1\ncleansession false\n\
             local_cleansession false\nrestart_timeout 1\nnotifications false\nbridge_attempt_unsubscribe false\n",
            hq.addr()
        )
    };
    let here = Broker::start(dir.join("here"), "here", &bridge(HERE, "out")).await?;
    let there = Broker::start(dir.join("there"), "there", &bridge(THERE, "in")).await?;
    // Only a persistent session gives it something to save.
    let mut screen = Screen::open(there.addr(), config == SAVES_NOT).await?;
    let mut wire = connect(here.addr(), "probe").await?;
    let deadline = Instant::now() + READY_WAIT;
    loop {
        wire.queue_publish(Qos::AtLeastOnce, false, 1, &format!("{}probe", topic("")), &Bytes::from_static(b"{}"))?;
        wire.next().await?;
        match timeout(4 * LOOK_EVERY, screen.client.next()).await {
            Ok(Event::Message(_)) => break,
            _ if Instant::now() >= deadline => bail!("nothing came through in {} s", READY_WAIT.as_secs()),
            _ => {}
        }
    }
    let sale = |n: usize| {
        let told = json!({"gtin": format!("0{}", code(n % ITEMS)), "on_hand": -((n / ITEMS + 1) as i64)});
        (topic(&code(n % ITEMS)), told)
    };
    let spread = between(here.addr(), screen, sales, sale).await?;
    for mut broker in [here, there, hq] {
        broker.kill().await?;
    }
    Ok(spread)
}

fn code(item: usize) -> String {
    retail::barcode(item as u64 + 1)
}

fn topic(code: &str) -> String {
    match code {
        "" => format!("store/elsewhere/{HERE}/"),
        code => format!("store/elsewhere/{HERE}/0{code}"),
    }
}

/// Sends so many sales to one broker at an even pace, and waits for what the screen at another one shows of them.
async fn between(
    here: SocketAddr,
    screen: Screen,
    sales: usize,
    sale: impl Fn(usize) -> (String, serde_json::Value),
) -> Result<Spread> {
    let watching = tokio::spawn(screen.watch(sales));
    let mut wire = connect(here, "pos-1").await?;
    let mut pace = interval(Duration::from_secs(1) / PER_SECOND as u32);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut sent, mut acked): (Vec<Instant>, usize) = (Vec::with_capacity(sales), 0);
    while acked < sales {
        tokio::select! {
            _ = pace.tick(), if sent.len() < sales => {
                let (topic, payload) = sale(sent.len());
                let pkid = (sent.len() % 60_000) as u16 + 1;
                sent.push(Instant::now());
                wire.queue_publish(Qos::AtLeastOnce, false, pkid, &topic, &payload.to_string().into())?;
            }
            heard = wire.next() => acked += usize::from(matches!(heard?, Heard::PubAck(_))),
        }
    }
    let arrived = watching.await.context("the screen failed")?;
    let measured = sent.iter().zip(&arrived).skip(WARM_UP);
    let mut took: Vec<u64> =
        measured.filter_map(|(sent, at)| Some((*at)?.duration_since(*sent).as_micros() as u64)).collect();
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0);
    Ok(Spread {
        sent: sales - WARM_UP,
        arrived: took.len(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: took.last().copied().unwrap_or(0),
    })
}

async fn connect(addr: SocketAddr, client: &str) -> Result<Wire> {
    let mut wire = Wire::open(&addr.into()).await?;
    wire.queue_connect(&Hello { client: client.into(), clean: true, keep_alive_s: 60, login: None })?;
    match wire.next().await? {
        Heard::Accepted { .. } => Ok(wire),
        other => bail!("{addr} answered CONNECT with {other:?}"),
    }
}

/// Shows in one store what the other one has.
struct Screen {
    client: Client,
    items: HashMap<String, usize>,
}

impl Screen {
    async fn open(addr: SocketAddr, clean: bool) -> Result<Screen> {
        let subscribe = vec![format!("{}#", topic(""))];
        let options =
            client::Options { client: "screen".into(), door: addr.into(), clean, window: 1, subscribe, seed: 1 };
        let mut client = Client::new(options);
        let items = (0..ITEMS).map(|item| (topic(&code(item)), item)).collect();
        match client.next().await {
            Event::Up => Ok(Screen { client, items }),
            other => bail!("the screen was not served: {other:?}"),
        }
    }

    /// When each sale was seen to have arrived: a figure stands for its sale and for those of the item before it.
    async fn watch(mut self, sales: usize) -> Vec<Option<Instant>> {
        let mut arrived = vec![None; sales];
        let mut left = sales;
        let lasts = Duration::from_secs((sales / PER_SECOND) as u64) + LAST_WAIT;
        let watch = async {
            while left > 0 {
                let Event::Message(message) = self.client.next().await else { continue };
                let now = Instant::now();
                let Some((item, sold)) = self.figure(&message) else { continue };
                for n in (0..sold).rev().map(|round| round * ITEMS + item) {
                    match arrived.get_mut(n) {
                        Some(at @ None) => *at = Some(now),
                        _ => break,
                    }
                    left -= 1;
                }
            }
        };
        // What did not come is told as missing.
        let _ = timeout(lasts, watch).await;
        arrived
    }

    /// Which item, and how many of it were sold.
    fn figure(&self, message: &Message) -> Option<(usize, usize)> {
        let item = *self.items.get(&message.topic)?;
        let on_hand = status::hq_stock(&message.payload)?.on_hand;
        Some((item, usize::try_from(-on_hand).ok()?))
    }
}

impl Latency {
    pub(super) fn table(&self) -> String {
        let Latency { mosquitto, per_second, seconds, .. } = self;
        let mut text = format!(
            "From a till in one store to a screen in another, {per_second} sales a second for {seconds} s\n\n\
             | | p50 | p99 | longest | arrived |\n|---|---|---|---|---|\n"
        );
        let rows = [
            ("tillsync, durable in both stores and at HQ".to_owned(), &self.ours),
            (format!("mosquitto {mosquitto}, three brokers, memory"), &self.mosquitto_memory),
            (format!("mosquitto {mosquitto}, three brokers, saving every change"), &self.mosquitto_saving),
        ];
        for (name, Spread { sent, arrived, p50_us, p99_us, max_us }) in rows {
            let ms = |us: &u64| *us as f64 / 1e3;
            let (p50, p99, max) = (ms(p50_us), ms(p99_us), ms(max_us));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {p50:.2} ms | {p99:.2} ms | {max:.1} ms | {arrived} of {sent} |");
        }
        text
    }
}
