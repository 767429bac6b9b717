//! The devices: each publishes in bursts for as long as the run lasts, and says what was acknowledged to it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::message::{DEVICES, Dialect, Message, Name};
use crate::client::{Client, Event, Options, Token};

/// Between two bursts of a device.
const BURST_EVERY: Duration = Duration::from_millis(30);
/// Above what any plan asks for.
const WINDOW: usize = 64;
/// Acknowledgements that nobody took out yet. At the bound devices wait with their next publish.
const ACKS_MAX: usize = 1 << 16;

/// One acknowledgement, as the device saw it, and the cycle in which it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) name: Name,
    pub(super) cycle: u32,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    cycle: u32,
    in_flight: usize,
    /// Without pause: what is acknowledged is followed at once.
    rush: bool,
    go_home: bool,
}

/// Publishes of all devices.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) sent: u64,
    pub(super) acked: u64,
}

impl Progress {
    pub(super) fn in_flight(self) -> u64 {
        self.sent - self.acked
    }
}

pub(super) struct Crew {
    devices: JoinSet<()>,
    orders: watch::Sender<Orders>,
    progress: watch::Sender<Progress>,
    acks: mpsc::Receiver<Ack>,
    /// The devices' logs, put together.
    log: Vec<Ack>,
}

impl Crew {
    pub(super) fn connect(addr: SocketAddr, dialect: Dialect, seed: u64) -> Crew {
        let orders = watch::Sender::new(Orders { cycle: 0, in_flight: 1, rush: false, go_home: false });
        let progress = watch::Sender::default();
        let (say, acks) = mpsc::channel(ACKS_MAX);
        let mut devices = JoinSet::new();
        for (device, name) in DEVICES.into_iter().enumerate() {
            let client = Client::new(Options {
                client: name.to_owned(),
                door: addr.into(),
                clean: false,
                window: WINDOW,
                subscribe: Vec::new(),
                seed: seed.wrapping_mul(31).wrapping_add(device as u64),
            });
            let device = Device { client, device, dialect, sent: 0, progress: progress.clone(), say: say.clone() };
            devices.spawn(device.work(orders.subscribe()));
        }
        Crew { devices, orders, progress, acks, log: Vec::new() }
    }

    /// From now on acknowledgements belong to this cycle, and so many publishes are kept open.
    pub(super) fn begin(&self, cycle: u32, in_flight: usize) {
        self.orders.send_modify(|orders| {
            (orders.cycle, orders.in_flight, orders.rush) = (cycle, in_flight, false);
        });
    }

    /// Until the next cycle, or until told otherwise, devices do not pause.
    pub(super) fn rush(&self, rush: bool) {
        self.orders.send_modify(|orders| orders.rush = rush);
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until so many more publishes are acknowledged.
    pub(super) async fn next_acks(&self, more: u64, most: Duration) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let enough = progress.borrow().acked + more;
        let waited = timeout(most, progress.wait_for(|now| now.acked >= enough)).await;
        waited.ok().with_context(|| format!("nothing was acknowledged for {} s", most.as_secs()))?.map(drop)?;
        Ok(())
    }

    /// The logs as they stand.
    pub(super) fn log(&mut self) -> &[Ack] {
        while let Ok(ack) = self.acks.try_recv() {
            self.log.push(ack);
        }
        &self.log
    }

    /// No new publishes; every device ends when all that it sent is acknowledged.
    pub(super) async fn go_home(mut self, most: Duration) -> Result<Vec<Ack>> {
        self.orders.send_modify(|orders| orders.go_home = true);
        let deadline = Instant::now() + most;
        while !self.devices.is_empty() {
            tokio::select! {
                ack = self.acks.recv() => self.log.extend(ack),
                ended = timeout_at(deadline, self.devices.join_next()) => match ended {
                    Ok(Some(ended)) => ended.context("a device failed")?,
                    Ok(None) => break,
                    Err(_) => bail!("{} publishes are not acknowledged after {} s", self.progress().in_flight(), most.as_secs()),
                },
            }
        }
        self.log();
        Ok(self.log)
    }
}

struct Device {
    client: Client,
    device: usize,
    dialect: Dialect,
    sent: u64,
    progress: watch::Sender<Progress>,
    say: mpsc::Sender<Ack>,
}

impl Device {
    async fn work(mut self, mut orders: watch::Receiver<Orders>) {
        let mut bursts = interval(BURST_EVERY);
        bursts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = *orders.borrow_and_update();
            if now.go_home && self.client.unacknowledged() == 0 {
                break;
            }
            if now.rush {
                self.burst(now.in_flight);
            }
            tokio::select! {
                _ = bursts.tick(), if !now.go_home => self.burst(now.in_flight),
                event = self.client.next() => if let Event::Acked(Token(n)) = event {
                    let ack = Ack { name: Name { device: self.device, n }, cycle: orders.borrow().cycle };
                    self.progress.send_modify(|progress| progress.acked += 1);
                    if self.say.send(ack).await.is_err() {
                        break;
                    }
                },
                changed = orders.changed() => if changed.is_err() { break },
            }
        }
        self.client.close().await;
    }

    /// Fills the window up.
    fn burst(&mut self, in_flight: usize) {
        while self.client.unacknowledged() < in_flight {
            let Message { qos, topic, payload } = self.dialect.message(Name { device: self.device, n: self.sent });
            if self.client.publish_with(qos, Token(self.sent), topic, payload).is_err() {
                return;
            }
            self.sent += 1;
            self.progress.send_modify(|progress| progress.sent += 1);
        }
    }
}
