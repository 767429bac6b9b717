//! Failures as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What went wrong: for programs a status and a code, for people a sentence.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after_s: Option<u64>,
    members: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), retry_after_s: None, members: Map::new() }
    }

    /// What a request says that it must not.
    pub(crate) fn invalid(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// Adds when to try again.
    pub(crate) fn after_s(mut self, seconds: u64) -> Problem {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds members of its own kind; the standard ones stay.
    pub(crate) fn with(mut self, members: Map<String, Value>) -> Problem {
        self.members = members;
        self
    }
}

impl From<PathRejection> for Problem {
    fn from(why: PathRejection) -> Problem {
        Problem::new(why.status(), "unreadable", why.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(why: BytesRejection) -> Problem {
        Problem::new(why.status(), "unreadable", why.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("failed");
        let mut body = self.members;
        let standard = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Value::Object(standard) = standard {
            body.extend(standard);
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
