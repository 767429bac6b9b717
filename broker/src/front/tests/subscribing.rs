//! Subscriptions, retained messages, delivery.

use std::time::Duration;

use super::super::*;
use super::client::*;
use super::harness::*;
use crate::mailbox::MailLimits;

fn fill(rig: &Rig, n: usize) {
    for i in 0..n {
        rig.publisher.restore(&format!("hq/{i:04}/status"), payload(&format!("status {i}")));
    }
}

#[tokio::test]
async fn fifteen_hundred_retained_messages_to_both_versions_at_once() {
    let rig = Rig::start().await;
    fill(&rig, 1500);
    let read = |version, id: &'static str| {
        let addr = rig.addr;
        async move {
            let mut client = Client::connect(addr, version, id).await;
            assert_eq!(client.subscribe("hq/#", 1).await, 1);
            for i in 0..1500 {
                let received = client.recv_publish().await;
                let expected = (format!("hq/{i:04}/status"), format!("status {i}").into_bytes(), true, 0);
                assert_eq!((received.topic, received.payload, received.retain, received.qos), expected);
            }
            client.expect_quiet().await;
        }
    };
    tokio::join!(read(V311, "a"), read(V5, "b"), read(V311, "c"), read(V5, "d"));
    assert_eq!((rig.stats.retained.get(), rig.stats.delivered.get()), (1500, 6000));
}

#[tokio::test]
async fn retained_messages_live_and_die() {
    let rig = Rig::start().await;
    let mut early = Client::connect(rig.addr, V311, "early").await;
    early.subscribe("hq/#", 0).await;
    rig.publisher.publish("hq/a", payload("1"), true);
    let live = early.recv_publish().await;
    assert_eq!((live.payload, live.retain), (b"1".to_vec(), false));
    rig.publisher.publish("hq/b", payload("not kept"), false);
    early.recv_publish().await;
    // An empty payload without the flag erases nothing.
    rig.publisher.publish("hq/a", payload(""), false);
    early.recv_publish().await;
    let mut late = Client::connect(rig.addr, V311, "late").await;
    late.subscribe("hq/#", 0).await;
    let kept = late.recv_publish().await;
    assert_eq!((&*kept.topic, &kept.payload[..], kept.retain), ("hq/a", &b"1"[..], true));
    rig.publisher.publish("hq/a", payload(""), true);
    assert_eq!(late.recv_publish().await.payload, b"");
    late.subscribe("hq/#", 0).await;
    late.expect_quiet().await;
}

#[tokio::test]
async fn devices_do_not_write_retained_messages() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    let mut retained = publish(V311, b"hq/a", b"1", 1, 1, &[]);
    retained[0] |= 1;
    client.send(&retained).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.subscribe("hq/#", 0).await;
    client.expect_quiet().await;
}

#[tokio::test]
async fn retain_handling() {
    let rig = Rig::start().await;
    rig.publisher.restore("hq/a", payload("1"));
    let mut client = Client::connect(rig.addr, V5, "a").await;
    client.subscribe("hq/#", 0x20).await;
    client.expect_quiet().await;
    client.subscribe("hq/#", 0x10).await;
    client.expect_quiet().await;
    client.subscribe("hq/#", 0).await;
    client.recv_publish().await;
    client.subscribe("+/a", 0x10).await;
    client.recv_publish().await;
    client.send(&subscribe(V5, 1, &[(b"hq/a", 0)], &[0x0b, 5])).await;
    client.recv().await;
    assert_eq!(client.recv_publish().await.properties, [0x0b, 5]);
    // v3.1.1 always gets them.
    let mut client = Client::connect(rig.addr, V311, "b").await;
    for _ in 0..2 {
        client.subscribe("hq/#", 0).await;
        client.recv_publish().await;
    }
}

