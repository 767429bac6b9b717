//! Two sites set the same register while apart: all end with the same value, the loser is kept; a later write that
//! saw both wins silently.

use firmware_sim::proxy::Proxy;
use serde_json::{Value, json};

use crate::harness::ledgers::Hq;
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

const SITES: [&str; 2] = ["harbour", "hill"];

#[tokio::test]
async fn two_sites_that_were_apart_end_alike() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let (mut proxies, mut gateways, mut tablets, mut shelves) = (vec![], vec![], vec![], vec![]);
    for site in SITES {
        let proxy = Proxy::start(hub.addr).await.expect("open a proxy");
        let node = gateway(dir.path(), site, proxy.addr()).await;
        tablets.push(Link::device(node.addr, "tablet-1").await);
        shelves.push(Monitor::open(node.addr, "store/item/+").await);
        gateways.push(node);
        proxies.push(proxy);
    }
    let topic = format!("store/item/{GTIN}");
    tablets[0].done("item", json!({"gtin": GTIN, "name": "Pear brandy", "price_cents": 1000})).await;
    for shelf in &mut shelves {
        shelf.until_json(&topic, |item| item["price_cents"] == 1000 && item["name"] == "Pear brandy").await;
    }

    proxies.iter().for_each(Proxy::cut);
    for gateway in &gateways {
        gateway.until_status("the gateway is cut off", |status| status["uplink"]["connected"] == false).await;
    }
    for (at, tablet) in tablets.iter_mut().enumerate() {
        tablet.done("item", json!({"gtin": GTIN, "price_cents": 1100 + at})).await;
        let text = format!("tasted at {}", SITES[at]);
        tablet.done("note", json!({"gtin": GTIN, "author": "anna", "text": text})).await;
    }
    for (at, shelf) in shelves.iter_mut().enumerate() {
        // Each shows its own write until it hears of the other.
        shelf.until_json(&topic, |item| item["price_cents"] == 1100 + at).await;
    }

    proxies.iter().for_each(Proxy::restore);
    let mut hq = Monitor::open(hub.addr, "hq/conflicts/+").await;
    let conflicts: Vec<Value> = hq
        .until("two conflicts at HQ", |seen| {
            let found: Vec<_> = seen.latest.keys().map(|topic| seen.json(topic)).collect();
            (found.len() == 2).then_some(found)
        })
        .await;
    let (price, text) = (winner(&conflicts, "/price_cents"), winner(&conflicts, "/text"));
    assert!([1100, 1101].map(Value::from).contains(&price), "{conflicts:?}");
    for conflict in &conflicts {
        let (winner, loser) = (&conflict["winner"], &conflict["loser"]);
        let sites = SITES.map(Value::from);
        assert!(sites.contains(&winner["site"]) && sites.contains(&loser["site"]), "{conflict}");
        assert!(winner["site"] != loser["site"] && winner["value"] != loser["value"], "{conflict}");
        assert_eq!(loser["device"], "tablet-1", "{conflict}");
    }
    for shelf in &mut shelves {
        let alike = |item: &Value| item["price_cents"] == price && item["notes"]["anna"]["text"] == text;
        shelf.until_json(&topic, alike).await;
    }

    // The store that lost the price writes last, having seen both.
    tablets[0].done("item", json!({"gtin": GTIN, "price_cents": 900})).await;
    for shelf in &mut shelves {
        shelf.until_json(&topic, |item| item["price_cents"] == 900).await;
    }
    let status = hub.status().await;
    assert_eq!(status["conflicts"]["since_start"], 2, "a write that has seen both wins silently: {status}");

    hub.stop().await;
    let at_hq = Hq::read(hub.dir());
    assert_eq!(at_hq.conflicts.len(), 2);
    let held = |end: &str| &at_hq.registers.iter().find(|(key, _)| key.ends_with(end)).expect("HQ has it").1.value;
    assert_eq!(*held("/price_cents"), "900");
    assert_eq!(*held("/text"), text.to_string());
}

fn winner(conflicts: &[Value], end: &str) -> Value {
    let about = |conflict: &&Value| conflict["key"].as_str().is_some_and(|key| key.ends_with(end));
    conflicts.iter().find(about).expect("a conflict about it")["winner"]["value"].clone()
}
