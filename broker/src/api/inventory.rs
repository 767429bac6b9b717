//! Stock and promises over HTTP.

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;

use super::access::Caller;
use super::orders::{self, Orders};
use super::{Problem, read};
use crate::hub::channel::{LinesOf, Reply, What};

type Body = Result<Bytes, BytesRejection>;
type Name = Result<Path<String>, PathRejection>;
type Asked = (State<Orders>, Extension<Caller>, HeaderMap);

/// `POST /api/inventory/decrement`
pub(super) async fn decrement((orders, caller, headers): Asked, body: Body) -> Result<Reply, Problem> {
    let body = body?;
    let lines = read::decrement(&headers, &body)?;
    change(&orders, &caller, &headers, "decrement", &body, What::Decrement(lines)).await
}

/// `POST /api/inventory/decrement/bulk`
pub(super) async fn decrement_bulk((orders, caller, headers): Asked, body: Body) -> Result<Reply, Problem> {
    let body = body?;
    let lines = read::decrements(&headers, &body)?;
    change(&orders, &caller, &headers, "decrement/bulk", &body, What::Decrement(lines)).await
}

/// `POST /api/reservations`
pub(super) async fn reserve((orders, caller, headers): Asked, body: Body) -> Result<Response, Problem> {
    let body = body?;
    let lines = read::reserve(&headers, &body)?;
    let reply = change(&orders, &caller, &headers, "reservations", &body, What::Reserve(lines)).await?;
    let made: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let at = made["id"].as_str().and_then(|id| HeaderValue::from_str(&format!("/api/reservations/{id}")).ok());
    let mut response = reply.into_response();
    if let Some(at) = at.filter(|_| response.status() == StatusCode::CREATED) {
        response.headers_mut().insert(LOCATION, at);
    }
    Ok(response)
}

/// `POST /api/reservations/bulk`
pub(super) async fn reserve_bulk((orders, caller, headers): Asked, body: Body) -> Result<Reply, Problem> {
    let body = body?;
    let lines: LinesOf = read::reserves(&headers, &body)?;
    change(&orders, &caller, &headers, "reservations/bulk", &body, What::Reserve(lines)).await
}

/// `POST /api/reservations/{id}/commit`
pub(super) async fn commit((orders, caller, headers): Asked, id: Name, body: Body) -> Result<Reply, Problem> {
    let (Path(id), body) = (id?, body?);
    read::nothing(&headers, &body)?;
    let said = format!("commit {id}");
    change(&orders, &caller, &headers, &said, &[], What::Commit(id)).await
}

/// `POST /api/reservations/{id}/release`
pub(super) async fn release((orders, caller, headers): Asked, id: Name, body: Body) -> Result<Reply, Problem> {
    let (Path(id), body) = (id?, body?);
    read::nothing(&headers, &body)?;
    let said = format!("release {id}");
    change(&orders, &caller, &headers, &said, &[], What::Release(id)).await
}

/// `GET /api/reservations/{id}`
pub(super) async fn reservation(
    State(orders): State<Orders>,
    Extension(caller): Extension<Caller>,
    id: Name,
) -> Result<Reply, Problem> {
    let Path(id) = id?;
    orders.look(&caller, What::Reservation(id)).await
}

/// `GET /api/stock/{gtin}`
pub(super) async fn stock(
    State(orders): State<Orders>,
    Extension(caller): Extension<Caller>,
    digits: Name,
) -> Result<Reply, Problem> {
    let Path(digits) = digits?;
    orders.look(&caller, What::Stock(read::gtin(&digits)?)).await
}

async fn change(
    orders: &Orders,
    caller: &Caller,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    what: What,
) -> Result<Reply, Problem> {
    let key = orders::key(headers, caller, &[path.as_bytes(), body])?;
    orders.change(caller, key, what).await
}
