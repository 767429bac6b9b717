//! What the writer tells the mailboxes of persistent sessions: every message that subscribers may see, and what their
//! connections say. Cores know nothing of it.

use std::sync::Arc;

use bytes::Bytes;

use super::core::Read;
use super::error::LedgerError;
use super::group::Pending;
use super::state::State;
use crate::front::{Inbound, InboundPublish, Verdict};
use crate::mailbox::{Change, Changes, Mail, Mailboxes};

/// Messages of one group for persistent sessions. It has nothing to do with the records: what is for nobody new costs
/// nothing here, and what is for many filters does not split the chunk.
const GROUP_BYTES_MAX: usize = 256 << 10;

#[derive(Default)]
pub(super) struct Post {
    mail: Mail,
    /// Something of it is in the open group, which nobody may be waiting for.
    stowed: bool,
}

/// What an inbound may mean to mailboxes, looked at before the core takes it.
pub(super) enum Parcel {
    Nothing,
    /// It is held, and goes to sessions if others may see it.
    Message,
    Change(Arc<str>, Change),
    Forget(Arc<str>),
}

impl Post {
    pub(super) fn recover(ledger: &dyn Read) -> Result<Post, LedgerError> {
        Ok(Post { mail: Mail::recover(ledger)?, stowed: false })
    }

    pub(super) fn mailboxes(&self) -> Arc<Mailboxes> {
        self.mail.mailboxes()
    }

    pub(super) fn look_at(&mut self, inbound: &Inbound) -> Parcel {
        match inbound {
            Inbound::Publish(publish) if self.hold(publish) => Parcel::Message,
            Inbound::Publish(_) | Inbound::Release { .. } => Parcel::Nothing,
            Inbound::Session { client, change } => Parcel::Change(client.clone(), change.clone()),
            Inbound::Forget { client } => Parcel::Forget(client.clone()),
        }
    }

    /// What is not UTF-8 is not forwarded either.
    fn hold(&mut self, publish: &InboundPublish) -> bool {
        let InboundPublish { topic, properties, payload, .. } = publish;
        self.mail.has_filters()
            && std::str::from_utf8(topic).is_ok_and(|topic| self.mail.hold(topic, properties, payload))
    }

    /// Once the core has decided.
    pub(super) fn take(&mut self, parcel: Parcel, verdict: Verdict) {
        match parcel {
            Parcel::Message if verdict.forward => self.mail.publish_held(),
            Parcel::Nothing | Parcel::Message => {}
            Parcel::Change(client, change) => self.mail.change(&client, change),
            Parcel::Forget(client) => self.mail.forget(&client),
        }
    }

    /// The node's own message.
    pub(super) fn outgoing(&mut self, message: Option<(&str, &Bytes)>) {
        if let Some((topic, payload)) = message {
            self.mail.publish(topic, &[], payload);
        }
    }

    /// Adds what is to be written to the open group: all of it, since it belongs to what the group has already.
    pub(super) fn stow<E>(&mut self, frame: u64, pending: &mut Pending<E>, state: &mut State) {
        let Changes { puts, lazy } = self.mail.take_changes();
        self.stowed |= !puts.is_empty();
        for put in puts {
            state.put(frame, put.clone());
            pending.add_put(put);
        }
        for put in lazy {
            state.put(frame, put);
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.stowed || self.mail.gathered_bytes() > 0
    }

    /// The open group has messages enough.
    pub(super) fn full(&self) -> bool {
        self.mail.gathered_bytes() >= GROUP_BYTES_MAX
    }

    /// The group is about to be written, with all messages that came so far.
    pub(super) fn close_group(&mut self) {
        self.mail.close_group();
    }

    pub(super) fn committed(&mut self) {
        self.stowed = false;
        self.mail.committed();
    }
}
