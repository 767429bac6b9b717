//! The hub's HTTPS listener: the one place where HTTP handlers live.
//!
//! `serve` accepts and bounds, `routes` says what there is and `openapi` describes it, from the same table; `problem` is how
//! failures look (RFC 9457). What has no role in the table needs no token: a code or a certificate proves who asks there. All
//! else comes in through [`Gate`], with the role that it needs: no handler there can be reached around it.
//!
//! `inventory` and `items` are about stock, promises and items; `read` says what their bodies may be, `orders` takes them to
//! the hub's core and back.

pub(crate) mod access;
mod hub;
mod inventory;
mod items;
mod join;
mod openapi;
mod orders;
mod problem;
mod read;
mod routes;
mod schemas;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

pub(crate) use orders::Orders;
pub(crate) use problem::Problem;
pub(crate) use routes::Behind;
pub(crate) use serve::{Api, serve};

use self::access::{Access, Gate, Role};

/// Where the listener is if nothing is said.
pub(crate) const DEFAULT_ADDR: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), DEFAULT_PORT);
pub(crate) const DEFAULT_PORT: u16 = 8443;

/// Who asks, as far as the socket says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// All paths of the listener, under bounds on what a request may cost.
pub(crate) fn router(access: Arc<Access>, behind: &Behind) -> Router {
    let routes = routes::all();
    let document = Json(openapi::document(&routes, behind));
    let open = Router::new().route(openapi::PATH, get(async move || document));
    let mut by_role: BTreeMap<Option<Role>, Router> = BTreeMap::from([(None, open)]);
    for route in &routes {
        if let Some(found) = route.router(behind) {
            let routes = by_role.remove(&route.role).unwrap_or_default();
            by_role.insert(route.role, routes.merge(found));
        }
    }
    let open = by_role.remove(&None).unwrap_or_default();
    let mut gate = Gate::new(access);
    for (role, routes) in by_role.into_iter().filter_map(|(role, routes)| Some((role?, routes))) {
        gate = gate.at_least(role, routes);
    }
    open.merge(gate.into_router())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "not with this method")
        })
        .layer(DefaultBodyLimit::max(serve::BODY_BYTES_MAX))
}

/// That the listener answers; nothing about the business.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
