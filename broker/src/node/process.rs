//! The life of a node process: writer, front and admin socket, started in order and stopped in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::wire::SecurityEvent;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::front::{Disconnector, Front, FrontConfig, Policy, Publisher};
use crate::identity::Guard;
use crate::ledger::{Core, Handle, LedgerError, Perform, Reader, Writer};
use crate::node::admin::Question;
use crate::node::answers::Answers;
use crate::node::audit::Audit;
use crate::node::beside::Beside;
use crate::node::disk::Meter;
use crate::node::metrics::{self, Exposition};
use crate::node::rejects::Again;
use crate::node::{admin, announce_line, announce_metrics};

/// What is left to the writer to finish in when the process stops.
const LEAVE: Duration = Duration::from_secs(20);

/// What one kind of node adds to what all of them answer.
pub struct Face<C: Core> {
    /// Makes the core's input for a status question.
    pub status: fn(oneshot::Sender<Value>) -> C::Input,
    /// Adds to a status what the ledger knows and the core does not.
    pub complete: fn(&mut Value, &Reader),
    /// All of a status for Prometheus.
    pub metrics: fn(&Value, &mut Exposition),
    /// Makes the core's input for a question in words that only this kind of node answers; `None` if it is not one.
    pub question: fn(&[&str], oneshot::Sender<Value>) -> Option<OwnQuestion<C>>,
    /// Makes the core's input for a refused request that is handed in again, if this node has requests.
    pub again: Option<fn(Again) -> C::Input>,
    /// Makes the core's input for security events to be journalled; answered when they are.
    pub audit: fn(Vec<SecurityEvent>, oneshot::Sender<Value>) -> C::Input,
}

/// A question that one kind of node answers.
pub enum OwnQuestion<C: Core> {
    /// The core answers it.
    Ask(C::Input),
    /// As `Ask`, and writes: not while the ledger is full.
    Write(C::Input),
    /// The journal answers it.
    Look(LookUp),
}

/// Reads the journal for an answer, on a thread of its own.
pub type LookUp = Box<dyn FnOnce(&Reader) -> Result<Value, LedgerError> + Send>;

impl<C: Core> Clone for Face<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Core> Copy for Face<C> {}

/// A node whose parts are wired and listening, but whose writer has not begun.
pub struct Node<C: Core> {
    writer: Writer<C>,
    handle: Handle<C>,
    reader: Reader,
    front: Front<Handle<C>>,
    guard: Arc<Guard>,
    metrics: Option<TcpListener>,
    meter: Meter,
    asked: mpsc::Sender<Question>,
    asking: mpsc::Receiver<Question>,
    beside: Vec<Arc<dyn Beside>>,
    lines: Vec<String>,
}

impl<C: Core> Node<C> {
    pub async fn bind(
        writer: Writer<C>,
        handle: Handle<C>,
        reader: Reader,
        config: FrontConfig,
        policy: Arc<dyn Policy>,
        guard: Arc<Guard>,
        metrics: Option<SocketAddr>,
    ) -> anyhow::Result<Node<C>> {
        let meter = Meter::start();
        let listen = config.listen;
        let front = Front::bind(config, policy, Arc::new(handle.clone()))
            .await
            .with_context(|| format!("listen on {listen}: is another program using that port?"))?;
        let metrics = match metrics {
            None => None,
            Some(addr) => Some(
                TcpListener::bind(addr)
                    .await
                    .with_context(|| format!("listen on {addr} for metrics: is another program using that port?"))?,
            ),
        };
        let (beside, lines) = (Vec::new(), Vec::new());
        let (asked, asking) = mpsc::channel(8);
        Ok(Node { writer, handle, reader, front, guard, metrics, meter, asked, asking, beside, lines })
    }

    /// A part of the process that answers questions and adds to the status.
    pub fn beside(&mut self, part: Arc<dyn Beside>) {
        self.beside.push(part);
    }

    /// Where questions go that the admin socket also takes. Who sends more than the node answers waits.
    pub fn questions(&self) -> mpsc::Sender<Question> {
        self.asked.clone()
    }

