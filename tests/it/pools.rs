//! Pools by the command line: made, used, shown, withdrawn; who did it is in the journal, and a journal in which one byte
//! was changed is found out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::bad_disk::copy;
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, folder, gateway, gtin};

/// No site is granted anything that it did not sell.
const SPARING: &str = "[rights]\nfloor = 0\nspread_percent = 0\nhub_percent = 0\ncover_s = 1\n";

async fn hub(dir: &Path, words: &[&str]) -> Output {
    let data = path(dir);
    let words = [&["hub"], words, &["--data", &data]].concat();
    let mut command = Command::new(BINARY);
    command.args(words).kill_on_drop(true).stdin(std::process::Stdio::null());
    command.output().await.expect("run the node's binary")
}

async fn answer(dir: &Path, words: &[&str]) -> Value {
    let done = hub(dir, &[words, &["--json"]].concat()).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

async fn refused(dir: &Path, words: &[&str], why: &str) {
    let done = hub(dir, words).await;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains(why), "{words:?} must say {why:?}: {done:?}");
}

fn rows<'a>(audit: &'a Value, what: &str) -> Vec<&'a Value> {
    audit["rows"].as_array().into_iter().flatten().filter(|row| row["what"] == what).collect()
}

fn newest_log(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("journal")).expect("a journal").map(|entry| entry.expect("a file").path());
    files.filter(|file| file.extension().is_some_and(|ext| ext == "log")).max().expect("a segment")
}

