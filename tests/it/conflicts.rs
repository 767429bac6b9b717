//! Two sites write the same price apart; head office brings back the one that lost, by the command line.

use std::path::Path;
use std::process::Output;

use firmware_sim::proxy::Proxy;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, folder, gateway, ledgers};

async fn conflicts(hub: &Path, words: &[&str]) -> Output {
    let data = path(hub);
    let words = [&["hub", "conflicts"], words, &["--data", &data]].concat();
    Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

async fn answer(hub: &Path, words: &[&str]) -> Value {
    let done = conflicts(hub, &[words, &["--json"]].concat()).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

async fn refused(hub: &Path, words: &[&str], why: &str) {
    let done = conflicts(hub, words).await;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains(why), "{words:?} must say {why:?}: {done:?}");
}

#[tokio::test]
async fn what_lost_is_brought_back_at_every_site_once() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let home = hub.dir().to_owned();
    let (mut proxies, mut gateways, mut tablets, mut shelves) = (vec![], vec![], vec![], vec![]);
    for site in ["harbour", "hill"] {
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
        shelf.until_json(&topic, |item| item["price_cents"] == 1000).await;
    }
    proxies.iter().for_each(Proxy::cut);
    for gateway in &gateways {
        gateway.until_status("the gateway is cut off", |status| status["uplink"]["connected"] == false).await;
    }
    for (tablet, price) in tablets.iter_mut().zip([1100, 1200]) {
        tablet.done("item", json!({"gtin": GTIN, "price_cents": price})).await;
    }
    proxies.iter().for_each(Proxy::restore);
    hub.until_status("a conflict at HQ", |status| status["conflicts"]["kept"] == 1).await;

    // Found by its item, not by another's; both sides with their names.
    let list = answer(&home, &["list", "--item", GTIN]).await;
    let conflict = list["conflicts"][0].clone();
    assert_eq!((&conflict["key"], &conflict["restored"]), (&json!(format!("item/{GTIN}/price_cents")), &Value::Null));
    assert_eq!(conflict["loser"]["device"], "tablet-1");
    let (won, lost) = (&conflict["winner"]["value"], &conflict["loser"]["value"]);
    assert_eq!(answer(&home, &["list", "--key", "note/"]).await["conflicts"], json!([]));
    let id = conflict["id"].to_string();
    for shelf in &mut shelves {
        shelf.until_json(&topic, |item| item["price_cents"] == *won).await;
    }
    let shown = String::from_utf8(conflicts(&home, &["show", &id]).await.stdout).expect("text");
    for part in ["harbour#", "hill#", "tablet-1", "1100", "1200", "had seen"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    refused(&home, &["show", "99999"], "no conflict").await;

    let done = answer(&home, &["restore", &id, "--by", "Anna K.", "--why", "the flyer says so"]).await;
    assert_eq!((&done["now"]["value"], &done["replaced"]["value"]), (lost, won), "{done}");
    for shelf in &mut shelves {
        shelf.until_json(&topic, |item| item["price_cents"] == *lost && item["name"] == "Pear brandy").await;
    }
    refused(&home, &["restore", &id], "restored already, by Anna K.").await;

    // Whoever has seen it writes over it in silence.
    tablets[0].done("item", json!({"gtin": GTIN, "price_cents": 900})).await;
    for shelf in &mut shelves {
        shelf.until_json(&topic, |item| item["price_cents"] == 900).await;
    }
    let running = answer(&home, &["list"]).await;
    assert_eq!(running["conflicts"].as_array().map(Vec::len), Some(1), "{running}");
    let mut hq = Monitor::open(hub.addr, "hq/conflicts/+").await;
    hq.until_json(&format!("hq/conflicts/{id}"), |told| told["restored"]["why"] == "the flyer says so").await;

    hub.stop().await;
    let stopped = answer(&home, &["list"]).await;
    assert_eq!(stopped["conflicts"][0]["restored"]["by"], "Anna K.");
    for field in ["id", "key", "winner", "loser"] {
        assert_eq!(stopped["conflicts"][0][field], running["conflicts"][0][field], "running or stopped");
    }
    assert_eq!(answer(&home, &["show", &id]).await["now"]["value"], 900);
    refused(&home, &["restore", &id], "start it").await;
    let own = ledgers::Hq::read(&home).registers[&format!("item/{GTIN}/price_cents")].clone();
    let seen = own.seen.expect("a register has seen something").entries;
    assert!(seen.iter().any(|dot| dot.site == "hub"), "harbour's write had seen the hub's: {seen:?}");
}
