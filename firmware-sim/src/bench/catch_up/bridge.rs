//! The same sales in a mosquitto bridge: a broker in the store that keeps them while HQ's is away.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::{Sales, WAIT, first_byte, ms_between};
use crate::bench::{process, retail};
use crate::client::{Client, Event, Options};
use crate::mosquitto::Broker;
use crate::proxy::Proxy;

/// Saves in its own time, and keeps everything.
const KEEPS: &str = "persistence true\nmax_queued_messages 0\nmax_inflight_messages 1000\n";
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize)]
pub(super) struct Bridged {
    pub(super) messages: u64,
    pub(super) lines: u64,
    pub(super) loaded_s: f64,
    pub(super) edge_waiting_rss_kib: u64,
    pub(super) connected_ms: u64,
    /// Until the last message arrived at a subscriber at HQ.
    pub(super) drained_ms: u64,
    pub(super) arrived: u64,
    pub(super) up_bytes: u64,
    pub(super) down_bytes: u64,
    pub(super) edge_peak_kib: u64,
    pub(super) hq_peak_kib: u64,
}

pub(super) async fn measure(dir: &Path, sales: &Sales, (tills, window): (usize, usize)) -> Result<Bridged> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut hq = Broker::start(dir.join("hq"), "hq", KEEPS).await?;
    let proxy = Proxy::start(hq.addr()).await.context("opening a proxy")?;
    proxy.cut();
    let bridge = format!(
        "{KEEPS}connection harbour\naddress {}\ntopic dev/# out 1\ncleansession false\nlocal_cleansession false\n\
         restart_timeout 1\nnotifications false\nbridge_attempt_unsubscribe false\n",
        proxy.addr()
    );
    let mut edge = Broker::start(dir.join("edge"), "edge", &bridge).await?;
    let loaded_s = retail::ring_up(edge.addr(), tills, window, sales.payloads.clone()).await?;
    sleep(SETTLE).await;

    let messages = sales.payloads.len() as u64;
    let (edges, hqs) = (edge.pid().context("the store's broker")?, hq.pid().context("HQ's broker")?);
    let edge_waiting_rss_kib = process::rss_kib(edges)?;
    let subscribe = vec!["dev/#".into()];
    let options =
        Options { client: "screen".into(), door: hq.addr().into(), clean: true, window: 1, subscribe, seed: 1 };
    let mut screen = Client::new(options);
    match screen.next().await {
        Event::Up => {}
        other => bail!("HQ's screen was not served: {other:?}"),
    }
    for pid in [edges, hqs] {
        process::forget_peak(pid)?;
    }
    let connected = first_byte(&proxy);
    let restored = Instant::now();
    proxy.restore();
    let mut arrived = 0;
    let drain = async {
        while arrived < messages {
            arrived += u64::from(matches!(screen.next().await, Event::Message(_)));
        }
    };
    if timeout(WAIT, drain).await.is_err() {
        bail!("{arrived} of {messages} messages arrived in {} s", WAIT.as_secs());
    }
    let drained = Instant::now();
    let connected = connected.await.context("watching the proxy")?;
    let carried = proxy.carried();
    let found = Bridged {
        messages,
        lines: sales.lines,
        loaded_s,
        edge_waiting_rss_kib,
        connected_ms: ms_between(restored, connected),
        drained_ms: ms_between(connected, drained),
        arrived,
        up_bytes: carried.up_bytes,
        down_bytes: carried.down_bytes,
        edge_peak_kib: process::peak_rss_kib(edges)?,
        hq_peak_kib: process::peak_rss_kib(hqs)?,
    };
    edge.kill().await?;
    hq.kill().await?;
    Ok(found)
}
