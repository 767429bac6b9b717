//! The life of a node process: writer, front and admin socket, started in order and stopped in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::front::{Front, FrontConfig, FrontStats, Policy, Publisher};
use crate::ledger::{Core, Handle, LedgerError, Perform, Reader, Writer};
use crate::node::admin::{self, Question};

/// What is left to the writer to finish in when the process stops.
const LEAVE: Duration = Duration::from_secs(20);

/// A node whose parts are wired and listening, but whose writer has not begun.
pub struct Node<C: Core> {
    writer: Writer<C>,
    handle: Handle<C>,
    reader: Reader,
    front: Front<Handle<C>>,
}

impl<C: Core> Node<C> {
    pub async fn bind(
        writer: Writer<C>,
        handle: Handle<C>,
        reader: Reader,
        config: FrontConfig,
        policy: Arc<dyn Policy>,
    ) -> anyhow::Result<Node<C>> {
        let listen = config.listen;
        let front = Front::bind(config, policy, Arc::new(handle.clone()))
            .await
            .with_context(|| format!("listen on {listen}: is another program using that port?"))?;
        Ok(Node { writer, handle, reader, front })
    }

    pub fn publisher(&self) -> Publisher {
        self.front.publisher()
    }

    pub fn handle(&self) -> Handle<C> {
        self.handle.clone()
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Serves until `stop` resolves or the ledger fails. `ask` makes the core's input for a status question;
    /// `stopping` tells other tasks of this node.
    pub async fn run(
        self,
        dir: &Path,
        perform: Perform<C::Effect>,
        ask: fn(oneshot::Sender<Value>) -> C::Input,
        stopping: watch::Sender<bool>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Node { writer, handle, reader, front } = self;
        let listening = front.local_addr().context("read the listener's address")?;
        let questions = admin::listen(dir).with_context(|| format!("open {}", admin::socket_path(dir).display()))?;
        let (asked, asking) = mpsc::channel(8);
        let stats = front.stats();
        let mut stopped = writer.spawn(perform).context("start the writer's thread")?;
        // The writer restores the retained topics before it takes its first input. Who subscribes before that is done
        // would never get the rest of them.
        let (restored, is_restored) = oneshot::channel();
        if handle.input(ask(restored)).await.is_ok() {
            // An error means that the writer failed: what waits on `stopped` tells why.
            let _ = is_restored.await;
        }
        tokio::spawn(admin::serve(questions, asked));
        tokio::spawn(answer(asking, handle.clone(), reader, stats, ask));

        let mut front_stopping = stopping.subscribe();
        let serving = tokio::spawn(front.run(async move {
            // A closed channel means the same: the process is on its way out.
            let _ = front_stopping.wait_for(|stopping| *stopping).await;
        }));
        super::announce(listening);
        let mut failed = None;
        tokio::select! {
            () = stop => tracing::info!("stopping"),
            outcome = &mut stopped => failed = Some(outcome),
        }
        stopping.send_replace(true);
        serving.await.context("stop the front")?;
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

async fn answer<C: Core>(
    mut questions: mpsc::Receiver<Question>,
    writer: Handle<C>,
    reader: Reader,
    front: Arc<FrontStats>,
    ask: fn(oneshot::Sender<Value>) -> C::Input,
) {
    while let Some(question) = questions.recv().await {
        let answer = match question.text.trim() {
            "status" => status(&writer, &reader, &front, ask).await,
            other => json!({ "error": format!("unknown question {other:?}; known: status") }),
        };
        // The asker may have left.
        let _ = question.answer.send(answer);
    }
}

async fn status<C: Core>(
    writer: &Handle<C>,
    reader: &Reader,
    front: &FrontStats,
    ask: fn(oneshot::Sender<Value>) -> C::Input,
) -> Value {
    let (answer, answered) = oneshot::channel();
    if writer.input(ask(answer)).await.is_err() {
        return json!({ "error": "the writer has stopped" });
    }
    let mut status = answered.await.unwrap_or_else(|_| json!({ "error": "the writer has stopped" }));
    let stats = reader.stats();
    status["ledger"] = json!({
        "last_seq": stats.durable.seq.0,
        "chain": stats.durable.hash.short(),
        "first_seq": stats.first.0,
        "folded_seq": stats.folded.0,
        "chunks": stats.chunks,
        "journal_bytes": stats.journal_bytes,
        "backlog_bytes": stats.backlog_bytes,
        "state_bytes": stats.state_bytes,
        "disk_bytes": stats.journal_bytes + stats.state_bytes,
        "commits": stats.groups,
        "records": stats.records,
        "appended_bytes": stats.appended_bytes,
        "evicted_records": stats.evicted.records,
        "evicted_bytes": stats.evicted.bytes,
        "cells_waiting": stats.dirty_cells,
        "full": stats.full,
    });
    status["recovery"] = serde_json::to_value(reader.recovery()).unwrap_or_default();
    status["front"] = front.to_json();
    status
}
