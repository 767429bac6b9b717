//! Every input that is known to crash, poison or mislead rumqttd 0.20's router, with a check that it did not.

use super::super::*;
use super::client::*;
use super::harness::*;

#[tokio::test]
async fn a_topic_that_starts_with_a_non_ascii_character() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("#", 0).await;
    for (version, ack) in [(V311, vec![0x40, 2, 0, 1]), (V5, vec![0x40, 3, 0, 1, 0x90])] {
        let mut client = Client::connect(rig.addr, version, "a").await;
        client.publish("é/x", "1", 1, 1).await;
        client.expect(&ack).await;
    }
    rig.publisher.publish("é", payload("x"), false);
    rig.publisher.publish("é", payload("x"), true);
    reader.expect_quiet().await;
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn more_connections_than_there_are_places_over_and_over() {
    let rig = Rig::with(FrontConfig { connections_max: 2, handshakes_max: 2, ..FrontConfig::default() }).await;
    for round in 0..50 {
        let (_a, ack_a) = Client::connack(rig.addr, &Connect::new(V311, "a")).await;
        let (_b, ack_b) = Client::connack(rig.addr, &Connect::new(V311, "b")).await;
        let (_, refused) = Client::connack(rig.addr, &Connect::new(V311, "c")).await;
        assert_eq!((ack_a[3], ack_b[3], refused[3]), (0, 0, 3), "round {round}");
        drop((_a, _b));
        until("room", || rig.stats.connections.get() == 0).await;
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn shared_subscriptions() {
    let rig = Rig::start().await;
    for connect in [Connect::kept(V311, "a"), Connect::new(V311, "a"), Connect::kept(V5, "a"), Connect::new(V5, "a")] {
        let mut client = Client::connect_with(rig.addr, &connect).await;
        let code = if connect.version == V5 { 0x9e } else { 0x80 };
        assert_eq!(client.subscribe("$share/g/t/#", 1).await, code);
        // Leaving is what panicked the router.
        drop(client);
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn v5_properties_towards_v311_subscribers() {
    let rig = Rig::start().await;
    let mut v3 = Client::connect(rig.addr, V311, "three").await;
    let mut v5 = Client::connect(rig.addr, V5, "five").await;
    v3.subscribe("t/#", 1).await;
    v5.send(&subscribe(V5, 1, &[(b"t/#", 1)], &[0x0b, 9])).await;
    v5.recv().await;
    let mut writer = Client::connect(rig.addr, V5, "writer").await;
    let properties =
        [&[0x01, 1, 0x03, 0, 1, b'j', 0x08, 0, 1, b'r', 0x09, 0, 1, b'c'][..], &[0x26, 0, 1, b'k', 0, 1, b'v']]
            .concat();
    for pkid in 1..=3 {
        writer.send(&publish(V5, b"t/x", b"1", 1, pkid, &properties)).await;
        writer.recv().await;
        let received = v3.recv_publish().await;
        assert_eq!((&*received.topic, &received.payload[..]), ("t/x", &b"1"[..]));
        let received = v5.recv_publish().await;
        for part in [
            &[0x03, 0, 1, b'j'][..],
            &[0x08, 0, 1, b'r'],
            &[0x09, 0, 1, b'c'],
            &[0x26, 0, 1, b'k', 0, 1, b'v'],
            &[0x0b, 9],
        ] {
            assert!(received.properties.windows(part.len()).any(|window| window == part), "{part:x?} in {received:x?}");
        }
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn a_client_that_sends_unsuback() {
    let rig = Rig::start().await;
    for round in 0..3 {
        let mut client = Client::connect(rig.addr, V5, "a").await;
        client.subscribe("t/#", 1).await;
        client.send(&[0xbf, 1, 0x15]).await;
        client.expect(&[0xe0, 2, 0x82, 0]).await;
        client.expect_closed().await;
        until("the slot is free", || rig.stats.connections.get() == 0).await;
        assert_eq!(rig.stats.protocol_errors.get(), round + 1);
    }
    assert_eq!(rig.stats.codec_panics.get(), 0, "it does not even reach the decoder");
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn bad_filters() {
    let rig = Rig::start().await;
    for version in [V311, V5] {
        let mut client = Client::connect(rig.addr, version, "a").await;
        for filter in ["a/#/b", "a+", "", "#a", "$SYS/#", "é/#", "secret/x", &"x".repeat(300)] {
            let code = match (version, filter) {
                (V311, _) => 0x80,
                (_, "secret/x") => 0x87,
                _ => 0x8f,
            };
            assert_eq!(client.subscribe(filter, 1).await, code, "{filter}");
        }
        // Good and bad ones in one packet keep their places.
        client.send(&subscribe(version, 2, &[(b"a+", 0), (b"t/1", 1), (b"secret/x", 0), (b"t/2", 2)], &[])).await;
        let suback = client.recv().await;
        let expected = if version == V5 { [0x8f, 1, 0x87, 2] } else { [0x80, 1, 0x80, 2] };
        assert_eq!(suback[suback.len() - 4..], expected);
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn acknowledgements_out_of_order_or_never_asked_for() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    client.send(&[0x40, 2, 0, 9, 0x50, 2, 0, 9, 0x70, 2, 0, 9]).await;
    client.subscribe("t/#", 1).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    for round in 0..100u16 {
        for n in 0..3u16 {
            writer.publish("t/x", "1", 1, round * 3 + n + 1).await;
            writer.recv().await;
        }
        let mut pkids = Vec::new();
        for _ in 0..3 {
            pkids.push(client.recv_publish().await.pkid);
        }
        // Last first, each twice: the router alone would throw the client out.
        for pkid in pkids.iter().rev() {
            let ack = [&[0x40, 2][..], &pkid.to_be_bytes()].concat();
            client.send(&[ack.clone(), ack].concat()).await;
        }
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn many_messages_and_a_slow_reader_wake_the_router_again() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    let burst: Vec<u8> = (1..=2000).flat_map(|pkid| publish(V311, b"t/x", b"1", 1, pkid, &[])).collect();
    writer.send(&burst).await;
    for _ in 0..2000 {
        assert_eq!(reader.recv_publish().await.payload, b"1");
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn unsubscribing_in_the_swoop_of_a_publish_stays_unsubscribed() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    for round in 0..50 {
        let mut bytes = subscribe(V311, 1, &[(b"t/x", 0)], &[]);
        bytes.extend(publish(V311, b"t/x", b"1", 0, 0, &[]));
        bytes.extend(packet(0xa2, &[&[0, 2][..], &text(b"t/x")].concat()));
        bytes.extend([0xc0, 0]);
        client.send(&bytes).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&0xd0) {
            seen.push(client.recv().await[0]);
        }
        assert!(seen.contains(&0x90) && seen.contains(&0xb0), "{seen:x?}");
        client.publish("t/x", "not for me", 1, 3).await;
        loop {
            match &client.recv().await[..] {
                [0x40, ..] => break,
                other => assert!(!other.ends_with(b"not for me"), "round {round}"),
            }
        }
    }
    client.expect_quiet().await;
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn no_client_takes_an_internal_link() {
    let rig = Rig::start().await;
    let (_, connack) = Client::connack(rig.addr, &Connect::new(V311, "tillsync.feed")).await;
    assert_eq!(connack[3], 2);
    // The names that the router knows other links by are another name space.
    for id in ["c.0", "s.a", "c.1"] {
        Client::connect_with(rig.addr, &Connect::kept(V311, id)).await.disconnect().await;
    }
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    rig.publisher.publish("t/x", payload("1"), false);
    assert_eq!(reader.recv_publish().await.payload, b"1");
    rig.assert_router_lives().await;
}
