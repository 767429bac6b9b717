//! What the front hands over, and what it must hear back before it may speak.
//!
//! The front never decides whether a message is good: it hands every publish (also the ones its policy denied)
//! to the [`Intake`] and writes PUBACK, PUBREC or PUBCOMP only when the answer came, which is after the commit.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::certified::Certified;
use super::ration::Allowance;
use crate::identity::Kind;
use crate::mailbox::{Change, Mailboxes};

/// Who is at the other end of a connection, as the [`Policy`] recognised it at CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The MQTT client id, unique among live connections. Assigned by the front if the client sent none.
    pub client: Arc<str>,
    /// The name that the policy proved: a device, a site, a monitor. `None` where the policy is open or lets somebody in
    /// who has no name.
    pub name: Option<Arc<str>>,
    /// What stands behind the name.
    pub kind: Option<Kind>,
}

/// A client that is let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// `None`: anonymous, where that is allowed.
    pub name: Option<Arc<str>>,
    pub kind: Option<Kind>,
}

/// Why a CONNECT is refused. The front turns it into the CONNACK code of the client's protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadCredentials,
    NotAuthorized,
    ClientIdInvalid,
    /// Too many wrong ones before: it was not looked at.
    Throttled,
    /// It could not be looked at in time.
    Busy,
}

/// Why a publish is not allowed. `code` and `reason` go into the reject record and the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub code: &'static str,
    pub reason: String,
}

/// What a CONNECT shows of its sender.
#[derive(Debug)]
pub struct Credentials<'a> {
    pub client: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a str>,
    /// What TLS verified, if the client showed a certificate.
    pub certificate: Option<&'a Certified>,
    pub peer: SocketAddr,
}

/// A decision about a CONNECT that may take its time.
pub type Admitting<'a> = Pin<Box<dyn Future<Output = Result<Admission, Refusal>> + Send + 'a>>;

/// Decides who may connect, publish and subscribe. Asked on the connection's task: must not block.
pub trait Policy: Send + Sync + 'static {
    /// Who it is, or why the client is turned away.
    fn connect<'a>(&'a self, offered: Credentials<'a>) -> Admitting<'a>;
    /// How much it may take of what all share.
    fn allowance(&self, _who: &Identity) -> Allowance {
        Allowance::UNLIMITED
    }
    /// A client is refused for what it says of itself, before or after `connect`: for the record.
    fn refused(&self, _client: &str, _peer: SocketAddr, _why: &'static str) {}
    /// `topic` is a valid MQTT topic name without wildcards, not starting with `$`.
    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial>;
    /// `filter` is a valid MQTT topic filter.
    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool;
}

/// One thing a connection asks to be made durable.
#[derive(Debug, Clone)]
pub enum Inbound {
    Publish(InboundPublish),
    /// PUBREL: the packet id may be used again. Answered (PUBCOMP) after its commit, since a release that is lost
    /// would make the next message under that id look like a repeat.
    Release {
        client: Arc<str>,
        pkid: u16,
    },
    /// The session ended or started clean: what was kept under this client id is no longer needed.
    Forget {
        client: Arc<str>,
    },
    /// A change of a persistent session. It is the writer's own business; cores do nothing about it.
    Session {
        client: Arc<str>,
        change: Change,
    },
}

#[derive(Debug, Clone)]
pub struct InboundPublish {
    pub who: Arc<Identity>,
    /// Valid UTF-8 where `denied` is `None`; else whatever the client sent (bounded by the packet size).
    pub topic: Bytes,
    pub payload: Bytes,
    /// v5 properties for subscribers, as they are sent, without their length. Empty if there are none.
    pub properties: Bytes,
    /// `Some` for QoS 2: the packet id that names the message until its PUBREL.
    pub exactly_once: Option<u16>,
    /// True for a will that the front publishes for a client that went away without DISCONNECT.
    pub will: bool,
    /// Set if the front or its policy already knows that this must not be applied: it is recorded, not obeyed.
    pub denied: Option<Denial>,
}

/// What became of one [`Inbound`], known after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// Whether subscribers of the topic see the message.
    pub forward: bool,
    /// What it changed beyond the first thing: each costs its sender as much of its rate as a message does.
    pub further: u32,
}

impl Verdict {
    /// Recorded and fit for subscribers.
    pub const ACCEPTED: Verdict = Verdict { outcome: Outcome::Accepted, forward: true, further: 0 };

    /// Recorded as refused; nobody else sees it.
    pub fn refused(outcome: Outcome) -> Verdict {
        Verdict { outcome, forward: false, further: 0 }
    }
}

/// The v5 reason that a PUBACK or PUBREC carries. For v3.1.1 every outcome but `NoRoom` is a plain PUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    NotAuthorized,
    TopicInvalid,
    PayloadInvalid,
    /// Nothing was recorded: v5 gets 0x97 (quota exceeded), v3.1.1 is closed without PUBACK and comes back.
    NoRoom,
}

/// Several inbounds of one connection, answered together and in order: `answer` gets one verdict each.
#[derive(Debug)]
pub struct Batch {
    pub items: Vec<Inbound>,
    pub answer: oneshot::Sender<Vec<Verdict>>,
}

/// The intake is gone: the process is stopping or its ledger failed. Connections close without acknowledging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the writer has stopped")]
pub struct Closed;

/// Where batches go. Waits while the writer is busy, which slows the sender's socket down and nobody else's.
pub trait Intake: Send + Sync + 'static {
    fn submit(&self, batch: Batch) -> impl Future<Output = Result<(), Closed>> + Send;

    /// What it keeps for persistent sessions. Messages that it forwards are put there by itself.
    fn mailboxes(&self) -> Arc<Mailboxes>;
}
