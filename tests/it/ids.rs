//! The same id twice is one request; QoS 2 is one message. Both also across a SIGKILL.

use serde_json::json;

use crate::harness::ledgers;
use crate::harness::mqtt::{Link, Monitor, Packet, Qos};
use crate::harness::{GTIN, Pair};

#[tokio::test]
async fn a_repeated_id_is_a_duplicate_also_after_a_kill() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    let good = json!({"gtin": GTIN, "qty": 2, "cents": 1998});
    let wrong = json!({"gtin": "4006381333932", "qty": 1});
    // Kind, request, and its first status.
    let rows = [
        ("scan", json!({"id": "r1", "gtin": GTIN, "op": "receive", "qty": 24}), "ok"),
        ("sale", json!({"id": "s1", "lines": [good]}), "ok"),
        ("sale", json!({"id": "s2", "lines": [good, wrong]}), "partial"),
        ("sale", json!({"id": "s3", "lines": [wrong]}), "refused"),
        ("item", json!({"id": "i1", "gtin": GTIN, "name": "Pen"}), "ok"),
    ];
    let mut first = Vec::new();
    for (kind, request, status) in &rows {
        let reply = pos.ask(kind, request.to_string()).await;
        assert_eq!(reply["status"], *status, "{request}: {reply}");
        first.push(reply);
    }
    for round in ["at once", "after a kill"] {
        if round == "after a kill" {
            pair.gateway.kill().await;
            pair.gateway.restart().await;
            pos = Link::device(pair.gateway.addr, "pos-1").await;
            let mut store = Monitor::open(pair.gateway.addr, "store/#").await;
            store.until_json(&format!("store/stock/{GTIN}"), |stock| stock["on_hand"] == 24 - 2 - 2).await;
            store.until_json(&format!("store/item/{GTIN}"), |item| item["name"] == "Pen").await;
        }
        for ((kind, request, status), first) in rows.iter().zip(&first) {
            let again = pos.ask(kind, request.to_string()).await;
            assert_eq!((&again["status"], &again["first"]), (&json!("duplicate"), &json!(status)), "{round}: {again}");
            assert_eq!((&again["seq"], &again["refused"]), (&first["seq"], &first["refused"]), "{round}: {again}");
            let other = request.to_string().replace('}', " }");
            let reused = pos.ask(kind, other).await;
            assert_eq!((&reused["status"], &reused["code"]), (&json!("refused"), &json!("id_reused")), "{round}");
            assert!(reused["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{reused}");
        }
    }
    // Another device has ids of its own.
    let mut other = Link::device(pair.gateway.addr, "pos-2").await;
    other.done("sale", rows[1].1.clone()).await;

    let looked_up = pos.done("scan", json!({"gtin": GTIN})).await;
    assert_eq!(looked_up["item"]["on_hand"], 24 - 2 - 2 - 2, "{looked_up}");
    pair.gateway.stop().await;
    let at_gateway = ledgers::of_gateway(pair.gateway.dir());
    for (id, records) in [("r1", 1), ("s1", 1), ("s2", 2), ("s3", 1), ("i1", 1)] {
        let held = at_gateway.iter().filter(|row| (row.device.as_str(), row.request.as_str()) == ("pos-1", id));
        assert_eq!(held.count(), records, "records of {id}");
    }
}

/// A trigger that bounces: the same request again before the first one is answered, in one group of the ledger.
#[tokio::test]
async fn a_request_sent_twice_in_one_breath_is_one() {
    let mut pair = Pair::start().await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    const PAIRS: u16 = 50;
    for n in 0..PAIRS {
        let request = json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"}).to_string();
        for pkid in [1000 + 2 * n, 1001 + 2 * n] {
            pos.throw(Qos::One, pkid, false, b"dev/pos-1/scan", request.as_bytes()).await;
        }
    }
    let mut statuses = Vec::new();
    for _ in 0..2 * PAIRS {
        let reply = pos.reply().await;
        statuses.push((reply["id"].to_string(), reply["status"].to_string()));
    }
    for pair in statuses.chunks(2) {
        let [(first, ok), (second, duplicate)] = pair else { panic!("an odd number of replies") };
        assert_eq!((first, ok.as_str(), duplicate.as_str()), (second, "\"ok\"", "\"duplicate\""));
    }
    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    let rows = ledgers::of_gateway(pair.gateway.dir());
    assert_eq!(rows.len(), usize::from(PAIRS));
}

#[tokio::test]
async fn a_qos_2_publish_is_one_message_also_after_a_kill() {
    let mut pair = Pair::start().await;
    let receive = json!({"gtin": GTIN, "op": "receive", "qty": 5}).to_string();
    let topic = b"dev/scanner-1/scan";
    let mut session = Link::connect(pair.gateway.addr, "scanner-1", false, None).await;
    session.throw(Qos::Two, 7, false, topic, receive.as_bytes()).await;
    session.expect_packet(Packet::PubRec(7)).await;
    // The link breaks before the release, then the gateway dies: each time the message comes again.
    for round in ["the link broke", "the gateway was killed"] {
        drop(session);
        if round == "the gateway was killed" {
            pair.gateway.kill().await;
            pair.gateway.restart().await;
        }
        session = Link::connect(pair.gateway.addr, "scanner-1", false, None).await;
        session.throw(Qos::Two, 7, true, topic, receive.as_bytes()).await;
        session.expect_packet(Packet::PubRec(7)).await;
    }
    session.release(7).await;
    // The packet id is free: the next message under it is a new one.
    session.throw(Qos::Two, 7, false, topic, receive.as_bytes()).await;
    session.expect_packet(Packet::PubRec(7)).await;
    session.release(7).await;

    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    let at_gateway = ledgers::of_gateway(pair.gateway.dir());
    let units: Vec<_> = at_gateway.iter().filter_map(|row| row.movement()).map(|movement| movement.units).collect();
    assert_eq!(units, [5, 5]);
}
