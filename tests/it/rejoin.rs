//! A new life of a store's ledger takes over what earlier ones left: after a restored backup, a swapped box, a state that
//! is gone. HQ's figures are held against what the devices were told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::ledgers::Hq;
use crate::harness::mqtt::{Link, Monitor, Qos};
use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::{GTIN, Pair, SITE, folder, gtin};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("list a folder") {
        let entry = entry.expect("an entry");
        let (kind, to) = (entry.file_type().expect("its type"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).expect("copy a file");
        }
    }
}

fn replace(dir: &Path, by: &Path) {
    fs::remove_dir_all(dir).expect("remove the data folder");
    copy(by, dir);
}

async fn rejoin(dir: &Path, flags: &[&str]) -> String {
    let output = Command::new(BINARY).args(["gateway", "rejoin", "--data", &path(dir)]).args(flags).output().await;
    let output = output.expect("run the command");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

async fn taken_over(gateway: &Node) -> Value {
    let done = |status: &Value| status["takeover"]["state"] == "done";
    let status = gateway.until_status("all is taken over", done).await;
    gateway.until_applied().await;
    status
}

fn sale(id: &str, qty: i64) -> Value {
    json!({"id": id, "lines": [{"gtin": GTIN, "qty": qty, "cents": 100 * qty}]})
}

async fn stock_is(gateway: &Node, hub: &Node, on_hand: i64) {
    let mut store = Monitor::open(gateway.addr, "store/#").await;
    store.until_json(&format!("store/stock/{GTIN}"), |stock| stock["on_hand"] == on_hand).await;
    let mut hq = Monitor::open(hub.addr, "hq/stock/#").await;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == on_hand).await;
}

/// How often HQ has the movements of each request, and their sum over all.
fn requests_at_hq(dir: &Path) -> (BTreeMap<String, usize>, i64) {
    let (mut found, mut sum) = (BTreeMap::new(), 0);
    for row in Hq::read(dir).of_site(SITE) {
        let Some(movement) = row.movement() else { continue };
        sum += movement.units;
        if !row.request.is_empty() {
            *found.entry(row.request.clone()).or_default() += 1;
        }
    }
    (found, sum)
}

