//! The way of a caller's order to the hub's core and of the reply back: by a typed input of the writer, and answered after
//! its commit.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::Problem;
use super::access::Caller;
use crate::hub::channel::{Key, Order, Outcome, Reply, What};
use crate::hub::{Hub, Input};
use crate::ledger::{Handle, Reader};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a key.
pub(super) const KEY_CHARS_MAX: usize = 64;
/// A busy hub may take this long to answer.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// What a site that is away is waited for, and what an operator needs to make room.
const UNSURE_RETRY_S: u64 = 15;
const FULL_RETRY_S: u64 = 60;
const PASSING_RETRY_S: u64 = 5;

/// Where orders go. Clone it freely.
#[derive(Clone)]
pub(crate) struct Orders {
    writer: Handle<Hub>,
    reader: Reader,
}

impl Orders {
    pub(crate) fn new(writer: Handle<Hub>, reader: Reader) -> Orders {
        Orders { writer, reader }
    }

    /// What only looks.
    pub(super) async fn look(&self, caller: &Caller, what: What) -> Result<Reply, Problem> {
        self.ask(Order { caller: caller.name.clone(), key: None, what }).await
    }

    /// What may change something: not while the ledger has no room.
    pub(super) async fn change(&self, caller: &Caller, key: Option<Key>, what: What) -> Result<Reply, Problem> {
        if self.reader.stats().full {
            let why = "the hub's disk is full: nothing is taken in just now";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_room", why).after_s(FULL_RETRY_S));
        }
        self.ask(Order { caller: caller.name.clone(), key, what }).await
    }

    async fn ask(&self, order: Order) -> Result<Reply, Problem> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.writer.input(Input::Order(Box::new(order), answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(ANSWER_WAIT, asked).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => {
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the hub is stopping").after_s(1))
            }
            Err(_) => {
                let why = format!("no answer within {} s; what was asked for may still be done", ANSWER_WAIT.as_secs());
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", why).after_s(ANSWER_WAIT.as_secs()))
            }
        }
    }
}

/// The request's idempotency key, if it has one. `said` is all that the request asks for: a repeat must say the same.
pub(super) fn key(headers: &HeaderMap, caller: &Caller, said: &[&[u8]]) -> Result<Option<Key>, Problem> {
    let mut all = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(bad_key("one Idempotency-Key header, please")),
    };
    let text = value.to_str().map(str::trim).unwrap_or_default();
    if text.is_empty() || text.len() > KEY_CHARS_MAX {
        return Err(bad_key(format!("an Idempotency-Key has 1 to {KEY_CHARS_MAX} visible ASCII characters")));
    }
    let of = [format!("{:?}", caller.by).as_bytes(), caller.name.as_bytes(), text.as_bytes()].map(digest).concat();
    let (id, digest) = (digest(&of), digest(&said.iter().flat_map(|part| digest(part)).collect::<Vec<u8>>()));
    let first_half = |bytes: [u8; 16]| std::array::from_fn(|n| bytes[n]);
    Ok(Some(Key { id, text: text.to_owned(), digest: u64::from_be_bytes(first_half(digest)) }))
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|n| hash.as_bytes()[n])
}

fn bad_key(why: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "key_invalid", why)
}

/// How an outcome is said.
pub(super) fn status(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Done => StatusCode::OK,
        Outcome::Created => StatusCode::CREATED,
        Outcome::NotEnough
        | Outcome::NotPooled
        | Outcome::Pooled
        | Outcome::ReservationEnded
        | Outcome::ReservationExpired => StatusCode::CONFLICT,
        Outcome::SiteMissing | Outcome::SiteUnknown | Outcome::SecondsTooLong => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::KeyReused | Outcome::ItemTooLarge => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::ReservationUnknown | Outcome::ItemUnknown => StatusCode::NOT_FOUND,
        Outcome::VersionDiffers => StatusCode::PRECONDITION_FAILED,
        Outcome::TooManyReservations | Outcome::RightsUnsure | Outcome::KeysFull => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = status(self.outcome);
        let mut response = if status.is_success() {
            let json = HeaderValue::from_static("application/json");
            (status, [(CONTENT_TYPE, json)], Body::from(self.body)).into_response()
        } else {
            problem(self.outcome, status, &self.body).into_response()
        };
        let headers = response.headers_mut();
        if let Some(version) = self.version.as_deref().and_then(etag) {
            headers.insert(ETAG, version);
        }
        if self.replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A version as a strong validator.
pub(super) fn etag(version: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{version}\"")).ok()
}

fn problem(outcome: Outcome, status: StatusCode, body: &[u8]) -> Problem {
    let mut members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let detail = members.remove("detail").and_then(|detail| detail.as_str().map(str::to_owned)).unwrap_or_default();
    let problem = Problem::new(status, outcome.code(), detail).with(members);
    match outcome {
        Outcome::RightsUnsure => problem.after_s(UNSURE_RETRY_S),
        Outcome::KeysFull => problem.after_s(FULL_RETRY_S),
        Outcome::TooManyReservations => problem.after_s(PASSING_RETRY_S),
        _ => problem,
    }
}
