//! A device's MQTT session: a bounded window of QoS 1 and 2 publishes, every acknowledgement seen one by one, and after
//! a broken link the same packet ids sent again with DUP. The owner drives it: `publish` while `has_room`, else `next`.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proto::backoff::Backoff;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::door::Door;
use crate::mqtt::{Heard, Hello, Message, Qos, Wire, WireError};

/// Connecting, being answered, being subscribed: past this the link is given up and tried again.
const STEP_WAIT: Duration = Duration::from_secs(5);
/// A publish that is not acknowledged by then makes the device hang up and come back.
const ACK_WAIT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// The packet id of SUBSCRIBE. Publishes use the ids below it.
const SUBSCRIBE_PKID: u16 = u16::MAX;

#[derive(Debug, Clone)]
pub struct Options {
    pub client: String,
    pub door: Door,
    pub clean: bool,
    /// The most publishes that may wait for their PUBACK; a device that has more waits.
    pub window: usize,
    pub subscribe: Vec<String>,
    pub seed: u64,
}

/// The owner's name for one publish; it comes back with its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Debug)]
pub enum Event {
    /// Connected, subscribed, and what was not acknowledged is on its way again.
    Up,
    Down {
        why: String,
    },
    /// PUBACK; with QoS 2 PUBREC, from which on the broker answers for the message.
    Acked(Token),
    /// QoS 2: PUBCOMP, nothing of it is open any more.
    Completed(Token),
    Message(Message),
}

/// The window is full: nothing was queued; drive the client until an acknowledgement makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the window is full")]
pub struct Full;

#[derive(Debug)]
pub struct Client {
    options: Options,
    link: Link,
    /// Oldest first. Each stays until its own PUBACK or PUBCOMP.
    flights: VecDeque<Flight>,
    last_pkid: u16,
    backoff: Backoff,
    chance: SmallRng,
    lose_link: bool,
}

#[derive(Debug)]
struct Flight {
    pkid: u16,
    qos: Qos,
    /// QoS 2: PUBREC came, the message must not be sent again, its PUBREL must.
    received: bool,
    token: Token,
    topic: String,
    payload: Bytes,
    sent: Option<Instant>,
}

#[derive(Debug)]
enum Link {
    Down { until: Instant },
    Opening(JoinHandle<Result<Wire, String>>),
    Up(Box<Open>),
}

#[derive(Debug)]
struct Open {
    wire: Wire,
    /// False until SUBACK: a reply that comes before it would be missed, so nothing is asked before it.
    subscribed: bool,
    since: Instant,
    pinged: Instant,
    heard: Instant,
}

impl Client {
    /// Connects at the first `next`.
    pub fn new(options: Options) -> Client {
        assert!((1..usize::from(SUBSCRIBE_PKID) / 2).contains(&options.window), "a window of {}", options.window);
        let chance = SmallRng::seed_from_u64(options.seed);
        let link = Link::Down { until: Instant::now() };
        let backoff = Backoff::new(RETRY_BASE, RETRY_MOST);
        Client { options, link, flights: VecDeque::new(), last_pkid: 0, backoff, chance, lose_link: false }
    }

    pub fn has_room(&self) -> bool {
        self.flights.len() < self.options.window
    }

    pub fn unacknowledged(&self) -> usize {
        self.flights.len()
    }

    pub fn publish(&mut self, token: Token, topic: String, payload: Bytes) -> Result<(), Full> {
        self.publish_with(Qos::AtLeastOnce, token, topic, payload)
    }

