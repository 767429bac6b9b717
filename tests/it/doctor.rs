//! `doctor` on stopped, damaged and running ledgers. It never touches what it looks at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::Link;
use crate::harness::node::{BINARY, path};
use crate::harness::{GTIN, Pair};

async fn doctor(role: &str, dir: &Path, json: bool) -> Output {
    let mut words = vec![role.to_owned(), "doctor".into(), path(dir)];
    words.extend(json.then(|| "--json".to_owned()));
    Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("read a file"))),
        }
    }
    found
}

#[tokio::test]
async fn it_says_what_is_there_and_what_is_wrong_and_changes_nothing() {
    let mut pair = Pair::start().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    for n in 0..40 {
        scanner.done("scan", json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"})).await;
    }
    pair.gateway.until_applied().await;
    let running = doctor("gateway", pair.gateway.dir(), false).await;
    assert_eq!(running.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&running.stderr).contains("another process"), "{running:?}");

    pair.gateway.stop().await;
    pair.hub.stop().await;
    for (role, dir) in [("gateway", pair.gateway.dir()), ("hub", pair.hub.dir())] {
        let before = files(dir);
        let done = doctor(role, dir, true).await;
        assert!(done.status.success(), "{role}: {done:?}");
        let found: Value = serde_json::from_slice(&done.stdout).expect("doctor --json is JSON");
        assert_eq!((&found["format"], &found["clean"], &found["faults"]), (&json!(3), &json!(true), &json!([])));
        assert!(found["records"].as_u64() >= Some(20) && found["folded_seq"] == found["last_seq"], "{found}");
        assert!(found["bytes"]["journal"].as_u64() > Some(0) && found["oldest_ms"].as_u64() > Some(0), "{found}");
        if role == "gateway" {
            assert_eq!((&found["records"], &found["applied_seq"]), (&json!(40), &json!(40)), "{found}");
        }
        let text = doctor(role, dir, false).await;
        assert!(String::from_utf8_lossy(&text.stdout).contains("faults     none"), "{text:?}");
        assert!(files(dir) == before, "{role}: the original is untouched");
    }

    let journal = pair.gateway.dir().join("journal/00000000000000000001.log");
    let mut bytes = fs::read(&journal).expect("read a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal, bytes).expect("damage a segment");
    fs::write(pair.gateway.dir().join("ledger/db"), "").expect("damage the database");
    let before = files(pair.gateway.dir());
    let done = doctor("gateway", pair.gateway.dir(), false).await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(65), "{done:?}");
    for part in ["00000000000000000001.log: bytes", "are gone", "state: ", "the next start"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(files(pair.gateway.dir()) == before);
    let nothing = doctor("gateway", &pair.gateway.dir().join("journal"), false).await;
    assert_eq!(nothing.status.code(), Some(74), "{nothing:?}");
}
