//! Why connections end, and what is said about it.

use std::fmt;
use std::io;

use super::codec::Fault;
use super::router::RouterGone;
use super::sessions::Kick;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// DISCONNECT.
    Disconnected {
        will: bool,
        /// v5: the session expiry that the client asks for at last.
        expiry_s: Option<u32>,
    },
    Closed,
    Io(io::Error),
    Fault(Fault),
    KeepAlive,
    /// The client did not read.
    Stalled,
    Kicked(Kick),
    /// The writer has stopped. Nothing more can be acknowledged.
    IntakeClosed,
    /// Nothing was recorded, and only a closed connection tells a v3.1.1 client so.
    NoRoom,
    RouterGone,
    /// A subscription of it is no longer allowed.
    RightsGone,
}

impl End {
    /// The reason code of the v5 DISCONNECT; `None` where there is nothing to say or nobody to hear it.
    pub(super) fn reason(&self) -> Option<u8> {
        match self {
            End::Disconnected { .. } | End::Closed | End::Io(_) | End::Stalled => None,
            End::Fault(fault) => Some(fault.reason()),
            End::KeepAlive => Some(0x8d),
            End::Kicked(Kick::TakenOver) => Some(0x8e),
            End::Kicked(Kick::Shutdown) => Some(0x8b),
            // Administrative action; not authorized.
            End::Kicked(Kick::Revoked) => Some(0x98),
            End::RightsGone => Some(0x87),
            End::RouterGone | End::IntakeClosed => Some(0x89),
            End::NoRoom => Some(0x97),
        }
    }

    /// Whether it says something about the client. When we are the ones who fail or stop, wills stay unsaid: the
    /// devices are well.
    pub(super) fn is_the_clients(&self) -> bool {
        match self {
            End::Disconnected { .. } | End::Closed | End::Io(_) | End::Fault(_) | End::KeepAlive | End::Stalled => true,
            End::Kicked(Kick::TakenOver) => true,
            End::Kicked(Kick::Shutdown | Kick::Revoked)
            | End::RightsGone
            | End::RouterGone
            | End::IntakeClosed
            | End::NoRoom => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Disconnected { will: false, .. } => f.write_str("the client said so"),
            End::Disconnected { will: true, .. } => f.write_str("the client said so, and wants its will published"),
            End::Closed => f.write_str("closed by the client"),
            End::Io(error) => write!(f, "{error}"),
            End::Fault(fault) => write!(f, "protocol fault: {fault:?}"),
            End::KeepAlive => f.write_str("not heard from for one and a half keep alives"),
            End::Stalled => f.write_str("the client did not read"),
            End::Kicked(Kick::TakenOver) => f.write_str("taken over by a new connection of the same client id"),
            End::Kicked(Kick::Shutdown) => f.write_str("the process stops"),
            End::Kicked(Kick::Revoked) => f.write_str("an operator took away its right to be connected"),
            End::RightsGone => f.write_str("it may no longer have one of its subscriptions"),
            End::RouterGone => f.write_str("the router died, and no other took over in time"),
            End::IntakeClosed => f.write_str("the writer has stopped"),
            End::NoRoom => f.write_str("no room for what it sent"),
        }
    }
}

impl From<RouterGone> for End {
    fn from(_: RouterGone) -> End {
        End::RouterGone
    }
}
