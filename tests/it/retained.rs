//! A subscriber of `hq/#` gets every retained message, not the router's first 100 or 200.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::wait::PATIENCE;
use crate::harness::{Pair, SITE, gtin, tools};

const ITEMS: u64 = 1_250;
const LINES: usize = 50;
/// A hub that let subscribers in while it restored failed within these.
const EARLY_STARTS: u32 = 10;

#[tokio::test]
async fn a_fresh_subscriber_gets_every_retained_topic() {
    let mut pair = Pair::start().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    let items: Vec<String> = (0..ITEMS).map(gtin).collect();
    for lines in items.chunks(LINES) {
        let lines: Vec<_> = lines.iter().map(|gtin| json!({"gtin": gtin, "qty": 3})).collect();
        scanner.done("move", json!({"op": "receive", "lines": lines})).await;
    }
    pair.gateway.until_applied().await;
    let mut wanted: BTreeSet<String> = items.iter().map(|gtin| format!("hq/stock/{gtin}")).collect();
    wanted.insert(format!("hq/sites/{SITE}/status"));

    for when in ["as it was told", "after a restart of the hub"] {
        if when == "after a restart of the hub" {
            pair.hub.stop().await;
            pair.hub.restart().await;
        }
        let mut monitor = Monitor::open(pair.hub.addr, "hq/#").await;
        monitor
            .until("every topic", |seen| wanted.iter().all(|topic| seen.latest.contains_key(topic)).then_some(()))
            .await;
        for gtin in &items {
            let stock = monitor.json(&format!("hq/stock/{gtin}"));
            assert_eq!((&stock["on_hand"], &stock["sites"][SITE]), (&json!(3), &json!(3)), "{when}: {stock}");
        }
        if tools::has(&["mosquitto_sub"]) {
            for version in ["311", "5"] {
                mosquitto_gets(pair.hub.addr, version, &wanted).await;
            }
        }
    }
}

/// Whoever is there before a restarted hub has shown everything again must not miss what comes after.
#[tokio::test]
async fn a_subscriber_that_comes_first_gets_every_retained_topic() {
    let mut pair = Pair::start().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    let items: Vec<String> = (0..2 * ITEMS).map(gtin).collect();
    for lines in items.chunks(LINES) {
        let lines: Vec<_> = lines.iter().map(|gtin| json!({"gtin": gtin, "qty": 3})).collect();
        scanner.done("move", json!({"op": "receive", "lines": lines})).await;
    }
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    for _ in 0..EARLY_STARTS {
        pair.hub.stop().await;
        let addr = pair.hub.addr;
        let knock = tokio::spawn(async move {
            // At the door before it opens.
            while TcpStream::connect(addr).await.is_err() {}
            Monitor::open(addr, "hq/stock/+").await
        });
        pair.hub.restart().await;
        let mut monitor = knock.await.expect("the monitor subscribes");
        monitor.until("every topic", |seen| (seen.latest.len() == items.len()).then_some(())).await;
    }
}

async fn mosquitto_gets(hub: SocketAddr, version: &str, wanted: &BTreeSet<String>) {
    let port = hub.port().to_string();
    let mut child = Command::new("mosquitto_sub")
        .args(["-p", &port, "-V", version, "-q", "1", "-t", "hq/#", "-F", "%r %t"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start mosquitto_sub");
    let mut lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let (mut missing, deadline) = (wanted.clone(), Instant::now() + PATIENCE);
    while !missing.is_empty() {
        let line = timeout_at(deadline, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            panic!("mosquitto_sub -V {version} lacks {} topics, such as {:?}", missing.len(), missing.first());
        };
        if let Some(topic) = line.strip_prefix("1 ") {
            missing.remove(topic);
        }
    }
    child.kill().await.expect("end mosquitto_sub");
}
