//! Bad input is answered with a code and a reason, kept with its bytes, counted, and never stops its connection.

use std::collections::BTreeMap;
use std::path::Path;

use broker::identity::Kind;
use proto::wire::Refusal;
use proto::wire::record::Of;
use serde_json::json;

use crate::harness::ledgers;
use crate::harness::mqtt::{Link, Packet, Qos};
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder};

/// How much of a refused payload is kept.
const KEPT_BYTES: usize = 4096;
fn tills(dir: &Path) -> Spec {
    let spec = Spec::gateway(dir, "harbour", None).closed();
    spec.account("pos-1", Kind::Pos, "correct horse").account("pos-2", Kind::Pos, "battery staple")
}

struct Case {
    topic: &'static [u8],
    payload: Vec<u8>,
    code: &'static str,
}

fn case(topic: &'static str, payload: impl Into<Vec<u8>>, code: &'static str) -> Case {
    Case { topic: topic.as_bytes(), payload: payload.into(), code }
}

fn cases() -> Vec<Case> {
    const SCAN: &str = "dev/pos-1/scan";
    const SALE: &str = "dev/pos-1/sale";
    let sale = |line: &str| format!(r#"{{"lines":[{line}]}}"#);
    let good = sale(&format!(r#"{{"gtin":"{GTIN}","qty":1}}"#));
    let nested = |open: &str, close: &str| [open.repeat(9_000), close.repeat(9_000)].concat();
    vec![
        case(SALE, r#"{"id":"x","lines":["#, "json_invalid"),
        case(SALE, "[1,2]", "json_not_object"),
        case(SALE, nested("[", "]"), "json_invalid"),
        case(SCAN, nested(r#"{"a":"#, "}"), "json_invalid"),
        case(SALE, *b"{\"id\":\"\xff\xfe\"}", "json_invalid"),
        case(SCAN, *b"\xff\xfe\x01", "scan_not_text"),
        case(SCAN, "4006381333932\r\n", "gtin_check_digit"),
        case(SCAN, "12345", "gtin_length"),
        case(SCAN, r#"{"gtin":"4006381333932","op":"sell"}"#, "gtin_check_digit"),
        case(SCAN, format!(r#"{{"gtin":"{GTIN}","op":"steal"}}"#), "op_unknown"),
        case(SCAN, format!(r#"{{"gtin":"{GTIN}","op":"receive","qty":0}}"#), "qty_zero"),
        case(SCAN, format!(r#"{{"gtin":"{GTIN}","op":"receive","qty":4006381333931}}"#), "qty_absurd"),
        case(SCAN, format!(r#"{{"gtin":"{GTIN}","op":"receive","qty":1e300}}"#), "qty_invalid"),
        case(SCAN, r#"{"op":"sell"}"#, "gtin_missing"),
        case(SALE, sale(&format!(r#"{{"gtin":"{GTIN}","qty":0}}"#)), "qty_zero"),
        case(SALE, sale(&format!(r#"{{"gtin":"{GTIN}","qty":-9223372036854775808}}"#)), "qty_absurd"),
        case(SALE, "{}", "lines_missing"),
        case(SALE, format!(r#"{{"id":"no spaces","lines":[{{"gtin":"{GTIN}","qty":1}}]}}"#), "id_invalid"),
        case(SALE, "", "payload_empty"),
        case(SALE, vec![b' '; 70 << 10], "payload_too_large"),
        case(SALE, vec![b'{'; 900 << 10], "payload_too_large"),
        case("dev/pos-1/nonsense", good.as_str(), "topic_unknown"),
        case("dev/pos-1", good.as_str(), "topic_unknown"),
        case("dev/pos-1/reply", good.as_str(), "topic_unknown"),
        case("up/harbour", good.as_str(), "topic_unknown"),
        case("store/stock/04006381333931", good.as_str(), "topic_unknown"),
        case("dev/pos 1/sale", good.as_str(), "name_invalid"),
        case("dev//sale", good.as_str(), "name_invalid"),
        case("dev/pos-2/sale", good.as_str(), "foreign_device"),
        case("dev/+/sale", good.as_str(), "topic_invalid"),
        case("$SYS/sale", good.as_str(), "topic_invalid"),
        case("", good.as_str(), "topic_invalid"),
    ]
}

#[tokio::test]
async fn bad_input_is_answered_kept_counted_and_survived() {
    let dir = folder();
    let mut gateway = tills(dir.path()).start().await;
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("correct horse")).await;
    pos.subscribe("dev/pos-1/reply").await;
    let cases = cases();
    for (n, Case { topic, payload, code }) in cases.iter().enumerate() {
        let shown = format!(
            "{:?} on {:?}",
            String::from_utf8_lossy(&payload[..payload.len().min(60)]),
            String::from_utf8_lossy(topic)
        );
        pos.publish(topic, payload).await;
        let reply = pos.reply().await;
        // A sale's bad lines are refused one by one.
        let said = if reply["code"].is_null() { &reply["refused"][0] } else { &reply };
        assert_eq!((&reply["status"], &said["code"]), (&json!("refused"), &json!(code)), "{shown}: {reply}");
        assert!(said["reason"].as_str().is_some_and(|reason| reason.len() > 5), "{shown}: {reply}");
        // The same connection goes on.
        pos.done("scan", json!({"id": format!("good-{n}"), "gtin": GTIN, "op": "receive"})).await;
    }

    // MQTT itself wants this one's connection closed; it is acknowledged, so that it does not come again for ever.
    pos.throw(Qos::One, 9999, false, b"dev/pos-1/\xff\xfe", b"ill-formed").await;
    pos.expect_packet(Packet::PubAck(9999)).await;
    pos.expect_closed().await;
    let mut pos = Link::connect(gateway.addr, "pos-1", true, Some("correct horse")).await;
    pos.subscribe("dev/pos-1/reply").await;
    let request = json!({"id": "last", "gtin": GTIN, "op": "receive"});
    let mut last = pos.ask("scan", request.to_string()).await;
    while last["id"] != "last" {
        // The answer to the ill-formed one may reach the new connection.
        assert_eq!(last["code"], "topic_invalid", "{last}");
        last = pos.reply().await;
    }
    assert_eq!(last["item"]["on_hand"], cases.len() + 1, "only the good ones moved stock: {last}");

    let status = gateway.status().await;
    gateway.stop().await;
    let rows = ledgers::of_gateway(gateway.dir());
    let kept: Vec<(&str, &Refusal)> = rows
        .iter()
        .filter_map(|row| match &row.of {
            Of::Refusal(refusal) => Some((row.device.as_str(), refusal)),
            _ => None,
        })
        .collect();
    assert_eq!(kept.len(), cases.len() + 1, "one record for each refusal");
    let mut counts = BTreeMap::<&str, u64>::new();
    for ((device, refusal), case) in kept.iter().zip(&cases) {
        assert_eq!((*device, refusal.code.as_str()), ("pos-1", case.code), "{refusal:?}");
        assert_eq!(refusal.topic.as_bytes(), case.topic, "{refusal:?}");
        assert_eq!(refusal.payload_bytes as usize, case.payload.len(), "{refusal:?}");
        assert_eq!(refusal.payload, case.payload[..case.payload.len().min(KEPT_BYTES)], "its bytes are kept");
    }
    let (_, ill_formed) = kept[cases.len()];
    assert_eq!((ill_formed.code.as_str(), &ill_formed.payload[..]), ("topic_invalid", &b"ill-formed"[..]));
    for (_, refusal) in &kept {
        *counts.entry(&refusal.code).or_default() += 1;
    }
    assert_eq!(status["requests"]["refused"], json!(counts), "each is counted");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let dir = folder();
    let gateway = tills(dir.path()).start().await;
    // Client, password, and the codes that CONNACK may give.
    let strangers = [
        ("pos-1", Some("wrong horse"), &[4, 5][..]),
        ("pos-3", Some("correct horse"), &[4, 5]),
        ("pos-1", None, &[4, 5]),
        ("pos/1", None, &[2]),
        ("pos 1", None, &[2]),
        ("tillsync.inside", None, &[2]),
    ];
    for (client, password, codes) in strangers {
        let code = Link::knock(gateway.addr, client, password).await;
        assert!(codes.contains(&code), "{client} with {password:?}: CONNACK {code}");
    }
}

#[tokio::test]
async fn an_open_gateway_answers_the_device_that_the_topic_names() {
    let dir = folder();
    let gateway = Spec::gateway(dir.path(), "harbour", None).start().await;
    let mut pos = Link::device(gateway.addr, "pos-1").await;
    for (topic, code) in [("dev/pos-1/nonsense", "topic_unknown"), ("dev/pos-1/sale/more", "topic_unknown")] {
        pos.publish(topic.as_bytes(), b"{}").await;
        let reply = pos.reply().await;
        assert_eq!((&reply["status"], &reply["code"]), (&json!("refused"), &json!(code)), "{reply}");
    }
    // Nobody can be answered here; it is acknowledged and counted.
    pos.publish(b"dev/pos 1/sale", b"{}").await;
    pos.throw(Qos::Two, 77, false, b"dev/pos-1/sale", b"{").await;
    pos.expect_packet(Packet::PubRec(77)).await;
    pos.release(77).await;
    assert_eq!(pos.reply().await["code"], "json_invalid");
    let counted = gateway.status().await["requests"]["refused"].clone();
    assert_eq!(counted, json!({"json_invalid": 1, "name_invalid": 1, "topic_unknown": 2}));
}
