//! From what is told of who belongs to the journal, and the policy file at SIGHUP.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use proto::wire::SecurityEvent;
use proto::wire::record::Of;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::front::Disconnector;
use crate::identity::{Guard, pending};
use crate::ledger::{Core, Handle, Reader};

/// How far back a start looks for what was journalled already.
const LOOK_BACK_EVENTS: usize = 100_000;

/// The way of security events into the journal of one node.
pub(super) struct Audit<C: Core> {
    pub(super) guard: Arc<Guard>,
    pub(super) writer: Handle<C>,
    pub(super) reader: Reader,
    pub(super) input: fn(Vec<SecurityEvent>, oneshot::Sender<Value>) -> C::Input,
}

impl<C: Core> Clone for Audit<C> {
    fn clone(&self) -> Self {
        let Audit { guard, writer, reader, input } = self;
        Audit { guard: guard.clone(), writer: writer.clone(), reader: reader.clone(), input: *input }
    }
}

impl<C: Core> Audit<C> {
    /// Journals what commands did while the node was stopped: each once, also if the last start died on the way.
    pub(super) async fn left_behind(&self) -> anyhow::Result<()> {
        let mut left = pending::read(&self.guard.dir)?;
        if left.is_empty() {
            return Ok(());
        }
        let (reader, mut wanted) = (self.reader.clone(), HashSet::new());
        wanted.extend(left.iter().map(|event| event.id.clone()));
        let known = tokio::task::spawn_blocking(move || {
            let (mut known, mut looked) = (HashSet::new(), 0);
            reader
                .events_back(&mut |_, _, event| {
                    looked += 1;
                    for record in &event.records {
                        if let Some(Of::Security(event)) = &record.of
                            && wanted.contains(&event.id)
                        {
                            known.insert(event.id.clone());
                        }
                    }
                    if looked < LOOK_BACK_EVENTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })
                .map(|()| known)
        });
        let known = known.await??;
        left.retain(|event| !known.contains(&event.id));
        if left.is_empty() || self.journal(left).await {
            pending::clear(&self.guard.dir)?;
        }
        Ok(())
    }

    /// Journals what is told, one after the other, until it is dropped.
    pub(super) async fn run(self) {
        loop {
            let event = self.guard.audit.next().await;
            self.put(event).await;
        }
    }

    /// What is left at the end of the process.
    pub(super) async fn rest(&self) {
        for event in self.guard.audit.rest() {
            self.put(event).await;
        }
    }

    async fn put(&self, event: SecurityEvent) {
        let count = event.count;
        // What a stranger causes takes nothing of the last room that there is for an operator.
        if (event.by.is_empty() && self.reader.stats().full) || !self.journal(vec![event]).await {
            self.guard.audit.lost(count);
        }
    }

    /// True once it is on disk.
    async fn journal(&self, events: Vec<SecurityEvent>) -> bool {
        let (answer, answered) = oneshot::channel();
        self.writer.input((self.input)(events, answer)).await.is_ok() && answered.await.is_ok()
    }

    /// SIGHUP: the policy file is read again.
    pub(super) async fn reload_at_signal(self, disconnector: Disconnector) {
        let Ok(mut signals) = hangups() else { return };
        while signals.recv().await.is_some() {
            let (guard, disconnector) = (self.guard.clone(), disconnector.clone());
            let read = tokio::task::spawn_blocking(move || guard.reload("SIGHUP", &disconnector)).await;
            // A faulty file was logged and told.
            if let Ok(Ok(event)) = read {
                self.put(event.to_wire(1)).await;
            }
        }
    }
}

fn hangups() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}
