//! Subscribers that do not read: what they cost, in memory and in the others' throughput.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::super::connection::OUT_BYTES_HIGH;
use super::super::*;
use super::client::*;
use super::harness::*;
use super::load::{Open, generate};
use crate::mailbox::{Mail, Mailboxes};

const STALLED: usize = 100;
/// What all of them may cost; here, of what is our own.
const COST_MAX: usize = 20 << 20;

/// Half of them in clean sessions, half in persistent ones.
async fn stall(addr: std::net::SocketAddr, n: usize) -> Client {
    let id = format!("stalled-{n}");
    let connect = if n.is_multiple_of(2) { Connect::new(V311, &id) } else { Connect::kept(V311, &id) };
    let mut client = Client::open_narrow(addr, V311).await;
    client.send(&connect.bytes()).await;
    assert_eq!(client.recv().await[3], 0);
    // At QoS 1 a client that acknowledges nothing is sent no more than a hundred.
    client.subscribe("t/#", if connect.clean { 0 } else { 1 }).await;
    client
}

/// What waits for their sockets, in their mailboxes and in the router's log, at its worst. What rumqttd's links hold
/// comes on top and is not seen here: the measurement below shows all of it.
#[tokio::test]
async fn a_hundred_stalled_subscribers_have_a_bound() {
    let rig = Rig::start().await;
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        stalled.push(stall(rig.addr, n).await);
    }
    let mut writer = Client::connect(rig.addr, V311, "writer").await;
    let payload = "x".repeat(10_000);
    let mut worst = 0;
    for _ in 0..1_000 {
        writer.publish("t/x", &payload, 1, 1).await;
        writer.expect(&[0x40, 2, 0, 1]).await;
        worst = worst.max(rig.stats.unread_bytes.get());
        assert!(rig.stats.unread_bytes.get() as usize <= STALLED * (OUT_BYTES_HIGH + payload.len() + 100));
        assert!(rig.stats.mail.bytes.get() as usize <= FrontConfig::default().mail.bytes_total_max);
    }
    assert!(worst > 0 && rig.stats.mail.dropped.get() > 0, "they were not stalled: {worst}");
    // A ring's messages are shared by all. The router's log has four segments.
    let shared = 1 << 20;
    let log = 4 * FrontConfig::default().segment_bytes;
    assert!(STALLED * 2 * OUT_BYTES_HIGH + shared + log <= COST_MAX);
}

/// Answers at once, and fills mailboxes.
#[derive(Default)]
struct Instantly {
    mail: Mutex<Mail>,
}

impl Intake for Instantly {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        let mut mail = self.mail.lock().unwrap();
        for item in &batch.items {
            match item {
                Inbound::Publish(publish) => {
                    mail.publish(std::str::from_utf8(&publish.topic).unwrap(), &publish.properties, &publish.payload);
                }
                Inbound::Session { client, change } => mail.change(client, change.clone()),
                Inbound::Forget { client } => mail.forget(client),
                Inbound::Release { .. } => {}
            }
        }
        mail.close_group();
        drop(mail.take_changes());
        mail.committed();
        let _ = batch.answer.send(vec![Verdict::ACCEPTED; batch.items.len()]);
        Ok(())
    }

    fn mailboxes(&self) -> Arc<Mailboxes> {
        self.mail.lock().unwrap().mailboxes()
    }
}

/// `cargo test --release -p tillsync-broker front::tests::stalled -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_hundred_stalled_subscribers_cost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for clean in [true, false] {
        for stalled in [0, STALLED, 0, STALLED, 0, STALLED] {
            runtime.block_on(measure(stalled, clean));
        }
    }
}

async fn measure(stalled: usize, clean: bool) {
    let config = FrontConfig { listen: ([127, 0, 0, 1], 0).into(), ..FrontConfig::default() };
    let front = Front::bind(config, Arc::new(Open), Arc::new(Instantly::default())).await.unwrap();
    let (addr, stats) = (front.local_addr().unwrap(), front.stats());
    let run = tokio::spawn(front.run(std::future::pending()));
    // One reads, so that the router has work in every case.
    let mut reader = Client::connect(addr, V311, "reader").await;
    reader.subscribe("t/#", 0).await;
    let reading = tokio::spawn(async move { while reader.stream.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    let acked = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..10 {
        let client = Client::connect(addr, V311, &format!("c{i}")).await;
        tasks.spawn(generate(client, i, 50, acked.clone()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident();
    let mut clients = Vec::new();
    for n in 0..stalled {
        clients.push(stall(addr, 2 * n + usize::from(!clean)).await);
    }
    // They stall once their sockets are full.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, first) = (Instant::now(), acked.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let per_second = (acked.load(Ordering::Relaxed) - first) as f64 / began.elapsed().as_secs_f64();
    println!(
        "{stalled} stalled, {}: {per_second:.0} acknowledged/s by the others; resident {:+.1} MiB; unread {} KiB, mail {} KiB",
        if clean { "clean" } else { "persistent" },
        (resident() as f64 - before as f64) / f64::from(1 << 20),
        stats.unread_bytes.get() >> 10,
        stats.mail.bytes.get() >> 10,
    );
    tasks.shutdown().await;
    reading.abort();
    run.abort();
}

/// Bytes of this process in memory, the load generator's included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
}
