//! Sockets of the HTTPS listener, each with bounds on what it may cost: its head, its body, its time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::access::Known;
use super::{Peer, Problem};
use crate::front::Tls;

/// Connections at once; more wait in the kernel's queue. Hundreds of sites that renew come one after the other.
const CONNECTIONS_MAX: usize = 128;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// The first head must be here by then.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// From a head to its answer, the body in between.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// A connection on which no request began or ended for so long is closed, and each after so long and so many requests.
/// Only who showed a good token may ask twice.
const IDLE_WAIT: Duration = Duration::from_secs(35);
const CONNECTION_WAIT: Duration = Duration::from_secs(600);
const REQUESTS_MAX: u64 = 10_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
            connection(stream, peer, tls, router).await;
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
    // Answers are small and somebody waits for each.
    let _ = stream.get_ref().0.set_nodelay(true);
    let used = Arc::new(Used::default());
    let service = Service { peer, router: TowerToHyperService::new(router), used: used.clone() };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(move |request| service.clone().answer(request)));
    let mut served = std::pin::pin!(served);
    let (mut look, began) = (tokio::time::interval(LOOK_EVERY), Instant::now());
    let mut seen = (0, began);
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "an HTTPS connection ended early");
                }
                return;
            }
            _ = look.tick() => {}
        }
        let moves = used.moves();
        if moves != seen.0 {
            seen = (moves, Instant::now());
        }
        let silent = moves == 0 && began.elapsed() > HEAD_WAIT;
        if silent || seen.1.elapsed() > IDLE_WAIT || began.elapsed() > CONNECTION_WAIT + REQUEST_WAIT {
            return tracing::debug!(%peer, "an HTTPS connection was left idle, or took too long");
        }
        if began.elapsed() > CONNECTION_WAIT {
            served.as_mut().graceful_shutdown();
        }
    }
}

/// Requests of one connection.
#[derive(Debug, Default)]
struct Used {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Used {
    fn moves(&self) -> u64 {
        self.begun.load(Ordering::Relaxed) + self.ended.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Service {
    peer: SocketAddr,
    router: TowerToHyperService<Router>,
    used: Arc<Used>,
}

impl Service {
    /// Never waits longer than [`REQUEST_WAIT`].
    async fn answer(self, mut request: Request<Incoming>) -> Result<Response, Infallible> {
        let begun = self.used.begun.fetch_add(1, Ordering::Relaxed) + 1;
        request.extensions_mut().insert(Peer(self.peer));
        let answered = timeout(REQUEST_WAIT, hyper::service::Service::call(&self.router, request)).await;
        let mut response = match answered {
            Ok(answered) => answered?,
            Err(_) => {
                let why = format!("not done within {} s; it may still be", REQUEST_WAIT.as_secs());
                Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", why).into_response()
            }
        };
        let stays = response.extensions().get::<Known>().is_some() && begun < REQUESTS_MAX;
        if !stays {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.used.ended.fetch_add(1, Ordering::Relaxed);
        Ok(response)
    }
}
