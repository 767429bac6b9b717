//! Sockets of the HTTPS listener, each with bounds on what it may cost: its head, its body, its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Peer;
use crate::front::Tls;

/// Connections at once; more wait in the kernel's queue. Hundreds of sites that renew come one after the other.
const CONNECTIONS_MAX: usize = 128;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// A request's head must be here by then, and the whole connection over.
const HEAD_WAIT: Duration = Duration::from_secs(5);
const CONNECTION_WAIT: Duration = Duration::from_secs(30);
/// A longer head is refused. A token alone may have 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 32;
/// A longer body is refused, with 413.
pub(super) const BODY_BYTES_MAX: usize = 32 << 10;

/// The listener, bound but not yet accepting.
pub(crate) struct Api {
    listener: TcpListener,
    tls: Tls,
}

impl Api {
    /// # Errors
    /// Those of binding.
    pub(crate) async fn bind(addr: SocketAddr, tls: Tls) -> std::io::Result<Api> {
        Ok(Api { listener: TcpListener::bind(addr).await?, tls })
    }

    /// # Errors
    /// Those of `getsockname`.
    pub(crate) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves until `stopping` is true.
pub(crate) async fn serve(api: Api, router: Router, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = tokio::select! {
            accepted = api.listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of sockets: others must close some first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, router) = (api.tls.clone(), router.clone());
        tokio::spawn(async move {
            if timeout(CONNECTION_WAIT, connection(stream, peer, tls, router)).await.is_err() {
                tracing::debug!(%peer, "an HTTPS connection took too long");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Tls, router: Router) {
    let stream = match timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
        // Tokens and codes say who asks here; a client's certificate is for MQTT.
        Ok(Ok((stream, _certified))) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "the TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "the TLS handshake took too long"),
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        hyper::service::Service::call(&router, request)
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTPS connection ended early");
    }
}
