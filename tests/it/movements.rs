//! Concurrent movements of one item at several replicas all count; also those of a second life of a site's ledger.

use std::net::SocketAddr;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::ledgers::Hq;
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

const SITES: [&str; 3] = ["harbour", "hill", "mill"];
const ROUNDS: i64 = 20;

#[tokio::test]
async fn movements_at_several_sites_all_count() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let mut gateways = Vec::new();
    for site in SITES {
        gateways.push(gateway(dir.path(), site, hub.addr).await);
    }
    let mut devices = JoinSet::new();
    for (at, gateway) in (1..).zip(&gateways) {
        devices.spawn(receive(gateway.addr, 10 * at));
        devices.spawn(sell(gateway.addr, at));
    }
    devices.join_all().await;

    let mut hq = Monitor::open(hub.addr, "hq/#").await;
    let topic = format!("hq/stock/{GTIN}");
    let sites: [i64; 3] = [9, 18, 27].map(|each| each * ROUNDS);
    let total: i64 = sites.iter().sum();
    hq.until_json(&topic, |stock| {
        stock["on_hand"] == total && SITES.iter().zip(sites).all(|(site, on_hand)| stock["sites"][site] == on_hand)
    })
    .await;

    // The mill's box is replaced: the same site with an empty ledger.
    let mut lost = gateways.pop().expect("a gateway");
    lost.until_applied().await;
    lost.stop().await;
    std::fs::rename(lost.dir(), dir.path().join("first-life")).expect("move the old ledger away");
    let second_life = gateway(dir.path(), "mill", hub.addr).await;
    receive(second_life.addr, 7).await;
    second_life.until_applied().await;
    let (mill, total) = (sites[2] + 7 * ROUNDS, total + 7 * ROUNDS);
    hq.until_json(&topic, |stock| stock["on_hand"] == total && stock["sites"]["mill"] == mill).await;
    hq.until_json("hq/alerts/mill:new_ledger", |alert| alert["site"] == "mill").await;

    hub.stop().await;
    let at_hq = Hq::read(hub.dir());
    let mut epochs: Vec<_> = at_hq.of_site("mill").into_iter().map(|row| row.dot.replica.epoch).collect();
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 2, "two lives of one site");
    let moved: i64 = at_hq.rows.iter().filter_map(|row| row.movement()).map(|movement| movement.units).sum();
    assert_eq!(moved, total, "the sum of all movements in HQ's journal");
}

async fn receive(addr: SocketAddr, qty: i64) {
    let mut scanner = Link::device(addr, "scanner-1").await;
    for n in 0..ROUNDS {
        // A new box learns which requests the one before answered: its deliveries are others.
        scanner.done("scan", json!({"id": format!("r{qty}-{n}"), "gtin": GTIN, "op": "receive", "qty": qty})).await;
    }
}

async fn sell(addr: SocketAddr, qty: i64) {
    let mut pos = Link::device(addr, "pos-1").await;
    for n in 0..ROUNDS {
        pos.done("sale", json!({"id": format!("s{n}"), "lines": [{"gtin": GTIN, "qty": qty}]})).await;
    }
}