/// Two lineages of one ledger: HQ has the one that the backup did not know, and gets the other one's own sales.
#[tokio::test]
async fn a_restored_backup_rejoins_with_what_only_it_has() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.done("scan", json!({"id": "r0", "gtin": GTIN, "op": "receive", "qty": 100})).await;
    pos.done("item", json!({"id": "i0", "gtin": GTIN, "name": "Pen", "price_cents": 100})).await;
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    let dir = pair.gateway.dir().to_owned();
    let backup = dir.with_file_name("backup");
    copy(&dir, &backup);

    pair.gateway.restart().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..5 {
        pos.done("sale", sale(&format!("a{n}"), 1)).await;
    }
    pos.done("item", json!({"gtin": GTIN, "name": "Pen, blue"})).await;
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    pair.hub.stop().await;

    replace(&dir, &backup);
    pair.gateway.restart().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..7 {
        pos.done("sale", sale(&format!("b{n}"), 2)).await;
    }
    pos.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 3}]})).await;
    // The device had no answer to it when the box died, so to speak: the other lineage has it.
    pos.done("sale", sale("a2", 1)).await;
    pos.done("item", json!({"gtin": GTIN, "price_cents": 250})).await;
    pos.ask("sale", r#"{"id":"bad","lines":[]}"#).await;
    pair.hub.restart().await;
    let turned = |status: &Value| status["uplink"]["turned_away"]["code"] == "chain_differs";
    let status = pair.gateway.until_status("it is turned away", turned).await;
    let old = status["epoch"].clone();
    assert!(status["uplink"]["turned_away"]["advice"].as_str().is_some_and(|said| said.contains("rejoin")));
    pair.gateway.stop().await;
    let diverged = dir.with_file_name("diverged");
    copy(&dir, &diverged);

    assert!(rejoin(&dir, &[]).await.contains("Nothing is done yet"));
    assert!(!dir.join("fork").exists());
    rejoin(&dir, &["--yes"]).await;
    pair.gateway.restart().await;
    let status = taken_over(&pair.gateway).await;
    assert_ne!(status["epoch"], old);
    stock_is(&pair.gateway, &pair.hub, 100 - 5 - 14 - 3).await;
    let mut store = Monitor::open(pair.gateway.addr, "store/item/#").await;
    let item = format!("store/item/{GTIN}");
    store.until_json(&item, |item| item["price_cents"] == 250 && item["name"] == "Pen, blue").await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for (id, qty) in [("a0", 1), ("a2", 1), ("b0", 2), ("b6", 2)] {
        let again = pos.ask("sale", sale(id, qty).to_string()).await;
        assert_eq!((&again["status"], &again["first"]), (&json!("duplicate"), &json!("ok")), "{again}");
    }
    assert!(!dir.join("fork").exists() && !dir.join("fork.done").exists());

    // The old one is over, also if somebody brings it back.
    pair.gateway.stop().await;
    let current = dir.with_file_name("current");
    copy(&dir, &current);
    replace(&dir, &diverged);
    pair.gateway.restart().await;
    let retired = |status: &Value| status["uplink"]["turned_away"]["code"] == "retired";
    pair.gateway.until_status("it is retired", retired).await;
    pair.gateway.stop().await;
    replace(&dir, &current);
    pair.gateway.restart().await;
    pair.gateway.until_applied().await;
    stock_is(&pair.gateway, &pair.hub, 100 - 5 - 14 - 3).await;
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let (found, sum) = requests_at_hq(pair.hub.dir());
    assert!(found.values().all(|times| *times == 1) && found.len() == 1 + 5 + 7, "{found:?}");
    assert_eq!(sum, 100 - 5 - 14 - 3);
    let refused = Hq::read(pair.hub.dir()).of_site(SITE);
    assert_eq!(refused.iter().filter(|row| matches!(row.of, proto::wire::record::Of::Refusal(_))).count(), 1);
}

/// HQ has five sales that the box does not know, the box five that HQ has not: it was turned away, and rejoins. HQ is
/// stopped then, so nothing is taken over yet.
async fn set_apart_once() -> Pair {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.done("scan", json!({"id": "r0", "gtin": GTIN, "op": "receive", "qty": 100})).await;
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    let dir = pair.gateway.dir().to_owned();
    let backup = dir.with_file_name("backup");
    copy(&dir, &backup);
    for (life, qty) in [("a", 1), ("b", 2)] {
        pair.gateway.restart().await;
        let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
        for n in 0..5 {
            pos.done("sale", sale(&format!("{life}{n}"), qty)).await;
        }
        pos.done("sale", json!({"lines": [{"gtin": GTIN, "qty": qty}]})).await;
        if life == "a" {
            pair.gateway.until_applied().await;
            pair.gateway.stop().await;
            pair.hub.stop().await;
            replace(&dir, &backup);
        }
    }
    pair.hub.restart().await;
    let turned = |status: &Value| status["uplink"]["turned_away"]["code"] == "chain_differs";
    pair.gateway.until_status("it is turned away", turned).await;
    pair.gateway.stop().await;
    rejoin(&dir, &["--yes"]).await;
    pair.hub.stop().await;
    pair.gateway.restart().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..3 {
        pos.done("sale", sale(&format!("c{n}"), 1)).await;
    }
    pos.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 1}]})).await;
    pair.gateway.stop().await;
    assert!(dir.join("fork").exists());
    pair
}

