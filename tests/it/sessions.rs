//! Persistent sessions of a gateway that is killed: subscriptions, undelivered messages and packet ids are there again.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::mqtt::{Link, Packet, Qos};
use crate::harness::node::{Node, Spec};
use crate::harness::wait::PATIENCE;
use crate::harness::{GTIN, SITE, folder, tools};

const REPLIES: &str = "dev/pos-1/reply";
const SCANS: usize = 20;

/// A session that is kept, and whether it was there already.
async fn resume(node: &Node, client: &str) -> (Link, bool) {
    Link::resume(node.addr, client).await
}

/// Scans of `pos-1`, whose replies are for whoever reads them.
async fn scan(node: &Node, from: usize, to: usize) {
    let mut device = Link::open(node.addr, "pos-1").await;
    for n in from..to {
        let lines = json!({"op": "receive", "id": format!("id-{n}"), "lines": [{"gtin": GTIN, "qty": 1}]});
        device.publish(b"dev/pos-1/move", lines.to_string().as_bytes()).await;
    }
}

/// Takes replies and acknowledges them in full, until there are `wanted`.
async fn collect(link: &mut Link, qos: u8, wanted: usize, seen: &mut Vec<String>) {
    while seen.len() < wanted {
        let payload = match qos {
            1 => link.message(REPLIES).await,
            _ => {
                let (pkid, payload) = link.letter(REPLIES).await;
                link.pubrec(pkid).await;
                link.expect_packet(Packet::PubRel(pkid)).await;
                link.pubcomp(pkid).await;
                payload
            }
        };
        let reply: Value = serde_json::from_slice(&payload).expect("a reply is JSON");
        seen.push(reply["id"].as_str().expect("a reply names its request").to_owned());
    }
}

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("id-{n}")).collect()
}

#[tokio::test]
async fn undelivered_messages_survive_kills_at_every_qos() {
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    for (client, qos) in [("one", 1), ("two", 2)] {
        let (mut reader, present) = resume(&node, client).await;
        assert!(!present, "a session that nobody knows");
        reader.subscribe_at(REPLIES, qos).await;
        let mut seen = Vec::new();
        scan(&node, 0, 5).await;
        collect(&mut reader, qos, 5, &mut seen).await;
        drop(reader);

        scan(&node, 5, 10).await;
        node.kill().await;
        node.restart().await;
        scan(&node, 10, SCANS).await;
        node.kill().await;
        node.restart().await;

        let (mut reader, present) = resume(&node, client).await;
        assert!(present, "the session outlived two kills");
        // What was acknowledged just before the kill may come again at QoS 1, but not at QoS 2.
        while seen.last() != Some(&format!("id-{}", SCANS - 1)) {
            let wanted = seen.len() + 1;
            collect(&mut reader, qos, wanted, &mut seen).await;
        }
        if qos == 1 {
            seen.sort_by_key(|id| id[3..].parse::<usize>().expect("a number"));
            seen.dedup();
        }
        assert_eq!(seen, ids(0, SCANS), "QoS {qos}");
        let status = node.status().await;
        assert_eq!(status["front"]["mailboxes"]["dropped"], 0, "{status}");
        reader.unsubscribe(REPLIES).await;
    }
}

#[tokio::test]
async fn exactly_once_holds_in_both_directions_over_kills() {
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    let (mut till, _) = resume(&node, "till").await;
    till.subscribe_at(REPLIES, 2).await;
    // Received by the node, whose PUBCOMP the till never sees.
    let payload = json!({"op": "receive", "id": "once", "lines": [{"gtin": GTIN, "qty": 1}]}).to_string();
    till.throw(Qos::Two, 7, false, b"dev/pos-1/move", payload.as_bytes()).await;
    till.expect_packet(Packet::PubRec(7)).await;
    // The reply is answered with PUBREC, and the node dies before PUBCOMP.
    let (pkid, first) = till.letter(REPLIES).await;
    till.pubrec(pkid).await;
    till.expect_packet(Packet::PubRel(pkid)).await;
    node.kill().await;
    node.restart().await;

    let (mut till, present) = resume(&node, "till").await;
    assert!(present);
    till.expect_packet(Packet::PubRel(pkid)).await;
    till.pubcomp(pkid).await;
    // The till repeats itself, since it was not told that it need not: one message still.
    till.throw(Qos::Two, 7, true, b"dev/pos-1/move", payload.as_bytes()).await;
    till.expect_packet(Packet::PubRec(7)).await;
    till.release(7).await;
    let fresh = json!({"op": "receive", "id": "twice", "lines": [{"gtin": GTIN, "qty": 1}]}).to_string();
    till.throw(Qos::Two, 7, false, b"dev/pos-1/move", fresh.as_bytes()).await;
    till.expect_packet(Packet::PubRec(7)).await;
    let (pkid, second) = till.letter(REPLIES).await;
    assert!(first.ends_with(b"}") && first != second, "{first:?}");
    let reply: Value = serde_json::from_slice(&second).expect("a reply is JSON");
    assert_eq!(reply["id"], "twice", "nothing came between: {reply}");
    till.pubrec(pkid).await;
    till.expect_packet(Packet::PubRel(pkid)).await;
    till.pubcomp(pkid).await;
    let status = node.status().await;
    assert_eq!(status["requests"]["duplicates"], 0, "the repeat did not even reach the rules: {status}");
}