    pub fn publish_with(&mut self, qos: Qos, token: Token, topic: String, payload: Bytes) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        let pkid = self.free_pkid();
        self.flights.push_back(Flight { pkid, qos, received: false, token, topic, payload, sent: None });
        self.write_flights(false);
        Ok(())
    }

    /// The link breaks once all that is queued was written, before any answer to it is read: a pulled cable.
    pub fn lose_link(&mut self) {
        self.lose_link = true;
    }

    /// Drives the session to its next event. May be dropped at any await.
    pub async fn next(&mut self) -> Event {
        loop {
            match &mut self.link {
                Link::Down { until } => {
                    sleep_until(*until).await;
                    self.link = Link::Opening(tokio::spawn(open(self.options.clone())));
                }
                Link::Opening(task) => match task.await {
                    Ok(Ok(wire)) => {
                        if let Some(event) = self.opened(wire) {
                            return event;
                        }
                    }
                    Ok(Err(why)) => return self.down(why),
                    Err(panic) => return self.down(format!("connecting failed: {panic}")),
                },
                Link::Up(open) if self.lose_link => {
                    // Whether the bytes got out or not: the device cannot know either.
                    let _ = timeout(STEP_WAIT, open.wire.flush()).await;
                    self.lose_link = false;
                    return self.down("the link was lost".into());
                }
                Link::Up(open) => {
                    let alarm = open.alarm(&self.flights);
                    let heard = tokio::select! {
                        heard = open.wire.next() => Some(heard),
                        () = sleep_until(alarm) => None,
                    };
                    let event = match heard {
                        Some(Ok(heard)) => self.take(heard),
                        Some(Err(error)) => Some(self.down(error.to_string())),
                        None => self.alarmed(),
                    };
                    if let Some(event) = event {
                        return event;
                    }
                }
            }
        }
    }

    /// Leaves with a DISCONNECT.
    pub async fn close(mut self) {
        if let Link::Up(open) = &mut self.link
            && open.wire.queue_disconnect().is_ok()
        {
            // Best effort: a broker that does not read it sees the socket close.
            let _ = timeout(STEP_WAIT, open.wire.flush()).await;
        }
    }

    fn opened(&mut self, mut wire: Wire) -> Option<Event> {
        let subscribed = self.options.subscribe.is_empty();
        if !subscribed && let Err(error) = wire.queue_subscribe(SUBSCRIBE_PKID, &self.options.subscribe) {
            return Some(self.down(error.to_string()));
        }
        let now = Instant::now();
        self.link = Link::Up(Box::new(Open { wire, subscribed, since: now, pinged: now, heard: now }));
        subscribed.then(|| self.ready())
    }

    fn ready(&mut self) -> Event {
        self.backoff.reset();
        self.write_flights(true);
        Event::Up
    }

    fn take(&mut self, heard: Heard) -> Option<Event> {
        let Link::Up(open) = &mut self.link else { return None };
        open.heard = Instant::now();
        match heard {
            Heard::PubAck(pkid) => {
                let at = self.flights.iter().position(|flight| flight.pkid == pkid)?;
                self.flights.remove(at).map(|flight| Event::Acked(flight.token))
            }
            Heard::PubRec(pkid) => {
                let flight = self.flights.iter_mut().find(|flight| flight.pkid == pkid)?;
                if let Err(error) = open.wire.queue_pubrel(pkid) {
                    return Some(self.down(error.to_string()));
                }
                flight.sent = Some(Instant::now());
                let again = std::mem::replace(&mut flight.received, true);
                (!again).then_some(Event::Acked(flight.token))
            }
            Heard::PubComp(pkid) => {
                let at = self.flights.iter().position(|flight| flight.pkid == pkid)?;
                self.flights.remove(at).map(|flight| Event::Completed(flight.token))
            }
            Heard::Subscribed => {
                open.subscribed = true;
                Some(self.ready())
            }
            Heard::Message(message) => {
                if let Some(pkid) = message.pkid
                    && let Err(error) = open.wire.queue_puback(pkid)
                {
                    return Some(self.down(error.to_string()));
                }
                Some(Event::Message(message))
            }
            Heard::SubscriptionRefused => Some(self.down("the broker refused the subscription".into())),
            Heard::Pong => None,
            Heard::Accepted { .. } | Heard::Turned(_) => Some(self.down("the broker sent CONNACK twice".into())),
        }
    }

    fn alarmed(&mut self) -> Option<Event> {
        let now = Instant::now();
        let Link::Up(open) = &mut self.link else { return None };
        if !open.subscribed && now >= open.since + STEP_WAIT {
            return Some(self.down(format!("no SUBACK within {} s", STEP_WAIT.as_secs())));
        }
        if open.ack_due(&self.flights).is_some_and(|due| now >= due) {
            return Some(self.down(format!("no PUBACK within {} s", ACK_WAIT.as_secs())));
        }
        if now >= open.heard + KEEP_ALIVE + KEEP_ALIVE / 2 {
            return Some(self.down("the broker went silent".into()));
        }
        open.pinged = now;
        open.wire.queue_ping().err().map(|error| self.down(error.to_string()))
    }

    /// Queues what is not on this link yet; `again` is set when the link is new and everything must go out once more.
    fn write_flights(&mut self, again: bool) {
        let Link::Up(open) = &mut self.link else { return };
        if !open.subscribed {
            return;
        }
        let now = Instant::now();
        for flight in self.flights.iter_mut().filter(|flight| again || flight.sent.is_none()) {
            // A packet the codec cannot write was made by us: say so at once rather than hang on its PUBACK.
            let queued = if flight.received {
                open.wire.queue_pubrel(flight.pkid)
            } else {
                let again = flight.sent.is_some();
                open.wire.queue_publish(flight.qos, again, flight.pkid, &flight.topic, &flight.payload)
            };
            queued.expect("a request fits a packet");
            flight.sent = Some(now);
        }
    }

    fn down(&mut self, why: String) -> Event {
        let wait = self.backoff.next_wait(self.chance.random());
        self.link = Link::Down { until: Instant::now() + wait };
        Event::Down { why }
    }

    fn free_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = if self.last_pkid >= SUBSCRIBE_PKID - 1 { 1 } else { self.last_pkid + 1 };
            if self.flights.iter().all(|flight| flight.pkid != self.last_pkid) {
                return self.last_pkid;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Link::Opening(task) = &self.link {
            task.abort();
        }
    }
}