/// Everything is at HQ once, and nothing is left beside the ledger.
async fn all_is_there_once(mut pair: Pair, requests: usize, on_hand: i64) {
    taken_over(&pair.gateway).await;
    stock_is(&pair.gateway, &pair.hub, on_hand).await;
    let dir = pair.gateway.dir().to_owned();
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let left = fs::read_dir(&dir).expect("list the folder").map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("fork")).collect();
    assert!(left.is_empty(), "{left:?}");
    let (found, sum) = requests_at_hq(pair.hub.dir());
    assert!(found.values().all(|times| *times == 1) && found.len() == requests, "{found:?}");
    assert_eq!(sum, on_hand);
}

/// Nothing was taken over when the ledger was set apart again: both are, one after the other.
#[tokio::test]
async fn a_rejoin_before_the_first_one_came_to_anything_brings_both() {
    let mut pair = set_apart_once().await;
    let dir = pair.gateway.dir().to_owned();
    assert!(rejoin(&dir, &["--yes"]).await.contains("comes after it"));
    assert!(dir.join("fork").exists() && dir.join("fork.waiting.1").exists());
    pair.hub.restart().await;
    pair.gateway.restart().await;
    all_is_there_once(pair, 1 + 5 + 5 + 3, 100 - 6 - 12 - 4).await;
}

/// The box is put back to the middle of its takeover, which was brought to its end meanwhile: it is turned away, and what
/// it sells since is its own.
#[tokio::test]
async fn who_is_turned_away_in_the_middle_of_a_takeover_rejoins_again() {
    let mut pair = set_apart_once().await;
    let dir = pair.gateway.dir().to_owned();
    let midway = dir.with_file_name("midway");
    copy(&dir, &midway);
    pair.hub.restart().await;
    pair.gateway.restart().await;
    taken_over(&pair.gateway).await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.done("sale", sale("d0", 1)).await;
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;

    replace(&dir, &midway);
    pair.gateway.restart().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..2 {
        pos.done("sale", sale(&format!("e{n}"), 3)).await;
    }
    let turned = |status: &Value| !status["uplink"]["turned_away"].is_null();
    pair.gateway.until_status("it is turned away", turned).await;
    pair.gateway.stop().await;
    assert!(dir.join("fork").exists(), "it cannot finish any more");
    rejoin(&dir, &["--yes"]).await;
    pair.gateway.restart().await;
    all_is_there_once(pair, 1 + 5 + 5 + 3 + 1 + 2, 100 - 6 - 12 - 4 - 1 - 6).await;
}

#[tokio::test]
async fn a_new_box_has_what_the_old_one_had() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.done("scan", json!({"id": "r0", "gtin": GTIN, "op": "receive", "qty": 50})).await;
    pos.done("item", json!({"id": "i0", "gtin": GTIN, "name": "Pen", "price_cents": 100})).await;
    for n in 0..300 {
        pos.done("sale", sale(&format!("s{n}"), 1)).await;
    }
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    fs::remove_dir_all(pair.gateway.dir()).expect("the box dies");

    pair.gateway.restart().await;
    let status = taken_over(&pair.gateway).await;
    assert_eq!(status["takeover"]["ids"], 302, "{status}");
    stock_is(&pair.gateway, &pair.hub, 50 - 300).await;
    let mut store = Monitor::open(pair.gateway.addr, "store/item/#").await;
    store.until_json(&format!("store/item/{GTIN}"), |item| item["name"] == "Pen" && item["price_cents"] == 100).await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    let again = pos.ask("sale", sale("s17", 1).to_string()).await;
    assert_eq!((&again["status"], &again["first"]), (&json!("duplicate"), &json!("ok")), "{again}");
    let reused = pos.ask("sale", sale("s17", 2).to_string()).await;
    assert_eq!(reused["code"], "id_reused", "{reused}");
    pos.done("sale", sale("new", 1)).await;
    stock_is(&pair.gateway, &pair.hub, 50 - 301).await;
    // Nothing is asked for twice.
    pair.gateway.kill().await;
    pair.gateway.restart().await;
    assert_eq!(pair.gateway.status().await["takeover"]["state"], "done");
}

