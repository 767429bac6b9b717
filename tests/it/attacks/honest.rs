//! Devices that mean well: each sells one piece after the other and waits for the acknowledgement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::wire::{Target, Wire, connect, publish};
use crate::harness::GTIN;
use crate::harness::wait::PATIENCE;

pub(crate) const DEVICES: usize = 10;
/// What each sells at least while it is measured: 1,000 in all, so that the p99 is the tenth worst.
const SALES_MIN: usize = 100;
/// A fast cashier, so that the devices alone do not fill the machine.
const BETWEEN_SALES: Duration = Duration::from_millis(10);

/// One device on one connection, which it never makes again.
pub(crate) struct Honest {
    name: String,
    wire: Wire,
    sold: usize,
}

/// What all of them did while they were measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) requests: BTreeSet<String>,
    latencies: Vec<Duration>,
}

impl Measured {
    pub(crate) fn p99(&mut self) -> Duration {
        self.latencies.sort();
        self.latencies[self.latencies.len() * 99 / 100]
    }

    fn add(&mut self, other: Measured) {
        self.requests.extend(other.requests);
        self.latencies.extend(other.latencies);
    }
}

pub(crate) fn name(n: usize) -> String {
    format!("pos-{n}")
}

impl Honest {
    pub(crate) async fn arrive(target: &Target, name: String) -> Honest {
        Honest::try_arrive(target, &name).await.unwrap_or_else(|why| panic!("{name} is not let in: {why}"))
    }

    async fn try_arrive(target: &Target, name: &str) -> Result<Honest, String> {
        let mut wire = target.honest().await.map_err(|e| e.to_string())?;
        let code = wire.greet(&connect(name, Some((name, super::PASSWORD)), true, None)).await;
        if code != Some(0) {
            return Err(format!("CONNACK {code:?}"));
        }
        let codes = wire.subscribe(&[format!("dev/{name}/reply")]).await;
        if codes != [0] {
            return Err(format!("SUBACK {codes:?}"));
        }
        Ok(Honest { name: name.to_owned(), wire, sold: 0 })
    }

    /// Comes in the middle of an attack, and tries until it is served, as devices do.
    pub(crate) async fn arrive_late(target: &Target, name: &str) -> Honest {
        let mut tries = interval(Duration::from_millis(200));
        let arrive = async {
            loop {
                tries.tick().await;
                if let Ok(honest) = Honest::try_arrive(target, name).await {
                    return honest;
                }
            }
        };
        timeout(PATIENCE, arrive).await.expect("a device that comes during the attack is served")
    }

    /// Until its PUBACK.
    async fn sell(&mut self) -> (String, Duration) {
        self.sold += 1;
        let id = format!("{}-{}", self.name, self.sold);
        let sale = format!(r#"{{"id":"{id}","lines":[{{"gtin":"{GTIN}","qty":1,"cents":100}}]}}"#);
        let topic = format!("dev/{}/sale", self.name);
        let pkid = (self.sold % 65_535 + 1) as u16;
        let began = Instant::now();
        let sent = self.wire.send(&publish(&topic, pkid, sale.as_bytes(), false)).await;
        sent.unwrap_or_else(|e| panic!("{} is cut off: {e}", self.name));
        let acknowledged = timeout(PATIENCE, self.wire.heard(4, 1)).await;
        assert_eq!(acknowledged, Ok(true), "{}: its sale {} is acknowledged", self.name, self.sold);
        (id, began.elapsed())
    }

    async fn sell_until(&mut self, over: &AtomicBool) -> Measured {
        let mut measured = Measured::default();
        let mut pace = interval(BETWEEN_SALES);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while measured.latencies.len() < SALES_MIN || !over.load(Ordering::Acquire) {
            pace.tick().await;
            let (id, took) = self.sell().await;
            assert!(measured.requests.insert(id), "ids are used once");
            measured.latencies.push(took);
        }
        measured
    }
}

/// All sell until it is over, and some more if that was soon.
pub(crate) async fn all_sell(devices: Vec<Honest>, over: Arc<AtomicBool>) -> (Vec<Honest>, Measured) {
    let mut selling = JoinSet::new();
    for mut device in devices {
        let over = over.clone();
        selling.spawn(async move {
            let measured = device.sell_until(&over).await;
            (device, measured)
        });
    }
    let (mut devices, mut all) = (Vec::new(), Measured::default());
    while let Some(done) = selling.join_next().await {
        let (device, measured) = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        devices.push(device);
        all.add(measured);
    }
    (devices, all)
}
