//! Items over HTTP, with a version: who writes says what they have seen (RFC 9110 section 13.1).

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::access::Caller;
use super::orders::{self, Orders};
use super::{Problem, read};
use crate::hub::channel::{OnlyIf, Reply, What};

type Body = Result<Bytes, BytesRejection>;
type Name = Result<Path<String>, PathRejection>;

/// `GET /api/items/{gtin}`: 304 if the caller has this version.
pub(super) async fn show(
    State(orders): State<Orders>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    digits: Name,
) -> Result<Response, Problem> {
    let Path(digits) = digits?;
    let reply = orders.look(&caller, What::Item(read::gtin(&digits)?)).await?;
    let known = tags(&headers, &IF_NONE_MATCH)?;
    if let (Some(known), Some(version)) = (known, &reply.version)
        && (known.any || known.versions.contains(version))
    {
        let tag = orders::etag(version).unwrap_or(HeaderValue::from_static("\"\""));
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(reply.into_response())
}

/// `PUT /api/items/{gtin}`: what is not named is deleted.
pub(super) async fn put(
    orders: State<Orders>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    digits: Name,
    body: Body,
) -> Result<Reply, Problem> {
    write(&orders, &caller, &headers, digits, body, true).await
}

/// `PATCH /api/items/{gtin}`: what is not named stays, `null` deletes (RFC 7396).
pub(super) async fn patch(
    orders: State<Orders>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    digits: Name,
    body: Body,
) -> Result<Reply, Problem> {
    write(&orders, &caller, &headers, digits, body, false).await
}

async fn write(
    orders: &Orders,
    caller: &Caller,
    headers: &HeaderMap,
    digits: Name,
    body: Body,
    whole: bool,
) -> Result<Reply, Problem> {
    let (Path(digits), body) = (digits?, body?);
    let (gtin, only_if) = (read::gtin(&digits)?, only_if(headers)?);
    let fields = read::item(headers, &body)?;
    let method: &[u8] = if whole { b"put" } else { b"patch" };
    let seen = format!("{only_if:?}");
    let key = orders::key(headers, caller, &[method, gtin.to_string().as_bytes(), seen.as_bytes(), &body])?;
    orders.change(caller, key, What::Write { gtin, fields, whole, only_if }).await
}

fn only_if(headers: &HeaderMap) -> Result<OnlyIf, Problem> {
    match (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?) {
        (Some(known), None) if known.any => Ok(OnlyIf::Exists),
        (Some(known), None) => Ok(OnlyIf::Version(known.versions)),
        (None, Some(known)) if known.any => Ok(OnlyIf::Absent),
        (None, None) => {
            let why = "say which version you change: `If-Match` with its ETag, or `If-None-Match: *` for a new item";
            Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "version_missing", why))
        }
        _ => {
            let why = "either `If-Match` with an ETag, or `If-None-Match: *`";
            Err(Problem::new(StatusCode::BAD_REQUEST, "version_invalid", why))
        }
    }
}

/// What a conditional header names.
struct Tags {
    any: bool,
    versions: Vec<String>,
}

/// A weak validator is none of ours, so it matches nothing.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let (mut any, mut versions, mut named) = (false, Vec::new(), false);
    for value in headers.get_all(name) {
        named = true;
        let invalid = || Problem::new(StatusCode::BAD_REQUEST, "version_invalid", format!("{name} is a list of ETags"));
        for tag in value.to_str().map_err(|_| invalid())?.split(',').map(str::trim) {
            match tag.strip_prefix("W/").unwrap_or(tag) {
                "*" => any = true,
                quoted => {
                    let version = quoted.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).ok_or_else(invalid)?;
                    if quoted == tag {
                        versions.push(version.to_owned());
                    }
                }
            }
        }
    }
    Ok(named.then_some(Tags { any, versions }))
}
