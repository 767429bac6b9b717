//! The hub's HTTPS listener, which is open to the world. What codes and certificates cannot do is in `join.rs`.

use tokio::io::AsyncWriteExt;

use super::peak_mib;
use super::sockets::{drip, hold, many};
use super::wire::{HOSTILE, Target};
use crate::harness::SITE;
use crate::harness::node::path;
use crate::join::Chain;

const CAP_MIB: u64 = 96;

/// A site that joined goes on being served, and another one joins, while `wage` keeps the listener busy.
async fn while_under(wage: impl AsyncFnOnce(Target) + Send + 'static) {
    let chain = Chain::start("").await;
    chain.joined(SITE).await;
    let gateway = chain.gateway(SITE).start().await;
    let addr = chain.api().await.replace("localhost", "127.0.0.1").parse().expect("an address");
    let ca = path(&chain.hub.dir().join("pki/ca.crt"));
    let attack = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(wage(Target::secured(addr, &ca)));
    });
    crate::join::sell(&gateway, "s1").await;
    gateway.until_applied().await;
    chain.joined("hill").await;
    crate::join::sell(&gateway, "s2").await;
    gateway.until_applied().await;
    tokio::task::spawn_blocking(|| attack.join()).await.expect("wait").expect("the attack goes to its end");
    let peak = peak_mib(&chain.hub);
    println!("| the hub's HTTPS | peak {peak} MiB |");
    assert!(peak <= CAP_MIB, "{peak} MiB, at most {CAP_MIB} were to be");
    assert_eq!(chain.hub.status().await["sites"][SITE]["online"], true);
}

#[tokio::test]
async fn silent_sockets_at_the_hubs_https() {
    let attacked = while_under(async |target: Target| {
        many(600, 300, move |n| {
            let target = target.clone();
            async move {
                let Ok(mut stream) = target.knock(HOSTILE).await else { return };
                let said: &[u8] = if n % 2 == 0 { b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03" } else { b"" };
                if stream.write_all(said).await.is_ok() {
                    hold(stream).await;
                }
            }
        })
        .await;
    });
    attacked.await;
}

#[tokio::test]
async fn heads_byte_by_byte_at_the_hubs_https() {
    let attacked = while_under(async |target: Target| {
        many(200, 100, move |_| {
            let target = target.clone();
            async move {
                let Ok(mut wire) = target.reach(HOSTILE).await else { return };
                let head = format!("POST /join HTTP/1.1\r\nHost: localhost\r\nX-Slow: {}\r\n\r\n", "x".repeat(200));
                assert!(!drip(&mut wire, head.as_bytes()).await, "a head has five seconds");
            }
        })
        .await;
    });
    attacked.await;
}
