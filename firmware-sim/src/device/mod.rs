//! A device at work: takes requests from its feed, sends them, insists until each is acknowledged and answered,
//! and keeps the log.

mod pos;
mod scanner;
mod tablet;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::topic::Kind;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Event, Options, Token};
use crate::log::Log;
use crate::request::{Action, Quirk, Request};

/// Publishes in flight; a device that has more waits, as real firmware with a small outbox does.
const WINDOW: usize = 8;
/// Requests that were acknowledged but not answered; past it the device takes no new ones.
const UNANSWERED_MAX: usize = 32;
/// After this long without a reply the request is sent again under the same id, which is harmless and gets one.
const REPLY_WAIT: Duration = Duration::from_secs(3);
/// So often a request is repeated for the sake of its reply before the log says that none came.
const ASK_AGAIN_MAX: u32 = 8;
/// Requests handed to a device that it did not take yet; the feeder of its site waits when this is full.
pub const FEED_MAX: usize = 16;

#[derive(Debug, Clone)]
pub struct Profile {
    pub site: usize,
    pub name: String,
    pub addr: SocketAddr,
    pub seed: u64,
}

/// Acknowledged publishes at one site, as they come: drives the progress bar and tells when to pull a plug.
pub type Acks = watch::Sender<u64>;

/// One request in the bytes that go out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outgoing {
    id: Option<String>,
    topic: String,
    payload: Bytes,
    quirk: Quirk,
}

struct Unanswered {
    outgoing: Outgoing,
    ask_again_at: Instant,
    asked: u32,
}

struct Device {
    client: Client,
    log: Log,
    acks: Arc<Acks>,
    /// By token: the request id that the acknowledgement is for.
    in_flight: BTreeMap<Token, Option<String>>,
    unanswered: BTreeMap<String, Unanswered>,
    next_token: u64,
}

/// Plays `feed` to its end, then waits until all is acknowledged and answered, but not past `give_up`, which is
/// set when the replay is over. The log tells what is missing then.
pub async fn run(
    profile: Profile,
    mut feed: mpsc::Receiver<Request>,
    acks: Arc<Acks>,
    mut give_up: watch::Receiver<Option<Instant>>,
) -> Log {
    let mut device = Device::new(&profile, acks);
    let mut fed_up = false;
    while !(fed_up && device.is_done()) {
        let ask_again_at = device.ask_again_at();
        let last_call = *give_up.borrow_and_update();
        tokio::select! {
            request = feed.recv(), if !fed_up && device.has_room() => match request {
                Some(request) => device.send(&request),
                None => fed_up = true,
            },
            event = device.client.next() => device.take(event),
            () = sleep_until(ask_again_at), if device.client.has_room() => device.ask_again(),
            () = at(last_call) => break,
            changed = give_up.changed() => if changed.is_err() { break },
        }
    }
    device.client.close().await;
    device.log
}

/// Waits for a moment that may not have been set.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Device {
    fn new(profile: &Profile, acks: Arc<Acks>) -> Device {
        let client = Client::new(Options {
            client: profile.name.clone(),
            door: profile.addr.into(),
            clean: false,
            window: WINDOW,
            subscribe: vec![format!("dev/{}/reply", profile.name)],
            seed: profile.seed,
        });
        let log = Log::new(profile.site, &profile.name);
        Device { client, log, acks, in_flight: BTreeMap::new(), unanswered: BTreeMap::new(), next_token: 0 }
    }

    fn is_done(&self) -> bool {
        self.client.unacknowledged() == 0 && self.unanswered.is_empty()
    }

    /// A request may need room for two publishes.
    fn has_room(&self) -> bool {
        self.client.unacknowledged() + 2 <= WINDOW && self.unanswered.len() < UNANSWERED_MAX
    }

    fn send(&mut self, request: &Request) {
        let outgoing = encode(request);
        self.publish(&outgoing);
        match outgoing.quirk {
            Quirk::None => {}
            Quirk::Twice => self.publish(&outgoing),
            Quirk::LoseAck => self.client.lose_link(),
        }
        if let Some(id) = outgoing.id.clone() {
            let ask_again_at = Instant::now() + REPLY_WAIT;
            self.unanswered.insert(id, Unanswered { outgoing, ask_again_at, asked: 0 });
        }
    }

    fn publish(&mut self, outgoing: &Outgoing) {
        let token = Token(self.next_token);
        if self.client.publish(token, outgoing.topic.clone(), outgoing.payload.clone()).is_ok() {
            self.next_token += 1;
            self.in_flight.insert(token, outgoing.id.clone());
            self.log.sent(outgoing.id.as_deref());
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            // After a lost link the client sends again what it has no acknowledgement for.
            Event::Up if self.log.links_lost > 0 => {
                for id in self.in_flight.values() {
                    self.log.sent(id.as_deref());
                }
            }
            Event::Up | Event::Completed(_) => {}
            Event::Down { .. } => self.log.links_lost += 1,
            Event::Acked(token) => {
                if let Some(id) = self.in_flight.remove(&token) {
                    self.log.acked(id.as_deref());
                    self.acks.send_modify(|acks| *acks += 1);
                }
            }
            Event::Message(message) => {
                if let Some(id) = self.log.replied(&message.payload) {
                    self.unanswered.remove(&id);
                }
            }
        }
    }

    fn ask_again_at(&self) -> Instant {
        let waiting = self.unanswered.values().map(|waiting| waiting.ask_again_at).min();
        waiting.unwrap_or_else(|| Instant::now() + REPLY_WAIT)
    }

    /// Sends again what nobody answered. Not while it is in flight: then the client is already insisting.
    fn ask_again(&mut self) {
        let now = Instant::now();
        let Some((id, waiting)) = self.unanswered.iter_mut().find(|(_, waiting)| waiting.ask_again_at <= now) else {
            return;
        };
        waiting.ask_again_at = now + REPLY_WAIT;
        let in_flight = self.in_flight.values().flatten().any(|flying| flying == id);
        if in_flight {
            return;
        }
        if waiting.asked >= ASK_AGAIN_MAX {
            // No reply ever: the log shows it, and the feed must go on.
            let id = id.clone();
            self.unanswered.remove(&id);
            return;
        }
        waiting.asked += 1;
        let outgoing = waiting.outgoing.clone();
        self.publish(&outgoing);
    }
}

fn encode(request: &Request) -> Outgoing {
    let id = request.id.as_deref().unwrap_or_default();
    let (kind, payload) = match &request.action {
        Action::Sale { lines } => (Kind::Sale, pos::sale(id, request.at_ms, lines).to_string()),
        Action::Receive { code, qty } => (Kind::Scan, scanner::receive(id, request.at_ms, code, *qty).to_string()),
        Action::LookUp { code, ending } => (Kind::Scan, scanner::bare(code, ending)),
        Action::EditItem { code, name, price_cents } => {
            (Kind::Item, tablet::item(id, code, name.as_deref(), *price_cents).to_string())
        }
        Action::WriteNote { code, author, text, score } => {
            (Kind::Note, tablet::note(id, code, author, text, *score).to_string())
        }
    };
    let topic = format!("dev/{}/{}", request.device, kind.as_str());
    Outgoing { id: request.id.clone(), topic, payload: payload.into(), quirk: request.quirk }
}

fn with_clock(mut value: Value, at_ms: Option<u64>) -> Value {
    if let Some(at_ms) = at_ms {
        value["at_ms"] = at_ms.into();
    }
    value
}

#[cfg(test)]
mod tests;