#[tokio::test]
async fn retained_messages_survive_a_kill() {
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    scan(&node, 0, 3).await;
    node.kill().await;
    node.restart().await;
    let mut reader = Link::open(node.addr, "reader").await;
    reader.subscribe("store/#").await;
    let stock = reader.message(&format!("store/stock/{GTIN}")).await;
    let stock: Value = serde_json::from_slice(&stock).expect("stock is JSON");
    assert_eq!(stock["on_hand"], 3, "{stock}");
}

/// A client that is nobody's idea of our own protocol.
#[tokio::test]
async fn mosquitto_finds_its_session_after_a_kill() {
    if !tools::has(&["mosquitto_sub"]) {
        return;
    }
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    for (client, version, qos) in [("m-1", "311", "1"), ("m-2", "311", "2"), ("m-3", "5", "1"), ("m-4", "5", "2")] {
        // Subscribes, and leaves as soon as it is.
        let subscribed = mosquitto(&node, client, version, qos, &["-E"]).await;
        assert_eq!(subscribed, "");
        scan(&node, 0, 3).await;
        node.kill().await;
        node.restart().await;
        let got = mosquitto(&node, client, version, qos, &["-C", "3", "-F", "%p"]).await;
        let got: Vec<String> = got
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a reply is JSON"))
            .map(|reply| reply["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(got, ids(0, 3), "{client} MQTT {version} QoS {qos}");
    }
}

async fn mosquitto(node: &Node, client: &str, version: &str, qos: &str, more: &[&str]) -> String {
    let port = node.addr.port().to_string();
    let mut command = Command::new("mosquitto_sub");
    command.args(["-p", &port, "-V", version, "-i", client, "-c", "-q", qos, "-t", REPLIES]);
    if version == "5" && !more.contains(&"-x") {
        command.args(["-x", "3600"]);
    }
    let run = command.args(more).stdout(Stdio::piped()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, run).await.expect("mosquitto_sub ends").expect("run mosquitto_sub");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What the rules say only after a commit rides on the next one.
#[tokio::test]
async fn what_a_commit_gives_rise_to_is_kept_too() {
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    let topic = format!("store/stock/{GTIN}");
    let (mut reader, _) = resume(&node, "shelf").await;
    reader.subscribe_at("store/stock/+", 2).await;
    drop(reader);
    scan(&node, 0, 1).await;
    // Acknowledged, so what the first one gave rise to is on disk.
    let mut device = Link::device(node.addr, "pos-2").await;
    device.done("note", json!({"gtin": GTIN, "text": "Apricot", "author": "anna"})).await;
    device.done("move", json!({"op": "receive", "lines": [{"gtin": GTIN, "qty": 1}]})).await;
    node.kill().await;
    node.restart().await;
    let (mut reader, present) = resume(&node, "shelf").await;
    assert!(present);
    let (_, stock) = reader.letter(&topic).await;
    let stock: Value = serde_json::from_slice(&stock).expect("stock is JSON");
    assert_eq!(stock["on_hand"], 1, "{stock}");
}

#[tokio::test]
async fn a_session_of_an_absent_client_expires_after_a_kill() {
    if !tools::has(&["mosquitto_sub"]) {
        return;
    }
    let dir = folder();
    let mut node = Spec::gateway(dir.path(), SITE, None).start().await;
    mosquitto(&node, "short", "5", "1", &["-E", "-x", "3"]).await;
    scan(&node, 0, 3).await;
    node.kill().await;
    node.restart().await;
    let gone = |status: &Value| status["front"]["mailboxes"]["sessions"] == 0;
    let status = node.until_status("the session expires", gone).await;
    let mailboxes = &status["front"]["mailboxes"];
    assert_eq!((&mailboxes["restored"], &mailboxes["messages"]), (&json!(1), &json!(0)), "{status}");
    let (_, present) = resume(&node, "short").await;
    assert!(!present);
}
