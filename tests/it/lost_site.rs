//! A box is declared lost, so that what is deleted can be forgotten without it; then it comes back with what it wrote.

use firmware_sim::proxy::Proxy;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, folder, gateway};

async fn run(words: &[&str]) -> (bool, String) {
    let mut command = Command::new(BINARY);
    command.args(words).kill_on_drop(true).stdin(std::process::Stdio::null());
    let done = command.output().await.expect("run the node's binary");
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(said).expect("text"))
}

#[tokio::test]
async fn a_lost_box_holds_nothing_up_and_brings_back_nothing_that_is_forgotten() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).config("forget_every_s = 1\n").start().await;
    let proxy = Proxy::start(hub.addr).await.expect("open a proxy");
    let mut harbour = gateway(dir.path(), "harbour", hub.addr).await;
    let mut hill = gateway(dir.path(), "hill", proxy.addr()).await;
    let (topic, home) = (format!("store/item/{GTIN}"), path(hub.dir()));
    let mut tablet = Link::device(harbour.addr, "tablet-1").await;
    tablet.done("item", json!({"gtin": GTIN, "name": "Pear brandy", "price_cents": 1000})).await;
    Monitor::open(hill.addr, "store/item/+").await.until_json(&topic, |item| item["price_cents"] == 1000).await;
    hill.until_applied().await;

    // It goes on selling where nobody hears of it.
    proxy.cut();
    let mut till = Link::device(hill.addr, "tablet-2").await;
    till.done("item", json!({"gtin": GTIN, "price_cents": 1100})).await;
    till.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 3}]})).await;
    tablet.done("item", json!({"gtin": GTIN, "price_cents": null})).await;
    harbour.until_applied().await;
    hub.until_status("it holds the horizon", |status| status["forgetting"]["held_by"] == "hill").await;
    hub.until_status("it is away", |status| status["sites"]["hill"]["online"] == false).await;
    assert_eq!(hub.status().await["forgetting"]["forgotten_upto"], 0);

    let (done, said) = run(&["hub", "site", "lost", "hill", "--data", &home]).await;
    assert!(!done && said.contains("nothing is done"), "{said}");
    let (done, said) = run(&["hub", "site", "lost", "harbour", "--yes", "--data", &home]).await;
    assert!(!done && said.contains("is connected"), "{said}");
    let (done, said) = run(&["hub", "site", "lost", "nowhere", "--yes", "--data", &home]).await;
    assert!(!done && said.contains("no site"), "{said}");
    for said_now in ["is lost, by record", "was said before"] {
        let (done, said) = run(&["hub", "site", "lost", "hill", "--yes", "--why", "a fire", "--data", &home]).await;
        assert!(done && said.contains(said_now), "{said}");
    }
    let forgotten = |status: &Value| status["forgetting"]["forgotten_upto"].as_u64() > Some(0);
    hub.until_status("nobody else waits for it", forgotten).await;
    hub.kill().await;
    hub.restart().await;
    assert_eq!(hub.status().await["sites"]["hill"]["declared_lost"], true, "also over a restart");
    let (done, _) = run(&["hub", "site", "lost", "hill", "--yes", "--data", "/nowhere"]).await;
    assert!(!done, "there is no hub to tell");

    proxy.restore();
    let turned = |status: &Value| status["uplink"]["turned_away"]["code"] == "site_lost";
    let status = hill.until_status("it is turned away", turned).await;
    assert!(status["uplink"]["turned_away"]["advice"].as_str().is_some_and(|said| said.contains("rejoin")));
    hill.stop().await;
    let (done, said) = run(&["gateway", "rejoin", "--yes", "--data", &path(hill.dir())]).await;
    assert!(done, "{said}");
    hill.restart().await;
    hill.until_status("all is taken over", |status| status["takeover"]["state"] == "done").await;
    hill.until_applied().await;
    // The sale is there, and the price is not: the deletion stands, and what it wrote is kept as a conflict.
    let mut hq = Monitor::open(hub.addr, "hq/stock/#").await;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["sites"]["hill"] == -3).await;
    hub.until_status("the write is a conflict", |status| status["conflicts"]["kept"] == 1).await;
    for gateway in [&hill, &harbour] {
        let mut shelf = Monitor::open(gateway.addr, "store/item/+").await;
        let gone = |item: &Value| item["price_cents"].is_null() && item["name"] == "Pear brandy";
        shelf.until_json(&topic, gone).await;
    }
    assert_eq!(hub.status().await["sites"]["hill"]["declared_lost"], false, "its new ledger is not lost");
    hill.stop().await;
    harbour.stop().await;
    hub.stop().await;
}
