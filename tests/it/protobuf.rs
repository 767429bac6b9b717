//! Devices that speak protobuf: same rules and same ledger as JSON, answered in protobuf.

use std::path::Path;

use prost::Message;
use proto::pos::{self, MoveOp, ScanOp, Status, value};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::ledgers::{self, Row};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, path};
use crate::harness::{GTIN, Pair, tools};

const REPLY: &str = "dev/pos-1/reply/pb";

async fn ask(pos: &mut Link, kind: &str, message: &impl Message) -> pos::Reply {
    pos.publish(format!("dev/pos-1/{kind}/pb").as_bytes(), &message.encode_to_vec()).await;
    heard(pos).await
}

async fn heard(pos: &mut Link) -> pos::Reply {
    pos::Reply::decode(pos.message(REPLY).await).expect("a reply is protobuf")
}

async fn done(pos: &mut Link, kind: &str, message: &impl Message) -> pos::Reply {
    let reply = ask(pos, kind, message).await;
    assert_eq!(reply.status(), Status::Ok, "{kind}: {reply:?}");
    reply
}

fn line(qty: i64, cents: i64) -> pos::Line {
    pos::Line { gtin: GTIN.into(), qty: Some(qty), cents: Some(cents) }
}

async fn rejects(gateway: &Path, words: &[&str]) -> Value {
    let data = path(gateway);
    let words = [&["gateway", "rejects"], words, &["--json", "--data", &data]].concat();
    let done = Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary");
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).expect("--json is JSON")
}

