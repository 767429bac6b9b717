//! A broker that drops the session at bad moments: the gateway begins anew each time, and in the end everything arrived
//! once. What a client library remembers over a reconnect is where such libraries lose messages or stand still.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::ledgers::{self, Hq};
use crate::harness::mqtt::Link;
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

const SUBSCRIBE: u8 = 8;
const PUBLISH: u8 = 3;
const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;

/// What goes wrong with a packet.
#[derive(Debug, Clone, Copy)]
enum Mischief {
    /// The connection ends before it is passed on.
    Swallowed,
    /// It is passed on, and the connection ends.
    Last,
    /// Half of it is passed on, and the connection ends.
    Torn,
    /// It comes twice; the connection ends a while later, if nobody minds.
    Twice,
    /// It comes, and then bytes that are no packet.
    ThenNoise,
    /// Nothing is passed on from here, and the connection stays.
    Silence,
}

use Mischief::{Last, Silence, Swallowed, ThenNoise, Torn, Twice};

/// Each connection goes wrong at the nth packet of a kind, up or down; those after the last row do not.
const PLAN: [(bool, u8, usize, Mischief); 22] = [
    (true, CONNECT, 1, Swallowed),
    (true, CONNECT, 1, Torn),
    (false, CONNACK, 1, Swallowed),
    (false, CONNACK, 1, Last),
    (false, CONNACK, 1, Torn),
    (false, CONNACK, 1, Twice),
    (true, SUBSCRIBE, 1, Last),
    (false, SUBACK, 1, Swallowed),
    (false, SUBACK, 1, Last),
    (true, PUBLISH, 1, Last),
    (true, PUBLISH, 2, Swallowed),
    (true, PUBLISH, 2, Last),
    (true, PUBLISH, 3, Torn),
    (true, PUBLISH, 3, Twice),
    (false, PUBACK, 1, Last),
    (false, PUBACK, 2, Swallowed),
    (false, PUBACK, 2, Twice),
    (false, PUBACK, 3, ThenNoise),
    (false, PUBLISH, 1, Torn),
    (false, PUBLISH, 2, Last),
    (false, PUBLISH, 2, Twice),
    (false, PUBACK, 2, Silence),
];

/// Passes packets on to the hub, as the plan has it. Counts its connections.
async fn bad_broker(hub: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("its address");
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let plan = PLAN.get(seen.fetch_add(1, Ordering::Relaxed)).copied();
            let Ok(far) = TcpStream::connect(hub).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let up = plan.filter(|(up, ..)| *up).map(|(_, kind, nth, what)| (kind, nth, what));
            let down = plan.filter(|(up, ..)| !*up).map(|(_, kind, nth, what)| (kind, nth, what));
            tokio::spawn(async move {
                tokio::select! {
                    () = pass(near_in, far_out, up) => {}
                    () = pass(far_in, near_out, down) => {}
                }
            });
        }
    });
    (addr, count)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plan: Option<(u8, usize, Mischief)>) {
    let (mut nth, mut left) = (0, usize::MAX);
    while let Some(packet) = packet(&mut from).await {
        let wrong = match plan {
            Some((kind, at, what)) if packet[0] >> 4 == kind => {
                nth += 1;
                (nth == at).then_some(what)
            }
            _ => None,
        };
        let (bytes, over): (Vec<u8>, bool) = match wrong {
            None => (packet, false),
            Some(Swallowed) => return,
            Some(Last) => (packet, true),
            Some(Torn) => (packet[..packet.len() / 2].to_vec(), true),
            Some(Twice) => {
                left = 10;
                ([&packet[..], &packet].concat(), false)
            }
            Some(ThenNoise) => ([&packet[..], &[0xFF; 9]].concat(), false),
            Some(Silence) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
        };
        left -= 1;
        if to.write_all(&bytes).await.is_err() || over || left == 0 {
            return;
        }
    }
}

/// One whole packet.
async fn packet(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = vec![from.read_u8().await.ok()?];
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = from.read_u8().await.ok()?;
        bytes.push(byte);
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let head = bytes.len();
    bytes.resize(head + length, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(bytes)
}

#[tokio::test]
async fn a_session_that_is_dropped_at_bad_moments_loses_and_repeats_nothing() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let (addr, connections) = bad_broker(hub.addr).await;
    let mut store = gateway(dir.path(), "harbour", addr).await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    let mut sold = 0;
    // Something is to be sent at every moment.
    while connections.load(Ordering::Relaxed) <= PLAN.len() {
        sold += 1;
        pos.done("sale", json!({"id": format!("s{sold}"), "lines": [{"gtin": GTIN, "qty": 1}]})).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(sold < 5_000, "stands still at connection {}", connections.load(Ordering::Relaxed));
    }
    store.until_applied().await;
    store.stop().await;
    hub.stop().await;
    let at_hq = Hq::read(hub.dir()).rows;
    assert_eq!(at_hq, ledgers::of_gateway(store.dir()), "everything, in order, once");
    assert_eq!(at_hq.iter().filter(|row| row.device == "pos-1").count(), sold);
}
