//! Who belongs, with real processes and real clients: let in, turned away, revoked while connected, and told.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use broker::identity::Kind;
use broker::ledger::read_stopped;
use proto::chunk::Chunk;
use proto::wire::SecurityEvent;
use proto::wire::record::Of;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::wait::{PATIENCE, holds, until};
use crate::harness::{GTIN, folder, tools};

const ENDS_WITHIN: Duration = Duration::from_secs(1);

async fn command(words: &[&str]) -> Output {
    let run = Command::new(BINARY).args(words).env("USER", "anna").env_remove("SUDO_USER").kill_on_drop(true).output();
    timeout(PATIENCE, run).await.expect("the command ends").expect("run the node's binary")
}

/// What a command on the accounts of a gateway says as JSON.
async fn device(dir: &Path, words: &[&str]) -> Value {
    let data = path(dir);
    let done = command(&[&["gateway", "device"], words, &["--data", &data, "--json"]].concat()).await;
    assert!(done.status.success(), "{words:?}: {done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

async fn mosquitto(node: &Node, words: &[&str]) -> Output {
    let port = node.addr.port().to_string();
    let run = Command::new("mosquitto_pub").args(["-p", &port, "-q", "1"]).args(words).kill_on_drop(true).output();
    timeout(PATIENCE, run).await.expect("mosquitto_pub ends").expect("run mosquitto_pub")
}

/// A client that stays, until its node sends it away: it does not come back by itself.
async fn stays(node: &Node, name: &str, password: &str) -> Child {
    let port = node.addr.port().to_string();
    let words = ["-p", &port, "-i", name, "-u", name, "-P", password, "-t", "store/#", "-V", "5"];
    let before = node.status().await["front"]["connections_total"].clone();
    let client = Command::new("mosquitto_sub")
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("start mosquitto_sub");
    node.until_status("it is connected", |status| status["front"]["connections_total"] != before).await;
    client
}

fn signal(node: &Node, signal: Signal) {
    kill_process(Pid::from_raw(node.id() as i32).expect("the node runs"), signal).expect("send a signal");
}

fn security_in(dir: &Path) -> Vec<SecurityEvent> {
    let mut found = Vec::new();
    let mut look = |chunk: &Chunk| {
        for record in chunk.body.events.iter().flat_map(|event| &event.records) {
            if let Some(Of::Security(event)) = &record.of {
                found.push(event.clone());
            }
        }
    };
    read_stopped(dir, &mut look).expect("read the ledger");
    found
}

#[tokio::test]
async fn a_device_is_let_in_while_the_gateway_runs_and_revoked_within_a_second() {
    if !tools::has(&["mosquitto_pub", "mosquitto_sub"]) {
        return;
    }
    let dir = folder();
    let mut gateway = Spec::gateway(dir.path(), "harbour", None).closed().start().await;
    let home = gateway.dir().to_owned();
    let sale = ["-i", "pos-1", "-t", "dev/pos-1/scan", "-m", GTIN];
    assert!(!mosquitto(&gateway, &sale).await.status.success(), "nobody belongs yet");

    let added = device(&home, &["add", "pos-1", "--kind", "pos"]).await;
    let password = added["password"].as_str().expect("a password").to_owned();
    let url = format!("mqtt://pos-1:{password}@{}", gateway.addr);
    assert_eq!((&added["url"], &added["running"]), (&Value::from(url), &Value::Bool(true)));
    let scan = |password: String| [&sale[..], &["-u", "pos-1", "-P", &password]].concat().join(" ");
    let publish = async |words: String| mosquitto(&gateway, &words.split(' ').collect::<Vec<_>>()).await.status;
    assert!(publish(scan(password.clone())).await.success());
    assert!(!publish(scan("wrong".into())).await.success());
    assert!(!publish(scan(password.clone()).replace("-i pos-1", "-i pos-2")).await.success(), "another's client id");

    // Nothing secret is kept or listed.
    let book = std::fs::read_to_string(home.join("accounts.json")).expect("the accounts");
    let list = device(&home, &["list"]).await;
    assert!(book.contains("$argon2id$") && !book.contains(&password), "{book}");
    assert_eq!((&list["accounts"][0]["name"], &list["accounts"][0]["password"]), (&"pos-1".into(), &true.into()));
    assert!(!list.to_string().contains("argon2"));

    let mut others = stays(&gateway, "pos-1", &password).await;
    let mut fresh = String::new();
    for verb in ["disable", "rotate", "remove"] {
        if verb == "rotate" {
            device(&home, &["enable", "pos-1"]).await;
            others = stays(&gateway, "pos-1", &password).await;
        } else if verb == "remove" {
            others = stays(&gateway, "pos-1", &fresh).await;
        }
        let began = Instant::now();
        let done = device(&home, &[verb, "pos-1"]).await;
        assert_eq!(done["closed"], 1, "{verb}: {done}");
        // mosquitto_sub tries to come back, and ends when it is refused.
        let left = async || {
            let connections = gateway.status().await["front"]["connections"].clone();
            holds(connections == 0, connections)
        };
        until("its connection ends", left).await;
        // The command itself hashes nothing but for `rotate`.
        assert!(began.elapsed() < ENDS_WITHIN + Duration::from_millis(500), "{verb}: {:?}", began.elapsed());
        // It may have ended by itself.
        let _ = others.kill().await;
        fresh = done["password"].as_str().unwrap_or_default().to_owned();
        assert!(!publish(scan(password.clone())).await.success(), "after {verb} the old password is nobody's");
    }
    gateway.stop().await;

    let events = security_in(&home);
    let by_anna: Vec<&str> =
        events.iter().filter(|event| event.by == "anna" && event.who == "pos-1").map(|event| &*event.what).collect();
    let expected = ["account_added", "account_disabled", "account_enabled", "account_changed", "account_removed"];
    assert_eq!(by_anna, expected);
    let refused = |why: &str| {
        let of = events.iter().filter(|event| event.what == "connect_refused" && event.detail.contains(why));
        of.map(|event| event.count).sum::<u64>()
    };
    assert!(refused("no user name") >= 1 && refused("wrong user name or password") >= 1, "{events:#?}");
    assert!(refused("does not begin with") == 1 && refused("disabled") >= 1, "{events:#?}");
    assert!(events.iter().all(|event| event.by == "anna" || event.peer == "127.0.0.1"), "{events:#?}");
}

#[tokio::test]
async fn what_is_done_to_a_stopped_gateway_is_journalled_once() {
    let dir = folder();
    let spec = Spec::gateway(dir.path(), "harbour", None).closed();
    let home = spec.dir.clone();
    let added = device(&home, &["add", "pos-1", "--kind", "pos", "--at", "store:8883"]).await;
    assert_eq!(added["running"], false);
    device(&home, &["add", "pos-2", "--kind", "pos"]).await;
    let pending = home.join("audit.pending");
    let left = std::fs::read(&pending).expect("what the commands left");
    let mut gateway = spec.start().await;
    assert!(!pending.exists());
    let password = added["password"].as_str().expect("a password");
    drop(Link::connect(gateway.addr, "pos-1", true, Some(password)).await);
    gateway.kill().await;
    // As if that start had died before it removed the file.
    std::fs::write(&pending, left).expect("put it back");
    gateway.restart().await;
    assert!(!pending.exists());
    gateway.stop().await;
    let events = security_in(&home);
    let added: Vec<_> = events.iter().filter(|event| event.what == "account_added").collect();
    assert_eq!(added.iter().map(|event| &*event.who).collect::<Vec<_>>(), ["pos-1", "pos-2"]);
    assert!(added.iter().all(|event| event.by == "anna" && event.at_ms > 0 && event.id.len() == 16), "{added:?}");
}

#[tokio::test]
async fn a_policy_is_checked_loaded_and_reloaded_and_a_faulty_one_changes_nothing() {
    let dir = folder();
    let spec = Spec::gateway(dir.path(), "harbour", None).closed().config("policy = \"policy.toml\"\n");
    let spec = spec.account("screen", Kind::Monitor, "correct horse").account("pos-1", Kind::Pos, "battery staple");
    let file = spec.dir.join("policy.toml");
    let broken = "[[allow]]\nwho = \"screen\"\nsubscribe = [\"dev/#/x\"]\nsurprise = 1\n";
    std::fs::write(&file, broken).expect("write a policy");
    let checked = command(&["gateway", "policy", "check", &path(&file)]).await;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(78), "{said}");
    assert!(said.contains("policy.toml:3: allow[0].subscribe[0]") && said.contains("policy.toml:4: allow[0].surprise"));
    let refused = spec.clone().try_start().await.expect_err("a faulty policy is no policy");
    assert!(refused.contains("policy.toml:3"), "{refused}");

    std::fs::write(&file, "[[allow]]\nwho = \"screen\"\nsubscribe = [\"dev/+/reply\"]\n").expect("write a policy");
    let mut gateway = spec.start().await;
    let home = gateway.dir().to_owned();
    let mut screen = Link::connect(gateway.addr, "screen", true, Some("correct horse")).await;
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("battery staple")).await;
    screen.subscribe("dev/+/reply").await;
    pos.subscribe("dev/pos-1/reply").await;
    let digest = gateway.status().await["identity"]["policy"]["digest"].clone();

    std::fs::write(&file, broken).expect("write a policy");
    let data = path(&home);
    let reload = ["gateway", "policy", "reload", "--data", &data];
    let done = command(&reload).await;
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("policy.toml:3"), "{done:?}");
    pos.ask("scan", GTIN).await;
    assert_eq!(gateway.status().await["identity"]["policy"]["digest"], digest);

    // The screen's right is gone; whoever keeps his is not disturbed.
    std::fs::write(&file, "").expect("write a policy");
    signal(&gateway, Signal::HUP);
    gateway.until_status("the policy is read", |status| status["identity"]["policy"]["digest"] != digest).await;
    pos.ask("scan", GTIN).await;
    gateway.until_status("the screen is sent away", |status| status["front"]["connections"] == 1).await;
    let again = Link::connect(gateway.addr, "screen", true, Some("correct horse")).await;
    drop(again);
    gateway.stop().await;
    let events = security_in(&home);
    let whats: Vec<_> = events.iter().map(|event| (&*event.what, &*event.by)).collect();
    let expected = [("policy_loaded", "start"), ("policy_refused", "anna"), ("policy_loaded", "SIGHUP")];
    let policy: Vec<_> = whats.into_iter().filter(|(what, _)| what.starts_with("policy")).collect();
    assert_eq!(policy, expected);
}

