//! Before anybody said who he is: connects in floods, TLS that stops half-way, bytes that come one by one.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::wire::{HOSTILE, Target, connect, publish};
use super::{Attack, PASSWORD, THIEVES, count, under};

/// Shorter than the default, so that a test sees it.
const IMPATIENT: &str = "handshake_timeout_ms = 1000\nconnect_timeout_ms = 1000\n";

/// Runs `each` so many times, so many at once.
pub(crate) async fn many<W: Future<Output = ()> + 'static>(times: usize, at_once: usize, each: impl Fn(usize) -> W) {
    let local = tokio::task::LocalSet::new();
    let run = async {
        let mut running = JoinSet::new();
        for n in 0..times {
            if running.len() == at_once {
                running.join_next().await;
            }
            running.spawn_local(each(n));
        }
        while let Some(done) = running.join_next().await {
            done.expect("an attacker goes to its end");
        }
    };
    local.run_until(run).await;
}

/// Holds the socket until the node closes it. One that the kernel had no room for in its queue is closed on the other side
/// without a word.
pub(crate) async fn hold(mut stream: impl AsyncReadExt + Unpin) {
    let mut heard = [0; 64];
    let closed = async { while matches!(stream.read(&mut heard).await, Ok(1..)) {} };
    let _ = timeout(Duration::from_secs(15), closed).await;
}

#[tokio::test]
async fn a_flood_of_connects() {
    let attack = Attack { name: "10,000 connects, 500 of them held", cap_mib: 96, config: IMPATIENT, tls: false };
    let status = under(attack, async |target: Target| {
        many(10_000, 500, move |n| {
            let target = target.clone();
            async move {
                let Ok(stream) = target.knock(HOSTILE).await else { return };
                if n % 20 == 0 {
                    hold(stream).await;
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "refused_peer") > 0 && count(&status, "connect_timeouts") > 0, "{status}");
}

#[tokio::test]
async fn a_flood_of_wrong_passwords() {
    let attack = Attack { name: "2,000 wrong passwords", cap_mib: 128, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        many(2_000, 50, move |n| {
            let target = target.clone();
            async move {
                let Ok(mut wire) = target.reach(HOSTILE).await else { return };
                let (client, guess) = (format!("pos-{}", n % 10), format!("guess {n}"));
                let code = wire.greet(&connect(&client, Some((&client, &guess)), true, None)).await;
                assert_ne!(code, Some(0), "a guess is let in");
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "refused_credentials") >= 20 && count(&status, "refused_throttled") > 1_500, "{status}");
    assert!(status["identity"]["passwords"]["hashed"].as_u64().unwrap_or(0) < 100, "{status}");
}

#[tokio::test]
async fn half_open_tls_handshakes() {
    let attack = Attack { name: "1,000 TLS handshakes left half-way", cap_mib: 128, config: IMPATIENT, tls: true };
    let status = under(attack, async |target: Target| {
        many(1_000, 300, move |n| {
            let target = target.clone();
            async move {
                let Ok(mut stream) = target.knock(HOSTILE).await else { return };
                // A record that says 512 bytes of ClientHello and brings 5, or what is no TLS at all.
                let said: &[u8] =
                    if n % 4 == 0 { b"GET / HTTP/1.0\r\n\r\n" } else { b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03" };
                if stream.write_all(said).await.is_ok() {
                    hold(stream).await;
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "handshake_timeouts") > 0 && count(&status, "tls_failures") > 0, "{status}");
}

#[tokio::test]
async fn whole_tls_handshakes_again_and_again() {
    let attack = Attack { name: "600 whole TLS handshakes, 16 at once", cap_mib: 128, config: "", tls: true };
    let status = under(attack, async |target: Target| {
        many(600, 16, move |_| {
            let target = target.clone();
            async move { drop(target.reach(HOSTILE).await) }
        })
        .await;
    });
    assert!(count(&status.await, "connections_total") >= 10);
}

/// Each byte by itself. False: the node has had enough before all was said.
pub(crate) async fn drip(wire: &mut super::wire::Wire, bytes: &[u8]) -> bool {
    let mut pace = interval(Duration::from_millis(100));
    for byte in bytes {
        pace.tick().await;
        if wire.send(&[*byte]).await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn bytes_one_by_one() {
    let attack = Attack { name: "CONNECT and PUBLISH byte by byte", cap_mib: 96, config: IMPATIENT, tls: false };
    let status = under(attack, async |target: Target| {
        many(116, 116, move |n| {
            let target = target.clone();
            async move {
                if n < 100 {
                    let Ok(mut wire) = target.reach(HOSTILE).await else { return };
                    drip(&mut wire, &connect("pos-1", Some(("pos-1", PASSWORD)), true, None)).await;
                    assert!(!wire.heard(2, 1).await, "too slow a CONNECT is not answered");
                } else {
                    let name = THIEVES[n % 2];
                    let mut wire = target.thief(&format!("{name}.{n}"), name, PASSWORD).await;
                    let never_ends = publish(&format!("dev/{name}/sale"), 1, &vec![b' '; 1_000_000], false);
                    // Most of it at once, so that the node holds it.
                    wire.send(&never_ends[..900_000]).await.expect("it is taken");
                    drip(&mut wire, &never_ends[900_000..900_040]).await;
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert_eq!(count(&status, "connect_timeouts"), 100, "{status}");
}