#[tokio::test]
async fn a_changed_qos_takes_effect() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    for qos in [0, 1, 1, 2, 0] {
        assert_eq!(client.subscribe("t/#", qos).await, qos);
        rig.publisher.publish("t/x", payload("1"), false);
        let received = client.recv_publish().await;
        assert_eq!(received.qos, qos);
        let [high, low] = received.pkid.to_be_bytes();
        match qos {
            1 => client.send(&[0x40, 2, high, low]).await,
            2 => {
                client.send(&[0x50, 2, high, low]).await;
                client.expect(&[0x62, 2, high, low]).await;
                client.send(&[0x70, 2, high, low]).await;
            }
            _ => {}
        }
        client.expect_quiet().await;
    }
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn unsubscribe_is_answered_once() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    client.subscribe("t/#", 0).await;
    assert_eq!(client.unsubscribe("t/#").await, [0xb0, 2, 0, 78]);
    assert_eq!(client.unsubscribe("never").await, [0xb0, 2, 0, 78]);
    let mut client = Client::connect(rig.addr, V5, "b").await;
    client.subscribe("t/#", 0).await;
    assert_eq!(client.unsubscribe("t/#").await, [0xb0, 4, 0, 78, 0, 0]);
    assert_eq!(client.unsubscribe("t/#").await, [0xb0, 4, 0, 78, 0, 0x11]);
    rig.publisher.publish("t/x", payload("1"), false);
    client.expect_quiet().await;
}

#[tokio::test]
async fn subscriptions_have_bounds() {
    let rig = Rig::with(FrontConfig { subscriptions_max: 2, filters_max: 3, ..FrontConfig::default() }).await;
    let mut a = Client::connect(rig.addr, V5, "a").await;
    assert_eq!([a.subscribe("1", 0).await, a.subscribe("2", 0).await, a.subscribe("3", 0).await], [0, 0, 0x97]);
    assert_eq!(a.subscribe("1", 1).await, 1, "the same again is not one more");
    let mut b = Client::connect(rig.addr, V5, "b").await;
    assert_eq!([b.subscribe("1", 0).await, b.subscribe("3", 0).await], [0, 0]);
    let mut c = Client::connect(rig.addr, V311, "c").await;
    assert_eq!([c.subscribe("4", 0).await, c.subscribe("3", 0).await], [0x80, 0]);
    assert_eq!(rig.stats.subscribes_refused.get(), 2);
}

#[tokio::test]
async fn receive_maximum_is_kept() {
    let rig = Rig::start().await;
    let mut client =
        Client::connect_with(rig.addr, &Connect { properties: &[0x21, 0, 2], ..Connect::new(V5, "a") }).await;
    client.subscribe("t/#", 1).await;
    for n in 0..250 {
        rig.publisher.publish("t/x", payload(&n.to_string()), false);
    }
    let mut open = std::collections::VecDeque::new();
    for n in 0..250 {
        if open.len() == 2 {
            if n == 2 {
                client.expect_quiet().await;
            }
            let pkid: u16 = open.pop_front().unwrap();
            client.send(&[&[0x40, 2][..], &pkid.to_be_bytes()].concat()).await;
        }
        let received = client.recv_publish().await;
        assert_eq!(received.payload, n.to_string().into_bytes());
        open.push_back(received.pkid);
    }
}

#[tokio::test]
async fn maximum_packet_size_is_kept() {
    let rig = Rig::start().await;
    rig.publisher.restore("t/big", payload(&"x".repeat(100)));
    let small = Connect { properties: &[0x27, 0, 0, 0, 50], ..Connect::new(V5, "a") };
    let mut client = Client::connect_with(rig.addr, &small).await;
    client.subscribe("t/#", 1).await;
    for size in [100, 10, 100, 10] {
        rig.publisher.publish("t/x", payload(&"x".repeat(size)), false);
    }
    for _ in 0..2 {
        let received = client.recv_publish().await;
        assert_eq!(received.payload.len(), 10);
        client.send(&[&[0x40, 2][..], &received.pkid.to_be_bytes()].concat()).await;
    }
    client.expect_quiet().await;
    assert_eq!(rig.stats.oversize_dropped.get(), 3);
}

#[tokio::test]
async fn a_refused_exactly_once_delivery_does_not_block_the_next() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.addr, V5, "a").await;
    client.subscribe("t/#", 2).await;
    for _ in 0..250 {
        rig.publisher.publish("t/x", payload("1"), false);
        let received = client.recv_publish().await;
        let [high, low] = received.pkid.to_be_bytes();
        client.send(&[0x50, 3, high, low, 0x97]).await;
    }
    client.expect_quiet().await;
    rig.assert_router_lives().await;
}

