//! What HQ says of a site is compared with the site, and with HQ's own journal; its history is shown.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::Link;
use crate::harness::node::{BINARY, path};
use crate::harness::{GTIN, Pair, SITE, gtin};

/// Asks a hub with its own command line.
pub(crate) async fn hub(words: &[&str], dir: &str) -> Value {
    let words = [&["hub"], words, &["--data", dir, "--json"]].concat();
    let done = Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary");
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

#[tokio::test]
async fn hub_and_site_are_compared_key_by_key() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..40 {
        let line = json!({"gtin": gtin(n), "qty": n + 1, "cents": 100});
        pos.done("sale", json!({"id": format!("s{n}"), "lines": [line]})).await;
    }
    pos.done("item", json!({"gtin": GTIN, "price_cents": 1290})).await;
    pair.gateway.until_applied().await;
    let dir = path(pair.hub.dir());
    let verified = hub(&["verify", SITE], &dir).await;
    assert_eq!((&verified["keys"], &verified["differed"]), (&json!(40), &json!(0)), "{verified}");
    let refolded = hub(&["verify", SITE, "--refold"], &dir).await;
    assert_eq!((&refolded["keys"], &refolded["differed"]), (&json!(40), &json!(0)), "{refolded}");
    let status = pair.hub.status().await;
    assert_eq!(status["sites"][SITE]["check"]["keys"], 40, "{status}");

    let item = gtin(7);
    let running = hub(&["history", SITE, "--item", &item], &dir).await;
    let [record] = &running["records"].as_array().expect("a list")[..] else { panic!("{running}") };
    assert_eq!((&record["time"], &record["what"]["units"]), (&json!("clock"), &json!(-8)), "{running}");
    assert_eq!(hub(&["history", SITE, "--limit", "3"], &dir).await["records"].as_array().map(Vec::len), Some(3));

    // A site that is not there cannot be asked; its history can.
    pair.gateway.stop().await;
    let words = ["hub", "verify", SITE, "--data", &dir];
    let failed = Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("is not connected"), "{failed:?}");
    pair.hub.stop().await;
    let stopped = hub(&["history", SITE, "--item", &item], &dir).await;
    assert_eq!(stopped["records"], running["records"]);
}
