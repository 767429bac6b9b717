//! How fast it is. `cargo test --release -p tillsync-broker front::tests::load -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::*;
use super::client::*;

/// Answers at once, keeps nothing.
struct Instantly;

impl Intake for Instantly {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        let verdict = Verdict { outcome: Outcome::Accepted, forward: true };
        let _ = batch.answer.send(vec![verdict; batch.items.len()]);
        Ok(())
    }
}

struct Open;

impl Policy for Open {
    fn connect(&self, _: &Credentials<'_>) -> Result<Option<Arc<str>>, Refusal> {
        Ok(None)
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
        let rate = runtime.block_on(measure(clients, window, subscriber));
        println!("{clients} clients x window {window}, subscriber {subscriber}: {rate:.0} acknowledged messages/s");
    }
}

async fn measure(clients: usize, window: u16, subscriber: bool) -> f64 {
    let config = FrontConfig { listen: ([127, 0, 0, 1], 0).into(), ..FrontConfig::default() };
    let front = Front::bind(config, Arc::new(Open), Arc::new(Instantly)).await.unwrap();
    let (addr, stats) = (front.local_addr().unwrap(), front.stats());
    let run = tokio::spawn(front.run(std::future::pending()));
    if subscriber {
        let mut client = Client::connect(addr, V311, "reader").await;
        client.subscribe("t/#", 0).await;
        tokio::spawn(async move { while client.stream.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} });
    }
    let acked = Arc::new(AtomicU64::new(0));
    for i in 0..clients {
        let mut client = Client::connect(addr, V311, &format!("c{i}")).await;
        let acked = acked.clone();
        tokio::spawn(async move {
            let one = |pkid| publish(V311, format!("t/{i}").as_bytes(), &[b'x'; 100], 1, pkid, &[]);
            let all: Vec<u8> = (1..=window).flat_map(one).collect();
            let each = all.len() / usize::from(window);
            client.stream.write_all(&all).await.unwrap();
            let mut buf = vec![0; 4 * usize::from(window)];
            let mut have = 0;
            loop {
                match client.stream.read(&mut buf[have..]).await {
                    Ok(n) if n > 0 => have += n,
                    _ => return,
                }
                let n = have / 4;
                acked.fetch_add(n as u64, Ordering::Relaxed);
                // Any window of packet ids is as good as another: the acknowledged ones are free.
                client.stream.write_all(&all[..n * each]).await.unwrap();
                buf.copy_within(n * 4..have, 0);
                have -= n * 4;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, began) = (acked.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rate = (acked.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    assert_eq!(stats.protocol_errors.get(), 0);
    run.abort();
    rate
}