/// Killed again and again while it journals the fork again: each record once.
#[tokio::test]
async fn kills_while_records_are_journalled_again_double_nothing() {
    const BASKETS: u64 = 250;
    const LINES: u64 = 100;
    const LIVE: u16 = 40;
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.done("scan", json!({"id": "r0", "gtin": GTIN, "op": "receive", "qty": 7})).await;
    pair.gateway.until_applied().await;
    pair.hub.stop().await;
    for n in 0..BASKETS {
        let lines: Vec<_> = (0..LINES).map(|line| json!({"gtin": gtin(line), "qty": 1, "cents": 100})).collect();
        // Half of them without an id, which would show that they are repeats.
        let request = if n % 2 == 0 { json!({"id": format!("s{n}"), "lines": lines}) } else { json!({"lines": lines}) };
        pos.done("sale", request).await;
    }
    pair.gateway.stop().await;
    let dir = pair.gateway.dir().to_owned();
    rejoin(&dir, &["--yes"]).await;
    pair.hub.restart().await;
    let (mut reached, mut kills) = (1, 0);
    loop {
        // Wherever that comes to.
        pair.gateway.start_and_kill(Duration::from_millis(90 * (kills % 7))).await;
        pair.gateway.restart().await;
        // The shop sells meanwhile, and gets no answer to some of it.
        let mut live = Link::open(pair.gateway.addr, "pos-2").await;
        for n in 0..LIVE {
            let sale = sale(&format!("live{kills}-{n}"), 1).to_string();
            live.throw(Qos::One, n + 1, false, b"dev/pos-2/sale", sale.as_bytes()).await;
        }
        let moved = |status: &Value| {
            let takeover = &status["takeover"];
            takeover["state"] == "done" || takeover["fork"]["at_seq"].as_u64() > Some(reached)
        };
        let status = pair.gateway.until_status("records are journalled again", moved).await;
        if status["takeover"]["state"] == "done" {
            break;
        }
        reached = status["takeover"]["fork"]["at_seq"].as_u64().expect("a seq");
        pair.gateway.kill().await;
        kills += 1;
    }
    assert!(kills > 1, "the case must be one: {kills} kills");
    let mut pos = Link::device(pair.gateway.addr, "pos-2").await;
    for (kill, n) in (0..=kills).flat_map(|kill| (0..LIVE).map(move |n| (kill, n))) {
        let again = pos.ask("sale", sale(&format!("live{kill}-{n}"), 1).to_string()).await;
        assert!(again["status"] == "ok" || again["first"] == "ok", "{again}");
    }
    let live = (kills + 1) * u64::from(LIVE);
    taken_over(&pair.gateway).await;
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let (found, sum) = requests_at_hq(pair.hub.dir());
    assert_eq!(found.len() as u64, 1 + BASKETS / 2 + live);
    let lines = |id: &str| if id.starts_with('s') { LINES } else { 1 };
    assert!(found.iter().all(|(id, times)| *times as u64 == lines(id)), "{found:?}");
    assert_eq!(sum, 7 - (BASKETS * LINES + live) as i64);
    pair.hub.restart().await;
    let mut hq = Monitor::open(pair.hub.addr, "hq/stock/#").await;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == 7 - live as i64).await;
    for line in 0..LINES {
        hq.until_json(&format!("hq/stock/{}", gtin(line)), |stock| stock["on_hand"] == -(BASKETS as i64)).await;
    }
}

