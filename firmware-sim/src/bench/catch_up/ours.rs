//! A gateway with a backlog, a hub, and a network between them that comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout_at};

use super::{Sales, WAIT, first_byte, ms_between};
use crate::bench::{SITE, gateway_spec, hub_spec, process, retail};
use crate::client::{self, Client, Event};
use crate::monitor::Monitor;
use crate::nodes::{Node, Spec};
use crate::proxy::{Carried, Proxy};
use crate::status::{self, hq_stock};

/// No bound that the backlog would reach.
const ROOMY: &str = "journal_mib_max = 8192\n";
/// Items whose stock HQ must show right.
const SAMPLES: usize = 20;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What is dirty goes to disk, and the hub's screens get the last of it.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE_FOR: Duration = Duration::from_secs(15);
const LIVE_SALES: u32 = 40;
const LIVE_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize)]
pub(super) struct Return {
    pub(super) sales: u64,
    pub(super) records: u64,
    pub(super) loaded_s: f64,
    pub(super) waiting_rss_kib: u64,
    /// From the network's return to the first byte, which the store's pause between two tries decides; the others from
    /// that first byte.
    pub(super) connected_ms: u64,
    pub(super) present_ms: u64,
    pub(super) applied_ms: u64,
    pub(super) up_bytes: u64,
    pub(super) down_bytes: u64,
    /// To the hub, until HQ showed the present.
    pub(super) present_bytes: u64,
    pub(super) gateway_peak_kib: u64,
    pub(super) hub_peak_kib: u64,
    pub(super) gateway_cpu_s: f64,
    pub(super) hub_cpu_s: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Live {
    pub(super) sales: u32,
    /// Of one sale.
    pub(super) up_bytes: f64,
    pub(super) down_bytes: f64,
    pub(super) idle_bytes_per_minute: f64,
}

pub(super) async fn measure(
    dir: &Path,
    sales: &Sales,
    (tills, window): (usize, usize),
    live: bool,
) -> Result<(Return, Option<Live>)> {
    let mut hub = Node::start(hub_spec(dir)).await?;
    let proxy = Proxy::start(hub.addr()).await.context("opening a proxy")?;
    proxy.cut();
    let spec = Spec { config: ROOMY.into(), ..gateway_spec(dir, SITE, Some(proxy.addr())) };
    let mut gateway = Node::start(spec).await?;
    let loaded_s = retail::ring_up(gateway.addr(), tills, window, sales.payloads.clone()).await?;
    let records = status::gateway(gateway.dir()).await?.ledger.last_seq;
    let expected = expected(&gateway, sales).await?;
    sleep(SETTLE).await;

    let (ours, hubs) = (pid(&gateway)?, pid(&hub)?);
    let waiting_rss_kib = process::rss_kib(ours)?;
    let mut screen = Screen::open(&hub, expected.keys()).await?;
    for pid in [ours, hubs] {
        process::forget_peak(pid)?;
    }
    let cpu = (process::cpu_s(ours)?, process::cpu_s(hubs)?);
    let connected = first_byte(&proxy);
    let restored = Instant::now();
    proxy.restore();
    let applied = all_applied(&gateway, &proxy);
    let presented = screen.shows(records, &expected, &proxy);
    let ((applied, carried), (presented, present)) = tokio::try_join!(applied, presented)?;
    let connected = connected.await.context("watching the proxy")?;
    let found = Return {
        sales: sales.payloads.len() as u64,
        records,
        loaded_s,
        waiting_rss_kib,
        connected_ms: ms_between(restored, connected),
        present_ms: ms_between(connected, presented),
        applied_ms: ms_between(connected, applied),
        up_bytes: carried.up_bytes,
        down_bytes: carried.down_bytes,
        present_bytes: present.up_bytes.min(carried.up_bytes),
        gateway_peak_kib: process::peak_rss_kib(ours)?,
        hub_peak_kib: process::peak_rss_kib(hubs)?,
        gateway_cpu_s: process::cpu_s(ours)? - cpu.0,
        hub_cpu_s: process::cpu_s(hubs)? - cpu.1,
    };
    let live = if live { Some(one_at_a_time(&gateway, &proxy).await?) } else { None };
    gateway.kill().await?;
    hub.kill().await?;
    Ok((found, live))
}

fn pid(node: &Node) -> Result<u32> {
    node.pid().context("the node has ended")
}

/// What the store itself says of some items, by their topic at HQ.
async fn expected(gateway: &Node, sales: &Sales) -> Result<BTreeMap<String, i64>> {
    let every = (sales.payloads.len() / SAMPLES).max(1);
    let sampled = sales.payloads.iter().step_by(every).take(SAMPLES);
    let item = |sale| {
        let sale: Value = serde_json::from_slice(sale).ok()?;
        // A quantity that is refused moves nothing, and the item might have no stock at all.
        let mut lines = sale["lines"].as_array()?.iter();
        let line = lines.find(|line| line["qty"].as_i64().is_some_and(|qty| (1..100).contains(&qty)))?;
        Some(format!("0{}", line["gtin"].as_str()?))
    };
    let items: Vec<String> = sampled.filter_map(|sale| item(sale)).collect();
    let topic = |item: &String| format!("store/stock/{item}");
    let filters: Vec<String> = items.iter().map(topic).collect();
    let mut monitor = Monitor::new("shelf", gateway.addr(), &filters);
    let told = monitor.until(WAIT, |topics| {
        let on_hand = |item: &String| Some((format!("hq/stock/{item}"), hq_stock(topics.get(&topic(item))?)?.on_hand));
        let told: Option<BTreeMap<_, _>> = items.iter().map(on_hand).collect();
        told.ok_or_else(|| "the store does not show all sampled items".to_owned())
    });
    told.await?.map_err(anyhow::Error::msg)
}

/// When everything is durable at the hub, as the gateway heard it, and what had been carried then.
async fn all_applied(gateway: &Node, proxy: &Proxy) -> Result<(Instant, Carried)> {
    let deadline = Instant::now() + WAIT;
    loop {
        let uplink = status::gateway(gateway.dir()).await?.uplink;
        if uplink.connected && uplink.backlog_records == 0 {
            return Ok((Instant::now(), proxy.carried()));
        }
        if Instant::now() >= deadline {
            bail!("{} records are not applied after {} s", uplink.backlog_records, WAIT.as_secs());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A screen at HQ with the site and some items.
struct Screen {
    client: Client,
}

impl Screen {
    async fn open(hub: &Node, stock: impl Iterator<Item = &String>) -> Result<Screen> {
        let subscribe = stock.cloned().chain([status_topic()]).collect();
        let options = client::Options {
            client: "screen".into(),
            door: hub.addr().into(),
            clean: true,
            window: 1,
            subscribe,
            seed: 1,
        };
        let mut client = Client::new(options);
        match client.next().await {
            Event::Up => Ok(Screen { client }),
            other => bail!("HQ's screen was not served: {other:?}"),
        }
    }

    /// When it shows the site's present, and what had been carried then.
    async fn shows(
        &mut self,
        records: u64,
        expected: &BTreeMap<String, i64>,
        proxy: &Proxy,
    ) -> Result<(Instant, Carried)> {
        let deadline = tokio::time::Instant::now() + WAIT;
        let (mut wrong, mut present_seq) = (expected.clone(), 0);
        while !wrong.is_empty() || present_seq < records {
            let Ok(event) = timeout_at(deadline, self.client.next()).await else {
                bail!("HQ shows the present up to {present_seq} of {records}, and {} items wrong", wrong.len());
            };
            let Event::Message(message) = event else { continue };
            if message.topic == status_topic() {
                let status: Value = serde_json::from_slice(&message.payload).context("reading the site's status")?;
                present_seq = status["present_seq"].as_u64().unwrap_or(0);
            } else if let Some(on_hand) = expected.get(&message.topic) {
                match hq_stock(&message.payload).is_some_and(|stock| stock.on_hand == *on_hand) {
                    true => wrong.remove(&message.topic),
                    false => wrong.insert(message.topic, *on_hand),
                };
            }
        }
        Ok((Instant::now(), proxy.carried()))
    }
}

fn status_topic() -> String {
    format!("hq/sites/{SITE}/status")
}

/// What a sale costs on the wire while the hub is there.
async fn one_at_a_time(gateway: &Node, proxy: &Proxy) -> Result<Live> {
    sleep(SETTLE).await;
    let before = proxy.carried();
    sleep(IDLE_FOR).await;
    let idle = since(proxy, before);
    let idle_per_s = |bytes: u64| bytes as f64 / IDLE_FOR.as_secs_f64();

    let options = client::Options {
        client: "pos-9".into(),
        door: gateway.addr().into(),
        clean: true,
        window: 1,
        subscribe: Vec::new(),
        seed: 9,
    };
    let mut client = Client::new(options);
    let (before, started) = (proxy.carried(), Instant::now());
    for (n, row) in (0..LIVE_SALES).zip(crate::retail::rows()?) {
        let code = crate::retail::barcode(row.product_id);
        let sale = json!({"id": format!("live-{n}"), "lines": [{"gtin": code, "qty": 1, "cents": row.cents}]});
        client.publish(client::Token(n.into()), "dev/pos-9/sale".into(), sale.to_string().into())?;
        while !matches!(client.next().await, Event::Acked(_)) {}
        sleep(LIVE_EVERY).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let busy = since(proxy, before);
    client.close().await;
    let each = |busy: u64, idle: u64| (busy as f64 - idle_per_s(idle) * seconds) / f64::from(LIVE_SALES);
    Ok(Live {
        sales: LIVE_SALES,
        up_bytes: each(busy.up_bytes, idle.up_bytes),
        down_bytes: each(busy.down_bytes, idle.down_bytes),
        idle_bytes_per_minute: idle_per_s(idle.up_bytes + idle.down_bytes) * 60.0,
    })
}

fn since(proxy: &Proxy, before: Carried) -> Carried {
    let now = proxy.carried();
    Carried { up_bytes: now.up_bytes - before.up_bytes, down_bytes: now.down_bytes - before.down_bytes }
}