impl Open {
    fn alarm(&self, flights: &VecDeque<Flight>) -> Instant {
        let mut alarm = (self.pinged + KEEP_ALIVE / 2).min(self.heard + KEEP_ALIVE + KEEP_ALIVE / 2);
        if !self.subscribed {
            alarm = alarm.min(self.since + STEP_WAIT);
        }
        self.ack_due(flights).map_or(alarm, |due| alarm.min(due))
    }

    /// When the next PUBACK must have come. Before SUBACK none can: what an older link carried is not yet sent on this.
    fn ack_due(&self, flights: &VecDeque<Flight>) -> Option<Instant> {
        let sent = flights.iter().filter_map(|flight| flight.sent).min().filter(|_| self.subscribed)?;
        Some(sent + ACK_WAIT)
    }
}

async fn open(options: Options) -> Result<Wire, String> {
    let hello = Hello {
        client: options.client.clone(),
        clean: options.clean,
        keep_alive_s: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
        login: options.door.login.clone(),
    };
    let addr = options.door.addr;
    let opening = async {
        let mut wire = Wire::open(&options.door).await?;
        wire.queue_connect(&hello)?;
        let heard = wire.next().await?;
        Ok::<_, WireError>((wire, heard))
    };
    match timeout(STEP_WAIT, opening).await {
        Ok(Ok((wire, Heard::Accepted { .. }))) => Ok(wire),
        Ok(Ok((_, Heard::Turned(code)))) => Err(format!("{addr} turned {} away: {code}", options.client)),
        Ok(Ok(_)) => Err(format!("{addr} answered CONNECT with something else")),
        Ok(Err(error)) => Err(format!("{addr}: {error}")),
        Err(_) => Err(format!("{addr} did not answer CONNECT within {} s", STEP_WAIT.as_secs())),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
