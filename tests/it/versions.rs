//! Nodes of another version, each way. `TILLSYNC_OTHER` names that version's `tillsync-node` binary; `.ci/run` builds the
//! last one that spoke the protocol before this one.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::ledgers::{self, Hq};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{Spec, path};
use crate::harness::{GTIN, folder, gtin};
use crate::verify::hub as ask_hub;

fn other() -> Option<PathBuf> {
    let path = std::env::var_os("TILLSYNC_OTHER").map(PathBuf::from);
    if path.is_none() {
        println!("SKIPPED: TILLSYNC_OTHER names no binary of another version");
    }
    path
}

/// Two stores and a hub, some of the other version: what is sold and what is edited arrives everywhere.
async fn sync_across(hub_is_other: bool) {
    let Some(other) = other() else { return };
    let dir = folder();
    let mut hub = Spec::hub(dir.path());
    if hub_is_other {
        hub = hub.binary(&other);
    }
    let mut hub = hub.start().await;
    let ours = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).config("follow = \"*\"\n");
    let mut theirs = Spec::gateway(dir.path(), "hill", Some(hub.addr));
    if !hub_is_other {
        theirs = theirs.binary(&other);
    }
    let (mut ours, mut theirs) = (ours.start().await, theirs.start().await);
    for (node, device) in [(&ours, "pos-1"), (&theirs, "pos-2")] {
        let mut pos = Link::device(node.addr, device).await;
        for n in 0..50 {
            pos.done("sale", json!({"id": format!("s{n}"), "lines": [{"gtin": GTIN, "qty": 1}]})).await;
        }
        node.until_applied().await;
    }
    let mut hq = Monitor::open(hub.addr, "hq/stock/+").await;
    let sold = json!({"harbour": -50, "hill": -50});
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["sites"] == sold).await;

    let topic = format!("store/item/{GTIN}");
    for (from, to, price) in [(&ours, &theirs, 700), (&theirs, &ours, 800)] {
        let mut shelf = Monitor::open(to.addr, "store/item/+").await;
        let mut tablet = Link::device(from.addr, "tablet-1").await;
        tablet.done("item", json!({"gtin": GTIN, "price_cents": price})).await;
        shelf.until_json(&topic, |item| item["price_cents"] == price).await;
    }
    for node in [&ours, &theirs] {
        node.until_applied().await;
    }
    ours.stop().await;
    theirs.stop().await;
    hub.stop().await;
    let at_hq = Hq::read(hub.dir());
    for (site, node) in [("harbour", &ours), ("hill", &theirs)] {
        assert_eq!(at_hq.of_site(site), ledgers::of_gateway(node.dir()), "{site}: everything, in order, once");
    }
}

#[tokio::test]
async fn a_gateway_of_another_version_syncs_with_our_hub() {
    sync_across(false).await;
}

#[tokio::test]
async fn our_gateway_syncs_with_a_hub_of_another_version() {
    sync_across(true).await;
}

/// What the other version wrote is opened by this one.
#[tokio::test]
async fn ledgers_of_another_version_are_taken_over() {
    let Some(other) = other() else { return };
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).binary(&other).start().await;
    let mut store = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).binary(&other).start().await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    let second = gtin(7);
    let lines = json!([{"gtin": GTIN, "qty": 3}, {"gtin": second, "qty": 5}]);
    pos.done("sale", json!({"id": "s1", "lines": lines})).await;
    pos.done("item", json!({"gtin": GTIN, "price_cents": 900})).await;
    store.until_applied().await;
    store.stop().await;
    hub.stop().await;
    hub.is_ours();
    store.is_ours();
    hub.restart().await;
    store.restart().await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    let again = pos.ask("sale", json!({"id": "s1", "lines": lines}).to_string()).await;
    assert_eq!(again["status"], "duplicate", "{again}");
    let sold = pos.done("sale", json!({"id": "s2", "lines": [{"gtin": GTIN, "qty": 1}]})).await;
    assert_eq!(sold["lines"][0]["on_hand"], -4, "{sold}");
    store.until_applied().await;
    let mut hq = Monitor::open(hub.addr, "hq/stock/+").await;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == -4).await;
    // What did not move since is where the other version left it.
    hq.until_json(&format!("hq/stock/{second}"), |stock| stock["sites"] == json!({"harbour": -5})).await;
    let verified = ask_hub(&["verify", "harbour"], &path(hub.dir())).await;
    assert_eq!((&verified["keys"], &verified["differed"]), (&json!(2), &json!(0)), "{verified}");
}

/// A store that is far behind says its present as the hub reads it: packed to ours, by item to one that does not say
/// that it reads more.
#[tokio::test]
async fn a_store_far_behind_is_seen_at_a_hub_of_another_version_and_one_of_another_version_at_ours() {
    let Some(other) = other() else { return };
    for hub_is_other in [true, false] {
        let dir = folder();
        let mut hub = Spec::hub(dir.path());
        if hub_is_other {
            hub = hub.binary(&other);
        }
        let mut hub = hub.start().await;
        let mut store = Spec::gateway(dir.path(), "harbour", Some(hub.addr));
        if !hub_is_other {
            store = store.binary(&other);
        }
        hub.stop().await;
        let mut store = store.start().await;
        let mut pos = Link::device(store.addr, "pos-1").await;
        let second = gtin(7);
        let line = |n: u32| json!({"gtin": if n.is_multiple_of(2) { GTIN } else { second.as_str() }, "qty": 1});
        let lines: Vec<_> = (0..60).map(line).collect();
        for n in 0..40 {
            pos.done("sale", json!({"id": format!("s{n}"), "lines": lines})).await;
        }
        hub.restart().await;
        store.until_applied().await;
        let mut hq = Monitor::open(hub.addr, "hq/stock/+").await;
        for item in [GTIN, second.as_str()] {
            hq.until_json(&format!("hq/stock/{item}"), |stock| stock["on_hand"] == -1_200).await;
        }
        store.stop().await;
        hub.stop().await;
        let at_hq = Hq::read(hub.dir());
        assert_eq!(at_hq.of_site("harbour"), ledgers::of_gateway(store.dir()), "everything, in order, once");
    }
}