#[tokio::test]
async fn denials_are_recorded_counted_and_seen_at_hq() {
    let dir = folder();
    let hub = Spec::hub(dir.path()).closed();
    let hub = hub.account("harbour", Kind::Site, "site password").account("office", Kind::Monitor, "correct horse");
    let mut hub = hub.start().await;
    let gateway = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).closed();
    let gateway = gateway.config("hub_password = \"site password\"\n").account("pos-1", Kind::Pos, "battery staple");
    let gateway = gateway.start().await;
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("battery staple")).await;
    pos.subscribe("dev/pos-1/reply").await;
    for _ in 0..20 {
        pos.publish(b"dev/pos-2/sale", b"{}").await;
        assert_eq!(pos.reply().await["code"], "foreign_device");
    }
    assert_eq!(Link::knock(hub.addr, "stranger", Some("guess")).await, 4);
    gateway.until_applied().await;
    let link = Link::connect(hub.addr, "office", true, Some("correct horse")).await;
    let mut office = Monitor::watch(link, "hq/alerts/#").await;
    for (topic, what, who) in [
        ("hq/alerts/security/harbour", "publish_denied", "pos-1"),
        ("hq/alerts/security/hub", "connect_refused", "stranger"),
    ] {
        let alert = office.until_json(topic, |alert| alert["what"] == what).await;
        assert_eq!((&alert["who"], &alert["by"]), (&Value::from(who), &Value::from("")), "{alert}");
    }
    for (site, kind) in [("harbour", "publish_denied"), ("hub", "connect_refused")] {
        let data = path(hub.dir());
        let shown = command(&["hub", "history", site, "--data", &data, "--json"]).await;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains(kind), "{site}: {text}");
    }
    hub.stop().await;
    let mine = security_in(hub.dir());
    assert!(mine.iter().any(|event| event.what == "connect_refused" && event.peer == "127.0.0.1"), "{mine:?}");
}