#[tokio::test]
async fn the_publisher_never_blocks_and_late_retained_topics_arrive_with_their_latest_value() {
    let rig = Rig::with(FrontConfig { publish_queue_max: 8, ..FrontConfig::default() }).await;
    let mut client = Client::connect(rig.addr, V311, "a").await;
    client.subscribe("hq/#", 0).await;
    // No await: the feed cannot run meanwhile on this single-threaded runtime.
    for round in 0..10 {
        for i in 0..100 {
            rig.publisher.publish(&format!("hq/{i}"), payload(&round.to_string()), true);
        }
    }
    rig.publisher.publish("hq/reply", payload("dropped"), false);
    assert!(rig.stats.retained_late.get() > 900 && rig.stats.replies_dropped.get() == 1);
    let mut latest = std::collections::HashMap::new();
    while latest.len() < 100 || latest.values().any(|payload| payload != b"9") {
        let received = client.recv_publish().await;
        latest.insert(received.topic, received.payload);
    }
    client.expect_quiet().await;
}

/// What is not delivered is counted: the two add up to what was sent, from the first message on that came through.
/// (Before it there is nothing to count from, so each test lets one through before it lets the reader fall behind.)
#[tokio::test]
async fn a_subscriber_that_falls_behind_is_counted_for_what_it_lost() {
    let rig = Rig::with(FrontConfig { segment_bytes: 64 * 1024, ..FrontConfig::default() }).await;
    let mut reader = Client::connect(rig.addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    flood(&rig, 1, 1).await;
    assert_eq!(read_to(&mut reader, 1).await, 1);
    // Far beyond what sockets and four segments hold, while the reader does not read.
    flood(&rig, 2, 3000).await;
    // It may have been left alone meanwhile, and then what came last is lost, too: something must come after it.
    let (mut got, mut published) = (1, 3000);
    let all = async {
        loop {
            published += 1;
            flood(&rig, published, published).await;
            while let Ok(received) = tokio::time::timeout(Duration::from_millis(100), reader.recv_publish()).await {
                got += 1;
                if received.payload.starts_with(format!("{published} ").as_bytes()) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("it is served again once it reads");
    assert!(got < 3000, "nothing was lost, so nothing was tested");
    assert_eq!(got + rig.stats.overflow_lost.get(), u64::from(published));
}

#[tokio::test]
async fn what_a_kept_session_lost_while_away_is_counted_too() {
    let mail = MailLimits { messages_max: 50, ..MailLimits::default() };
    let rig = Rig::with(FrontConfig { mail, ..FrontConfig::default() }).await;
    let mut reader = Client::connect_with(rig.addr, &Connect::kept(V311, "reader")).await;
    reader.subscribe("t/#", 1).await;
    flood(&rig, 1, 1).await;
    assert_eq!(read_to(&mut reader, 1).await, 1);
    reader.disconnect().await;
    flood(&rig, 2, 300).await;
    let mut reader = Client::connect_with(rig.addr, &Connect::kept(V311, "reader")).await;
    let got = 1 + read_to(&mut reader, 300).await;
    assert_eq!((got, rig.stats.mail.dropped.get()), (51, 249));
}

/// Publishes the numbers `from` to `to`, 10 kB each.
async fn flood(rig: &Rig, from: u16, to: u16) {
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    for n in from..=to {
        writer.publish("t/x", &format!("{n} {}", "x".repeat(10_000)), 1, n).await;
        writer.recv().await;
    }
}

/// Reads and acknowledges up to the number `last`, and says how many came.
async fn read_to(reader: &mut Client, last: u16) -> u64 {
    let mut got = 0;
    loop {
        let received = reader.recv_publish().await;
        got += 1;
        if received.qos == 1 {
            reader.send(&[&[0x40, 2][..], &received.pkid.to_be_bytes()].concat()).await;
        }
        if received.payload.starts_with(format!("{last} ").as_bytes()) {
            // Answered after the acknowledgement was taken in.
            reader.send(&[0xc0, 0]).await;
            reader.expect(&[0xd0, 0]).await;
            return got;
        }
    }
}
