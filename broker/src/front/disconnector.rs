//! Rights that change while clients are connected: who must go goes at once, the rest is judged anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::intake::Identity;
use super::sessions::Sessions;

/// Counts changes of rights. Connections remember where it stood when they were judged.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    accounts: AtomicU64,
    rights: AtomicU64,
}

impl Changes {
    /// Moves when somebody may no longer be connected: whoever is just being let in was perhaps judged by what was.
    pub(super) fn accounts(&self) -> u64 {
        self.0.accounts.load(Ordering::SeqCst)
    }

    /// Moves when somebody may subscribe to less than before.
    pub(super) fn rights(&self) -> u64 {
        self.0.rights.load(Ordering::Acquire)
    }
}

/// Ends connections from outside the front. Clone it freely.
#[derive(Clone)]
pub struct Disconnector {
    sessions: Arc<Sessions>,
    changes: Changes,
}

impl Disconnector {
    pub(super) fn new(sessions: Arc<Sessions>, changes: Changes) -> Disconnector {
        Disconnector { sessions, changes }
    }

    /// Closes every connection of those that `these` names (v5: 0x98), without its will and those that wait for one that
    /// is away, and refuses whoever was being let in meanwhile; they may try again. What decides about them must have changed before. Returns how many it was.
    pub fn close_where(&self, these: impl Fn(&Identity) -> bool) -> usize {
        self.changes.0.accounts.fetch_add(1, Ordering::SeqCst);
        self.sessions.kick_where(these)
    }

    /// Other rights hold from now on. A connection with a subscription that it may no longer have is closed (v5: 0x87)
    /// before it is written anything more.
    pub fn rights_changed(&self) {
        self.changes.0.rights.fetch_add(1, Ordering::Release);
    }
}
