//! Holds of a real gateway, cut off and killed: every one that a device was told of is there, each once, and nothing is
//! promised beyond what was granted.

use std::time::Duration;

use prost::Message;
use proto::gtin::Gtin;
use proto::pos::{self, HoldOp, Status};
use proto::wire::RightsHeld;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::grants::Granting;
use crate::harness::mqtt::{Link, Monitor, Qos};
use crate::harness::node::{Node, Spec};
use crate::harness::{GTIN, folder};

fn number() -> u64 {
    GTIN.parse::<Gtin>().expect("an item number").number()
}

/// What the status says of the item.
async fn stands(store: &Node) -> Value {
    store.status().await["rights"]["items"][GTIN].clone()
}

async fn until_granted(store: &Node, granted: u64) {
    store.until_status("the grant", |status| status["rights"]["items"][GTIN]["granted"] == granted).await;
}

fn hold(id: &str, qty: u64) -> Value {
    json!({ "id": id, "op": "hold", "gtin": GTIN, "qty": qty })
}

#[tokio::test]
async fn a_till_holds_commits_releases_and_sells_without_a_network() {
    let dir = folder();
    let hub = Granting::start("harbour", true).await;
    let mut store = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).start().await;
    let mut shelf = Monitor::open(store.addr, "store/stock/+").await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    pos.subscribe("dev/pos-1/reply/pb").await;
    let refused = pos.ask("hold", hold("h0", 1).to_string()).await;
    assert_eq!(refused["code"], "not_pooled", "{refused}");
    hub.until_told("that nothing is held", |told| told.held.iter().any(|part| part.last)).await;

    hub.grant(number(), 10, 0);
    let topic = format!("store/stock/{GTIN}");
    shelf.until_json(&topic, |stock| stock["available"] == 10).await;
    assert_eq!(pos.done("hold", hold("h1", 3)).await["hold"]["available"], 7);
    let message =
        pos::Hold { id: "h2".into(), op: HoldOp::Hold.into(), gtin: GTIN.into(), qty: Some(2), ..Default::default() };
    pos.publish(b"dev/pos-1/hold/pb", &message.encode_to_vec()).await;
    let reply = pos::Reply::decode(pos.message("dev/pos-1/reply/pb").await).expect("a reply is protobuf");
    let told = reply.hold.clone().expect("how the hold stands");
    assert_eq!(
        (reply.status(), told.hold.as_str(), told.state.as_str(), told.available),
        (Status::Ok, "h2", "open", Some(5))
    );
    pos.done("hold", json!({ "op": "commit", "hold": "h1" })).await;
    let sold = pos.done("sale", json!({ "hold": "h1", "lines": [{ "gtin": GTIN, "qty": 4 }] })).await;
    assert_eq!((&sold["hold"]["state"], &sold["hold"]["covered"]), (&json!("collected"), &json!(3)), "{sold}");
    pos.done("hold", json!({ "op": "release", "hold": "h2" })).await;
    let expected = json!({ "gtin": GTIN, "on_hand": -4, "available": 6, "held": 0, "promised": 4 });
    shelf.until_json(&topic, |stock| *stock == expected).await;

    let short = pos.done("hold", json!({ "id": "h3", "op": "hold", "gtin": GTIN, "qty": 6, "seconds": 1 })).await;
    assert_eq!(short["hold"]["expires_s"], 1);
    let refused = pos.ask("hold", hold("h4", 1).to_string()).await;
    assert_eq!((&refused["code"], &refused["hold"]["available"]), (&json!("no_rights"), &json!(0)), "{refused}");
    hub.until_told("that it runs out", |told| told.wanted.iter().any(|want| want.turned_away == 1)).await;
    shelf.until_json(&topic, |stock| stock["available"] == 0 && stock["held"] == 6).await;
    shelf.until_json(&topic, |stock| stock["available"] == 6 && stock["held"] == 0).await;
    let late = pos.ask("hold", json!({ "op": "release", "hold": "h3" }).to_string()).await;
    assert_eq!((&late["code"], &late["hold"]["state"]), (&json!("hold_ended"), &json!("expired")));

    hub.grant(number(), 10, 2);
    shelf.until_json(&topic, |stock| stock["available"] == 4).await;
    assert_eq!(stands(&store).await["returned"], 2);
    store.stop().await;
}

