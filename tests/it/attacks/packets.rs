//! Packets that no client would send, from strangers and from those who are let in.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

use super::sockets::many;
use super::wire::{HOSTILE, Target, connect, packet, publish};
use super::{Attack, PASSWORD, THIEVES, count, under};
use crate::harness::wait::PATIENCE;

const SEED: u64 = 5;

/// What is no packet at all, or may not be sent so. The node closes on each.
fn ill_formed() -> Vec<Vec<u8>> {
    let topic = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    vec![
        // Remaining length: five bytes, four that never end, more than a packet may have.
        b"\x30\xff\xff\xff\xff\x7f".to_vec(),
        b"\x30\xff\xff\xff\xff".to_vec(),
        b"\x30\xff\xff\xff\x7f\x00\x01t".to_vec(),
        packet(0x30, &vec![0; (1 << 20) + 1]),
        // Reserved types and flags.
        packet(0x00, b""),
        packet(0xF0, b""),
        packet(0x36, &[&topic(b"dev/thief-1/scan")[..], b"\0\x01x"].concat()),
        packet(0x80, &[&b"\0\x01"[..], &topic(b"store/#"), b"\0"].concat()),
        packet(0xC1, b""),
        packet(0x60, b"\0\x01"),
        // Lengths inside that lie, ids that are nothing, text that is none.
        packet(0x30, b"\xff\xfft"),
        packet(0x82, b"\0\x01\xff\xffx\0"),
        packet(0x82, b"\0\x01"),
        packet(0x32, &[&topic(b"dev/thief-1/scan")[..], b"\0\0x"].concat()),
        packet(0x30, &[&topic(b"dev/thief-1/\xff\xfe")[..], b"x"].concat()),
        packet(0x82, &[&b"\0\x01"[..], &topic(b"store/\xc3\x28"), b"\0"].concat()),
        packet(0x40, b""),
        // A second CONNECT, and what only a server says.
        connect("thief-1", Some(("thief-1", PASSWORD)), true, None),
        packet(0x20, b"\0\0"),
        packet(0xD0, b""),
    ]
}

fn random(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..2_000)];
    rng.fill(&mut bytes[..]);
    bytes
}

#[tokio::test]
async fn malformed_packets() {
    let attack = Attack { name: "1,000 malformed packets and random bytes", cap_mib: 96, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        let wrong = ill_formed();
        let mut rng = SmallRng::seed_from_u64(SEED);
        let all: Vec<_> = (0..100).flat_map(|_| wrong.clone()).take(500).collect();
        let all: Vec<_> = all.into_iter().chain(std::iter::repeat_with(|| random(&mut rng)).take(500)).collect();
        let closed = wrong.len();
        many(all.len(), 4, move |n| {
            let (target, bytes) = (target.clone(), all[n].clone());
            async move {
                let stranger = n % 2 == 0 && n >= closed;
                let mut wire = match stranger {
                    true => target.reach(HOSTILE).await.expect("connect to the node"),
                    false => target.thief(&format!("thief-1.{n}"), "thief-1", PASSWORD).await,
                };
                // It may close before all is said, and need not close on what only begins a packet.
                let sent = wire.send(&bytes).await;
                if n < closed && sent.is_ok() && bytes != b"\x30\xff\xff\xff\xff" {
                    let closed = async { while wire.next().await.is_some() {} };
                    assert!(timeout(PATIENCE, closed).await.is_ok(), "not closed after {bytes:?}");
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "protocol_errors") > 300, "{status}");
    assert_eq!(count(&status, "router_restarts"), 0, "{status}");
    println!("codec panics that were caught: {}", count(&status, "codec_panics"));
}

#[tokio::test]
async fn giant_packets() {
    let attack = Attack { name: "640 publishes of 1,000,000 bytes, 16 at once", cap_mib: 192, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        many(16, 16, move |n| {
            let target = target.clone();
            async move {
                let name = THIEVES[n % 2];
                let mut wire = target.thief(&format!("{name}.{n}"), name, PASSWORD).await;
                let payload = vec![b'{'; 1_000_000];
                for pkid in 1..=40 {
                    wire.send(&publish(&format!("dev/{name}/sale"), pkid, &payload, false)).await.expect("it is taken");
                    assert!(wire.heard(4, 1).await, "what is too large for a request is recorded and acknowledged");
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "slowed") > 0, "4 MiB a second are what a device may send: {status}");
}
