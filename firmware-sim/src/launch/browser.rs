//! Buyers online: HTTPS at the hub, every request under an idempotency key, sent again over a new connection until it is
//! answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, timeout};

use super::floor::{Floor, Told};
use super::plan::{Buyer, Way};
use super::shop::GTIN;
use crate::door::Door;
use crate::http::{Answer, Client, Request};

/// From the connection to the answer.
const TRY_WAIT: Duration = Duration::from_secs(15);
/// A request that got no answer by then has none.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What the hub says with 429 and 503 is obeyed up to here.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// Longer than any launch: a reservation that is left behind shows at the end.
const RESERVED_S: u64 = 3_600;

pub(super) struct Browser {
    door: Door,
    token: String,
    client: Option<Client>,
}

impl Browser {
    pub(super) fn new(door: Door, token: String) -> Browser {
        Browser { door, token, client: None }
    }

    /// Buys for one buyer after the other until all have come.
    pub(super) async fn serve(mut self, floor: Arc<Floor>) {
        while let Some(buyer) = floor.next(None).await {
            sleep(buyer.looks).await;
            let told = self.buy(&buyer, &floor).await.unwrap_or_else(|error| Told::Unclear(format!("{error:#}")));
            floor.goes_home(&buyer, told);
        }
    }

    async fn buy(&mut self, buyer: &Buyer, floor: &Floor) -> Result<Told> {
        let (name, reserves) = (buyer.name(), buyer.way == Way::Reserve);
        let (path, seconds) = match reserves {
            true => ("/api/reservations", format!(",\"seconds\":{RESERVED_S}")),
            false => ("/api/inventory/decrement", String::new()),
        };
        let body =
            format!("{{\"gtin\":\"{GTIN}\",\"units\":1,\"reference\":\"{name}\",\"channel\":\"online\"{seconds}}}");
        floor.asks();
        let answer = self.ask(path, &format!("{name}-a"), &body, buyer.sends).await?;
        if !is_done(&answer, "not_enough")? {
            return Ok(floor.refused());
        }
        floor.takes();
        if !reserves {
            return Ok(Told::Yes);
        }
        let made = answer.json()?;
        let id = made["id"].as_str().with_context(|| format!("a reservation without an id: {made}"))?;
        sleep(buyer.pays).await;
        let path = format!("/api/reservations/{id}/commit");
        let answer = self.ask(&path, &format!("{name}-c"), "{}", buyer.sends).await?;
        Ok(if is_done(&answer, "reservation_expired")? { Told::Yes } else { floor.loses() })
    }

    /// The answer to a request that is sent `sends` times, each but the last over a connection that then breaks.
    async fn ask(&mut self, path: &str, key: &str, body: &str, sends: u32) -> Result<Answer> {
        let key = format!("idempotency-key: {key}");
        let request = Request::new("POST", path, &self.token, &[&key], body);
        for _ in 1..sends {
            // Whether the hub got it or not, the buyer cannot know.
            let _ = timeout(TRY_WAIT, self.send(&request)).await;
            self.client = None;
        }
        let deadline = Instant::now() + ANSWER_WAIT;
        while Instant::now() < deadline {
            let Ok(Ok(answer)) = timeout(TRY_WAIT, self.hear(&request)).await else {
                self.client = None;
                sleep(AGAIN_AFTER).await;
                continue;
            };
            if answer.closes {
                self.client = None;
            }
            if !matches!(answer.status, 429 | 503) {
                return Ok(answer);
            }
            let after = answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
            sleep(Duration::from_secs(after).min(RETRY_AFTER_MAX)).await;
        }
        bail!("no answer to {path} under {key} within {} s", ANSWER_WAIT.as_secs())
    }

    async fn send(&mut self, request: &Request) -> Result<&mut Client> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::open(&self.door).await.context("connecting to the hub")?,
        };
        let client = self.client.insert(client);
        client.send(request).await?;
        Ok(client)
    }

    async fn hear(&mut self, request: &Request) -> Result<Answer> {
        self.send(request).await?.hear().await
    }
}

/// Whether it was done; `code` is the refusal that there may be.
fn is_done(answer: &Answer, code: &str) -> Result<bool> {
    match answer.status {
        200 | 201 => Ok(true),
        409 if answer.json()?["code"] == code => Ok(false),
        status => bail!("{status}: {}", String::from_utf8_lossy(&answer.body)),
    }
}
