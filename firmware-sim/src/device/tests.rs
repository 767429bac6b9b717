//! What devices send, and that they insist until all is acknowledged and answered.

use tokio::time::timeout;

use super::*;
use crate::request::Line;
use crate::test_broker::{mosquitto, toy_gateway};

fn request(device: &str, id: Option<&str>, action: Action) -> Request {
    Request {
        site: 0,
        device: device.into(),
        id: id.map(str::to_owned),
        at_ms: Some(5),
        due: Duration::ZERO,
        quirk: Quirk::None,
        action,
    }
}

#[test]
fn speaks_the_payloads_of_the_contract() {
    let code = "4006381333931".to_owned();
    let line = Line { code: code.clone(), qty: 2, cents: 1998 };
    let rows = [
        (
            request("pos-1", Some("s1"), Action::Sale { lines: vec![line] }),
            "dev/pos-1/sale",
            r#"{"id":"s1","lines":[{"gtin":"4006381333931","qty":2,"cents":1998}],"at_ms":5}"#,
        ),
        (
            request("scanner-1", Some("r1"), Action::Receive { code: code.clone(), qty: 24 }),
            "dev/scanner-1/scan",
            r#"{"id":"r1","gtin":"4006381333931","op":"receive","qty":24,"at_ms":5}"#,
        ),
        (
            request(
                "tablet-1",
                Some("n1"),
                Action::WriteNote { code: code.clone(), author: "anna".into(), text: "pear".into(), score: Some(90) },
            ),
            "dev/tablet-1/note",
            r#"{"id":"n1","gtin":"4006381333931","author":"anna","text":"pear","score":90}"#,
        ),
        (
            request("tablet-1", Some("i1"), Action::EditItem { code: code.clone(), name: None, price_cents: 1290 }),
            "dev/tablet-1/item",
            r#"{"id":"i1","gtin":"4006381333931","price_cents":1290}"#,
        ),
    ];
    for (request, topic, payload) in rows {
        let outgoing = encode(&request);
        assert_eq!(outgoing.topic, topic);
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
        assert_eq!(value(&outgoing.payload), value(payload.as_bytes()));
    }
    let bare = encode(&request("scanner-1", None, Action::LookUp { code, ending: "\r\n" }));
    assert_eq!(&bare.payload[..], b"4006381333931\r\n");
}

#[tokio::test]
async fn a_till_insists_until_every_sale_is_acknowledged_and_answered() {
    let Some(broker) = mosquitto().await else { return };
    let gateway = toy_gateway(broker.addr, 3).await;

    let (feed, requests) = mpsc::channel(FEED_MAX);
    let profile = Profile { site: 0, name: "pos-1".into(), addr: broker.addr, seed: 1 };
    let (acks, (_give_up, end)) = (Arc::new(watch::channel(0).0), watch::channel(None));
    let till = tokio::spawn(run(profile, requests, acks.clone(), end));
    let quirks = [Quirk::None, Quirk::Twice, Quirk::LoseAck, Quirk::None];
    for n in 0..42 {
        let quirk = if n < 40 { quirks[n % 4] } else { Quirk::None };
        let line = Line { code: "4006381333931".into(), qty: 1, cents: 1 };
        let sale = Action::Sale { lines: vec![line] };
        let request = Request { quirk, ..request("pos-1", Some(&format!("s{n}")), sale) };
        feed.send(request).await.unwrap();
    }
    drop(feed);
    let log = timeout(Duration::from_secs(30), till).await.expect("the till finishes").unwrap();
    gateway.abort();
    assert_eq!(log.entries.len(), 42);
    for (id, entry) in &log.entries {
        assert!(entry.acks >= 1 && !entry.replies.is_empty(), "{id}: {entry:?}");
    }
    assert_eq!(log.messages_acked(), 42);
    assert!(log.links_lost >= 10, "{}", log.links_lost);
    assert!(log.entries["s1"].sends >= 2, "a double scan is sent twice");
    assert_eq!(log.entries["s41"].replies[0].status, "duplicate", "a lost answer is asked for");
    assert_eq!(*acks.borrow(), log.entries.values().map(|entry| u64::from(entry.acks)).sum::<u64>());
}