/// Database and snapshot are gone and the journal does not reach back: HQ has the rest.
#[tokio::test]
async fn a_state_that_cannot_be_made_anew_comes_back_from_hq() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let mut box_ = Spec::gateway(dir.path(), SITE, Some(hub.addr)).config("journal_mib_max = 2\n").start().await;
    let mut pos = Link::device(box_.addr, "pos-1").await;
    pos.done("scan", json!({"id": "r0", "gtin": GTIN, "op": "receive", "qty": 90})).await;
    pos.done("item", json!({"id": "i0", "gtin": GTIN, "name": "Pen"})).await;
    let mut noise = 1u64;
    let mut text = || -> String {
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (noise >> 58) as u8)
        };
        (0..600).map(|_| next()).collect()
    };
    for n in 0..300 {
        pos.publish(b"dev/pos-1/activity", json!({ "text": text() }).to_string().as_bytes()).await;
        if n % 30 == 0 {
            pos.done("sale", sale(&format!("s{n}"), 1)).await;
        }
    }
    box_.until_applied().await;
    hub.stop().await;
    for n in 0..6 {
        pos.done("sale", sale(&format!("late{n}"), 2)).await;
    }
    box_.stop().await;
    let listed = fs::read_dir(box_.dir().join("journal")).expect("list the journal");
    let mut segments: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    assert!(segments.len() > 2, "the case must be one: {segments:?}");
    fs::remove_file(&segments[0]).expect("drop a segment");
    fs::write(box_.dir().join("ledger/db"), b"").expect("damage the database");
    fs::write(box_.dir().join("state.snapshot"), b"not one").expect("damage the snapshot");

    box_.restart().await;
    let status = box_.status().await;
    assert!(status["recovery"]["set_apart"].is_string(), "{status}");
    assert_eq!(status["takeover"]["state"], "waiting", "{status}");
    // The shop goes on.
    let mut pos = Link::device(box_.addr, "pos-1").await;
    pos.done("sale", sale("meanwhile", 3)).await;
    hub.restart().await;
    taken_over(&box_).await;
    stock_is(&box_, &hub, 90 - 10 - 12 - 3).await;
    let mut pos = Link::device(box_.addr, "pos-1").await;
    for (id, qty) in [("s0", 1), ("late3", 2), ("meanwhile", 3)] {
        let again = pos.ask("sale", sale(id, qty).to_string()).await;
        assert_eq!(again["status"], "duplicate", "{again}");
    }
    let mut store = Monitor::open(box_.addr, "store/item/#").await;
    store.until_json(&format!("store/item/{GTIN}"), |item| item["name"] == "Pen").await;
    box_.stop().await;
    hub.stop().await;
    let (found, sum) = requests_at_hq(hub.dir());
    assert!(found.values().all(|times| *times == 1) && found.len() == 1 + 10 + 6 + 1, "{found:?}");
    assert_eq!(sum, 90 - 10 - 12 - 3);
}

/// Without a hub there is nobody to ask: it goes on with what is left, and says so.
#[tokio::test]
async fn without_a_hub_a_ledger_is_never_set_apart() {
    let dir = folder();
    let mut box_ = Spec::gateway(dir.path(), SITE, None).config("journal_mib_max = 2\n").start().await;
    let mut pos = Link::device(box_.addr, "pos-1").await;
    for n in 0..400u32 {
        let text: String = (0..40).map(|k| format!("{:08x}", (n * 40 + k).wrapping_mul(2_654_435_761))).collect();
        pos.publish(b"dev/pos-1/activity", json!({ "text": text }).to_string().as_bytes()).await;
    }
    let epoch = box_.status().await["epoch"].clone();
    box_.stop().await;
    let listed = fs::read_dir(box_.dir().join("journal")).expect("list the journal");
    let mut segments: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    assert!(segments.len() > 1, "the case must be one: {segments:?}");
    fs::remove_file(&segments[0]).expect("drop a segment");
    fs::write(box_.dir().join("ledger/db"), b"").expect("damage the database");
    fs::write(box_.dir().join("state.snapshot"), b"not one").expect("damage the snapshot");
    box_.restart().await;
    let status = box_.status().await;
    assert_eq!((&status["recovery"]["state_incomplete"], &status["epoch"]), (&json!(true), &epoch), "{status}");
    assert!(status["recovery"]["set_apart"].is_null() && !box_.dir().join("fork").exists());
}
