//! A mosquitto bridge under the same torture: a broker in the store that bridges to one at HQ, where a subscriber with
//! a persistent session logs what arrives. Settings are the most durable that its manual gives.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::count::Held;
use super::crew::Ack;
use super::pair::Pair;
use crate::client::{Client, Event, Options};
use crate::mosquitto::{Broker, SAVES};
use crate::proxy::Proxy;

/// The run is over when nothing new arrived for so long: well above the bridge's pauses between two tries.
const QUIET: Duration = Duration::from_secs(10);
/// Where the bridge tells HQ whether it is connected, with "1" or its will's "0".
const BRIDGE_STATE: &str = "$SYS/broker/connection/";
const SUBSCRIBED_WAIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Rival {
    store: Broker,
    hq: Broker,
    uplink: Proxy,
    subscriber: Subscriber,
}

/// Runs for as long as the pair does; it is never killed.
struct Subscriber {
    seen: watch::Receiver<Seen>,
    end: oneshot::Sender<()>,
    task: JoinHandle<Held>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    messages: u64,
    bridge_connected: bool,
}

impl Rival {
    pub(super) async fn start(dir: &Path, seed: u64) -> Result<Rival> {
        let hq = Broker::start(dir.join("hq"), "hq", SAVES).await?;
        let uplink = Proxy::start(hq.addr()).await.context("opening a proxy")?;
        let subscriber = Subscriber::start(hq.addr(), seed).await?;
        // The keepalive stays at its default of 60 s: with less the bridge gives up a link that is merely busy, and sends
        // its queue again.
        let bridge = format!(
            "{SAVES}connection harbour\naddress {}\ntopic dev/# out 1\ncleansession false\n\
             local_cleansession false\nrestart_timeout 1\nnotifications true\n\
             bridge_attempt_unsubscribe false\n",
            uplink.addr()
        );
        let store = Broker::start(dir.join("store"), "store", &bridge).await?;
        Ok(Rival { store, hq, uplink, subscriber })
    }
}

impl Pair for Rival {
    type Process = Broker;

    fn door(&self) -> SocketAddr {
        self.store.addr()
    }

    fn uplink(&self) -> &Proxy {
        &self.uplink
    }

    fn processes(&mut self) -> (&mut Broker, &mut Broker) {
        (&mut self.store, &mut self.hq)
    }

    async fn await_hub_work(&mut self, most: Duration) -> Result<()> {
        let before = self.subscriber.seen.borrow().messages;
        // A bridge that pauses is part of what is tried: past the wait the plan goes on.
        let _ = timeout(most, self.subscriber.seen.wait_for(|seen| seen.messages > before)).await;
        Ok(())
    }

    fn look(&self) -> Result<Option<Held>> {
        Ok(None)
    }

    async fn end(mut self, log: &[Ack], most: Duration) -> Result<(Vec<Held>, Vec<String>)> {
        let deadline = Instant::now() + most;
        let (mut messages, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
            let seen = *self.subscriber.seen.borrow();
            if seen.messages > messages || !seen.bridge_connected {
                (messages, since) = (seen.messages, Instant::now());
            }
        }
        let _ = self.subscriber.end.send(());
        let held = self.subscriber.task.await.context("the subscriber failed")?;
        tokio::try_join!(self.store.kill(), self.hq.kill())?;
        let missing = log.iter().filter(|ack| !held.has(ack.name)).count();
        let cut_short = (missing > 0 && since.elapsed() < QUIET)
            .then(|| format!("waiting ended after {} s, with the bridge still at work or away", most.as_secs()));
        Ok((vec![held], cut_short.into_iter().collect()))
    }
}

impl Subscriber {
    /// Subscribed when this returns.
    async fn start(hq: SocketAddr, seed: u64) -> Result<Subscriber> {
        let options = Options {
            client: "hq-subscriber".into(),
            door: hq.into(),
            clean: false,
            window: 1,
            subscribe: vec!["dev/#".into(), format!("{BRIDGE_STATE}#")],
            seed,
        };
        let (see, seen) = watch::channel(Seen::default());
        let ((end, ended), (ready, is_ready)) = (oneshot::channel(), oneshot::channel());
        let task = tokio::spawn(log(Client::new(options), see, ready, ended));
        let subscribed = timeout(SUBSCRIBED_WAIT, is_ready).await;
        subscribed.context("the subscriber at HQ is not answered")?.context("the subscriber at HQ has ended")?;
        Ok(Subscriber { seen, end, task })
    }
}

async fn log(
    mut client: Client,
    see: watch::Sender<Seen>,
    ready: oneshot::Sender<()>,
    mut ended: oneshot::Receiver<()>,
) -> Held {
    let (mut held, mut ready) = (Held::default(), Some(ready));
    loop {
        tokio::select! {
            _ = &mut ended => return held,
            event = client.next() => match event {
                Event::Up => drop(ready.take().map(|ready| ready.send(()))),
                Event::Message(message) if message.topic.starts_with(BRIDGE_STATE) => {
                    see.send_modify(|seen| seen.bridge_connected = message.payload == "1");
                }
                Event::Message(message) => {
                    held.message(&message.topic, &message.payload);
                    see.send_modify(|seen| seen.messages += 1);
                }
                Event::Down { .. } | Event::Acked(_) | Event::Completed(_) => {}
            },
        }
    }
}
