//! Takeover, resume, expiry, wills.

use std::time::Duration;

use super::super::*;
use super::client::*;
use super::harness::*;

#[tokio::test]
async fn takeover() {
    let rig = Rig::start().await;
    for (version, reason) in [(V311, None), (V5, Some([0xe0, 2, 0x8e, 0]))] {
        let mut old = Client::connect(rig.addr, version, "a").await;
        old.subscribe("t/#", 0).await;
        let mut new = Client::connect(rig.addr, version, "a").await;
        if let Some(reason) = reason {
            old.expect(&reason).await;
        }
        old.expect_closed().await;
        new.publish("t/x", "1", 1, 1).await;
        new.expect(&[0x40, 2, 0, 1]).await;
    }
    assert_eq!(rig.stats.takeovers.get(), 2);
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn takeover_does_not_wait_for_the_writer_and_loses_nothing() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let mut old = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    rig.intake.set(Mode::Hold);
    old.publish("t/x", "1", 1, 1).await;
    rig.intake.until_seen(1).await;
    let _new = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    old.expect_closed().await;
    rig.intake.set(Mode::Answer);
    assert_eq!(reader.recv_publish().await.payload, b"1", "it was committed, so subscribers see it");
}

/// A link that still writes while the next one is made corrupts the router; the old task must be gone before.
#[tokio::test]
async fn takeover_interrupts_a_blocked_write() {
    let rig = Rig::start().await;
    for round in 0..5 {
        let mut stalled = Client::connect(rig.addr, V311, "stalled").await;
        stalled.subscribe("t/#", 0).await;
        let mut writer = Client::connect(rig.addr, V311, "writer").await;
        // Far more than socket buffers take.
        for pkid in 1..=40 {
            writer.publish("t/x", &"x".repeat(500_000), 1, pkid).await;
            writer.recv().await;
        }
        let began = std::time::Instant::now();
        let mut new = Client::connect(rig.addr, V311, "stalled").await;
        assert!(began.elapsed() < Duration::from_secs(4), "round {round}: {:?}", began.elapsed());
        new.subscribe("t/#", 1).await;
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn concurrent_takeovers_leave_one() {
    let rig = Rig::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let addr = rig.addr;
        tasks.spawn(async move { Client::connack(addr, &Connect::kept(V311, "a")).await });
    }
    let clients: Vec<_> = tasks.join_all().await;
    until("one left", || rig.stats.connections.get() == 1).await;
    drop(clients);
    until("none left", || rig.stats.connections.get() == 0).await;
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn a_stalled_reader_is_closed_and_its_will_published() {
    let rig = Rig::with(FrontConfig { write_timeout: Duration::from_millis(200), ..FrontConfig::default() }).await;
    let will = Connect { will: Some((b"wills/a", "gone", &[])), ..Connect::new(V311, "stalled") };
    let mut stalled = Client::connect_with(rig.addr, &will).await;
    stalled.subscribe("t/#", 0).await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("wills/#", 0).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    for pkid in 1..=40 {
        writer.publish("t/x", &"x".repeat(500_000), 1, pkid).await;
        writer.recv().await;
    }
    assert_eq!(reader.recv_publish().await.payload, b"gone");
    assert_eq!(rig.stats.stalled.get(), 1);
}

#[tokio::test]
async fn a_kept_session_gets_what_it_missed() {
    let rig = Rig::start().await;
    for version in [V311, V5] {
        let id = if version == V5 { "five" } else { "three" };
        let (mut client, connack) = Client::connack(rig.addr, &Connect::kept(version, id)).await;
        assert_eq!(connack[2], 0);
        assert_eq!(client.subscribe("t/#", 1).await, 1);
        client.disconnect().await;
        let mut writer = Client::connect(rig.addr, V311, "writer").await;
        for pkid in 1..=20u16 {
            writer.publish("t/x", &pkid.to_string(), 1, pkid).await;
            writer.recv().await;
        }
        let (mut client, connack) = Client::connack(rig.addr, &Connect::kept(version, id)).await;
        assert_eq!(connack[2], 1, "session present");
        for n in 1..=20u16 {
            let received = client.recv_publish().await;
            assert_eq!((received.payload, received.qos), (n.to_string().into_bytes(), 1));
            client.send(&[&[0x40, 2][..], &received.pkid.to_be_bytes()].concat()).await;
        }
        // Unsubscribing after a resume is what the router ignores by itself.
        let unsuback = client.unsubscribe("t/#").await;
        assert_eq!(unsuback[0], 0xb0);
        writer.publish("t/x", "late", 1, 21).await;
        writer.recv().await;
        client.expect_quiet().await;
        client.disconnect().await;
        let (_, connack) = Client::connack(rig.addr, &Connect::new(version, id)).await;
        assert_eq!(connack[2], 0, "clean start");
    }
    assert!(rig.intake.forgotten("three") > 0);
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn a_kept_session_is_not_for_others() {
    let rig = Rig::start().await;
    let by = |user| Connect { user: Some(user), ..Connect::kept(V311, "a") };
    let mut client = Client::connect_with(rig.addr, &by("one")).await;
    client.subscribe("t/#", 1).await;
    client.disconnect().await;
    rig.publisher.publish("t/x", payload("for one"), false);
    let (mut other, connack) = Client::connack(rig.addr, &by("two")).await;
    assert_eq!(connack[2..4], [0, 0]);
    other.expect_quiet().await;
    other.disconnect().await;
    let (_, connack) = Client::connack(rig.addr, &by("two")).await;
    assert_eq!(connack[2..4], [1, 0]);
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn a_session_expires() {
    let rig = Rig::with(FrontConfig { session_expiry_max: Duration::from_secs(1), ..FrontConfig::default() }).await;
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    client.subscribe("t/#", 1).await;
    client.disconnect().await;
    until("expiry", || rig.stats.sessions_expired.get() == 1).await;
    until("forgotten", || rig.intake.forgotten("a") == 2 && rig.stats.sessions_kept.get() == 0).await;
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    writer.publish("t/x", "1", 1, 1).await;
    writer.recv().await;
    let (mut client, connack) = Client::connack(rig.addr, &Connect::kept(V311, "a")).await;
    assert_eq!(connack[2], 0);
    client.expect_quiet().await;
}

#[tokio::test]
async fn a_disconnect_may_end_a_kept_session() {
    let rig = Rig::start().await;
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V5, "a")).await;
    client.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    client.expect_closed().await;
    until("forgotten", || rig.intake.forgotten("a") == 2).await;
    let (_, connack) = Client::connack(rig.addr, &Connect::kept(V5, "a")).await;
    assert_eq!(connack[2], 0);
}

#[tokio::test]
async fn kept_sessions_have_a_bound() {
    let rig = Rig::with(FrontConfig { sessions_max: 1, ..FrontConfig::default() }).await;
    Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await.disconnect().await;
    let (_, connack) = Client::connack(rig.addr, &Connect::kept(V311, "b")).await;
    assert_eq!(connack[3], 3);
    let (_, connack) = Client::connack(rig.addr, &Connect::kept(V311, "a")).await;
    assert_eq!(connack[2..4], [1, 0]);
    Client::connect(rig.addr, V311, "b").await;
}

#[tokio::test]
async fn wills() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V5, "reader").await;
    reader.subscribe("wills/#", 0).await;
    for version in [V311, V5] {
        let content_type: &[u8] = if version == V5 { &[0x03, 0, 1, b'x'] } else { &[] };
        let connect = Connect { will: Some((b"wills/a", "gone", content_type)), ..Connect::new(version, "a") };
        Client::connect_with(rig.addr, &connect).await.disconnect().await;
        drop(Client::connect_with(rig.addr, &connect).await);
        let will = reader.recv_publish().await;
        assert_eq!((will.payload, will.properties), (b"gone".to_vec(), content_type.to_vec()));
    }
    // DISCONNECT with will, with and without a property length.
    for goodbye in [&[0xe0, 1, 4][..], &[0xe0, 2, 4, 0]] {
        let mut client =
            Client::connect_with(rig.addr, &Connect { will: Some((b"wills/a", "4", &[])), ..Connect::new(V5, "a") })
                .await;
        client.send(goodbye).await;
        assert_eq!(reader.recv_publish().await.payload, b"4");
    }
    assert!(rig.intake.publishes().iter().all(|publish| publish.will && publish.who.client == "a".into()));
    assert_eq!(rig.stats.wills.get(), 4, "none for a clean DISCONNECT");
}

