//! Asks a URL for an issuer's keys: one request, no redirects, with bounds on the time and the answer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::source::{LIST_BYTES_MAX, Url};
use crate::node::pem;

/// All of it: name, connection, handshake, answer.
const WAIT: Duration = Duration::from_secs(5);

/// The text of the list.
///
/// # Errors
/// In the operator's words.
pub(super) async fn get(url: &Url, ca: Option<&Path>) -> Result<String, String> {
    let late = |_| format!("{} did not answer within {} s", url.authority(), WAIT.as_secs());
    tokio::time::timeout(WAIT, ask(url, ca)).await.map_err(late)?
}

async fn ask(url: &Url, ca: Option<&Path>) -> Result<String, String> {
    let mut addrs: Vec<SocketAddr> = tokio::net::lookup_host((url.host.as_str(), url.port))
        .await
        .map_err(|why| at("find its address", why))?
        .collect();
    // In the clear only to this machine itself, whatever the name stands for.
    addrs.retain(|addr| url.secure || addr.ip().is_loopback());
    let stream = TcpStream::connect(addrs.as_slice()).await.map_err(|why| at("connect", why))?;
    if !url.secure {
        return exchange(stream, url).await;
    }
    let ca = ca.map(Path::to_owned);
    let config = tokio::task::spawn_blocking(move || trusting(ca)).await.map_err(|why| why.to_string())??;
    let name = ServerName::try_from(url.host.clone()).map_err(|why| at("read its name", why))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    exchange(stream.map_err(|why| at("agree on TLS", why))?, url).await
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, url: &Url) -> Result<String, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| at("speak HTTP", why))?;
    // Ends with the exchange, also when that is out of time: dropped, it closes the connection.
    let mut driven = tokio::task::JoinSet::new();
    driven.spawn(connection);
    let request = Request::get(url.path.as_str())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("tillsync-broker/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|why| at("write the request", why))?;
    let answer = sender.send_request(request).await.map_err(|why| at("ask", why))?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{} answered {}", url.authority(), answer.status()));
    }
    let body = Limited::new(answer.into_body(), LIST_BYTES_MAX).collect().await;
    let body = body.map_err(|why| format!("read the answer: {why}"))?.to_bytes();
    String::from_utf8(body.to_vec()).map_err(|_| "the answer is no text".into())
}

/// Read again for each request, one in minutes: roots change too.
fn trusting(ca: Option<PathBuf>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in pem::certificates(&path)? {
                roots.add(certificate).map_err(|why| pem::at(&path, why))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why = found.errors.first().map(|why| format!(" ({why})")).unwrap_or_default();
                return Err(format!("this system has no root certificates{why}; `jwks_ca` names one"));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|why| why.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

fn at(doing: &str, why: impl std::fmt::Display) -> String {
    format!("{doing}: {why}")
}
