//! Why a request is not let through. The hub's log says it whole; the answer no more than RFC 6750 section 3.1 has words for.

use axum::http::header::{HeaderValue, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use super::super::Problem;

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no bearer token")]
    Missing,
    #[error("more than one Authorization header")]
    Ambiguous,
    #[error("too many failures from there")]
    Throttled { wait_s: u64 },
    #[error("more requests than a caller may make")]
    TooFast { wait_s: u64 },
    #[error("the token is too long")]
    Long,
    #[error("not a token")]
    Form,
    #[error("tokens of an issuer are not taken here: no `jwks` is configured")]
    NoIssuer,
    #[error("signed in a way that is not taken")]
    Algorithm,
    #[error("its header names an extension that must be understood")]
    Critical,
    #[error("the issuer has no such key")]
    Key,
    #[error("the issuer's keys are not known")]
    NoKeys,
    #[error("the signature is wrong")]
    Signature,
    #[error("its claims cannot be read: {0}")]
    Claim(&'static str),
    #[error("of another issuer")]
    Issuer,
    #[error("for another audience")]
    Audience,
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    Early,
    #[error("no such local token")]
    Unknown,
    #[error("the role does not allow it")]
    Role,
}

impl Refusal {
    /// Whether it says something against who asks: those are throttled.
    pub(super) fn blames(self) -> bool {
        !matches!(
            self,
            Refusal::Missing | Refusal::NoKeys | Refusal::Role | Refusal::Throttled { .. } | Refusal::TooFast { .. }
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<axum::body::Body> {
        let invalid = (StatusCode::UNAUTHORIZED, "invalid_token", "this token is not good here");
        let ((status, code, detail), challenge) = match self {
            Refusal::Throttled { wait_s } => {
                let detail = format!("wait {wait_s} s: too many failures from here");
                return Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail)
                    .after_s(wait_s)
                    .into_response();
            }
            Refusal::TooFast { wait_s } => {
                let detail = format!("wait {wait_s} s: more requests than one caller may make");
                return Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_fast", detail).after_s(wait_s).into_response();
            }
            Refusal::Missing => ((StatusCode::UNAUTHORIZED, "no_token", "this path needs a bearer token"), "Bearer"),
            Refusal::Ambiguous => (
                (StatusCode::BAD_REQUEST, "invalid_request", "one Authorization header, please"),
                "Bearer error=\"invalid_request\"",
            ),
            Refusal::Role => (
                (StatusCode::FORBIDDEN, "insufficient_scope", "the token's role does not allow this"),
                "Bearer error=\"insufficient_scope\"",
            ),
            _ => (invalid, "Bearer error=\"invalid_token\""),
        };
        let mut response = Problem::new(status, code, detail).into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        response
    }
}