#[tokio::test]
async fn wills_that_may_not_be_published_refuse_the_connect() {
    let rig = Rig::start().await;
    for (topic, v311, v5) in
        [(&b"forbidden/x"[..], 5, 0x87), (b"t/+", 5, 0x90), (b"\xff", 5, 0x90), ("é".as_bytes(), 5, 0x90)]
    {
        for (version, code) in [(V311, v311), (V5, v5)] {
            let (_, connack) =
                Client::connack(rig.addr, &Connect { will: Some((topic, "x", &[])), ..Connect::new(version, "a") })
                    .await;
            assert_eq!(connack[3], code, "{topic:?}");
        }
    }
    assert_eq!(rig.stats.refused_will.get(), 8);
}

#[tokio::test]
async fn a_delayed_will_is_cancelled_by_coming_back() {
    let rig = Rig::start().await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("wills/#", 0).await;
    let delayed =
        |id, payload| Connect { will: Some((b"wills/a", payload, &[0x18, 0, 0, 0, 1])), ..Connect::kept(V5, id) };
    drop(Client::connect_with(rig.addr, &delayed("returns", "never")).await);
    until("gone", || rig.stats.connections.get() == 1).await;
    Client::connect_with(rig.addr, &Connect::kept(V5, "returns")).await.disconnect().await;
    drop(Client::connect_with(rig.addr, &delayed("stays-away", "delayed")).await);
    assert_eq!(reader.recv_publish().await.payload, b"delayed");
    // A clean start ends the session, which a will does not outwait.
    drop(Client::connect_with(rig.addr, &delayed("starts-clean", "at once")).await);
    until("gone", || rig.stats.connections.get() == 1).await;
    let _clean = Client::connect(rig.addr, V5, "starts-clean").await;
    assert_eq!(reader.recv_publish().await.payload, b"at once");
    assert_eq!(rig.stats.wills.get(), 2);
}
