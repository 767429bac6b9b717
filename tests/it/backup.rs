//! A hub is copied while stores sell, dies, and goes on elsewhere from the copy: the stores send again what it lacks,
//! and everybody ends with the same.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use firmware_sim::proxy::Proxy;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::ledgers::{self, Hq, Row};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::wait::until;
use crate::harness::{GTIN, Pair, folder, gateway};

const SITES: [&str; 2] = ["harbour", "hill"];

async fn hub(words: &[&str]) -> Output {
    Command::new(BINARY).arg("hub").args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

async fn answer(words: &[&str]) -> Value {
    let done = hub(&[words, &["--json"]].concat()).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

async fn refused(words: &[&str], why: &str) {
    let done = hub(words).await;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains(why), "{words:?} must say {why:?}: {done:?}");
}

/// Two stores, each with a tablet, behind networks that can be cut.
struct Stores {
    proxies: Vec<Proxy>,
    gateways: Vec<Node>,
    tablets: Vec<Link>,
    shelves: Vec<Monitor>,
}

impl Stores {
    async fn open(dir: &Path, hub: SocketAddr) -> Stores {
        let mut stores = Stores { proxies: vec![], gateways: vec![], tablets: vec![], shelves: vec![] };
        for site in SITES {
            let proxy = Proxy::start(hub).await.expect("open a proxy");
            let node = gateway(dir, site, proxy.addr()).await;
            stores.tablets.push(Link::device(node.addr, "tablet-1").await);
            stores.shelves.push(Monitor::open(node.addr, "store/item/+").await);
            stores.gateways.push(node);
            stores.proxies.push(proxy);
        }
        stores
    }

    /// Both write the item's field while they are apart. Returns the conflict at HQ.
    async fn differ(&mut self, home: &str, field: &str, values: [i64; 2]) -> Value {
        self.proxies.iter().for_each(Proxy::cut);
        for gateway in &self.gateways {
            gateway.until_status("the gateway is cut off", |status| status["uplink"]["connected"] == false).await;
        }
        for (tablet, value) in self.tablets.iter_mut().zip(values) {
            tablet.done("item", json!({"gtin": GTIN, "attrs": {field: value}})).await;
        }
        self.proxies.iter().for_each(Proxy::restore);
        conflict(home, field).await
    }

    async fn all_show(&mut self, field: &str, value: &Value) {
        for shelf in &mut self.shelves {
            shelf.until_json(&format!("store/item/{GTIN}"), |item| item["attrs"][field] == *value).await;
        }
    }

    /// Sells one after the other at every store until it is told to stop, and says how many were acknowledged.
    fn sell(&self, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<i64>> {
        let sell = |gateway: &Node| {
            let (addr, stop) = (gateway.addr, stop.clone());
            tokio::spawn(async move {
                let mut pos = Link::device(addr, "pos-1").await;
                let mut sold = 0;
                while !*stop.borrow() {
                    sold += 1;
                    pos.done("sale", json!({"id": format!("s{sold}"), "lines": [{"gtin": GTIN, "qty": 1}]})).await;
                }
                sold
            })
        };
        self.gateways.iter().map(sell).collect()
    }
}

/// The conflict about a field, once HQ has it.
async fn conflict(home: &str, field: &str) -> Value {
    let key = format!("item/{GTIN}/attr:{field}");
    until("a conflict at HQ", async || {
        let list = answer(&["conflicts", "list", "--key", &key, "--data", home]).await;
        list["conflicts"].get(0).cloned().ok_or(list.to_string())
    })
    .await
}

async fn bring_back(home: &str, conflict: &Value) -> Value {
    let id = conflict["id"].to_string();
    let done = answer(&["conflicts", "restore", &id, "--by", "anna", "--data", home]).await;
    assert_eq!(done["now"]["value"], conflict["loser"]["value"]);
    done["now"]["dot"].clone()
}

#[tokio::test]
async fn a_hub_goes_on_elsewhere_from_a_copy_that_was_made_under_load() {
    let dir = folder();
    let mut node = Spec::hub(dir.path()).start().await;
    let mut stores = Stores::open(dir.path(), node.addr).await;
    let (lost_home, home) = (path(node.dir()), path(&dir.path().join("elsewhere")));
    let copy = path(&dir.path().join("copy"));
    let before = stores.differ(&lost_home, "vintage", [2019, 2020]).await;
    bring_back(&lost_home, &before).await;
    stores.all_show("vintage", &before["loser"]["value"]).await;

    // Copied while they sell; then more happens that the copy does not have.
    let (stop, stopped) = watch::channel(false);
    let sellers = stores.sell(&stopped);
    node.until_status("sales arrive", |status| status["sites"]["hill"]["applied_seq"].as_u64() > Some(50)).await;
    let made = answer(&["backup", &copy, "--data", &lost_home]).await;
    assert_eq!(made["of"], "running");
    let copied = made["last_seq"].as_u64().expect("where the copy ends");
    let after = stores.differ(&lost_home, "bottles", [6, 12]).await;
    let lost_dot = bring_back(&lost_home, &after).await;
    stores.all_show("bottles", &after["loser"]["value"]).await;
    let status = node.until_status("more", |status| status["ledger"]["last_seq"].as_u64() > Some(copied + 100)).await;
    assert_eq!(status["incarnation"], made["incarnation"]);
    node.kill().await;

    // Into an empty folder only, and nothing starts in a folder that is not whole.
    refused(&["restore", &copy, "--data", &copy], "not empty").await;
    let restored = answer(&["restore", &copy, "--data", &home]).await;
    assert_eq!((&restored["last_seq"], &restored["replica"]), (&made["last_seq"], &made["replica"]));
    assert_ne!(restored["incarnation"], made["incarnation"]);
    let mark = Path::new(&home).join("hub.restored");
    let marked = std::fs::read(&mark).expect("the first start is told");
    node.restart_in(Path::new(&home)).await;
    assert!(!mark.exists(), "the incarnation is in the ledger");
    let status = node.status().await;
    assert_eq!(status["incarnation"], restored["incarnation"]);

    // A crash between the commit and the mark's removal: the start after it comes to the same.
    node.kill().await;
    std::fs::write(&mark, &marked).expect("put the mark back");
    node.restart().await;
    assert_eq!(node.status().await["incarnation"], restored["incarnation"]);
    assert!(!mark.exists());
    node.kill().await;
    node.restart().await;
    assert_eq!(node.status().await["incarnation"], restored["incarnation"]);

    // What was decided at HQ before the copy stands; what was decided after it is undone, and can be done again. The
    // write that this makes has another name than the lost one.
    stores.all_show("vintage", &before["loser"]["value"]).await;
    let again = conflict(&home, "bottles").await;
    assert_eq!((&again["restored"], &again["winner"]["dot"]), (&Value::Null, &after["winner"]["dot"]));
    stores.all_show("bottles", &again["winner"]["value"]).await;
    let dot = bring_back(&home, &again).await;
    assert_ne!(dot, lost_dot);
    stores.all_show("bottles", &again["loser"]["value"]).await;

    stop.send_replace(true);
    let mut sold = vec![];
    for seller in sellers {
        sold.push(seller.await.expect("a seller ends"));
    }
    for gateway in &mut stores.gateways {
        gateway.until_applied().await;
    }
    let mut hq = Monitor::open(node.addr, "hq/stock/+").await;
    let told = |stock: &Value| SITES.iter().zip(&sold).all(|(site, sold)| stock["sites"][site] == -sold);
    hq.until_json(&format!("hq/stock/{GTIN}"), told).await;
    for gateway in &mut stores.gateways {
        gateway.stop().await;
    }
    node.stop().await;
    let at_hq = Hq::read(Path::new(&home));
    for ((site, gateway), sold) in SITES.iter().zip(&stores.gateways).zip(sold) {
        let rows = ledgers::of_gateway(gateway.dir());
        assert_eq!(at_hq.of_site(site), rows, "HQ has {site}'s journal, in order, once");
        assert_eq!(rows.iter().filter_map(Row::movement).count() as i64, sold);
    }
    assert_eq!(at_hq.conflicts.len(), 2, "each once, though one arrived twice");
}

#[tokio::test]
async fn a_copy_that_is_not_what_was_written_is_refused() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..20 {
        pos.done("sale", json!({"id": format!("s{n}"), "lines": [{"gtin": GTIN, "qty": 1}]})).await;
    }
    pair.gateway.until_applied().await;
    let home = path(pair.hub.dir());
    let dir = folder();
    let at = |name: &str| path(&dir.path().join(name));

    // Running or stopped, what is copied is the same.
    let running = answer(&["backup", &at("running"), "--data", &home]).await;
    pair.hub.kill().await;
    let stopped = answer(&["backup", &at("stopped"), "--data", &home]).await;
    assert_eq!((&running["of"], &stopped["of"]), (&json!("running"), &json!("stopped")));
    for same in ["replica", "incarnation", "last_seq", "hash"] {
        assert_eq!(running[same], stopped[same], "{same}");
    }
    assert!(running["incarnation"].is_string(), "{running}");
    refused(&["backup", &at("stopped"), "--data", &home], "not empty").await;
    refused(&["backup", &at("none"), "--data", &at("nothing")], "no journal here").await;

    // A flipped bit, a part that is gone, an unfinished copy; nothing is left behind.
    let segment = std::fs::read_dir(dir.path().join("stopped/segments")).expect("the copy's segments");
    let segment = segment.map(|entry| entry.expect("an entry").path()).next().expect("a segment");
    let good = std::fs::read(&segment).expect("read a segment");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 4;
    std::fs::write(&segment, &bad).expect("spoil it");
    let new = at("new");
    refused(&["restore", &at("stopped"), "--data", &new], "not what was backed up").await;
    assert!(!dir.path().join("new").exists());
    std::fs::write(&segment, &good[..good.len() - 1]).expect("cut it");
    refused(&["restore", &at("stopped"), "--data", &new], "copy").await;
    std::fs::write(&segment, &good).expect("mend it");
    let manifest = dir.path().join("stopped/manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("read the manifest");
    std::fs::remove_file(&manifest).expect("remove the manifest");
    refused(&["restore", &at("stopped"), "--data", &new], "not finished").await;
    std::fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 9")).expect("a newer one");
    refused(&["restore", &at("stopped"), "--data", &new], "format 9").await;
    std::fs::write(&manifest, &text).expect("put the manifest back");

    // A restore that was interrupted: no hub starts there.
    std::fs::create_dir_all(dir.path().join("half/journal.restoring")).expect("make a folder");
    std::fs::write(dir.path().join("half/ledger.created"), "hub\n").expect("mark it");
    refused(&["run", "--open", "--listen", "127.0.0.1:0", "--data", &at("half")], "files are gone").await;
    refused(&["restore", &at("stopped"), "--data", &at("half")], "not empty").await;
    answer(&["restore", &at("stopped"), "--data", &new]).await;
    pair.hub.restart_in(&dir.path().join("new")).await;
    pair.gateway.until_applied().await;
}
