//! One HTTPS request to the hub, with bounds on the time and the answer.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// All of it: name, connection, handshake, answer.
const WAIT: Duration = Duration::from_secs(20);
/// A longer answer is not one of the hub's.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why there is no answer, by what to do next.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// Try again: the network, the hub, or whoever stands between.
    #[error("{0}")]
    Away(String),
    /// The hub said no, and why.
    #[error("{detail}")]
    Refused { code: String, detail: String },
}

/// Posts JSON and reads the JSON that comes back.
pub(super) async fn post<T: DeserializeOwned>(
    (host, port): (&str, u16),
    config: ClientConfig,
    path: &str,
    body: &impl Serialize,
) -> Result<T, PostError> {
    let body = serde_json::to_vec(body).map_err(|why| away("write the request", &why))?;
    match tokio::time::timeout(WAIT, exchange((host, port), config, path, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(PostError::Away(format!("{host}:{port} did not answer within {} s", WAIT.as_secs()))),
    }
}

async fn exchange<T: DeserializeOwned>(
    (host, port): (&str, u16),
    config: ClientConfig,
    path: &str,
    body: Vec<u8>,
) -> Result<T, PostError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|why| away("read the hub's name", &why))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|why| away("connect", &why))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|why| away("agree on TLS", &why))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| away("speak HTTP", &why))?;
    // Ends with the exchange: the hub closes after one answer.
    let driven = tokio::spawn(connection);
    let request = Request::post(path)
        .header(HOST, format!("{host}:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|why| away("write the request", &why))?;
    let answer = sender.send_request(request).await.map_err(|why| away("ask", &why));
    let answer = read(answer?).await;
    driven.abort();
    answer
}

async fn read<T: DeserializeOwned>(answer: hyper::Response<hyper::body::Incoming>) -> Result<T, PostError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|why| PostError::Away(format!("read the answer: {why}")))?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|why| away("read the answer", &why));
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (code, detail) = (problem["code"].as_str(), problem["detail"].as_str());
    match (code, detail) {
        (Some(code), Some(detail)) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Err(PostError::Refused { code: code.to_owned(), detail: detail.to_owned() })
        }
        (_, Some(detail)) => Err(PostError::Away(detail.to_owned())),
        _ => Err(PostError::Away(format!("answered {status}"))),
    }
}

fn away(doing: &str, why: &dyn std::fmt::Display) -> PostError {
    PostError::Away(format!("{doing}: {why}"))
}
