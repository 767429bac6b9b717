//! Rights that change while clients are connected, and what one identity may take.

use std::time::{Duration, Instant};

use super::super::*;
use super::client::{Client, Connect, V5, V311, publish};
use super::harness::*;

fn of<'a>(user: &'a str, id: &'a str, version: u8) -> Connect<'a> {
    Connect { user: Some(user), ..Connect::new(version, id) }
}

#[tokio::test]
async fn revoking_a_name_ends_its_connections_at_once_and_no_others() {
    let rig = Rig::start().await;
    let will = Some((&b"t/will"[..], "gone", &[][..]));
    let mut stolen = Client::connect_with(rig.addr, &Connect { will, ..of("pos-1", "pos-1", V5) }).await;
    let mut second = Client::connect_with(rig.addr, &of("pos-1", "pos-1.b", V311)).await;
    let mut honest = Client::connect_with(rig.addr, &of("pos-2", "pos-2", V311)).await;
    stolen.subscribe("t/#", 0).await;
    let began = Instant::now();
    assert_eq!(rig.disconnector.close_where(|who| who.name.as_deref() == Some("pos-1")), 2);
    stolen.expect(&[0xe0, 2, 0x98, 0]).await;
    stolen.expect_closed().await;
    second.expect_closed().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    honest.publish("t/x", "1", 1, 7).await;
    honest.expect(&[0x40, 2, 0, 7]).await;
    until("both are counted", || rig.stats.revoked.get() == 2 && rig.stats.connections.get() == 1).await;
    assert!(rig.intake.publishes().iter().all(|publish| !publish.will), "a revoked will is not published");
    Client::connect_with(rig.addr, &of("pos-1", "pos-1", V311)).await;
}

/// It does not take the writer to let go: a device whose message waits for its commit is closed all the same.
#[tokio::test]
async fn revoking_does_not_wait_for_the_writer() {
    let rig = Rig::start().await;
    let mut stolen = Client::connect_with(rig.addr, &of("pos-1", "pos-1", V311)).await;
    rig.intake.set(Mode::Hold);
    stolen.publish("t/x", "1", 1, 7).await;
    rig.intake.until_seen(1).await;
    rig.disconnector.close_where(|_| true);
    stolen.expect_closed().await;
}

#[tokio::test]
async fn other_rights_end_what_may_no_longer_be_read_before_more_of_it_is_written() {
    let rig = Rig::start().await;
    let mut reader = Client::connect_with(rig.addr, &of("a", "a", V5)).await;
    let mut other = Client::connect_with(rig.addr, &of("b", "b", V5)).await;
    assert_eq!((reader.subscribe("news/x", 0).await, other.subscribe("t/x", 0).await), (0, 0));
    rig.keep_secret("news/");
    rig.publisher.publish("news/x", payload("later"), false);
    rig.publisher.publish("t/x", payload("1"), false);
    reader.expect(&[0xe0, 2, 0x87, 0]).await;
    reader.expect_closed().await;
    assert_eq!(other.recv_publish().await.payload, b"1");
    let mut again = Client::connect_with(rig.addr, &of("a", "a", V5)).await;
    assert_eq!(again.subscribe("news/x", 0).await, 0x87);
    let mut older = Client::connect_with(rig.addr, &of("c", "c", V311)).await;
    assert_eq!(older.subscribe("news/x", 0).await, 0x80);
}

#[tokio::test]
async fn over_its_rate_a_client_is_read_more_slowly_and_loses_nothing() {
    let rig = Rig::start().await;
    rig.allow(Allowance { rate: Some(Rate { messages: 50, bytes: 1 << 20 }), ..Allowance::UNLIMITED });
    let keepalive = Connect { keepalive: 1, ..of("pos-1", "pos-1", V311) };
    let mut flooder = Client::connect_with(rig.addr, &keepalive).await;
    let began = Instant::now();
    let flood: Vec<u8> =
        (1..=250).flat_map(|pkid| publish(V311, b"t/x", b"1", 1, pkid, &[])).chain([0xc0, 0]).collect();
    flooder.send(&flood).await;
    for pkid in 1..=250u16 {
        let [high, low] = pkid.to_be_bytes();
        flooder.expect(&[0x40, 2, high, low]).await;
    }
    // It said nothing for longer than its keep alive allows, since nothing was read.
    flooder.expect(&[0xd0, 0]).await;
    let took = began.elapsed();
    assert!((Duration::from_millis(2_700)..Duration::from_secs(12)).contains(&took), "{took:?} for 150 past the burst");
    assert!(rig.stats.slowed.get() > 0 && rig.stats.keepalive_timeouts.get() == 0);
    assert_eq!(rig.intake.publishes().len(), 250);
}