#[tokio::test]
async fn a_device_may_speak_protobuf() {
    let mut pair = Pair::start().await;
    let mut shelf = Monitor::open(pair.gateway.addr, "store/item/+").await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    pos.subscribe(REPLY).await;
    let gtin = || GTIN.to_owned();

    // Every kind.
    let name = Some(pos::Text { value: Some("Pear brandy".into()) });
    let price_cents = Some(pos::Amount { value: Some(999) });
    let vintage = pos::Value { of: Some(value::Of::Whole(2023)) };
    let attrs = [("vintage".to_owned(), vintage)].into();
    done(&mut pos, "item", &pos::Item { gtin: gtin(), name, price_cents, attrs, ..Default::default() }).await;
    let text = Some(pos::Text { value: Some("Apricot".into()) });
    let score = Some(pos::Score { value: Some(92.0) });
    let author = "anna".to_owned();
    done(&mut pos, "note", &pos::Note { gtin: gtin(), author, text, score, ..Default::default() }).await;
    let receive = pos::Scan { gtin: gtin(), op: ScanOp::Receive.into(), qty: Some(24), ..Default::default() };
    done(&mut pos, "scan", &receive).await;
    let sale = pos::Sale { id: "s1".into(), lines: vec![line(2, 1998), line(0, 0)], ..Default::default() };
    let reply = ask(&mut pos, "sale", &sale).await;
    assert_eq!((reply.status(), reply.id.as_str(), reply.lines[0].on_hand), (Status::Partial, "s1", 22), "{reply:?}");
    assert_eq!((reply.refused[0].line, reply.refused[0].code.as_str()), (2, "qty_zero"));
    let op = MoveOp::Refund.into();
    done(&mut pos, "move", &pos::Move { op, lines: vec![line(1, 999)], ..Default::default() }).await;
    done(&mut pos, "count", &pos::Count { gtin: gtin(), qty: Some(21), ..Default::default() }).await;
    let full = pos::Value { of: Some(value::Of::Flag(true)) };
    let remark = pos::Remark { id: "a1".into(), fields: [("full".to_owned(), full)].into(), ..Default::default() };
    done(&mut pos, "activity", &remark).await;
    done(&mut pos, "feedback", &remark_without_id(&remark)).await;
    let item = done(&mut pos, "scan", &pos::Scan { gtin: gtin(), ..Default::default() }).await.item;
    let item = item.expect("a scan is told the item");
    assert_eq!((item.name.as_deref(), item.price_cents, item.on_hand), (Some("Pear brandy"), Some(999), 21));
    let shown = json!({"gtin": GTIN, "name": "Pear brandy", "price_cents": 999, "attrs": {"vintage": 2023},
        "notes": {"anna": {"text": "Apricot", "score": 92}}});
    shelf.until_json(&format!("store/item/{GTIN}"), |item| *item == shown).await;

    // Once, whichever way it is written.
    let again = ask(&mut pos, "sale", &sale).await;
    assert_eq!((again.status(), again.first(), again.seq), (Status::Duplicate, Status::Partial, reply.seq));
    let other = pos::Sale { lines: vec![line(3, 0)], ..sale.clone() };
    assert_eq!(ask(&mut pos, "sale", &other).await.code, "id_reused");
    let in_json = json!({"id": "s1", "lines": [{"gtin": GTIN, "qty": 2, "cents": 1998}]}).to_string();
    let in_json = pos.ask("sale", in_json).await;
    assert_eq!(in_json["code"], "id_reused", "and the first answer in JSON is to this: {in_json}");

    // What is not understood is answered in kind; what is refused can be handed in again.
    pos.publish(b"dev/pos-1/sale/pb", b"4006381333931").await;
    assert_eq!(heard(&mut pos).await.code, "pb_invalid");
    pos.publish(b"dev/pos-1/steal/pb", b"x").await;
    assert_eq!(heard(&mut pos).await.code, "topic_unknown");
    let absurd =
        pos::Sale { id: "s2".into(), lines: vec![line(1, 1)], reference: "r".repeat(99), ..Default::default() };
    assert_eq!(ask(&mut pos, "sale", &absurd).await.code, "reference_invalid");
    let list = rejects(pair.gateway.dir(), &["list", "--limit", "1"]).await;
    let reject = &list["rejects"][0];
    assert_eq!((&reject["topic"], &reject["code"]), (&json!("dev/pos-1/sale/pb"), &json!("reference_invalid")));
    let dir = tempfile::tempdir().expect("make a temporary folder");
    let file = path(&dir.path().join("corrected"));
    let corrected = pos::Sale { reference: "r".into(), ..absurd }.encode_to_vec();
    std::fs::write(&file, &corrected).expect("write a file");
    let retried = rejects(pair.gateway.dir(), &["retry", &reject["seq"].to_string(), "--payload", &file]).await;
    assert_eq!((&retried["status"], &retried["lines"][0]["on_hand"]), (&json!("ok"), &json!(20)), "{retried}");
    let told = heard(&mut pos).await;
    assert_eq!((told.status(), told.id.as_str(), told.lines[0].on_hand), (Status::Ok, "s2", 20), "its device hears it");

    if tools::has(&["mosquitto_pub"]) {
        let by_hand = pos::Sale { id: "s3".into(), lines: vec![line(1, 999)], ..Default::default() };
        std::fs::write(&file, by_hand.encode_to_vec()).expect("write a file");
        let port = pair.gateway.addr.port().to_string();
        let words = ["-p", &port, "-q", "1", "-t", "dev/pos-1/sale/pb", "-f", &file];
        let sent = Command::new("mosquitto_pub").args(words).output().await.expect("run mosquitto_pub");
        assert!(sent.status.success(), "{sent:?}");
        assert_eq!(heard(&mut pos).await.lines[0].on_hand, 19);
    }

    pair.gateway.until_applied().await;
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let rows = ledgers::of_gateway(pair.gateway.dir());
    let of = |request: &str| rows.iter().filter(|row| row.request == request).filter_map(Row::movement).count();
    assert_eq!((of("s1"), of("s2")), (1, 1), "once each");
    assert_eq!(ledgers::Hq::read(pair.hub.dir()).rows, rows);
    let kept = rows.iter().find_map(|row| match &row.of {
        proto::wire::record::Of::Note(note) if row.request == "a1" => Some(note.payload.clone()),
        _ => None,
    });
    assert_eq!(kept.as_deref(), Some(&br#"{"full":true,"id":"a1"}"#[..]), "who reads it later reads JSON");
}

fn remark_without_id(remark: &pos::Remark) -> pos::Remark {
    pos::Remark { id: String::new(), ..remark.clone() }
}
