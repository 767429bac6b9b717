//! The load generator's word against the ledger's: what it saw acknowledged is there, also at full speed.

use serde_json::Value;
use tokio::process::Command;

use crate::harness::node::{BINARY, Spec};
use crate::harness::{SITE, folder, ledgers};

#[tokio::test]
async fn all_that_the_load_generator_saw_acknowledged_is_in_the_ledger() {
    let dir = folder();
    let mut gateway = Spec::gateway(dir.path(), SITE, None).start().await;
    let target = gateway.addr.to_string();
    let mut load = Command::new(BINARY);
    load.args(["sim", "load", "--target", &target, "--clients", "8", "--window", "16", "--seconds", "1", "--json"]);
    let done = load.kill_on_drop(true).output().await.expect("run the load generator");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let figures: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let acked = figures["acked"].as_u64().unwrap_or(0);
    assert!(acked > 100, "{figures}");
    gateway.stop().await;
    assert_eq!(ledgers::of_gateway(gateway.dir()).len() as u64, acked, "{figures}");
    println!("load: {figures}");
}
