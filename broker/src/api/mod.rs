//! The hub's HTTPS listener: the one place where HTTP handlers live.
//!
//! `serve` accepts and bounds, [`router`] says what there is, `problem` how failures look (RFC 9457). What [`open`] has
//! needs no token: a code or a certificate proves who asks. All else is in [`guarded`], under the layer that asks for a
//! token, with the role that each path needs: no handler there can be reached around it.

pub(crate) mod access;
mod hub;
mod join;
mod problem;
mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

pub(crate) use hub::Questions;
pub(crate) use problem::Problem;
pub(crate) use serve::{Api, serve};

use self::access::{Access, Gate, Role};
use crate::join::Desk;

/// Where the listener is if nothing is said.
pub(crate) const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), DEFAULT_PORT);
pub(crate) const DEFAULT_PORT: u16 = 8443;

/// Who asks, as far as the socket says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// All paths of the listener. Without a CA of its own the hub lets nobody join.
pub(crate) fn router(desk: Option<Arc<Desk>>, access: Arc<Access>, questions: Questions) -> Router {
    open(desk)
        .merge(guarded(access, questions))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method")
        })
        .layer(DefaultBodyLimit::max(serve::BODY_BYTES_MAX))
}

/// Paths without a token.
fn open(desk: Option<Arc<Desk>>) -> Router {
    let router = Router::new().route("/healthz", get(health));
    match desk {
        None => router,
        Some(desk) => {
            let joining = Router::new().route("/join", post(join::join)).route("/renew", post(join::renew));
            router.merge(joining.with_state(desk))
        }
    }
}

/// Paths behind a token, each with the least role that may ask.
fn guarded(access: Arc<Access>, questions: Questions) -> Router {
    let looks = Router::new().route("/api/whoami", get(hub::whoami)).route("/api/status", get(hub::status));
    let decides = Router::new().route("/api/conflicts/:id/restore", post(hub::restore));
    Gate::new(access)
        .at_least(Role::Viewer, looks.with_state(questions.clone()))
        .at_least(Role::Operator, decides.with_state(questions))
        .into_router()
}

/// That the listener answers; nothing about the business.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
