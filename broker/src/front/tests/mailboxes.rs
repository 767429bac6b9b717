//! What persistent sessions get after they were away, and with which packet ids.

use super::client::*;
use super::harness::*;

async fn publish_all(rig: &Rig, payloads: &[&str]) {
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    for payload in payloads {
        writer.publish("t/x", payload, 1, 1).await;
        writer.expect(&[0x40, 2, 0, 1]).await;
    }
}

/// The next PUBLISH, with its DUP flag.
async fn recv_letter(client: &mut Client) -> (Received, bool) {
    let packet = client.recv().await;
    (Received::parse(client.version, &packet), packet[0] & 8 != 0)
}

#[tokio::test]
async fn unacknowledged_letters_come_again_with_their_packet_ids() {
    let rig = Rig::start().await;
    for (version, id, qos) in [(V311, "a", 1), (V5, "b", 1), (V311, "c", 2), (V5, "d", 2)] {
        let mut client = Client::connect_with(rig.addr, &Connect::kept(version, id)).await;
        client.subscribe("t/#", qos).await;
        publish_all(&rig, &["1", "2"]).await;
        let first = [recv_letter(&mut client).await, recv_letter(&mut client).await];
        assert!(first.iter().all(|(received, dup)| received.qos == qos && !dup));
        drop(client);
        publish_all(&rig, &["3"]).await;
        let (mut client, connack) = Client::connack(rig.addr, &Connect::kept(version, id)).await;
        assert_eq!(connack[2], 1);
        for (before, _) in first {
            let again = recv_letter(&mut client).await;
            assert_eq!(again, (before, true));
        }
        let (third, dup) = recv_letter(&mut client).await;
        assert_eq!((&third.payload[..], dup), (&b"3"[..], false));
        client.unsubscribe("t/#").await;
    }
}

#[tokio::test]
async fn a_released_letter_only_gets_its_pubrel_again() {
    let rig = Rig::start().await;
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    client.subscribe("t/#", 2).await;
    publish_all(&rig, &["1"]).await;
    let [high, low] = client.recv_publish().await.pkid.to_be_bytes();
    client.send(&[0x50, 2, high, low]).await;
    client.expect(&[0x62, 2, high, low]).await;
    drop(client);
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    client.expect(&[0x62, 2, high, low]).await;
    client.send(&[0x70, 2, high, low]).await;
    client.send(&[0xc0, 0]).await;
    client.expect(&[0xd0, 0]).await;
    drop(client);
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    client.expect_quiet().await;
    // A PUBREC for what is long over: the client must be let go of it.
    client.send(&[0x50, 2, high, low]).await;
    client.expect(&[0x62, 2, high, low]).await;
}

#[tokio::test]
async fn properties_and_identifiers_reach_persistent_sessions() {
    let rig = Rig::start().await;
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V5, "a")).await;
    client.send(&subscribe(V5, 1, &[(b"t/#", 1)], &[0x0b, 9])).await;
    client.recv().await;
    let mut writer = Client::connect(rig.addr, V5, "writer").await;
    let properties = [&[0x03, 0, 1, b'j', 0x08, 0, 1, b'r'][..], &[0x26, 0, 1, b'k', 0, 1, b'v']].concat();
    writer.send(&publish(V5, b"t/x", b"1", 1, 1, &properties)).await;
    writer.recv().await;
    let received = client.recv_publish().await;
    assert_eq!(received.properties, [&properties[..], &[0x0b, 9]].concat());
}

#[tokio::test]
async fn receive_maximum_and_packet_size_hold_for_letters_too() {
    let rig = Rig::start().await;
    let limits = [&[0x11, 0, 0, 0, 100, 0x21, 0, 2][..], &[0x27, 0, 0, 0, 50]].concat();
    let connect = Connect { properties: &limits, ..Connect::kept(V5, "a") };
    let mut client = Client::connect_with(rig.addr, &connect).await;
    client.subscribe("t/#", 1).await;
    let big = "x".repeat(100);
    publish_all(&rig, &["1", &big, "2", "3", "4"]).await;
    let mut open = std::collections::VecDeque::new();
    for payload in ["1", "2", "3", "4"] {
        if open.len() == 2 {
            if payload == "3" {
                client.expect_quiet().await;
            }
            let pkid: u16 = open.pop_front().unwrap();
            client.send(&[&[0x40, 2][..], &pkid.to_be_bytes()].concat()).await;
        }
        let received = client.recv_publish().await;
        assert_eq!(received.payload, payload.as_bytes());
        open.push_back(received.pkid);
    }
    assert_eq!(rig.stats.oversize_dropped.get(), 1);
    until("the large one is done", || rig.stats.mail.messages.get() == 2).await;
}

#[tokio::test]
async fn a_takeover_of_a_persistent_session_loses_and_doubles_nothing() {
    let rig = Rig::start().await;
    let mut client = Client::connect_with(rig.addr, &Connect::kept(V311, "a")).await;
    client.subscribe("t/#", 2).await;
    let mut got = Vec::new();
    for round in 0..10 {
        let payloads = [round * 2, round * 2 + 1].map(|n: i32| n.to_string());
        publish_all(&rig, &[&payloads[0], &payloads[1]]).await;
        let mut old = std::mem::replace(&mut client, Client::open(rig.addr, V311).await);
        // It answers nothing any more; its successor gets both.
        let first = old.recv_publish().await;
        client.send(&Connect::kept(V311, "a").bytes()).await;
        client.expect(&[0x20, 2, 1, 0]).await;
        for received in [client.recv_publish().await, client.recv_publish().await] {
            let [high, low] = received.pkid.to_be_bytes();
            client.send(&[0x50, 2, high, low]).await;
            client.expect(&[0x62, 2, high, low]).await;
            client.send(&[0x70, 2, high, low]).await;
            assert!(received.payload != first.payload || received.pkid == first.pkid);
            got.push(String::from_utf8(received.payload).unwrap());
        }
        client.send(&[0xc0, 0]).await;
        client.expect(&[0xd0, 0]).await;
    }
    assert_eq!(got, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(rig.stats.mail.messages.get(), 0);
}
