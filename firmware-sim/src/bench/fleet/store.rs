//! An emulated store: the gateway's own session over a socket of its own, with a journal in memory behind it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use prost::Message;
use proto::backoff::Backoff;
use proto::wire::Down;
use proto::wire::down::Of as DownOf;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, sleep, timeout};

use super::journal::Journal;
use crate::mqtt::{Heard, Hello, Qos, Wire};
use crate::seam::sync::{Chain, Cursors, Heard as Told, Session};

/// As the gateway's uplink has them.
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);
const CONNECT_WAIT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_S: u16 = 60;
const PING_TICKS: u32 = 40;

/// When a store got how far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) connected: Instant,
    /// The hub said that it knows the latest value of every key.
    pub(super) present: Instant,
    /// The hub said that all is applied.
    pub(super) applied: Instant,
    pub(super) reconnects: u32,
}

/// Runs until all is applied, and then stays connected until `over`.
pub(super) async fn run(journal: Journal, hub: SocketAddr, mut over: watch::Receiver<bool>, done: mpsc::Sender<Times>) {
    let mut dice = SmallRng::seed_from_u64(journal.replica.epoch.0);
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MOST);
    let mut reached = Reached { connected: None, present: None, reconnects: 0, done: Some(done) };
    loop {
        let link = link(&journal, hub, dice.random(), &mut backoff, &mut reached);
        tokio::select! {
            _ = link => reached.reconnects += u32::from(reached.connected.is_some()),
            _ = over.wait_for(|over| *over) => return,
        }
        tokio::select! {
            () = sleep(backoff.next_wait(dice.random())) => {}
            _ = over.wait_for(|over| *over) => return,
        }
    }
}

#[derive(Debug)]
struct Reached {
    connected: Option<Instant>,
    present: Option<Instant>,
    reconnects: u32,
    /// Told once; there is room for every store.
    done: Option<mpsc::Sender<Times>>,
}

impl Reached {
    fn all(&mut self) {
        let now = Instant::now();
        let (connected, present) = (self.connected.unwrap_or(now), self.present.unwrap_or(now));
        if let Some(done) = self.done.take() {
            // Nobody waits for it any more if this fails.
            let _ = done.try_send(Times { connected, present, applied: now, reconnects: self.reconnects });
        }
    }
}

/// One connection; returns only when it is lost.
async fn link(
    journal: &Journal,
    hub: SocketAddr,
    nonce: u64,
    backoff: &mut Backoff,
    reached: &mut Reached,
) -> Result<()> {
    let site = journal.replica.site.as_str();
    let (inbox, outbox) = (format!("down/{site}"), format!("up/{site}"));
    let opening = async {
        let mut wire = Wire::open(&hub.into()).await?;
        wire.queue_connect(&Hello {
            client: format!("gateway:{site}"),
            clean: true,
            keep_alive_s: KEEP_ALIVE_S,
            login: None,
        })?;
        wire.queue_subscribe(u16::MAX, std::slice::from_ref(&inbox))?;
        loop {
            match wire.next().await? {
                Heard::Accepted { .. } => {}
                Heard::Subscribed => return anyhow::Ok(wire),
                other => bail!("the hub answered with {other:?}"),
            }
        }
    };
    let wire = timeout(CONNECT_WAIT, opening).await??;
    let started = Instant::now();
    reached.connected.get_or_insert(started);
    let now_ms = || started.elapsed().as_millis() as u64;
    let mut session = Session::new(journal.replica.clone(), nonce, 0);
    let mut sender = Sender { wire, topic: outbox, pkid: 0 };
    sender.say(&session.hello(journal, &Cursors::default(), "emulated")?)?;
    let (mut tick, mut ticks, end) = (interval(TICK), 0, journal.end().seq);
    loop {
        tokio::select! {
            heard = sender.wire.next() => match heard? {
                Heard::PubAck(_) => session.acked(),
                Heard::Message(message) => {
                    if let Some(pkid) = message.pkid {
                        sender.wire.queue_puback(pkid)?;
                    }
                    let down = Down::decode(message.payload)?;
                    let known = known(&down);
                    if let Told::Turned { code, advice } = session.receive(down, journal, now_ms())? {
                        bail!("turned away: {code}: {advice}");
                    }
                    if session.streaming() {
                        backoff.reset();
                        if known >= end.0 {
                            reached.present.get_or_insert(Instant::now());
                        }
                        if session.applied() >= end {
                            reached.all();
                        }
                    }
                }
                _ => {}
            },
            _ = tick.tick() => {
                session.tick(now_ms());
                if session.greet_again(now_ms()) {
                    sender.say(&session.hello(journal, &Cursors::default(), "emulated")?)?;
                }
                ticks += 1;
                if ticks % PING_TICKS == 0 {
                    sender.wire.queue_ping()?;
                }
            }
        }
        if let Some(ask) = session.present_due(journal, now_ms()) {
            let (parts, looked) = journal.present(ask);
            session.ahead(parts, looked, now_ms());
        }
        while let Some(up) = session.next(journal, now_ms())? {
            sender.say(&up)?;
        }
    }
}

/// Up to where the hub knows the latest value of each key.
fn known(down: &Down) -> u64 {
    match &down.of {
        Some(DownOf::Welcome(welcome)) => welcome.present.max(welcome.applied_seq),
        Some(DownOf::Applied(applied)) => applied.present.max(applied.seq),
        _ => 0,
    }
}

struct Sender {
    wire: Wire,
    topic: String,
    pkid: u16,
}

impl Sender {
    fn say(&mut self, up: &proto::wire::Up) -> Result<()> {
        self.pkid = self.pkid % 60_000 + 1;
        Ok(self.wire.queue_publish(Qos::AtLeastOnce, false, self.pkid, &self.topic, &up.encode_to_vec().into())?)
    }
}
