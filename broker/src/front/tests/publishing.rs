//! What is acknowledged, with what, and when.

use super::super::*;
use super::client::*;
use super::harness::*;

#[tokio::test]
async fn no_puback_before_the_intake_answered() {
    let rig = Rig::start().await;
    for version in [V311, V5] {
        let mut client = Client::connect(rig.addr, version, "a").await;
        let before = rig.intake.publishes().len();
        rig.intake.set(Mode::Hold);
        client.publish("t/x", "1", 1, 5).await;
        rig.intake.until_seen(before + 1).await;
        client.expect_quiet().await;
        rig.intake.set(Mode::Answer);
        client.expect(&[0x40, 2, 0, 5]).await;
    }
}

#[tokio::test]
async fn nothing_is_forwarded_before_the_intake_answered() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    rig.intake.set(Mode::Hold);
    client.publish("t/x", "1", 0, 0).await;
    rig.intake.until_seen(1).await;
    reader.expect_quiet().await;
    rig.intake.set(Mode::Answer);
    assert_eq!(reader.recv_publish().await.payload, b"1");
}

#[tokio::test]
async fn qos0_goes_through_the_intake_too_and_is_not_answered() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V5, "a").await;
    client.publish("t/x", "1", 0, 0).await;
    client.publish("forbidden/x", "1", 0, 0).await;
    client.send(&[0xc0, 0]).await;
    client.expect(&[0xd0, 0]).await;
    let seen = rig.intake.publishes();
    assert_eq!(seen.iter().map(|publish| publish.denied.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!((rig.stats.publishes_qos0.get(), rig.stats.denied.get()), (2, 1));
}

#[tokio::test]
async fn exactly_once() {
    let rig = Rig::start().await;
    for version in [V311, V5] {
        let mut reader = Client::connect(rig.addr, V311, "reader").await;
        reader.subscribe("t/#", 0).await;
        let mut client = Client::connect(rig.addr, version, "a").await;
        for _ in 0..2 {
            client.publish("t/x", "1", 2, 7).await;
            client.expect(&[0x50, 2, 0, 7]).await;
        }
        rig.intake.set(Mode::Hold);
        client.send(&[0x62, 2, 0, 7]).await;
        client.expect_quiet().await;
        rig.intake.set(Mode::Answer);
        client.expect(&[0x70, 2, 0, 7]).await;
        client.publish("t/x", "2", 2, 7).await;
        client.expect(&[0x50, 2, 0, 7]).await;
        assert_eq!(reader.recv_publish().await.payload, b"1");
        assert_eq!(reader.recv_publish().await.payload, b"2", "the repeat is not forwarded");
    }
}

#[tokio::test]
async fn refusals_are_acknowledged_with_their_reason() {
    let rig = Rig::start().await;
    for (topic, payload, reason) in [
        ("forbidden/x", "1", 0x87),
        ("t/+", "1", 0x90),
        ("t/#", "1", 0x90),
        ("$SYS/x", "1", 0x90),
        ("t/x", "garbage", 0x99),
        ("t/x", "no-room", 0x97),
    ] {
        let mut client = Client::connect(rig.addr, V5, "a").await;
        client.publish(topic, payload, 1, 3).await;
        client.expect(&[0x40, 3, 0, 3, reason]).await;
        client.publish(topic, payload, 2, 4).await;
        client.expect(&[0x50, 3, 0, 4, reason]).await;
        let mut client = Client::connect(rig.addr, V311, "b").await;
        client.publish(topic, payload, 1, 3).await;
        if reason == 0x97 {
            client.expect_closed().await;
        } else {
            client.expect(&[0x40, 2, 0, 3]).await;
            client.publish(topic, payload, 2, 4).await;
            client.expect(&[0x50, 2, 0, 4]).await;
            client.send(&[0x62, 2, 0, 4]).await;
            client.expect(&[0x70, 2, 0, 4]).await;
        }
    }
    assert_eq!(rig.intake.open_exchanges(), 0, "a refused PUBREC leaves no packet id taken");
    let denied = rig.intake.publishes().into_iter().filter_map(|publish| publish.denied);
    assert!(denied.map(|denied| denied.code).all(|code| ["not_authorized", "topic_invalid"].contains(&code)));
}

#[tokio::test]
async fn no_room_acknowledges_what_came_before_and_nothing_after() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    let burst: Vec<u8> = [("1", 1), ("no-room", 2), ("3", 3)]
        .iter()
        .flat_map(|(payload, pkid)| publish(V311, b"t/x", payload.as_bytes(), 1, *pkid, &[]))
        .collect();
    client.send(&burst).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn a_writer_that_stops_leaves_publishes_unacknowledged() {
    let rig = Rig::start().await;
    for (mode, version) in [(Mode::Drop, V311), (Mode::Closed, V311), (Mode::Drop, V5), (Mode::Closed, V5)] {
        rig.intake.set(Mode::Answer);
        let mut client = Client::connect(rig.addr, version, "a").await;
        rig.intake.set(mode);
        client.publish("t/x", "1", 1, 3).await;
        if version == V5 {
            client.expect(&[0xe0, 2, 0x89, 0]).await;
        }
        client.expect_closed().await;
    }
}

#[tokio::test]
async fn an_ill_formed_topic_is_recorded_acknowledged_and_closed() {
    let rig = Rig::start().await;
    for topic in [&b"t/\xff"[..], b"t/\0x"] {
        let mut client = Client::connect(rig.addr, V5, "a").await;
        client.send(&publish(V5, topic, b"1", 1, 3, &[])).await;
        client.expect(&[0x40, 3, 0, 3, 0x90]).await;
        client.expect(&[0xe0, 2, 0x81, 0]).await;
        client.expect_closed().await;
    }
    assert_eq!(rig.intake.publishes()[0].topic, &b"t/\xff"[..]);
    assert_eq!(rig.stats.protocol_errors.get(), 2);
}

#[tokio::test]
async fn topic_aliases() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V5, "a").await;
    client.send(&publish(V5, b"t/x", b"1", 1, 1, &[0x23, 0, 2])).await;
    client.send(&publish(V5, b"", b"2", 1, 2, &[0x23, 0, 2])).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&[0x40, 2, 0, 2]).await;
    assert!(rig.intake.publishes().iter().all(|publish| publish.topic == "t/x"));
    for (topic, alias, reason) in [(&b""[..], 3, 0x82), (b"t/x", 0, 0x94), (b"t/x", 33, 0x94)] {
        let mut client = Client::connect(rig.addr, V5, "a").await;
        client.send(&publish(V5, topic, b"1", 1, 1, &[0x23, 0, alias])).await;
        client.expect(&[0xe0, 2, reason, 0]).await;
        client.expect_closed().await;
    }
}