#[tokio::test]
async fn what_a_message_changes_counts_towards_its_rate() {
    let rig = Rig::start().await;
    rig.allow(Allowance { rate: Some(Rate { messages: 50, bytes: 1 << 20 }), ..Allowance::UNLIMITED });
    let mut till = Client::connect_with(rig.addr, &of("pos-1", "pos-1", V311)).await;
    let began = Instant::now();
    for pkid in 1..=25u16 {
        till.send(&publish(V311, b"t/x", b"ten lines", 1, pkid, &[])).await;
        let [high, low] = pkid.to_be_bytes();
        till.expect(&[0x40, 2, high, low]).await;
    }
    // 240 of its 250 were counted before the last message was read.
    let took = began.elapsed();
    assert!((Duration::from_millis(2_500)..Duration::from_secs(12)).contains(&took), "{took:?} for 140 past the burst");
    assert!(rig.stats.slowed.get() > 0);
}

#[tokio::test]
async fn one_name_has_so_many_connections_and_subscriptions() {
    let rig = Rig::with(FrontConfig { subscriptions_total_max: 5, ..FrontConfig::default() }).await;
    rig.allow(Allowance { rate: None, connections_max: 2, subscriptions_max: 3 });
    let mut one = Client::connect_with(rig.addr, &of("pos-1", "pos-1", V311)).await;
    let mut two = Client::connect_with(rig.addr, &of("pos-1", "pos-1.b", V5)).await;
    for (version, code) in [(V311, 3), (V5, 0x97)] {
        let (_, connack) = Client::connack(rig.addr, &of("pos-1", "pos-1.c", version)).await;
        assert_eq!(connack[3], code);
    }
    assert_eq!(rig.stats.refused_full_name.get(), 2);
    assert_eq!([one.subscribe("a", 0).await, one.subscribe("b", 0).await, two.subscribe("c", 0).await], [0, 0, 0]);
    assert_eq!([two.subscribe("d", 0).await, one.subscribe("d", 0).await], [0x97, 0x80], "three for both");
    assert_eq!(one.subscribe("a", 0).await, 0, "one that it has");
    let mut other = Client::connect_with(rig.addr, &of("pos-2", "pos-2", V5)).await;
    assert_eq!([other.subscribe("a", 0).await, other.subscribe("b", 0).await], [0, 0]);
    assert_eq!(other.subscribe("c", 0).await, 0x97, "five in all");
    one.unsubscribe("a").await;
    assert_eq!(other.subscribe("c", 0).await, 0);
    // A takeover fits, and what a connection had is free again when it ends.
    let _again = Client::connect_with(rig.addr, &of("pos-1", "pos-1", V311)).await;
    one.expect_closed().await;
    drop((two, other));
    until("their subscriptions are free", || rig.stats.subscriptions.get() == 0).await;
}

#[tokio::test]
async fn one_address_has_so_many_sockets_that_say_nothing() {
    let rig = Rig::with(FrontConfig { handshakes_per_peer: 2, ..FrontConfig::default() }).await;
    let _known = Client::connect(rig.addr, V311, "a").await;
    let (first, _second) = (Client::open(rig.addr, V311).await, Client::open(rig.addr, V311).await);
    Client::open(rig.addr, V311).await.expect_closed().await;
    assert_eq!(rig.stats.refused_peer.get(), 1);
    drop(first);
    // Until the front has seen it go, there is no place.
    let deadline = Instant::now() + super::client::DEADLINE;
    loop {
        let mut client = Client::open(rig.addr, V311).await;
        // It may be closed while this is written.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &Connect::new(V311, "b").bytes()).await;
        match client.recv_or_close().await {
            connack if connack.first() == Some(&0x20) => break,
            _ => assert!(Instant::now() < deadline, "its place is never free"),
        }
    }
}

#[tokio::test]
async fn an_assigned_client_id_is_its_names_own() {
    let rig = Rig::start().await;
    let (_client, connack) = Client::connack(rig.addr, &of("pos-1", "", V5)).await;
    assert!(connack.windows(11).any(|part| part == b"pos-1.auto-"), "{connack:x?}");
    let (_, connack) = Client::connack(rig.addr, &of("guesser", "x", V5)).await;
    assert_eq!((connack[3], rig.stats.refused_throttled.get()), (0x9f, 1));
}
