//! The way to the writer: what everybody but the writer holds.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::core::Core;
use crate::front::{Batch, Closed, Intake};
use crate::mailbox::Mailboxes;

/// What may wait for the writer; past it senders wait, and with them their sockets.
const INBOX_MAX: usize = 1024;

pub(super) enum Work<C: Core> {
    Inbound(Batch),
    Input(C::Input),
    Stop,
}

/// Where inputs go. Clone it freely.
pub struct Handle<C: Core> {
    inbox: mpsc::Sender<Work<C>>,
    mailboxes: Arc<Mailboxes>,
}

impl<C: Core> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Handle { inbox: self.inbox.clone(), mailboxes: self.mailboxes.clone() }
    }
}

impl<C: Core> Handle<C> {
    pub(super) fn new(mailboxes: Arc<Mailboxes>) -> (Handle<C>, mpsc::Receiver<Work<C>>) {
        let (inbox, work) = mpsc::channel(INBOX_MAX);
        (Handle { inbox, mailboxes }, work)
    }

    pub async fn input(&self, input: C::Input) -> Result<(), Closed> {
        self.inbox.send(Work::Input(input)).await.map_err(|_| Closed)
    }

    /// Asks the writer to finish what waits, write everything out and leave.
    pub async fn stop(&self) {
        // An error means that it has left already.
        let _ = self.inbox.send(Work::Stop).await;
    }
}

impl<C: Core> Intake for Handle<C> {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        self.inbox.send(Work::Inbound(batch)).await.map_err(|_| Closed)
    }

    fn mailboxes(&self) -> Arc<Mailboxes> {
        self.mailboxes.clone()
    }
}