/// A device that gets no answer asks again under the same id, also after the gateway was killed.
#[tokio::test]
async fn a_killed_gateway_forgets_no_hold_and_gives_no_unit_twice() {
    const UNITS: u64 = 60;
    let dir = folder();
    let hub = Granting::start("harbour", true).await;
    let mut store = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).start().await;
    hub.grant(number(), UNITS, 0);
    until_granted(&store, UNITS).await;
    let (mut taken, mut refused) = (Vec::new(), 0);
    for round in 0..6u64 {
        let mut pos = Link::device(store.addr, "pos-1").await;
        let asks: Vec<String> = (0..20).map(|n| format!("r{round}-{n}")).collect();
        for (pkid, id) in (1u16..).zip(&asks) {
            pos.throw(Qos::One, pkid, false, b"dev/pos-1/hold", hold(id, 1).to_string().as_bytes()).await;
        }
        sleep(Duration::from_millis(round * 3)).await;
        store.kill().await;
        store.restart().await;
        let mut pos = Link::device(store.addr, "pos-1").await;
        for id in &asks {
            let reply = pos.ask("hold", hold(id, 1).to_string()).await;
            match (reply["status"].as_str(), reply["code"].as_str()) {
                (Some("ok" | "duplicate"), _) => {
                    assert_eq!(
                        (&reply["hold"]["hold"], &reply["hold"]["state"]),
                        (&json!(id), &json!("open")),
                        "{reply}"
                    );
                    taken.push(id.clone());
                }
                (_, Some("no_rights")) => refused += 1,
                _ => panic!("{id}: {reply}"),
            }
        }
        // Half of what is open is committed, with a kill before anybody is told.
        let commits: Vec<_> = taken.iter().filter(|id| id.starts_with(&format!("r{round}-1"))).collect();
        for (pkid, id) in (101u16..).zip(&commits) {
            let commit = json!({ "id": format!("c-{id}"), "op": "commit", "hold": id }).to_string();
            pos.throw(Qos::One, pkid, false, b"dev/pos-1/hold", commit.as_bytes()).await;
        }
        sleep(Duration::from_millis(round)).await;
        store.kill().await;
        store.restart().await;
        let mut pos = Link::device(store.addr, "pos-1").await;
        for id in &commits {
            let commit = json!({ "id": format!("c-{id}"), "op": "commit", "hold": id }).to_string();
            let reply = pos.ask("hold", commit).await;
            assert_eq!(reply["hold"]["state"], "committed", "{reply}");
        }
    }
    assert_eq!((taken.len() as u64, refused), (UNITS, 120 - UNITS), "every unit has one buyer");
    let item = stands(&store).await;
    let (held, promised) = (item["held"].as_u64(), item["promised"].as_u64());
    assert_eq!(
        (held.zip(promised).map(|(held, promised)| held + promised), &item["available"]),
        (Some(UNITS), &json!(0))
    );
    // In every session; the last one may have just begun.
    let says = |held: &RightsHeld| held.rights.iter().map(|entry| entry.granted).eq([UNITS]);
    hub.until_told("what it holds", |told| told.held.last().is_some_and(says)).await;
    store.stop().await;
}

#[tokio::test]
async fn a_hub_that_keeps_no_rights_hears_nothing_of_them() {
    let dir = folder();
    let hub = Granting::start("harbour", false).await;
    let mut store = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).start().await;
    hub.grant(number(), 1, 0);
    until_granted(&store, 1).await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    pos.done("hold", hold("h1", 1)).await;
    assert_eq!(pos.ask("hold", hold("h2", 1).to_string()).await["code"], "no_rights");
    store.until_status("it would be said", |status| status["rights"]["wanted"] == 1).await;
    sleep(Duration::from_millis(600)).await;
    let told = hub.told();
    assert!(told.held.is_empty() && told.wanted.is_empty(), "{told:?}");
    store.stop().await;
}
