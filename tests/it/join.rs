//! Joining by code and what holds afterwards: who gets a certificate, who does not, what a code's end, a certificate's
//! end, a liar in between and a killed hub change; and that the shop serves through all of it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;

use broker::identity::Kind;
use broker::pki::{Authority, Facts};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::mqtt::Link;
use crate::harness::node::{BINARY, Node, Spec, path};
use crate::harness::wait::{holds, until};
use crate::harness::{GTIN, SITE, folder, now_ms};

pub(crate) async fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary")
}

/// A hub with a CA of its own, and boxes that may join it.
pub(crate) struct Chain {
    pub(crate) hub: Node,
    pub(crate) dir: TempDir,
}

impl Chain {
    pub(crate) async fn start(config: &str) -> Chain {
        let dir = folder();
        let hub = hub(dir.path(), config).await;
        Chain { hub, dir }
    }

    pub(crate) fn data(&self) -> String {
        path(self.hub.dir())
    }

    fn box_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn site(&self, words: &[&str]) -> Value {
        let done = run(&[&["hub", "site"], words, &["--data", &self.data(), "--json"]].concat()).await;
        assert!(done.status.success(), "site {words:?}: {}", said(&done));
        serde_json::from_slice(&done.stdout).expect("the answer is JSON")
    }

    pub(crate) async fn invite(&self, site: &str) -> String {
        code(&self.site(&["add", site]).await)
    }

    /// `HUB:PORT` of the HTTPS listener.
    pub(crate) async fn api(&self) -> String {
        self.hub.status().await["api"].as_str().expect("the hub has an HTTPS listener").to_owned()
    }

    pub(crate) async fn join(&self, name: &str, code: &str) -> Output {
        let (api, data) = (self.api().await, path(&self.box_dir(name)));
        run(&["gateway", "join", &api, code, "--data", &data]).await
    }

    /// A box that has joined, not yet running.
    pub(crate) async fn joined(&self, site: &str) {
        let joined = self.join(site, &self.invite(site).await).await;
        assert!(joined.status.success(), "{}", said(&joined));
    }

    pub(crate) fn gateway(&self, site: &str) -> Spec {
        Spec::box_of(self.dir.path(), site)
    }

    fn membership(&self, site: &str) -> Value {
        let text = std::fs::read_to_string(self.membership_path(site)).expect("the box has joined");
        serde_json::from_str(&text).expect("the membership is JSON")
    }

    fn membership_path(&self, site: &str) -> PathBuf {
        self.box_dir(site).join("pki/membership.json")
    }

    /// Of the site's certificate, as it is on disk.
    fn facts(&self, site: &str) -> Facts {
        let membership = self.membership(site);
        Facts::of_pem(membership["certificate"].as_str().expect("a certificate")).expect("a certificate")
    }
}

async fn hub(dir: &Path, config: &str) -> Node {
    let data = path(&dir.join("hub"));
    let made = run(&["hub", "init", "--data", &data, "--name", "localhost,127.0.0.1"]).await;
    assert!(made.status.success(), "{}", said(&made));
    // A port that stays the same over a restart, since the boxes remember it.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("find a free port").port();
    let config = format!("api = \"127.0.0.1:{port}\"\n{config}\n");
    Spec::hub(dir).closed().config(&config).start().await
}

fn code(added: &Value) -> String {
    added["code"].as_str().expect("a code").to_owned()
}

pub(crate) fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

pub(crate) fn refused(done: &Output, why: &str) {
    assert!(!done.status.success() && said(done).contains(why), "not {why:?}: {}", said(done));
}

pub(crate) async fn sell(gateway: &Node, id: &str) {
    let mut till = Link::device(gateway.addr, "pos-1").await;
    till.done("sale", json!({ "id": id, "lines": [{ "gtin": GTIN, "qty": 1 }] })).await;
}

