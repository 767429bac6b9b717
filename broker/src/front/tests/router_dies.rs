//! The router's thread is killed: connections stay, and are served again within a second.

use std::time::Duration;

use rumqttd::protocol::{Packet, Publish};
use tokio::time::Instant;

use super::super::FrontConfig;
use super::super::router::LinkFor;
use super::client::*;
use super::harness::*;

/// Within this all sessions must be attached again.
const SECOND: Duration = Duration::from_secs(1);

/// A topic that starts with a non-ASCII character panics the router as soon as anybody has subscribed to anything.
async fn kill_router(rig: &Rig) {
    let mut link = rig.shared.router.link(LinkFor::Process("poison")).await.unwrap();
    link.send(&mut vec![Packet::Publish(Publish::new("é", "x", false), None)]).unwrap();
}

/// Publishes until the reader hears of it, from a client that stays connected too.
async fn until_served(writer: &mut Client, reader: &mut Client, round: u16) -> Received {
    let served = async {
        loop {
            writer.publish("t/x", &round.to_string(), 1, 1).await;
            writer.expect(&[0x40, 2, 0, 1]).await;
            // What is published before the reader is attached is lost: the router keeps nothing over its death.
            if let Ok(received) = tokio::time::timeout(Duration::from_millis(20), reader.recv_publish()).await {
                return received;
            }
        }
    };
    tokio::time::timeout(DEADLINE, served).await.expect("the router is not replaced")
}

#[tokio::test]
async fn clean_sessions_are_attached_again_within_a_second() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    reader.subscribe("u/#", 1).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    until_served(&mut writer, &mut reader, 0).await;
    for round in 1..=3u16 {
        kill_router(&rig).await;
        let killed = Instant::now();
        until("the router is replaced", || rig.stats.router_restarts.get() == u64::from(round)).await;
        while until_served(&mut writer, &mut reader, round).await.payload != round.to_string().into_bytes() {}
        assert!(killed.elapsed() < SECOND, "round {round}: {:?}", killed.elapsed());
    }
    assert_eq!((rig.stats.connections.get(), rig.stats.connections_total.get()), (2, 2), "nobody had to reconnect");
}

/// Packet ids of the new router must not meet those that the client still has in flight.
#[tokio::test]
async fn what_is_in_flight_to_a_clean_session_ends_in_order() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 2).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    let old = until_served(&mut writer, &mut reader, 0).await;
    kill_router(&rig).await;
    until("the router is replaced", || rig.stats.router_restarts.get() == 1).await;
    let new = until_served(&mut writer, &mut reader, 1).await;
    assert_ne!(old.pkid, new.pkid);
    for received in [old, new] {
        let [high, low] = received.pkid.to_be_bytes();
        reader.send(&[0x50, 2, high, low]).await;
        // On a slow machine what was published meanwhile comes first.
        while reader.recv().await != [0x62, 2, high, low] {}
        reader.send(&[0x70, 2, high, low]).await;
    }
    reader.send(&[0xc0, 0]).await;
    while reader.recv().await != [0xd0, 0] {}
}

#[tokio::test]
async fn persistent_sessions_do_not_notice() {
    let rig = Rig::start().await;
    let mut kept = Client::connect_with(rig.addr, &Connect::kept(V5, "kept")).await;
    assert_eq!(kept.subscribe("t/#", 1).await, 1);
    // The router panics only if somebody subscribed to anything there.
    let mut other = Client::connect(rig.addr, V311, "other").await;
    other.subscribe("other/#", 0).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    kill_router(&rig).await;
    for n in 0..50 {
        writer.publish("t/x", &n.to_string(), 1, 1).await;
        writer.expect(&[0x40, 2, 0, 1]).await;
        let received = kept.recv_publish().await;
        assert_eq!((received.payload, received.qos), (n.to_string().into_bytes(), 1));
        kept.send(&[&[0x40, 2][..], &received.pkid.to_be_bytes()].concat()).await;
    }
    until("the router is replaced", || rig.stats.router_restarts.get() == 1).await;
    assert_eq!(rig.stats.connections_total.get(), 3);
}

