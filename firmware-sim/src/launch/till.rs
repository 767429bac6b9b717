//! A till in a store: buyers one after the other, over MQTT. What got no answer is asked again under the same request id.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::floor::{Floor, Told};
use super::plan::{Buyer, Way};
use super::shop::GTIN;
use crate::client::{Client, Event, Options, Token};

/// Without a reply for so long a request is sent again, under its id.
const REPLY_WAIT: Duration = Duration::from_secs(2);
/// A request that got no answer by then has none.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Copies of one request on their way.
const WINDOW: usize = 16;
/// Longer than any launch: a hold that is left behind shows at the end.
const HOLD_S: u64 = 3_600;

pub(super) struct Till {
    client: Client,
    device: String,
    store: usize,
    sent: u64,
}

impl Till {
    pub(super) fn new(addr: SocketAddr, store: usize, n: usize, seed: u64) -> Till {
        let device = format!("pos-{n}");
        let client = Client::new(Options {
            client: device.clone(),
            door: addr.into(),
            // Both kinds of till are about: one keeps its session over a broken connection, the other does not.
            clean: n.is_multiple_of(2),
            window: WINDOW,
            subscribe: vec![format!("dev/{device}/reply")],
            seed: seed.wrapping_mul(31).wrapping_add((store * 1_000 + n) as u64),
        });
        Till { client, device, store, sent: 0 }
    }

    /// Serves buyers until all have come.
    pub(super) async fn serve(mut self, floor: Arc<Floor>) {
        while let Some(buyer) = floor.next(Some(self.store)).await {
            sleep(buyer.looks).await;
            let told = self.sell(&buyer, &floor).await.unwrap_or_else(|error| Told::Unclear(format!("{error:#}")));
            floor.goes_home(&buyer, told);
        }
        self.client.close().await;
    }

    async fn sell(&mut self, buyer: &Buyer, floor: &Floor) -> Result<Told> {
        let hold = buyer.name();
        let begin = json!({
            "id": format!("{hold}-h"), "op": "hold", "hold": hold, "gtin": GTIN, "seconds": HOLD_S, "reference": hold,
        });
        floor.asks();
        let (reply, again) = self.ask("hold", &begin, buyer.sends).await?;
        if !is_done(&reply)? {
            expect_refusal(&reply, "no_rights")?;
            // A refused request's id is free again, so a later copy of it may have got what came free in between.
            if again {
                self.let_go(&hold).await?;
            }
            return Ok(floor.refused());
        }
        floor.takes();
        sleep(buyer.pays).await;
        let (topic, pay) = match buyer.way {
            Way::Carry => {
                let line = json!({ "gtin": GTIN, "qty": 1, "cents": 4_900 });
                ("sale", json!({ "id": format!("{hold}-s"), "hold": hold, "lines": [line] }))
            }
            _ => ("hold", json!({ "id": format!("{hold}-c"), "op": "commit", "hold": hold })),
        };
        let (reply, _) = self.ask(topic, &pay, buyer.sends).await?;
        if is_done(&reply)? {
            return Ok(Told::Yes);
        }
        expect_refusal(&reply, "hold_expired")?;
        Ok(floor.loses())
    }

    /// Whatever may have been set aside under this name is free again.
    async fn let_go(&mut self, hold: &str) -> Result<()> {
        let release = json!({ "id": format!("{hold}-r"), "op": "release", "hold": hold });
        let (reply, _) = self.ask("hold", &release, 1).await?;
        if is_done(&reply)? { Ok(()) } else { expect_refusal(&reply, "hold_unknown") }
    }

    /// The answer to a request that is sent `sends` times, each but the last over a connection that then breaks; and whether
    /// it went out more than once.
    async fn ask(&mut self, topic: &str, request: &Value, sends: u32) -> Result<(Value, bool)> {
        let topic = format!("dev/{}/{topic}", self.device);
        let (id, payload) = (request["id"].clone(), Bytes::from(request.to_string()));
        let (mut breaks, mut again, deadline) = (sends - 1, false, Instant::now() + ANSWER_WAIT);
        self.publish(&topic, &payload);
        while Instant::now() < deadline {
            if breaks > 0 {
                self.client.lose_link();
            }
            match timeout(REPLY_WAIT, self.client.next()).await {
                Ok(Event::Down { .. }) => {
                    again = true;
                    breaks = breaks.saturating_sub(1);
                    // Half of the copies are the same packet again, half are new ones of the same request.
                    if breaks % 2 == 1 {
                        self.publish(&topic, &payload);
                    }
                }
                Ok(Event::Message(message)) => {
                    let reply: Value = serde_json::from_slice(&message.payload).context("reading a reply")?;
                    if reply["id"] == id {
                        return Ok((reply, again));
                    }
                }
                // It was acknowledged before, so its reply was lost with the connection; or it takes too long.
                Ok(Event::Up) if self.client.unacknowledged() > 0 => {}
                Ok(Event::Up) | Err(_) => {
                    again = true;
                    self.publish(&topic, &payload);
                }
                Ok(Event::Acked(_) | Event::Completed(_)) => {}
            }
        }
        bail!("no answer to {payload:?} within {} s", ANSWER_WAIT.as_secs())
    }

    /// With the window full the copies under way are enough.
    fn publish(&mut self, topic: &str, payload: &Bytes) {
        self.sent += 1;
        let _ = self.client.publish(Token(self.sent), topic.to_owned(), payload.clone());
    }
}

fn is_done(reply: &Value) -> Result<bool> {
    match reply["status"].as_str() {
        Some("ok" | "duplicate") => Ok(true),
        Some("refused") => Ok(false),
        _ => bail!("an answer that says neither yes nor no: {reply}"),
    }
}

fn expect_refusal(reply: &Value, code: &str) -> Result<()> {
    if reply["code"] == code { Ok(()) } else { bail!("refused, but not by {code}: {reply}") }
}
