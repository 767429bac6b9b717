//! What was refused is found again, running or stopped, and can be handed in again: once.

use std::path::Path;
use std::process::Output;

use broker::identity::Kind;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::Link;
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, folder, ledgers};

fn tills(dir: &Path) -> Spec {
    let spec = Spec::gateway(dir, "harbour", None).closed();
    spec.account("pos-1", Kind::Pos, "correct horse").account("pos-2", Kind::Pos, "battery staple")
}

async fn rejects(dir: &Path, words: &[&str]) -> Output {
    let data = path(dir);
    let words = [&["gateway", "rejects"], words, &["--data", &data]].concat();
    Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

async fn answer(dir: &Path, words: &[&str]) -> Value {
    let done = rejects(dir, &[words, &["--json"]].concat()).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

async fn refused(dir: &Path, words: &[&str], why: &str) {
    let done = rejects(dir, words).await;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains(why), "{words:?} must say {why:?}: {done:?}");
}

fn seq_of(list: &Value, code: &str) -> String {
    let all = list["rejects"].as_array().expect("a list");
    all.iter().find(|reject| reject["code"] == code).unwrap_or_else(|| panic!("no {code} in {list}"))["seq"].to_string()
}

#[tokio::test]
async fn a_refusal_is_found_corrected_and_handed_in_once() {
    let dir = folder();
    let spec = || tills(dir.path());
    let mut gateway = spec().config("units_max = 10\n").start().await;
    let home = gateway.dir().to_owned();
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("correct horse")).await;
    pos.subscribe("dev/pos-1/reply").await;
    let receive = |qty: u64| json!({"id": "big", "gtin": GTIN, "op": "receive", "qty": qty}).to_string();
    assert_eq!(pos.ask("scan", receive(50)).await["code"], "qty_absurd");
    assert_eq!(pos.ask("scan", "4006381333932").await["code"], "gtin_check_digit");
    assert_eq!(pos.ask("sale", vec![b'\xff'; 70 << 10]).await["code"], "payload_too_large");
    let partial = json!({"lines": [{"gtin": GTIN, "qty": 1}, {"gtin": GTIN, "qty": 0}]}).to_string();
    assert_eq!(pos.ask("sale", &partial).await["status"], "partial");
    pos.publish(b"dev/pos-2/scan", receive(1).as_bytes()).await;
    assert_eq!(pos.reply().await["code"], "foreign_device");

    // Running: newest first, bounded, and all of one.
    let list = answer(&home, &["list"]).await;
    let codes: Vec<&Value> = list["rejects"].as_array().expect("a list").iter().map(|reject| &reject["code"]).collect();
    assert_eq!(codes, ["foreign_device", "qty_zero", "payload_too_large", "gtin_check_digit", "qty_absurd"]);
    assert_eq!(list["whole_journal"], true, "{list}");
    let short = answer(&home, &["list", "--limit", "1"]).await;
    assert_eq!((short["rejects"].as_array().map(Vec::len), &short["whole_journal"]), (Some(1), &json!(false)));
    let (big, digit) = (seq_of(&list, "qty_absurd"), seq_of(&list, "gtin_check_digit"));
    let (large, line, foreign) =
        (seq_of(&list, "payload_too_large"), seq_of(&list, "qty_zero"), seq_of(&list, "foreign_device"));
    let shown = answer(&home, &["show", &big]).await;
    assert_eq!(
        (&shown["text"], &shown["topic"], &shown["device"]),
        (&json!(receive(50)), &json!("dev/pos-1/scan"), &json!("pos-1"))
    );
    let shown = answer(&home, &["show", &large]).await;
    assert_eq!((shown["hex"].as_str().map(str::len), &shown["cut_bytes"]), (Some(8192), &json!((70 << 10) - 4096)));

    // What may not be.
    refused(&home, &["retry", &large], "only the first 4096 of its 71680 bytes were kept").await;
    refused(&home, &["retry", &line], "the rest of it was applied").await;
    refused(&home, &["retry", &foreign], "authorization").await;
    refused(&home, &["retry", "9999"], "no refusal").await;
    refused(&home, &["show", "9999"], "no refusal").await;

    // As it was it is refused again, which is recorded; corrected it is taken, once.
    let again = answer(&home, &["retry", &digit, "--as-is"]).await;
    assert_eq!((&again["status"], &again["code"]), (&json!("refused"), &json!("gtin_check_digit")));
    assert_eq!(pos.reply().await, again, "its device hears it too");
    let file = dir.path().join("corrected");
    std::fs::write(&file, json!({"gtin": GTIN, "op": "receive", "qty": 7}).to_string()).expect("write a file");
    let file = path(&file);
    let done = answer(&home, &["retry", &digit, "--payload", &file]).await;
    assert_eq!((&done["status"], &done["lines"][0]["on_hand"]), (&json!("ok"), &json!(6)), "{done}");
    refused(&home, &["retry", &digit, "--payload", &file], "handed in again already").await;
    let list = answer(&home, &["list"]).await;
    let marked = &list["rejects"].as_array().expect("a list").iter().find(|r| r["seq"].as_u64() == digit.parse().ok());
    assert_eq!(marked.expect("it is listed")["retried"], json!({"seq": done["seq"], "status": "ok"}), "{list}");

    // Stopped: the same list from the files, and no retry.
    gateway.stop().await;
    let stopped = answer(&home, &["list"]).await;
    assert_eq!(stopped["rejects"], list["rejects"]);
    assert_eq!(answer(&home, &["show", &big]).await["text"], receive(50));
    refused(&home, &["retry", &big], "start it").await;
    let text = String::from_utf8(rejects(&home, &["list"]).await.stdout).expect("text");
    assert!(text.contains("[retried: ok") && text.contains("qty_absurd"), "{text}");

    // With a rule that has changed it passes as it was; its id makes it the request that it was.
    let mut gateway = spec().config("units_max = 100\n").start().await;
    let done = answer(&home, &["retry", &big]).await;
    assert_eq!((&done["status"], &done["id"]), (&json!("ok"), &json!("big")), "{done}");
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("correct horse")).await;
    pos.subscribe("dev/pos-1/reply").await;
    assert_eq!(pos.ask("scan", receive(50)).await["status"], "duplicate");
    gateway.stop().await;
    let rows = ledgers::of_gateway(&home);
    let moved: i64 = rows.iter().filter_map(|row| row.movement()).map(|movement| movement.units).sum();
    assert_eq!(moved, -1 + 7 + 50);
}
