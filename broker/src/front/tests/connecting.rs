//! CONNECT and its answers.

use std::time::Duration;

use super::super::*;
use super::client::*;
use super::harness::*;

#[tokio::test]
async fn client_ids() {
    let rig = Rig::start().await;
    for bad in ["a+b", "a#", "$a", "a/b", "a b", "tillsync.feed", &"x".repeat(65)] {
        for (version, code) in [(V311, 2), (V5, 0x85)] {
            // Twice: the stock listener's second refusal of such an id poisoned a lock.
            for _ in 0..2 {
                let (mut client, connack) = Client::connack(rig.addr, &Connect::new(version, bad)).await;
                assert_eq!(connack[3], code, "{bad}");
                client.expect_closed().await;
            }
        }
    }
    assert_eq!(rig.stats.refused_client_id.get(), 28);
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn an_empty_client_id_gets_one() {
    let rig = Rig::start().await;
    let (_a, connack) = Client::connack(rig.addr, &Connect::new(V311, "")).await;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let (_b, connack) = Client::connack(rig.addr, &Connect::new(V5, "")).await;
    assert!(connack.windows(8).any(|part| part == b"\x12\x00\x15auto-"), "{connack:x?}");
    let (mut client, connack) = Client::connack(rig.addr, &Connect { clean: false, ..Connect::new(V311, "") }).await;
    assert_eq!(connack[3], 2);
    client.expect_closed().await;
}

#[tokio::test]
async fn versions() {
    let rig = Rig::start().await;
    let mut old = Client::open(rig.addr, V311).await;
    old.send(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a").await;
    old.expect(&[0x20, 2, 0, 1]).await;
    old.expect_closed().await;
    let (mut new, connack) = Client::connack(rig.addr, &Connect::new(6, "a")).await;
    assert_eq!(connack, [0x20, 2, 0, 1]);
    new.expect_closed().await;
    let mut http = Client::open(rig.addr, V311).await;
    http.send(b"GET / HTTP/1.1\r\n\r\n").await;
    http.expect_closed().await;
    assert_eq!(rig.stats.refused_version.get(), 2);
}

#[tokio::test]
async fn policy_refusals() {
    let rig = Rig::start().await;
    for (user, v311, v5) in [("bad", 4, 0x86), ("nope", 5, 0x87)] {
        for (version, code) in [(V311, v311), (V5, v5)] {
            let (mut client, connack) =
                Client::connack(rig.addr, &Connect { user: Some(user), ..Connect::new(version, "a") }).await;
            assert_eq!(connack[3], code);
            client.expect_closed().await;
        }
    }
    let mut client = Client::connect_with(rig.addr, &Connect { user: Some("till-3"), ..Connect::new(V311, "a") }).await;
    client.publish("t/x", "1", 1, 1).await;
    client.recv().await;
    let who = rig.intake.publishes()[0].who.clone();
    assert_eq!((&*who.client, who.name.as_deref()), ("a", Some("till-3")));
}

#[tokio::test]
async fn authentication_methods_are_refused() {
    let rig = Rig::start().await;
    let (_, connack) =
        Client::connack(rig.addr, &Connect { properties: &[0x15, 0, 1, b'x'], ..Connect::new(V5, "a") }).await;
    assert_eq!(connack[3], 0x8c);
}

#[tokio::test]
async fn a_slow_connect_is_closed() {
    let rig = Rig::with(FrontConfig { connect_timeout: Duration::from_millis(100), ..FrontConfig::default() }).await;
    let mut client = Client::open(rig.addr, V311).await;
    client.send(&Connect::new(V311, "a").bytes()[..6]).await;
    client.expect_closed().await;
    assert_eq!(rig.stats.connect_timeouts.get(), 1);
}

#[tokio::test]
async fn the_cap_refuses_recovers_and_lets_takeovers_through() {
    let rig = Rig::with(FrontConfig { connections_max: 2, ..FrontConfig::default() }).await;
    let a = Client::connect(rig.addr, V311, "a").await;
    let _b = Client::connect(rig.addr, V311, "b").await;
    for (version, code) in [(V311, 3), (V5, 0x97), (V311, 3)] {
        let (_, connack) = Client::connack(rig.addr, &Connect::new(version, "c")).await;
        assert_eq!(connack[3], code);
    }
    let _b = Client::connect(rig.addr, V311, "b").await;
    a.disconnect().await;
    until("room", || rig.stats.connections.get() < 2).await;
    let _c = Client::connect(rig.addr, V311, "c").await;
    assert_eq!(rig.stats.refused_full.get(), 3);
}

#[tokio::test]
async fn sockets_beyond_the_cap_are_closed_unread() {
    let rig = Rig::with(FrontConfig { connections_max: 1, handshakes_max: 1, ..FrontConfig::default() }).await;
    let _a = Client::connect(rig.addr, V311, "a").await;
    let _idle = Client::open(rig.addr, V311).await;
    let mut third = Client::open(rig.addr, V311).await;
    third.expect_closed().await;
    assert_eq!(rig.stats.refused_sockets.get(), 1);
}

#[tokio::test]
async fn keepalive() {
    let rig = Rig::start().await;
    let mut reader = Client::connect_with(rig.addr, &Connect { keepalive: 1, ..Connect::new(V5, "reader") }).await;
    reader.subscribe("t/#", 0).await;
    let mut writer = Client::connect_with(rig.addr, &Connect { keepalive: 0, ..Connect::new(V311, "writer") }).await;
    let began = std::time::Instant::now();
    // The reader is sent to all the time and says nothing.
    let closed = loop {
        writer.publish("t/x", "1", 0, 0).await;
        let packet = reader.recv_or_close().await;
        if packet[0] != 0x30 {
            break packet;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(closed, [0xe0, 2, 0x8d, 0]);
    assert!(began.elapsed() >= Duration::from_millis(1200), "{:?}", began.elapsed());
    assert_eq!(rig.stats.keepalive_timeouts.get(), 1);
    writer.send(&[0xc0, 0]).await;
    writer.expect(&[0xd0, 0]).await;
}

#[tokio::test]
async fn connack_says_what_was_lowered() {
    let config =
        FrontConfig { keepalive_s_max: 30, session_expiry_max: Duration::from_secs(100), ..FrontConfig::default() };
    let rig = Rig::with(config).await;
    let asks = Connect { properties: &[0x11, 0xff, 0xff, 0xff, 0xff], ..Connect::new(V5, "a") };
    let (_client, connack) = Client::connack(rig.addr, &asks).await;
    for property in [&[0x11, 0, 0, 0, 100][..], &[0x13, 0, 30], &[0x22, 0, 32], &[0x27, 0, 16, 0, 0], &[0x2a, 0]] {
        assert!(connack.windows(property.len()).any(|part| part == property), "{property:x?} in {connack:x?}");
    }
}
