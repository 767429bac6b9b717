//! The people and devices of all stores: each site's requests are fed to its devices when they are due.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::device::{self, Acks, FEED_MAX, Profile};
use crate::log::Log;
use crate::plan::{Plan, TABLET};
use crate::request::Request;

pub(super) struct Crew {
    devices: JoinSet<Log>,
    feeders: JoinSet<()>,
    /// By site.
    acks: Vec<Arc<Acks>>,
    tablets: Vec<mpsc::Sender<Request>>,
    give_up: watch::Sender<Option<Instant>>,
    waiting: Vec<Waiting>,
}

/// A site's script and the devices that will play it.
struct Waiting {
    requests: Vec<Request>,
    feeds: BTreeMap<String, mpsc::Sender<Request>>,
}

impl Crew {
    /// Connects every device; nothing is sent before `begin`.
    pub(super) fn connect(plan: &Plan, doors: &[SocketAddr], seed: u64) -> Crew {
        let (give_up, _) = watch::channel(None);
        let mut crew = Crew {
            devices: JoinSet::new(),
            feeders: JoinSet::new(),
            acks: Vec::new(),
            tablets: Vec::new(),
            give_up,
            waiting: Vec::new(),
        };
        for (site, (requests, addr)) in plan.sites.iter().zip(doors).enumerate() {
            let acks = Arc::new(watch::channel(0).0);
            let names: BTreeSet<&str> = requests.iter().map(|request| request.device.as_str()).collect();
            let mut feeds = BTreeMap::new();
            for name in names {
                feeds.insert(name.to_owned(), crew.hire(site, name, *addr, seed, &acks));
            }
            let tablet = crew.hire(site, TABLET, *addr, seed, &acks);
            crew.tablets.push(tablet);
            crew.acks.push(acks);
            crew.waiting.push(Waiting { requests: requests.clone(), feeds });
        }
        crew
    }

    fn hire(
        &mut self,
        site: usize,
        name: &str,
        addr: SocketAddr,
        seed: u64,
        acks: &Arc<Acks>,
    ) -> mpsc::Sender<Request> {
        let (feed, requests) = mpsc::channel(FEED_MAX);
        let seed = name.bytes().fold(seed ^ site as u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let profile = Profile { site, name: name.to_owned(), addr, seed };
        self.devices.spawn(device::run(profile, requests, acks.clone(), self.give_up.subscribe()));
        feed
    }

    /// The replay starts at `start`.
    pub(super) fn begin(&mut self, start: Instant) {
        for Waiting { requests, feeds } in self.waiting.drain(..) {
            self.feeders.spawn(feed(requests, feeds, start));
        }
    }

    /// What a person types into the tablet of a site now.
    pub(super) async fn type_in(&self, request: Request) -> Result<()> {
        let site = request.site;
        self.tablets[site].send(request).await.ok().with_context(|| format!("the tablet of site {site} has gone"))
    }

    /// Acknowledged publishes so far.
    pub(super) fn acked(&self) -> u64 {
        self.acks.iter().map(|acks| *acks.borrow()).sum()
    }

    /// Waits for the next acknowledgement at a site.
    pub(super) async fn next_ack(&self, site: usize, most: Duration) -> bool {
        let mut acks = self.acks[site].subscribe();
        acks.borrow_and_update();
        tokio::time::timeout(most, acks.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    pub(super) fn is_feeding(&mut self) -> bool {
        while self.feeders.try_join_next().is_some() {}
        !self.feeders.is_empty()
    }

    /// The day is over: every device finishes what it has, at most until `most` from now, and hands in its log.
    pub(super) async fn go_home(mut self, most: Duration) -> Result<Vec<Log>> {
        self.tablets.clear();
        self.give_up.send_replace(Some(Instant::now() + most));
        let mut logs = Vec::new();
        while let Some(log) = self.devices.join_next().await {
            logs.push(log.context("a device failed")?);
        }
        self.feeders.shutdown().await;
        Ok(logs)
    }
}

async fn feed(requests: Vec<Request>, feeds: BTreeMap<String, mpsc::Sender<Request>>, start: Instant) {
    for request in requests {
        sleep_until(start + request.due).await;
        let Some(device) = feeds.get(&request.device) else { continue };
        if device.send(request).await.is_err() {
            // The device gave up; the audit will miss what it did not send.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, KILLED_SITE, Shape};
    use crate::request::Action;
    use crate::test_broker::{mosquitto, toy_gateway};

    #[tokio::test]
    async fn the_whole_script_is_played_and_the_day_ends() {
        let (Some(a), Some(b), Some(c)) = (mosquitto().await, mosquitto().await, mosquitto().await) else { return };
        for broker in [&a, &b, &c] {
            toy_gateway(broker.addr, u32::MAX).await;
        }
        let (length, kill_at) = (Duration::from_secs(1), Duration::from_millis(400));
        let plan = plan::make(Shape { seed: 3, lines_max: 200, length, kill_at }).unwrap();
        let mut crew = Crew::connect(&plan, &[a.addr, b.addr, c.addr], 3);
        let start = Instant::now();
        crew.begin(start);
        assert!(crew.next_ack(KILLED_SITE, Duration::from_secs(10)).await);
        while crew.is_feeding() {
            assert!(start.elapsed() < Duration::from_secs(20), "the feeders finish");
            sleep_until(Instant::now() + Duration::from_millis(10)).await;
        }
        assert!(start.elapsed() >= length.mul_f64(0.9), "the replay is paced");
        let acked = crew.acked();
        let most = Duration::from_secs(10);
        let home = tokio::time::timeout(most, crew.go_home(most)).await;
        let logs = home.expect("they go home as soon as all is answered").unwrap();
        for request in plan.sites.iter().flatten() {
            let log = logs.iter().find(|log| log.site == request.site && log.device == request.device).unwrap();
            match (&request.id, &request.action) {
                (Some(id), _) => assert!(log.is_acked(id), "{request:?}"),
                (None, Action::LookUp { .. }) => assert!(log.plain.acks > 0),
                (None, _) => panic!("only bare barcode text has no id: {request:?}"),
            }
        }
        assert!(logs.iter().map(|log| log.messages_acked()).sum::<u64>() > 200 && acked > 0);
    }
}