    /// A line that is announced once the node listens, after where.
    pub fn announce(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.front.local_addr()
    }

    pub fn publisher(&self) -> Publisher {
        self.front.publisher()
    }

    /// Who may connect.
    pub fn guard(&self) -> Arc<Guard> {
        self.guard.clone()
    }

    pub fn disconnector(&self) -> Disconnector {
        self.front.disconnector()
    }

    pub fn handle(&self) -> Handle<C> {
        self.handle.clone()
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Serves until `stop` resolves or the ledger fails. `stopping` tells other tasks of this node.
    pub async fn run(
        self,
        dir: &Path,
        perform: Perform<C::Effect>,
        face: Face<C>,
        stopping: watch::Sender<bool>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Node { writer, handle, reader, front, guard, metrics, meter, asked, asking, beside, lines } = self;
        let listening = front.local_addr().context("read the listener's address")?;
        let questions = admin::listen(dir).with_context(|| format!("open {}", admin::socket_path(dir).display()))?;
        // A command that saw no socket has written to the files; one that comes now asks.
        guard.look_again().context("read the accounts")?;
        let stats = front.stats();
        let mut stopped = writer.spawn(perform).context("start the writer's thread")?;
        // The writer restores the retained topics before it takes its first input. Who subscribes before that is done
        // would never get the rest of them.
        let (restored, is_restored) = oneshot::channel();
        if handle.input((face.status)(restored)).await.is_ok() {
            // An error means that the writer failed: what waits on `stopped` tells why.
            let _ = is_restored.await;
        }
        let audit = Audit { guard: guard.clone(), writer: handle.clone(), reader: reader.clone(), input: face.audit };
        audit.left_behind().await.context("journal what commands did while the node was stopped")?;
        let metrics = metrics.map(|listener| Ok::<_, std::io::Error>((listener.local_addr()?, listener))).transpose();
        let metrics = metrics.context("read the metrics listener's address")?;
        let answers = Answers {
            dir: dir.to_path_buf(),
            writer: handle.clone(),
            reader,
            front: stats,
            guard: guard.clone(),
            disconnector: front.disconnector(),
            listening,
            tls: front.is_tls(),
            face,
            meter,
            metrics: metrics.as_ref().map(|(addr, _)| *addr),
            beside,
        };
        let metrics = metrics.map(|(addr, listener)| {
            tokio::spawn(metrics::serve(listener, asked.clone(), face.metrics));
            addr
        });
        tokio::spawn(admin::serve(questions, asked));
        tokio::spawn(answers.run(asking));
        let telling = tokio::spawn(audit.clone().run());
        tokio::spawn(audit.clone().reload_at_signal(front.disconnector()));

        let mut front_stopping = stopping.subscribe();
        let serving = tokio::spawn(front.run(async move {
            // A closed channel means the same: the process is on its way out.
            let _ = front_stopping.wait_for(|stopping| *stopping).await;
        }));
        super::announce(listening);
        if let Some(addr) = metrics {
            announce_metrics(addr);
        }
        lines.iter().for_each(|line| announce_line(line));
        let mut failed = None;
        tokio::select! {
            () = stop => tracing::info!("stopping"),
            outcome = &mut stopped => failed = Some(outcome),
        }
        stopping.send_replace(true);
        serving.await.context("stop the front")?;
        telling.abort();
        audit.rest().await;
        let outcome = match failed {
            Some(outcome) => outcome,
            None => {
                handle.stop().await;
                tokio::time::timeout(LEAVE, stopped).await.context("wait for the ledger to close")?
            }
        };
        remove_socket(dir);
        outcome.unwrap_or_else(|_| Err(LedgerError::Io { doing: "run the writer", why: "its thread died".into() }))?;
        Ok(())
    }
}

fn remove_socket(dir: &Path) {
    if let Err(error) = std::fs::remove_file(admin::socket_path(dir)) {
        tracing::debug!(%error, "the admin socket is gone already");
    }
}
