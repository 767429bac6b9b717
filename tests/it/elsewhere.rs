//! "Which store has it?": a store shows what others have, as long as it follows them.

use serde_json::json;

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

#[tokio::test]
async fn a_store_shows_what_others_have() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let hill = gateway(dir.path(), "hill", hub.addr).await;
    let quay = gateway(dir.path(), "quay", hub.addr).await;
    let mut harbour = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).config("follow = \"hill\"\n").start().await;
    let mut all = Spec::gateway(dir.path(), "mill", Some(hub.addr)).config("follow = \"*\"\n").start().await;
    let topic = |site| format!("store/elsewhere/{site}/{GTIN}");
    let mut shelf = Monitor::open(harbour.addr, "store/elsewhere/#").await;
    let mut every = Monitor::open(all.addr, "store/elsewhere/#").await;
    let mut scanner = Link::device(hill.addr, "scanner-1").await;
    scanner.done("scan", json!({"gtin": GTIN, "op": "receive", "qty": 12})).await;
    shelf.until_json(&topic("hill"), |stock| stock["on_hand"] == 12).await;
    let mut scanner = Link::device(quay.addr, "scanner-1").await;
    scanner.done("scan", json!({"gtin": GTIN, "op": "receive", "qty": 5})).await;
    every.until_json(&topic("quay"), |stock| stock["on_hand"] == 5).await;
    every.until_json(&topic("hill"), |stock| stock["on_hand"] == 12).await;
    assert!(!shelf.latest.contains_key(&topic("quay")), "nobody follows it there");

    // Over restarts of both, and what happened meanwhile.
    harbour.stop().await;
    let mut pos = Link::device(hill.addr, "pos-1").await;
    pos.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 2}]})).await;
    hill.until_applied().await;
    hub.stop().await;
    hub.restart().await;
    harbour.restart().await;
    let mut shelf = Monitor::open(harbour.addr, "store/elsewhere/#").await;
    shelf.until_json(&topic("hill"), |stock| stock["on_hand"] == 10).await;
    all.stop().await;
}
