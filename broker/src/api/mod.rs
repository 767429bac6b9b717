//! The hub's HTTPS listener: the one place where HTTP handlers live.
//!
//! `serve` accepts and bounds, [`router`] says what there is, `problem` how failures look (RFC 9457). What is here now
//! needs no token: a code or a certificate proves who asks. Paths that need one belong in a router of their own, merged in
//! [`router`] under the layer that checks it, so that no handler can be reached around it.

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

pub(crate) use problem::Problem;
pub(crate) use serve::{Api, serve};

use crate::join::Desk;

/// Where the listener is if nothing is said.
pub(crate) const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), DEFAULT_PORT);
pub(crate) const DEFAULT_PORT: u16 = 8443;

/// Who asks, as far as the socket says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// All paths of the listener. Without a CA of its own the hub lets nobody join.
pub(crate) fn router(desk: Option<Arc<Desk>>) -> Router {
    open(desk)
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

/// That the listener answers; nothing about the business.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