#[tokio::test]
async fn a_pool_is_made_sold_from_and_shown_with_who_did_it() {
    let dir = folder();
    let mut node = Spec::hub(dir.path()).config(SPARING).start().await;
    let home = node.dir().to_owned();
    let mut shop = gateway(dir.path(), "harbour", node.addr).await;
    shop.until_applied().await;
    refused(&home, &["pool", "show", GTIN], "no pool").await;
    refused(&home, &["pool", "add", GTIN, "5"], "no pool").await;
    let note = ["--by", "Anna K.", "--why", "the launch", "--reference", "PO 7"];
    let made = answer(&home, &[&["pool", "create", GTIN, "100"][..], &note].concat()).await;
    assert_eq!((&made["units"], &made["free"]), (&json!(100), &json!(100)));
    refused(&home, &["pool", "create", GTIN, "1"], "already").await;
    refused(&home, &["rights", "grant", GTIN, "nowhere", "1"], "no site").await;
    refused(&home, &["rights", "grant", GTIN, "harbour", "101"], "are free").await;

    // A sale in hand is never refused, and takes its units out of the pool.
    let mut till = Link::device(shop.addr, "pos-1").await;
    till.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 2}]})).await;
    shop.until_applied().await;
    let mut hq = Monitor::open(node.addr, "hq/pools/+").await;
    hq.until_json(&format!("hq/pools/{GTIN}"), |pool| pool["free"] == 98 && pool["promised"] == 2).await;
    let granted = answer(&home, &["rights", "grant", GTIN, "harbour", "10", "--by", "Ben"]).await;
    assert_eq!(granted["units"], 10);
    let withdrawn = answer(&home, &["pool", "withdraw", GTIN, "500"]).await;
    assert_eq!((&withdrawn["change"], &withdrawn["free"]), (&json!(-88), &json!(0)));
    let running = answer(&home, &["pool", "show", GTIN]).await;
    assert_eq!((&running["units"], &running["sites"]["harbour"]["available"]), (&json!(12), &json!(10)), "{running}");
    let text = String::from_utf8(hub(&home, &["pool", "show", GTIN]).await.stdout).expect("text");
    assert!(text.contains("12 units, 0 free") && text.contains("harbour  available 10"), "{text}");
    let status = node.status().await;
    assert_eq!((&status["rights"]["pools"], &status["rights"]["units"]), (&json!(1), &json!(12)));

    let audit = answer(&home, &["audit", "show", "--gtin", GTIN]).await;
    let pools = rows(&audit, "pool");
    assert_eq!(pools.len(), 2, "{audit}");
    assert_eq!((&pools[0]["by"], &pools[0]["says"]["reference"]), (&json!("Anna K."), &json!("PO 7")));
    assert_eq!(pools[0]["says"]["why"], "the launch");
    assert!(rows(&audit, "grant").iter().any(|row| row["by"] == "Ben" && row["site"] == "harbour"), "{audit}");
    let here = answer(&home, &["audit", "show", "--site", "harbour", "--since", "1h", "--limit", "1"]).await;
    assert_eq!(here["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer(&home, &["audit", "show", "--gtin", &gtin(7)]).await["rows"], json!([]));
    let verified = answer(&home, &["audit", "verify"]).await;
    assert_eq!(
        (&verified["sound"], &verified["torn_bytes"]),
        (&json!(true), &json!(0)),
        "of a running hub: {verified}"
    );

    shop.stop().await;
    node.kill().await;
    node.restart().await;
    let again = answer(&home, &["pool", "show", GTIN]).await;
    assert_eq!(again, running, "also over a kill");
    node.stop().await;
    let mut stopped = answer(&home, &["pool", "show", GTIN]).await;
    stopped["waits_for"] = Value::Null;
    assert_eq!(stopped, running, "and of a stopped hub, by its journal");
    assert_eq!(answer(&home, &["pool", "list"]).await["pools"][0]["units"], 12);
    assert_eq!(answer(&home, &["audit", "show", "--gtin", GTIN]).await, audit);
    refused(&home, &["pool", "add", GTIN, "5"], "start it").await;
    verified_and_not(dir.path(), &home).await;
}

async fn verified_and_not(dir: &Path, home: &Path) {
    let sound = answer(home, &["audit", "verify"]).await;
    assert!(sound["site_chunks"].as_u64() > Some(0) && sound["fault"].is_null(), "{sound}");
    let bytes = fs::read(newest_log(home)).expect("read the journal");
    for (n, at) in [bytes.len() / 4, bytes.len() / 2, bytes.len() - 5].into_iter().enumerate() {
        let spoilt = dir.join(format!("spoilt-{n}"));
        copy(home, &spoilt);
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(newest_log(&spoilt), changed).expect("write the copy");
        refused(&spoilt, &["audit", "verify"], "not what was written").await;
        let found = hub(&spoilt, &["audit", "verify", "--json"]).await;
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        let found: Value = serde_json::from_slice(&found.stdout).expect("--json is JSON");
        assert!(found["sound"] == false && found["fault"].is_string(), "byte {at}: {found}");
        assert!(found["last_seq"].as_u64() <= sound["last_seq"].as_u64(), "byte {at}: {found}");
    }
    // The end is cut off where one commit ends and the next would begin: each that is left is sound.
    let cut = dir.join("cut");
    copy(home, &cut);
    fs::write(newest_log(&cut), &bytes[..bytes.len() - 5]).expect("write the copy");
    refused(&cut, &["audit", "verify"], "was written").await;
}

#[tokio::test]
async fn a_lost_box_is_asked_about_before_its_rights_are_taken_back() {
    let dir = folder();
    let mut node = Spec::hub(dir.path()).config(SPARING).start().await;
    let home = node.dir().to_owned();
    let mut shop = gateway(dir.path(), "harbour", node.addr).await;
    shop.until_applied().await;
    answer(&home, &["pool", "create", GTIN, "50"]).await;
    answer(&home, &["rights", "grant", GTIN, "harbour", "20"]).await;
    shop.stop().await;
    node.until_status("it is away", |status| status["sites"]["harbour"]["online"] == false).await;
    let asked = hub(&home, &["site", "lost", "harbour", "--reclaim"]).await;
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(!asked.status.success() && said.contains("at risk: 20 of 04006381333931"), "{asked:?}");
    assert_eq!(answer(&home, &["pool", "show", GTIN]).await["free"], 30, "nobody said yes");
    let lost = answer(&home, &["site", "lost", "harbour", "--reclaim", "--yes", "--why", "a fire"]).await;
    assert_eq!((&lost["reclaimed"], &lost["rights"][0]["units"]), (&json!(20), &json!(20)), "{lost}");
    assert_eq!(answer(&home, &["pool", "show", GTIN]).await["free"], 50);
    let audit = answer(&home, &["audit", "show", "--site", "harbour"]).await;
    assert_eq!(rows(&audit, "site_lost")[0]["says"]["why"], "a fire", "{audit}");
    node.stop().await;
}

#[tokio::test]
async fn whatever_a_person_changes_says_who_and_why_and_by_what_name() {
    let dir = folder();
    let mut node = Spec::hub(dir.path()).config(SPARING).start().await;
    let home = node.dir().to_owned();
    let mut shop = gateway(dir.path(), "harbour", node.addr).await;
    let mut other = gateway(dir.path(), "hill", node.addr).await;
    shop.until_applied().await;
    other.until_applied().await;
    let says = async |name: &str, words: &[&str]| {
        let note = ["--by", "Anna K.", "--reason", "because", "--reference", name];
        answer(&home, &[words, &note].concat()).await
    };
    let returned = async |units: u64| {
        let mut hq = Monitor::open(node.addr, "hq/pools/+").await;
        hq.until_json(&format!("hq/pools/{GTIN}"), |pool| pool["returned"] == units).await;
    };
    says("R1", &["pool", "create", GTIN, "50"]).await;
    says("R2", &["pool", "add", GTIN, "5"]).await;
    says("R3", &["pool", "withdraw", GTIN, "5"]).await;
    says("R4", &["rights", "grant", GTIN, "harbour", "20"]).await;
    says("R5", &["rights", "ask", GTIN, "harbour", "5"]).await;
    returned(5).await;
    says("R6", &["rights", "move", GTIN, "harbour", "hill", "3"]).await;
    returned(8).await;
    shop.stop().await;
    node.until_status("it is away", |status| status["sites"]["harbour"]["online"] == false).await;
    says("R7", &["site", "lost", "harbour", "--yes"]).await;
    assert_eq!(says("R8", &["rights", "reclaim", GTIN, "harbour", "--yes"]).await["reclaimed"], 12);
    let audit = answer(&home, &["audit", "show"]).await;
    for (name, what, site) in [
        ("R1", "pool", "hub"),
        ("R2", "pool", "hub"),
        ("R3", "pool", "hub"),
        ("R4", "grant", "harbour"),
        ("R5", "grant", "harbour"),
        ("R6", "grant", "harbour"),
        ("R7", "site_lost", "harbour"),
        ("R8", "grant", "harbour"),
    ] {
        let rows: Vec<_> = rows(&audit, what).into_iter().filter(|row| row["says"]["reference"] == name).collect();
        let [row] = rows[..] else { panic!("{name}: {rows:?} of {audit}") };
        assert_eq!((&row["by"], &row["says"]["why"]), (&json!("Anna K."), &json!("because")), "{row}");
        assert!(row["site"] == site && row["at_ms"].as_u64() > Some(0), "{row}");
    }
    refused(&home, &["rights", "grant", GTIN, "hill", "1", "--reference", &"x".repeat(257)], "256 bytes").await;
    other.stop().await;
    node.stop().await;
}

/// The box was declared lost, rejoined and went on; then the hub dies, and its backup knows of none of that. Neither the life
/// that was granted the units is there any more nor the hub that granted them: the box's new life says so to the new hub.
#[tokio::test]
async fn what_an_earlier_life_was_granted_outlives_the_hub_that_granted_it() {
    let dir = folder();
    let mut node = Spec::hub(dir.path()).config(SPARING).start().await;
    let (home, copy, anew) = (node.dir().to_owned(), path(&dir.path().join("copy")), dir.path().join("anew"));
    let mut shop = gateway(dir.path(), "harbour", node.addr).await;
    shop.until_applied().await;
    answer(&home, &["pool", "create", GTIN, "50"]).await;
    assert!(hub(&home, &["backup", &copy]).await.status.success());

    answer(&home, &["rights", "grant", GTIN, "harbour", "20"]).await;
    let stock = format!("store/stock/{GTIN}");
    let mut shelf = Monitor::open(shop.addr, "store/stock/+").await;
    shelf.until_json(&stock, |stock| stock["available"] == 20).await;
    let mut till = Link::device(shop.addr, "pos-1").await;
    till.done("sale", json!({"lines": [{"gtin": GTIN, "qty": 3}]})).await;
    shop.until_applied().await;
    shop.stop().await;
    node.until_status("it is away", |status| status["sites"]["harbour"]["online"] == false).await;
    answer(&home, &["site", "lost", "harbour", "--yes"]).await;
    let rejoin = ["gateway", "rejoin", "--yes", "--data", &path(shop.dir())];
    let rejoined = Command::new(BINARY).args(rejoin).output().await.expect("run the node's binary");
    assert!(rejoined.status.success(), "{rejoined:?}");
    shop.restart().await;
    shop.until_status("all is taken over", |status| status["takeover"]["state"] == "done").await;
    answer(&home, &["rights", "grant", GTIN, "harbour", "4"]).await;
    let mut shelf = Monitor::open(shop.addr, "store/stock/+").await;
    shelf.until_json(&stock, |stock| stock["available"] == 4).await;
    assert_eq!(answer(&home, &["pool", "show", GTIN]).await["free"], 26);

    node.kill().await;
    assert!(hub(&anew, &["restore", &copy]).await.status.success());
    node.restart_in(&anew).await;
    let sure = |status: &Value| status["sites"]["harbour"]["online"] == true && status["rights"]["waits_for"].is_null();
    node.until_status("it has heard the shop", sure).await;
    let pool = answer(&anew, &["pool", "show", GTIN]).await;
    assert_eq!((&pool["free"], &pool["sites"]["harbour"]["available"]), (&json!(26), &json!(4)), "{pool}");
    shop.stop().await;
    node.stop().await;
}
