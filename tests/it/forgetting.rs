//! A price is deleted and the hub forgets that; a store whose box was put back to before does not bring it back.

use std::fs;

use firmware_sim::proxy::Proxy;
use serde_json::{Value, json};

use crate::bad_disk::copy;
use crate::harness::ledgers::Hq;
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

#[tokio::test]
async fn what_is_deleted_stays_deleted_though_the_hub_forgot_it() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).config("forget_every_s = 1\n").start().await;
    let proxy = Proxy::start(hub.addr).await.expect("open a proxy");
    let harbour = gateway(dir.path(), "harbour", hub.addr).await;
    let mut hill = gateway(dir.path(), "hill", proxy.addr()).await;
    let topic = format!("store/item/{GTIN}");
    let mut tablet = Link::device(harbour.addr, "tablet-1").await;
    tablet.done("item", json!({"gtin": GTIN, "name": "Pear brandy", "price_cents": 1000})).await;
    Monitor::open(hill.addr, "store/item/+").await.until_json(&topic, |item| item["price_cents"] == 1000).await;

    let backup = dir.path().join("backup");
    hill.stop().await;
    copy(hill.dir(), &backup);
    hill.restart().await;
    tablet.done("item", json!({"gtin": GTIN, "price_cents": null})).await;
    Monitor::open(hill.addr, "store/item/+").await.until_json(&topic, |item| item["price_cents"].is_null()).await;
    hub.until_status("both know, so it is forgotten", |status| {
        status["forgetting"]["forgotten_upto"].as_u64() > Some(0)
    })
    .await;

    hill.stop().await;
    fs::remove_dir_all(hill.dir()).expect("take the box away");
    fs::rename(&backup, hill.dir()).expect("put the backup in its place");
    proxy.cut();
    hill.restart().await;
    let mut shelf = Monitor::open(hill.addr, "store/item/+").await;
    shelf.until_json(&topic, |item| item["price_cents"] == 1000).await;
    let mut till = Link::device(hill.addr, "tablet-2").await;
    till.done("item", json!({"gtin": GTIN, "price_cents": 1100})).await;
    shelf.until_json(&topic, |item| item["price_cents"] == 1100).await;

    proxy.restore();
    let gone = |item: &Value| item["price_cents"].is_null() && item["name"] == "Pear brandy";
    shelf.until_json(&topic, gone).await;
    hub.until_status("what it wrote meanwhile is kept", |status| status["conflicts"]["kept"] == 1).await;

    // What it writes now is news for all.
    till.done("item", json!({"gtin": GTIN, "price_cents": 1200})).await;
    let mut other = Monitor::open(harbour.addr, "store/item/+").await;
    for shelf in [&mut shelf, &mut other] {
        shelf.until_json(&topic, |item| item["price_cents"] == 1200).await;
    }
    hub.stop().await;
    let hq = Hq::read(hub.dir());
    let loser = hq.conflicts[0].loser.as_ref().expect("the write that came too late");
    assert_eq!((hq.conflicts.len(), loser.value.as_ref()), (1, &b"1100"[..]));
}
