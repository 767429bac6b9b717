//! The load generator's word against the ledger's: what it saw acknowledged is there, also at full speed, also over TLS.

use broker::identity::Kind;
use proto::wire::record::Of;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::{SITE, folder, ledgers};

#[tokio::test]
async fn all_that_the_load_generator_saw_acknowledged_is_in_the_ledger() {
    let dir = folder();
    let gateway = Spec::gateway(dir.path(), SITE, None).start().await;
    let acked = load(&gateway, &["--clients", "8", "--window", "16"]).await.expect("it is served");
    assert!(acked > 100, "{acked}");
    assert_eq!(activity(gateway).await, acked);
}

/// As in a store: certificates of a CA, and one account.
#[tokio::test]
async fn the_load_generator_speaks_tls_and_logs_in() {
    let dir = folder();
    let made = path(&dir.path().join("made"));
    let init = Command::new(BINARY).args(["hub", "init", "--data", &made, "--name", "127.0.0.1"]).output().await;
    assert!(init.expect("make certificates").status.success());
    let (ca, server) = (format!("{made}/pki/ca.crt"), format!("{made}/pki/server.pem"));
    let config = format!("tls_cert = \"{server}\"\ntls_key = \"{server}\"\n");
    let gateway = Spec::gateway(dir.path(), SITE, None).closed().config(&config);
    let gateway = gateway.account("pos-1", Kind::Pos, "secret").start().await;

    let few = ["--clients", "4", "--window", "4"];
    let with = |more: &[&'static str]| [&few[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    for refused in [with(&[]), with(&["--user", "pos-1", "--password", "secret"])] {
        assert_eq!(load(&gateway, &refused).await, None, "plain MQTT is not served");
    }
    let over_tls = |mut words: Vec<String>| {
        words.extend(["--ca".to_owned(), ca.clone()]);
        words
    };
    assert_eq!(load(&gateway, &over_tls(with(&[]))).await, None, "nobody without an account is served");
    let wrong = over_tls(with(&["--user", "pos-1", "--password", "secret", "--server-name", "elsewhere.example"]));
    assert_eq!(load(&gateway, &wrong).await, None, "the certificate is for another name");
    let acked = load(&gateway, &over_tls(with(&["--user", "pos-1", "--password", "secret"]))).await;
    let acked = acked.expect("the account is served over TLS");
    assert!(acked > 10, "{acked}");
    assert_eq!(activity(gateway).await, acked);
}

/// What it saw acknowledged; `None` if it could not connect.
async fn load<W: AsRef<std::ffi::OsStr>>(gateway: &Node, words: &[W]) -> Option<u64> {
    let target = gateway.addr.to_string();
    let mut load = Command::new(BINARY);
    load.args(["sim", "load", "--target", &target, "--seconds", "1", "--json"]).args(words);
    let done = load.kill_on_drop(true).output().await.expect("run the load generator");
    if !done.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let figures: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    println!("load: {figures}");
    figures["acked"].as_u64()
}

/// Records of what was published; there are others, of who was refused.
async fn activity(mut gateway: Node) -> u64 {
    gateway.stop().await;
    let rows = ledgers::of_gateway(gateway.dir());
    rows.iter().filter(|row| matches!(row.of, Of::Note(_))).count() as u64
}
