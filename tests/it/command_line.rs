//! What an operator meets: exit codes, faults shown at once, a configuration that prints and loads, a clean stop.

use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mqtt::Link;
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, Pair, folder};

async fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command line that must be refused, and all that its message must name.
struct Refused {
    role: &'static str,
    toml: &'static str,
    flags: &'static [&'static str],
    named: &'static [&'static str],
}

const REFUSED: [Refused; 4] = [
    Refused {
        role: "gateway",
        toml: "",
        flags: &["--open", "--site", "harbour", "--listen", "0.0.0.0:0"],
        named: &["1 fault", "open = true", "loopback"],
    },
    Refused { role: "hub", toml: "", flags: &["--open", "--listen", "0.0.0.0:0"], named: &["open = true", "loopback"] },
    Refused {
        role: "gateway",
        toml: "units_max = 0\nsurprise = 1\nreconnect_max_ms = \"soon\"\n[[device]]\nname = \"a b\"\n",
        flags: &["--open", "--site", "no good", "--listen", "0.0.0.0:0", "--hub", "nowhere"],
        named: &["open", "units_max = 0", "surprise = 1", "reconnect_max_ms", "device[0].name", "site", "hub = "],
    },
    Refused {
        role: "hub",
        toml: "connections_max = -1\n[[site]]\nname = \"harbour\"\npassword = \"short\"\n",
        flags: &["--listen", "here"],
        named: &["connections_max = -1", "site", "account add", "listen"],
    },
];

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_all_its_faults() {
    let dir = folder();
    for (n, Refused { role, toml, flags, named }) in REFUSED.iter().enumerate() {
        let (file, data) = (dir.path().join(format!("{n}.toml")), dir.path().join(format!("data-{n}")));
        std::fs::write(&file, toml).expect("write a configuration");
        let (file, data_flag) = (path(&file), path(&data));
        let done = run(&[&[*role, "run", "--config", &file, "--data", &data_flag], *flags].concat()).await;
        let said = shown(&done.stderr);
        assert_eq!(done.status.code(), Some(78), "{role} {flags:?}: {said}");
        for name in *named {
            assert!(said.contains(name), "{role} {flags:?} names no {name:?}: {said}");
        }
        assert!(!data.exists(), "nothing is made before the configuration is right");
    }
}

#[tokio::test]
async fn the_printed_configuration_loads() {
    for (role, flags) in [("gateway", &["--site", "harbour"][..]), ("hub", &[])] {
        let printed = run(&[role, "config"]).await;
        assert!(printed.status.success());
        let text = shown(&printed.stdout);
        // As it is, and with every default said aloud; a flag wins over it.
        let aloud: String =
            text.lines().map(|line| format!("{}\n", line.strip_prefix("#= ").unwrap_or(line))).collect();
        assert!(aloud.contains("listen = \"127.0.0.1:1883\"\n"), "{aloud}");
        for toml in [&text, &aloud] {
            let dir = folder();
            let spec = if role == "hub" { Spec::hub(dir.path()) } else { Spec::gateway(dir.path(), flags[1], None) };
            spec.replace_config(toml).start().await.stop().await;
        }
    }
}

#[tokio::test]
async fn status_is_for_people_and_for_programs() {
    let pair = Pair::start().await;
    pair.gateway.until_applied().await;
    for (role, node, in_json, for_people) in [
        ("gateway", &pair.gateway, "/uplink/backlog_records", "waiting"),
        ("hub", &pair.hub, "/sites/harbour", "site harbour"),
    ] {
        let data = path(node.dir());
        let done = run(&[role, "status", "--data", &data, "--json"]).await;
        let status: Value = serde_json::from_slice(&done.stdout).expect("status --json is JSON");
        assert!(done.status.success() && status.pointer(in_json).is_some(), "{status}");
        let text = shown(&run(&[role, "status", "--data", &data]).await.stdout);
        assert!(text.contains(for_people), "{text}");
    }
    let nobody = run(&["gateway", "status", "--data", "/nonexistent"]).await;
    assert!(!nobody.status.success() && shown(&nobody.stderr).contains("--data"), "{nobody:?}");
}

#[tokio::test]
async fn sigterm_is_a_clean_stop_and_the_next_start_replays_nothing() {
    let mut pair = Pair::start().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    for n in 0..50 {
        scanner.done("scan", json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"})).await;
    }
    pair.gateway.until_applied().await;
    for node in [&mut pair.gateway, &mut pair.hub] {
        let last = node.status().await["ledger"]["last_seq"].clone();
        assert!(last.as_u64() > Some(0));
        assert_eq!(node.end().await.code(), Some(0));
        assert!(!node.dir().join("admin.sock").exists());
        node.restart().await;
        let status = node.status().await;
        assert_eq!(status["ledger"]["last_seq"], last, "{status}");
        let opened: Vec<String> = opened(&node.log());
        assert_eq!(opened.len(), 2);
        let line = &opened[1];
        assert!(line.contains("replayed=0") && line.contains(&format!("last={last}")), "{line}");
        assert!(!node.log().contains("not clean"), "{}", node.log());
    }
    // And a stop that was none is said.
    pair.gateway.kill().await;
    pair.gateway.restart().await;
    assert!(pair.gateway.log().contains("not clean"), "{}", pair.gateway.log());
}

fn opened(log: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains("the ledger is open")).map(str::to_owned).collect()
}

#[tokio::test]
async fn help_teaches() {
    for (words, teaches) in [
        (&["gateway", "--help"][..], &["Exit codes", "78", "Try it", "mosquitto_pub"][..]),
        (&["hub", "--help"], &["Exit codes", "78", "Try it", "mosquitto_sub"]),
        (&["gateway", "run", "--help"], &["--open", "--site", "--hub", "--config", "--data", "--listen", "--metrics"]),
        (&["gateway", "rejects", "--help"], &["list", "show", "retry"]),
        (&["hub", "rejects", "--help"], &["list", "show"]),
        (&["sim", "demo", "--help"], &["Exit codes", "--quick", "--json", "--stay"]),
    ] {
        let done = run(words).await;
        let text = shown(&done.stdout);
        assert!(done.status.success(), "{words:?}: {}", shown(&done.stderr));
        for word in teaches {
            assert!(text.contains(word), "{words:?} does not name {word:?}: {text}");
        }
        assert!(!text.contains("sabotage"), "{text}");
    }
}
