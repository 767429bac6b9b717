//! How fast it is. `cargo test --release -p tillsync-broker front::tests::load -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use super::client::*;
use crate::mailbox::Mailboxes;

/// Answers at once, and counts by itself what it was given.
#[derive(Default)]
struct Instantly(AtomicU64);

impl Intake for Instantly {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        let good = |item: &Inbound| matches!(item, Inbound::Publish(p) if p.payload.len() == 100 && p.denied.is_none());
        self.0.fetch_add(batch.items.iter().filter(|item| good(item)).count() as u64, Ordering::Relaxed);
        let _ = batch.answer.send(vec![Verdict::ACCEPTED; batch.items.len()]);
        Ok(())
    }

    fn mailboxes(&self) -> Arc<Mailboxes> {
        Arc::default()
    }
}

pub(super) struct Open;

impl Policy for Open {
    fn connect<'a>(&'a self, _: Credentials<'a>) -> Admitting<'a> {
        Box::pin(std::future::ready(Ok(Admission::default())))
    }

    fn may_publish(&self, _: &Identity, _: &str) -> Result<(), Denial> {
        Ok(())
    }
    fn may_subscribe(&self, _: &Identity, _: &str) -> bool {
        true
    }
}

#[test]
#[ignore = "a measurement"]
fn acknowledged_messages_per_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (clients, window, subscriber) in [(10, 1, false), (50, 1, false), (50, 50, false), (50, 50, true)] {
        runtime.block_on(measure(clients, window, subscriber));
    }
}

/// Every PUBACK must be one, of the packet id that is due. Three counts are taken in one interval, by the clients, the
/// intake and the front, and must agree to within what is in flight: a fast generator that counts wrong looks just
/// like a fast broker.
async fn measure(clients: usize, window: u16, subscriber: bool) {
    let config = FrontConfig { listen: ([127, 0, 0, 1], 0).into(), ..FrontConfig::default() };
    let intake = Arc::new(Instantly::default());
    let front = Front::bind(config, Arc::new(Open), intake.clone()).await.unwrap();
    let (addr, stats) = (front.local_addr().unwrap(), front.stats());
    let run = tokio::spawn(front.run(std::future::pending()));
    if subscriber {
        let mut client = Client::connect(addr, V311, "reader").await;
        client.subscribe("t/#", 0).await;
        tokio::spawn(async move { while client.stream.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    }
    let acked = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..clients {
        let client = Client::connect(addr, V311, &format!("c{i}")).await;
        tasks.spawn(generate(client, i, window, acked.clone()));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let counts = || {
        [
            acked.load(Ordering::Relaxed),
            intake.0.load(Ordering::Relaxed),
            stats.acks.get(),
            stats.delivered.get(),
            stats.overflow_lost.get(),
        ]
    };
    let (before, began) = (counts(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (after, seconds) = (counts(), began.elapsed().as_secs_f64());
    let n: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    println!(
        "{clients} clients x window {window}: {:.0} acknowledged/s (clients {}, intake {}, front {}); subscriber got {}, lost {}",
        n[0] as f64 / seconds,
        n[0],
        n[1],
        n[2],
        n[3],
        n[4]
    );
    let in_flight = 2 * clients as u64 * u64::from(window);
    assert!(n[0].abs_diff(n[1]) <= in_flight && n[0].abs_diff(n[2]) <= in_flight, "the counts disagree: {n:?}");
    assert!(tasks.try_join_next().is_none(), "a client failed");
    assert_eq!((stats.protocol_errors.get(), stats.connections.get()), (0, (clients + usize::from(subscriber)) as u64));
    tasks.shutdown().await;
    if subscriber {
        // Once all is quiet, what came and what was lost must be what was sent.
        let settled = || stats.delivered.get() + stats.overflow_lost.get();
        let deadline = Instant::now() + DEADLINE;
        while settled() != stats.forwarded() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!(
            "in total: forwarded {}, got {}, lost {}",
            stats.forwarded(),
            stats.delivered.get(),
            stats.overflow_lost.get()
        );
        assert_eq!(settled(), stats.forwarded());
    }
    run.abort();
}

/// Keeps `window` messages in flight, with the packet ids 1 to `window` in turn, none used twice at a time.
pub(super) async fn generate(mut client: Client, i: usize, window: u16, acked: Arc<AtomicU64>) {
    let one = |pkid| publish(V311, format!("t/{i}").as_bytes(), &[b'x'; 100], 1, pkid, &[]);
    let all: Vec<u8> = (1..=window).flat_map(one).collect();
    let each = all.len() / usize::from(window);
    client.stream.write_all(&all).await.unwrap();
    let (mut buf, mut have, mut due) = (vec![0; 4 * usize::from(window)], 0, 1u16);
    loop {
        match client.stream.read(&mut buf[have..]).await {
            Ok(n) if n > 0 => have += n,
            other => panic!("closed: {other:?}"),
        }
        let (n, first) = (have / 4, usize::from(due - 1));
        for ack in buf[..n * 4].chunks(4) {
            assert_eq!(ack, [0x40, 2, due.to_be_bytes()[0], due.to_be_bytes()[1]]);
            due = due % window + 1;
        }
        acked.fetch_add(n as u64, Ordering::Relaxed);
        // The ids that were just acknowledged, once around the end.
        let straight = n.min(usize::from(window) - first);
        client.stream.write_all(&all[first * each..(first + straight) * each]).await.unwrap();
        client.stream.write_all(&all[..(n - straight) * each]).await.unwrap();
        buf.copy_within(n * 4..have, 0);
        have -= n * 4;
    }
}
