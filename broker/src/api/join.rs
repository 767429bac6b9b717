//! `POST /join` and `POST /renew`: the join desk over HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::{Peer, Problem};
use crate::join::{Desk, Granted, JoinRequest, Refused, RenewRequest};
use crate::node::wall_ms;

type Asked<T> = Result<Json<T>, JsonRejection>;
type Answer = Result<Json<Granted>, Problem>;

pub(super) async fn join(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    asked: Asked<JoinRequest>,
) -> Answer {
    let Json(asked) = asked.map_err(unreadable)?;
    decide(peer, move |from| desk.join(&asked, from, wall_ms())).await
}

pub(super) async fn renew(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Peer>,
    asked: Asked<RenewRequest>,
) -> Answer {
    let Json(asked) = asked.map_err(unreadable)?;
    decide(peer, move |from| desk.renew(&asked, from, wall_ms())).await
}

/// On a thread, since it waits for the disk. It runs to its end also if the asker leaves.
async fn decide(peer: Peer, decide: impl FnOnce(IpAddr) -> Result<Granted, Refused> + Send + 'static) -> Answer {
    let decided = tokio::task::spawn_blocking(move || decide(peer.0.ip())).await;
    let decided = decided.unwrap_or_else(|died| Err(Refused::Broken(died.to_string())));
    decided.map(Json).map_err(problem)
}

fn unreadable(why: JsonRejection) -> Problem {
    Problem::new(why.status(), "unreadable", why.body_text())
}

fn problem(refused: Refused) -> Problem {
    let detail = refused.to_string();
    let (status, code) = match refused {
        Refused::Unknown => (StatusCode::FORBIDDEN, "code_unknown"),
        Refused::Expired => (StatusCode::GONE, "code_expired"),
        Refused::Taken => (StatusCode::CONFLICT, "code_used"),
        Refused::OtherSite(_) => (StatusCode::CONFLICT, "other_site"),
        Refused::Disabled(_) => (StatusCode::FORBIDDEN, "site_disabled"),
        Refused::Joined(_) => (StatusCode::CONFLICT, "site_joined"),
        Refused::Request(_) => (StatusCode::BAD_REQUEST, "request_invalid"),
        Refused::NotYours(_) => (StatusCode::FORBIDDEN, "certificate_refused"),
        Refused::Early => (StatusCode::CONFLICT, "too_early"),
        Refused::Throttled { wait_s } => {
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail).after_s(wait_s);
        }
        Refused::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
    };
    Problem::new(status, code, detail)
}