#[tokio::test]
async fn large_properties_are_refused() {
    let rig = Rig::with(FrontConfig { properties_bytes_max: 60, ..FrontConfig::default() }).await;
    let mut client = Client::connect(rig.addr, V5, "a").await;
    let pair = [0x26, 0, 1, b'k', 0, 1, b'v'];
    client.send(&publish(V5, b"t/x", b"1", 1, 1, &pair)).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.send(&publish(V5, b"t/x", b"1", 1, 2, &[pair, pair].concat())).await;
    client.expect(&[0x40, 3, 0, 2, 0x87]).await;
}

#[tokio::test]
async fn many_in_one_write_are_acknowledged_in_order() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    let burst: Vec<u8> = (1..=1000).flat_map(|pkid| publish(V311, b"t/x", &[b'x'; 200], 1, pkid, &[])).collect();
    client.send(&burst).await;
    for pkid in 1..=1000u16 {
        let [high, low] = pkid.to_be_bytes();
        client.expect(&[0x40, 2, high, low]).await;
    }
    assert_eq!((rig.stats.publishes_qos1.get(), rig.stats.acks.get()), (1000, 1000));
}

#[tokio::test]
async fn malformed_and_oversize_packets_close() {
    let rig = Rig::start().await;
    for (bytes, reason) in [
        (&[0x36, 6, 0, 1, b'a', 1, 2, b'x'][..], 0x81),
        (&[0x32, 8, 0, 1, b'a', 0, 0, 0, b'x', b'x'], 0x81),
        (&[0x30, 0xff, 0xff, 0xff, 0xff], 0x81),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),
        (&[0x20, 2, 0, 0], 0x82),
        (&[0xf0, 0], 0x82),
        (&[0x60, 2, 0, 1], 0x81),
        (&[0x82, 2, 0, 0], 0x81),
    ] {
        let mut client = Client::connect(rig.addr, V5, "a").await;
        client.send(bytes).await;
        client.expect(&[0xe0, 2, reason, 0]).await;
        client.expect_closed().await;
    }
    let mut client = Client::connect(rig.addr, V311, "a").await;
    client.send(&Connect::new(V311, "a").bytes()).await;
    client.expect_closed().await;
    rig.assert_router_lives().await;
}
