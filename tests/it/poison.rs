//! A real gateway whose second chunk never arrives as it was stored: HQ sets it aside and applies what follows.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::mqtt::Link;
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder, gateway};

/// The chunk of the site's second record, as its head begins: magic, format, stored as it is, first and last seq.
const SECOND: [u8; 20] = [b'T', b'C', 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
/// Bytes of that head, and of the site's name after it.
const BODY_AT: usize = 69 + "harbour".len();

/// The second record's request: in a batch that leaves heads out there is nothing else to know it by.
const REQUEST: &[u8] = b"r2";

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Passes on to `hub` what comes, but for one byte of the second chunk, `at` bytes into it if it comes as it was stored.
async fn spoiling(hub: SocketAddr, at: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(hub).await else { return };
                let ((mut up, mut here), (mut back, mut there)) = (near.into_split(), far.into_split());
                let upwards = async {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = up.read(&mut bytes).await {
                        let starts: Vec<_> =
                            (0..n.saturating_sub(at)).filter(|&s| bytes[s..n].starts_with(&SECOND)).collect();
                        starts.iter().for_each(|start| bytes[start + at] ^= 0x55);
                        if starts.is_empty()
                            && let Some(start) = find(&bytes[..n], REQUEST)
                        {
                            bytes[start] ^= 0x55;
                        }
                        if there.write_all(&bytes[..n]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = upwards => {}
                    _ = tokio::io::copy(&mut back, &mut here) => {}
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_site_goes_on_behind_a_chunk_that_nobody_can_read() {
    // Its head is sound and says where the journal goes on; or not even that can be read, and the gateway says it.
    for (at, code) in [(BODY_AT + 3, "chunk_checksum"), (0, "chunk_magic")] {
        let dir = folder();
        let hub = Spec::hub(dir.path()).start().await;
        let gateway = gateway(dir.path(), "harbour", spoiling(hub.addr, at).await).await;
        let mut scanner = Link::device(gateway.addr, "scanner-1").await;
        let receive = |id: u32| json!({"id": format!("r{id}"), "gtin": GTIN, "op": "receive"});
        scanner.done("scan", receive(1)).await;
        gateway.until_applied().await;
        scanner.done("scan", receive(2)).await;
        scanner.done("scan", receive(3)).await;
        gateway.until_applied().await;
        let status = hub
            .until_status("HQ is behind it", |status| {
                let site = &status["sites"]["harbour"];
                site["applied_seq"] == 3 && site["set_aside"] == 1
            })
            .await;
        // Three tries as it was stored, and those in company or without its head.
        assert!(matches!(status["sync"]["undecodable"].as_u64(), Some(3..=6)), "{status}");
        scanner.done("scan", receive(4)).await;
        gateway.until_applied().await;
        let log = hub.log();
        assert!(log.contains("set aside") && log.contains(code), "{code}: {log}");
    }
}
