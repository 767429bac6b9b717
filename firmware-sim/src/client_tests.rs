//! The session against a real broker, through a network that breaks. Skipped with a notice where mosquitto is missing.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::monitor::Monitor;
use crate::proxy::Proxy;
use crate::test_broker::mosquitto;

const WAIT: Duration = Duration::from_secs(20);

fn client(name: &str, addr: SocketAddr, subscribe: &[&str]) -> Client {
    let subscribe = subscribe.iter().map(|filter| (*filter).to_owned()).collect();
    Client::new(Options { client: name.into(), door: addr.into(), clean: false, window: 4, subscribe, seed: 1 })
}

#[tokio::test]
async fn every_ack_is_seen_though_the_network_breaks_and_acks_get_lost() {
    let Some(broker) = mosquitto().await else { return };
    let proxy = Proxy::start(broker.addr).await.unwrap();
    let mut screen = Monitor::new("screen", broker.addr, &["dev/#".into()]);
    let _ = screen.until(Duration::from_millis(300), |_| Err::<(), _>(String::new())).await.unwrap();

    let mut device = client("pos-1", proxy.addr(), &["dev/pos-1/reply"]);
    let (mut sent, mut acked, mut downs) = (0, Vec::new(), 0);
    let work = async {
        while acked.len() < 200 {
            while sent < 200 && device.has_room() {
                device.publish(Token(sent), format!("dev/pos-1/n{sent}"), "x".into()).unwrap();
                sent += 1;
                if sent % 50 == 20 {
                    device.lose_link();
                }
                if sent == 100 {
                    proxy.cut();
                    proxy.restore();
                }
            }
            assert!(device.unacknowledged() <= 4);
            match device.next().await {
                Event::Acked(token) => acked.push(token.0),
                Event::Down { .. } => downs += 1,
                Event::Up | Event::Completed(_) | Event::Message(_) => {}
            }
        }
    };
    timeout(WAIT, work).await.expect("200 acknowledgements");
    acked.sort_unstable();
    assert_eq!(acked, (0..200).collect::<Vec<_>>(), "each once");
    assert!(downs >= 4, "the link was lost {downs} times");
    assert_eq!(device.publish(Token(0), "t".into(), "x".into()), Ok(()));
    let all = screen.until(WAIT, |topics| if topics.len() >= 200 { Ok(()) } else { Err(topics.len().to_string()) });
    assert_eq!(all.await.unwrap(), Ok(()), "the broker had them all");
}

#[tokio::test]
async fn a_full_window_says_so_and_a_dead_port_is_tried_again() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut device = client("pos-1", dead, &[]);
    for token in 0..4 {
        device.publish(Token(token), "t".into(), "x".into()).unwrap();
    }
    assert_eq!(device.publish(Token(4), "t".into(), "x".into()), Err(Full));
    for _ in 0..3 {
        assert!(matches!(timeout(WAIT, device.next()).await.unwrap(), Event::Down { .. }));
    }
    assert_eq!(device.unacknowledged(), 4);
}

#[tokio::test]
async fn what_is_asked_is_answered_in_the_same_session() {
    let Some(broker) = mosquitto().await else { return };
    let mut device = client("pos-1", broker.addr, &["dev/pos-1/reply"]);
    let mut gateway = client("gateway", broker.addr, &["dev/+/sale"]);
    let work = async {
        device.publish(Token(1), "dev/pos-1/sale".into(), "s1".into()).unwrap();
        loop {
            tokio::select! {
                event = device.next() => if let Event::Message(message) = event { return message },
                event = gateway.next() => match event {
                    // Both may come up in either order: a sale nobody heard is asked again.
                    Event::Up => device.publish(Token(2), "dev/pos-1/sale".into(), "s1".into()).unwrap(),
                    Event::Message(message) => {
                        let _ = gateway.publish(Token(9), "dev/pos-1/reply".into(), message.payload);
                    }
                    _ => {}
                },
            }
        }
    };
    let reply = timeout(WAIT, work).await.expect("a reply");
    assert_eq!((reply.topic.as_str(), &reply.payload[..]), ("dev/pos-1/reply", &b"s1"[..]));
}

#[tokio::test]
async fn what_waited_long_for_a_dead_broker_gets_its_full_time_on_the_new_link() {
    let Some(broker) = mosquitto().await else { return };
    let proxy = Proxy::start(broker.addr).await.unwrap();
    let mut device = client("pos-1", proxy.addr(), &["dev/pos-1/reply"]);
    assert!(matches!(timeout(WAIT, device.next()).await.unwrap(), Event::Up));
    proxy.cut();
    device.publish(Token(1), "dev/pos-1/sale".into(), "s1".into()).unwrap();
    assert!(matches!(timeout(WAIT, device.next()).await.unwrap(), Event::Down { .. }));
    device.flights[0].sent = Some(Instant::now() - 2 * ACK_WAIT);
    proxy.restore();
    let mut came_up = false;
    loop {
        match timeout(WAIT, device.next()).await.unwrap() {
            Event::Acked(token) => break assert_eq!((token, came_up), (Token(1), true)),
            Event::Up => came_up = true,
            Event::Down { why } => assert!(!came_up && !why.contains("PUBACK"), "{why}"),
            Event::Completed(_) | Event::Message(_) => {}
        }
    }
}

#[tokio::test]
async fn exactly_once_is_acknowledged_once_and_completed_though_the_network_breaks() {
    let Some(broker) = mosquitto().await else { return };
    let proxy = Proxy::start(broker.addr).await.unwrap();
    let mut device = client("pos-1", proxy.addr(), &[]);
    let (mut sent, mut acked, mut completed) = (0, Vec::new(), Vec::new());
    let work = async {
        while completed.len() < 60 {
            while sent < 60 && device.has_room() {
                device.publish_with(Qos::ExactlyOnce, Token(sent), "dev/pos-1/n".into(), "x".into()).unwrap();
                sent += 1;
                if sent % 20 == 10 {
                    device.lose_link();
                }
            }
            match device.next().await {
                Event::Acked(token) => acked.push(token.0),
                Event::Completed(token) => completed.push(token.0),
                Event::Down { .. } | Event::Up | Event::Message(_) => {}
            }
        }
    };
    timeout(WAIT, work).await.expect("60 completions");
    acked.sort_unstable();
    completed.sort_unstable();
    assert_eq!((acked.as_slice(), completed.as_slice()), (&(0..60).collect::<Vec<_>>()[..], &acked[..]), "each once");
}
