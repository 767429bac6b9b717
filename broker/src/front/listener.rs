//! Accepts sockets, looks after absent sessions, and stops in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::arrivals::{Arrival, Arrivals};
use super::config::FrontConfig;
use super::connection::serve;
use super::disconnector::{Changes, Disconnector};
use super::intake::{Intake, Policy};
use super::leave::end_session;
use super::publisher::{Feed, Publisher};
use super::ration::Rations;
use super::retained::Retained;
use super::router::Router;
use super::sessions::{Kick, Sessions};
use super::shared::Shared;
use super::stats::FrontStats;
use super::watchdog;

/// What accept waits after an error, which is most often a lack of file descriptors that others must give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel keeps for a client that does not read.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// The MQTT listener, bound but not yet accepting.
pub struct Front<I> {
    listener: TcpListener,
    pub(super) shared: Arc<Shared<I>>,
    feed: Feed,
}

impl<I: Intake> Front<I> {
    /// Binds the socket and starts the router. Connections are accepted by [`run`](Front::run); until then retained
    /// messages can be restored through the [`Publisher`]. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Those of binding `config.listen`.
    pub async fn bind(config: FrontConfig, policy: Arc<dyn Policy>, intake: Arc<I>) -> io::Result<Front<I>> {
        let listener = TcpListener::bind(config.listen).await?;
        let mailboxes = intake.mailboxes();
        mailboxes.limit(config.mail);
        let stats = Arc::new(FrontStats { mail: mailboxes.stats(), ..FrontStats::default() });
        let router = Arc::new(Router::spawn(&config));
        let sessions = Arc::new(Sessions::new(&config, stats.clone()));
        sessions.restore(mailboxes.take_restored(), config.session_expiry_max);
        let retained = Arc::new(Retained::new(config.retained_max, config.retained_bytes_max, stats.clone()));
        let (publisher, feed) =
            Feed::new(router.clone(), retained.clone(), stats.clone(), config.publish_queue_max, config.router_timeout);
        let stopping = watch::Sender::new(false);
        let rations = Arc::new(Rations::new(config.subscriptions_total_max, stats.clone()));
        let changes = Changes::default();
        let shared =
            Shared { config, policy, intake, router, sessions, rations, changes, retained, publisher, stats, stopping };
        Ok(Front { listener, shared: Arc::new(shared), feed })
    }

    /// Where it listens: with port 0 in the configuration, which port it got.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn publisher(&self) -> Publisher {
        self.shared.publisher.clone()
    }

    pub fn disconnector(&self) -> Disconnector {
        Disconnector::new(self.shared.sessions.clone(), self.shared.changes.clone())
    }

    pub fn is_tls(&self) -> bool {
        self.shared.config.tls.is_some()
    }

    pub fn stats(&self) -> Arc<FrontStats> {
        self.shared.stats.clone()
    }

    /// Serves until `shutdown` is ready. Then: no new connections, what is in flight gets its acknowledgement, v5
    /// clients get DISCONNECT 0x8B, and whoever is not done by `shutdown_timeout` is cut. The intake must go on
    /// answering until this returns.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Front { listener, shared, feed } = self;
        let mut helpers = JoinSet::new();
        helpers.spawn(feed.run());
        helpers.spawn(watchdog::watch(shared.router.clone(), shared.stats.clone(), shared.config.router_timeout));
        helpers.spawn(look_after_sessions(shared.clone()));
        let mut connections = JoinSet::new();
        accept(&listener, &shared, &mut connections, shutdown).await;
        drop(listener);
        shared.stopping.send_replace(true);
        shared.sessions.kick_all(Kick::Shutdown);
        let drain = async {
            while let Some(ended) = connections.join_next().await {
                log_panic(ended);
            }
        };
        if tokio::time::timeout(shared.config.shutdown_timeout, drain).await.is_err() {
            tracing::warn!(connections = connections.len(), "cut: not done in time");
            connections.shutdown().await;
        }
        helpers.shutdown().await;
    }
}

async fn accept<I: Intake>(
    listener: &TcpListener,
    shared: &Arc<Shared<I>>,
    connections: &mut JoinSet<()>,
    shutdown: impl Future<Output = ()>,
) {
    let sockets = Arc::new(Semaphore::new(shared.config.connections_max + shared.config.handshakes_max));
    let arrivals = Arc::new(Arrivals::new(shared.config.handshakes_per_peer));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                // Before the first byte there is no version to refuse it in.
                Ok((stream, peer)) => match (sockets.clone().try_acquire_owned(), arrivals.arrive(peer.ip())) {
                    (Ok(permit), Some(arrival)) => {
                        let shared = shared.clone();
                        connections.spawn(async move {
                            prepare(&stream);
                            secure_and_serve(stream, peer, arrival, shared).await;
                            drop(permit);
                        });
                    }
                    (Err(_), _) => shared.stats.refused_sockets.inc(),
                    (_, None) => shared.stats.refused_peer.inc(),
                },
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Boxed: a connection in the clear must not be as large as one over TLS, nor either as the handshake.
async fn secure_and_serve<I: Intake>(stream: TcpStream, peer: SocketAddr, arrival: Arrival, shared: Arc<Shared<I>>) {
    let Some(tls) = shared.config.tls.clone() else {
        return Box::pin(serve(stream, peer, arrival, None, shared)).await;
    };
    let mut stopping = shared.stopping.subscribe();
    let handshake = tokio::time::timeout(shared.config.handshake_timeout, tls.accept(stream));
    let secured = tokio::select! {
        secured = handshake => secured,
        _ = stopping.wait_for(|stopping| *stopping) => return,
    };
    match secured {
        Ok(Ok((stream, certificate))) => Box::pin(serve(stream, peer, arrival, certificate, shared)).await,
        Ok(Err(error)) => {
            shared.stats.tls_failures.inc();
            tracing::info!(%peer, %error, "the TLS handshake failed");
        }
        Err(_) => shared.stats.handshake_timeouts.inc(),
    }
}

/// Acknowledgements are small and waited for: they must not wait for more to join them.
fn prepare(stream: &TcpStream) {
    // Both fail only on a socket that is closed already.
    let _ = stream.set_nodelay(true);
    // The kernel would take megabytes for each subscriber that does not read.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER_BYTES);
}

/// Publishes delayed wills and ends sessions whose time is over.
async fn look_after_sessions<I: Intake>(shared: Arc<Shared<I>>) {
    loop {
        let client = shared.sessions.next_due().await;
        let now = Instant::now();
        let Some(mut claim) = shared.sessions.claim_due(&client, now) else { continue };
        if let Some((_, will)) = claim.will.take_if(|(due, _)| *due <= now) {
            let shared = shared.clone();
            tokio::spawn(async move { will.publish(&shared).await });
        }
        if claim.expires.is_some_and(|expires| expires <= now) {
            tracing::info!(%client, "session expired");
            shared.stats.sessions_expired.inc();
            end_session(&mut claim, &shared, false).await;
        }
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}