#[tokio::test]
async fn a_subscription_under_way_is_answered_by_the_next_router() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    for round in 1..=3 {
        kill_router(&rig).await;
        assert_eq!(reader.subscribe(&format!("u/{round}"), 1).await, 1);
        until("the router is replaced", || rig.stats.router_restarts.get() == round).await;
    }
}

#[tokio::test]
async fn what_nobody_wants_does_not_go_through_the_router() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    reader.subscribe("t/+", 0).await;
    // What goes to the router is counted on its way there, which an acknowledgement does not wait for.
    let mut publish = async |topic: &str, forwarded: u64| {
        writer.publish(topic, "1", 1, 1).await;
        writer.expect(&[0x40, 2, 0, 1]).await;
        until("it is fanned out", || rig.stats.forwarded() == forwarded).await;
        rig.stats.unrouted.get()
    };
    assert_eq!(publish("t/x", 1).await, 0);
    reader.recv_publish().await;
    assert_eq!(publish("u/x", 2).await, 1);
    rig.publisher.publish("u/x", payload("1"), false);
    assert_eq!(publish("u/x", 4).await, 3);
    reader.unsubscribe("t/+").await;
    assert_eq!(publish("t/x", 5).await, 4);
    reader.subscribe("t/x", 0).await;
    assert_eq!(publish("t/x", 6).await, 4);
    reader.recv_publish().await;
    drop(reader);
    until("gone", || rig.stats.connections.get() == 1).await;
    assert_eq!(publish("t/x", 7).await, 5);
}

/// One that hangs is replaced while it lives, so nothing but the replacement tells its links.
#[tokio::test]
async fn links_leave_a_router_that_was_replaced() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 1).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    for round in 0..3 {
        let received = until_served(&mut writer, &mut reader, round).await;
        reader.send(&[&[0x40, 2][..], &received.pkid.to_be_bytes()].concat()).await;
        rig.shared.router.restart();
    }
    until_served(&mut writer, &mut reader, 3).await;
    assert_eq!(rig.stats.connections_total.get(), 2);
}

/// It keeps every filter that it ever heard of. Once too many of them are nobody's, a new one takes its place, and nobody
/// who is connected notices but by what was under way.
#[tokio::test]
async fn a_router_that_holds_too_much_is_made_anew_and_new_filters_are_granted() {
    let rig = Rig::with(FrontConfig { filters_max: 100, ..FrontConfig::default() }).await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let mut restless = Client::connect(rig.addr, V311, "restless").await;
    for n in 0..500 {
        let filter = format!("x/{n}");
        let granted = async {
            while restless.subscribe(&filter, 0).await == 0x80 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, granted).await.expect("a new filter is granted");
        restless.unsubscribe(&filter).await;
    }
    until("the router is made anew", || rig.stats.router_renewals.get() >= 5).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    until_served(&mut writer, &mut reader, 1).await;
    assert_eq!((rig.stats.router_restarts.get(), rig.stats.connections_total.get()), (0, 3), "nobody had to reconnect");
}

/// A log is kept though nobody reads it any more, and so is every topic.
#[tokio::test]
async fn a_router_full_of_messages_is_made_anew() {
    let rig = Rig::with(FrontConfig { router_bytes_max: 1 << 20, ..FrontConfig::default() }).await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    until_served(&mut writer, &mut reader, 0).await;
    for n in 0..5_000 {
        rig.publisher.publish(&format!("t/{n}"), payload("something of no interest"), false);
        tokio::task::yield_now().await;
    }
    until("the router is made anew", || rig.stats.router_renewals.get() >= 1).await;
    while until_served(&mut writer, &mut reader, 1).await.payload != b"1" {}
    assert_eq!(rig.stats.router_restarts.get(), 0);
}