#[tokio::test]
async fn a_store_joins_by_code_and_sells_over_tls() {
    let chain = Chain::start("").await;
    let added = chain.site(&["add", SITE]).await;
    assert!(added["command"].as_str().is_some_and(|line| line.starts_with("tillsync-gateway join localhost:")));
    assert_eq!(chain.site(&["list"]).await["sites"][0]["state"], "invited");
    let joined = chain.join(SITE, &code(&added).to_lowercase()).await;
    assert!(joined.status.success(), "{}", said(&joined));
    let gateway = chain.gateway(SITE).start().await;
    sell(&gateway, "s1").await;
    gateway.until_applied().await;
    assert_eq!(chain.hub.status().await["sites"][SITE]["online"], true);
    assert_eq!(chain.site(&["list"]).await["sites"][0]["state"], "joined");
    for (node, of) in [(&gateway, "site"), (&chain.hub, "listener")] {
        let days = node.status().await["certificates"][of]["days_left"].as_f64();
        assert!(days.is_some_and(|days| days > 89.0), "{of}: {days:?}");
    }
    // The listener is encrypted: plain MQTT is no handshake.
    let plain = tokio::net::TcpStream::connect(chain.hub.addr).await.expect("connect");
    plain.try_write(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04till").expect("write");
    chain.hub.until_status("it is refused", |status| status["front"]["tls_failures"].as_u64() > Some(0)).await;

    refused(&chain.join("thief", &code(&added)).await, "used by another box");
    assert!(!chain.membership_path("thief").exists());
    let again = run(&["hub", "site", "add", SITE, "--data", &chain.data()]).await;
    refused(&again, "--replace");
    let twice = run(&["hub", "init", "--data", &chain.data(), "--name", "localhost"]).await;
    refused(&twice, "not written over");
}

#[tokio::test]
async fn a_code_that_ended_or_is_mistyped_lets_nobody_in() {
    let chain = Chain::start("").await;
    let added = code(&chain.site(&["add", SITE, "--valid", "1s"]).await);
    until("the code ends", async || {
        let sites = chain.site(&["list"]).await;
        holds(sites["sites"] == json!([]), &sites)
    })
    .await;
    refused(&chain.join(SITE, &added).await, "has ended");
    let good = chain.invite(SITE).await;
    let last = if good.ends_with('0') { '1' } else { '0' };
    let mistyped = format!("{}{last}", &good[..good.len() - 1]);
    refused(&chain.join(SITE, &mistyped).await, "mistyped");
    assert!(chain.join(SITE, &good).await.status.success());
}

#[tokio::test]
async fn whoever_stands_in_between_hears_no_secret() {
    let (chain, liar) = (Chain::start("").await, Chain::start("").await);
    let code = chain.invite(SITE).await;
    let (api, data) = (liar.api().await, path(&chain.box_dir(SITE)));
    let lied_to = run(&["gateway", "join", &api, &code, "--data", &data]).await;
    refused(&lied_to, "does not have the key");
    refused(&lied_to, "Nothing was sent");
    assert!(!liar.hub.log().contains("join refused"), "{}", liar.hub.log());
    // It is still good where it is from.
    assert!(chain.join(SITE, &code).await.status.success());
}

#[tokio::test]
async fn a_code_stays_used_over_kill_9_and_a_lost_answer_comes_again() {
    let mut chain = Chain::start("").await;
    let code = chain.invite(SITE).await;
    // The key is made before the hub is asked, and kept until it has answered.
    let nobody = run(&["gateway", "join", "127.0.0.1:1", &code, "--data", &path(&chain.box_dir(SITE))]).await;
    refused(&nobody, "say the same again");
    let pending = chain.box_dir(SITE).join("pki/join.key");
    let key = std::fs::read(&pending).expect("the key waits");
    assert!(chain.join(SITE, &code).await.status.success());
    chain.hub.kill().await;
    let certificate = chain.facts(SITE);
    chain.hub.restart().await;
    refused(&chain.join("thief", &code).await, "used by another box");
    // As if the answer had been lost: the same key gets the same certificate.
    std::fs::remove_file(chain.membership_path(SITE)).expect("forget the membership");
    std::fs::write(&pending, key).expect("put the key back");
    let again = chain.join(SITE, &code).await;
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(chain.facts(SITE), certificate);
    chain.gateway(SITE).start().await.until_applied().await;
}

#[tokio::test]
async fn a_first_day_offline_then_a_join_beside_the_running_gateway() {
    let chain = Chain::start("").await;
    let gateway = chain.gateway(SITE).site(SITE).start().await;
    sell(&gateway, "first").await;
    assert_eq!(gateway.status().await["uplink"]["configured"], false);
    // A code for another store is neither taken nor used up.
    let other = chain.invite("hill").await;
    refused(&chain.join(SITE, &other).await, "this code is for hill");
    let joined = chain.join(SITE, &chain.invite(SITE).await).await;
    assert!(joined.status.success(), "{}", said(&joined));
    gateway.until_applied().await;
    let status = gateway.status().await;
    assert_eq!((&status["uplink"]["configured"], &status["site"]), (&json!(true), &json!(SITE)));
    assert!(chain.hub.status().await["sites"][SITE]["applied_seq"].as_u64() > Some(0));
    assert!(chain.join("hill", &other).await.status.success());
}

#[tokio::test]
async fn a_name_that_contradicts_what_was_joined_is_said() {
    let chain = Chain::start("").await;
    chain.joined(SITE).await;
    let why = chain.gateway(SITE).site("hill").try_start().await.expect_err("two names");
    assert!(why.contains("site = ") && why.contains(&format!("left out, or {SITE}")), "{why}");
}

#[tokio::test]
async fn certificates_renew_themselves_on_both_sides_while_selling_goes_on() {
    let mut chain = Chain::start("site_cert_valid = \"6s\"\nserver_cert_valid = \"9s\"").await;
    chain.joined(SITE).await;
    let gateway = chain.gateway(SITE).start().await;
    gateway.until_applied().await;
    let shown = |status: &Value, of: &str| status["certificates"][of]["key"].clone();
    let (first_hub, first_site) = (shown(&chain.hub.status().await, "listener"), chain.facts(SITE));
    let second = gateway.until_status("the site's is renewed", |now| shown(now, "site") != first_site.key.to_string());
    let second = shown(&second.await, "site");
    chain.hub.until_status("the hub's is renewed", |now| shown(now, "listener") != first_hub).await;
    gateway.until_status("and again", |now| shown(now, "site") != second).await;
    assert!(first_site.not_after_ms < now_ms() + 3_000, "the first has ended, or is about to");
    // What was renewed is what connects.
    chain.hub.kill().await;
    chain.hub.restart().await;
    sell(&gateway, "s1").await;
    gateway.until_applied().await;
    gateway.until_status("nothing is wrong", |now| now["certificates"]["site"]["trouble"].is_null()).await;
}

async fn until_ended(chain: &Chain) {
    let end = chain.facts(SITE).not_after_ms;
    until("the certificate ends", async || holds(now_ms() > end + 1_000, end)).await;
}

#[tokio::test]
async fn a_box_that_was_away_too_long_renews_within_the_grace() {
    let chain = Chain::start("site_cert_valid = \"2s\"").await;
    chain.joined(SITE).await;
    until_ended(&chain).await;
    let gateway = chain.gateway(SITE).start().await;
    sell(&gateway, "s1").await;
    gateway.until_applied().await;
}

#[tokio::test]
async fn past_the_grace_the_hub_is_shut_and_the_shop_is_open() {
    let chain = Chain::start("site_cert_valid = \"2s\"\nrenew_grace_days = 0").await;
    chain.joined(SITE).await;
    until_ended(&chain).await;
    let gateway = chain.gateway(SITE).start().await;
    sell(&gateway, "s1").await;
    let trouble = |status: &Value| status["certificates"]["site"]["trouble"].as_str().map(str::to_owned);
    let status = gateway.until_status("it is told why", |now| trouble(now).is_some()).await;
    assert!(trouble(&status).is_some_and(|why| why.contains("too long ago")), "{status}");
    // Nor does MQTT take it.
    chain.hub.until_status("it is refused", |status| status["front"]["tls_failures"].as_u64() > Some(0)).await;
    assert_eq!(gateway.status().await["uplink"]["connected"], false);
    sell(&gateway, "s2").await;
    // A new code, and all is there.
    let joined = chain.join(SITE, &code(&chain.site(&["add", SITE, "--replace"]).await)).await;
    assert!(joined.status.success(), "{}", said(&joined));
    gateway.until_status("it is connected", |now| now["uplink"]["applied_seq"].as_u64() > Some(0)).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_whatever_its_name() {
    let chain = Chain::start("").await;
    chain.joined(SITE).await;
    let mut membership = chain.membership(SITE);
    let foreign = Authority::create("tillsync hub localhost", now_ms()).expect("make a CA");
    let forged = foreign.client(SITE, now_ms(), 3_600_000).expect("make a certificate");
    membership["certificate"] = forged.chain_pem.into();
    membership["key"] = forged.key_pem.into();
    std::fs::write(chain.membership_path(SITE), membership.to_string()).expect("forge the membership");
    let gateway = chain.gateway(SITE).start().await;
    chain.hub.until_status("it is refused", |status| status["front"]["tls_failures"].as_u64() > Some(0)).await;
    let status = chain.hub.status().await;
    assert_eq!(status["front"]["connections_total"], 0, "{status}");
    sell(&gateway, "s1").await;
    assert_eq!(gateway.status().await["uplink"]["connected"], false);
}

#[tokio::test]
async fn a_disabled_site_is_shut_out_until_it_is_enabled_running_or_stopped() {
    let mut chain = Chain::start("").await;
    chain.joined(SITE).await;
    let mut gateway = chain.gateway(SITE).start().await;
    gateway.until_applied().await;
    gateway.stop().await;
    assert_eq!(chain.site(&["disable", SITE]).await["state"], "disabled");
    gateway.restart().await;
    chain.hub.until_status("it is refused", |status| refused_connects(status) > 0).await;
    assert_eq!(gateway.status().await["uplink"]["connected"], false);
    chain.hub.stop().await;
    assert_eq!(chain.site(&["enable", SITE]).await["state"], "joined");
    chain.hub.restart().await;
    sell(&gateway, "s1").await;
    gateway.until_applied().await;
    // The box that takes its place ends the other's membership.
    let added = chain.site(&["add", SITE, "--replace"]).await;
    gateway.stop().await;
    assert!(chain.join("spare", &code(&added)).await.status.success());
    gateway.restart().await;
    chain.hub.until_status("it is refused", |status| refused_connects(status) > 0).await;
    assert_eq!(chain.site(&["remove", SITE]).await["state"], "removed");
    assert_eq!(chain.site(&["list"]).await["sites"], json!([]));
}

#[tokio::test]
async fn a_box_that_another_one_replaces_is_cut_off_while_it_is_connected() {
    let chain = Chain::start("").await;
    chain.joined(SITE).await;
    let stolen = chain.gateway(SITE).start().await;
    stolen.until_applied().await;
    let spare = code(&chain.site(&["add", SITE, "--replace"]).await);
    assert_eq!(stolen.status().await["uplink"]["connected"], true, "a code alone cuts nobody off");
    assert!(chain.join("spare", &spare).await.status.success());
    stolen.until_status("it is cut off", |now| now["uplink"]["connected"] == false).await;
    chain.hub.until_status("it is refused", |status| refused_connects(status) > 0).await;
    // Also one whose site was disabled at once, as after a theft.
    chain.site(&["disable", SITE]).await;
    refused(&run(&["hub", "site", "add", SITE, "--data", &chain.data()]).await, "is disabled");
    let third = code(&chain.site(&["add", SITE, "--replace"]).await);
    assert!(chain.join("third", &third).await.status.success());
    let listed = chain.site(&["list"]).await;
    assert_eq!(listed["sites"][0]["state"], "joined", "{listed}");
}

fn refused_connects(status: &Value) -> u64 {
    let front = &status["front"];
    ["refused_credentials", "refused_authorization"].iter().filter_map(|key| front[key].as_u64()).sum()
}

#[tokio::test]
async fn your_own_ca_issues_if_you_give_it() {
    let dir = folder();
    let yours = Authority::create("Example Retail Root", now_ms()).expect("make a CA");
    let (ca, key) = (dir.path().join("root.crt"), dir.path().join("root.key"));
    // The key of a CA is only to be had where it was made.
    let made = broker::pki::Own::create(&dir.path().join("made"), yours, &["x.example".into()], now_ms(), 3_600_000);
    let made = made.expect("make its files").paths;
    std::fs::copy(&made.ca, &ca).expect("copy it");
    std::fs::copy(made.folder.join("ca.key"), &key).expect("copy its key");
    let data = path(&dir.path().join("hub"));
    let words =
        ["hub", "init", "--data", &data, "--name", "localhost,127.0.0.1", "--ca", &path(&ca), "--ca-key", &path(&key)];
    let init = run(&words).await;
    assert!(init.status.success(), "{}", said(&init));
    assert_eq!(std::fs::read(dir.path().join("hub/pki/ca.crt")).expect("the CA"), std::fs::read(&ca).expect("the CA"));
    let chain = Chain { hub: Spec::hub(dir.path()).closed().config("api = \"127.0.0.1:0\"\n").start().await, dir };
    chain.joined(SITE).await;
    chain.gateway(SITE).start().await.until_applied().await;
}

#[tokio::test]
async fn beyond_loopback_a_store_encrypts_with_a_ca_of_its_own() {
    let chain = Chain::start("").await;
    // Loopback by another name, which is not taken for it.
    let listen: SocketAddr = "[::ffff:127.0.0.1]:0".parse().expect("an address");
    let spec = chain.gateway(SITE).site(SITE).closed().account("pos-1", Kind::Pos, "long enough").listen_at(listen);
    let gateway = spec.start().await;
    let status = gateway.status().await;
    let ca = status["certificates"]["listener"]["ca"].as_str().expect("the CA's file").to_owned();
    let port = gateway.addr.port().to_string();
    let publish = |extra: &'static [&'static str]| {
        let (ca, port) = (ca.clone(), port.clone());
        async move {
            let words = [
                "-h",
                "localhost",
                "-p",
                &port,
                "-i",
                "pos-1",
                "-u",
                "pos-1",
                "-P",
                "long enough",
                "-q",
                "1",
                "-t",
                "dev/pos-1/scan",
            ];
            let secured = ["-m", GTIN, "--cafile", &ca];
            let words = [&words[..], if extra.is_empty() { &secured } else { extra }].concat();
            Command::new("mosquitto_pub").args(words).kill_on_drop(true).output().await
        }
    };
    let Ok(secured) = publish(&[]).await else { return eprintln!("skipped: mosquitto_pub is not installed") };
    assert!(secured.status.success(), "{}", said(&secured));
    let plain = publish(&["-m", GTIN]).await.expect("mosquitto_pub is installed");
    assert!(!plain.status.success(), "in the clear it is not served");
    gateway.until_status("the scan is there", |now| now["requests"]["accepted"] == 1).await;

    // A device without a password: the store's own CA says who it is.
    let files = chain.box_dir("pos-2");
    let (data, into) = (path(gateway.dir()), path(&files));
    let words = ["gateway", "device", "add", "pos-2", "--kind", "pos", "--certificate", &into, "--data", &data];
    let added = run(&words).await;
    assert!(added.status.success(), "{}", said(&added));
    let file = |name: &str| path(&files.join(name));
    let (cert, key, ca) = (file("pos-2.crt"), file("pos-2.key"), file("ca.crt"));
    let with_certificate = |device: &'static str| {
        let topic = format!("dev/{device}/scan");
        let words = ["-h", "localhost", "-p", &port, "-q", "1", "-V", "5", "-i", "pos-2", "-t", &topic, "-m", GTIN];
        let words = [&words[..], &["--cafile", &ca, "--cert", &cert, "--key", &key]].concat();
        Command::new("mosquitto_pub").args(words).kill_on_drop(true).output()
    };
    let own = with_certificate("pos-2").await.expect("mosquitto_pub is installed");
    assert!(own.status.success(), "{}", said(&own));
    gateway.until_status("its scan is there", |now| now["requests"]["accepted"] == 2).await;
    let foreign = with_certificate("pos-1").await.expect("mosquitto_pub is installed");
    assert!(said(&foreign).contains("uthori"), "{}", said(&foreign));
}
