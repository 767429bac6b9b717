//! Who is connected under which client id, and what is kept for those who left.
//!
//! One lock per client id is held by the connection that has the id. A takeover kicks the holder and waits for the lock,
//! so nobody else takes letters out of the session's mailbox. Whoever holds the lock may read and change the session;
//! nobody else can. What must outlast the process is in the ledger (`crate::mailbox`), and comes from there at the start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use super::config::FrontConfig;
use super::intake::Identity;
use super::stats::FrontStats;
use super::wills::Will;
use crate::mailbox::{Grant, Restored};

/// Why a connection must end that did nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kick {
    TakenOver,
    Shutdown,
    /// An operator took away its right to be here.
    Revoked,
}

/// What a client asked for when it subscribed. Another subscription to the filter replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) qos: u8,
    /// v5 subscription identifier.
    pub(super) id: Option<usize>,
}

impl From<Grant> for Subscription {
    fn from(grant: Grant) -> Subscription {
        Subscription { qos: grant.qos, id: grant.id.map(|id| id as usize) }
    }
}

impl From<Subscription> for Grant {
    fn from(subscription: Subscription) -> Grant {
        // Identifiers have 28 bits.
        Grant { qos: subscription.qos, id: subscription.id.map(|id| id as u32) }
    }
}

/// What belongs to a client id beyond a connection.
#[derive(Default)]
pub(super) struct Session {
    /// The ledger keeps it, with a mailbox.
    pub(super) kept: bool,
    /// For how long it is kept, as the ledger has it.
    pub(super) expiry_s: u32,
    /// The proven name that it is kept for: nobody else may resume it.
    pub(super) owner: Option<Arc<str>>,
    pub(super) filters: BTreeMap<String, Subscription>,
    /// Set while the client is away.
    pub(super) expires: Option<Instant>,
    /// A will whose delay runs while the client is away.
    pub(super) will: Option<(Instant, Will)>,
}

pub(super) struct Sessions {
    table: Mutex<Table>,
    due_changed: Notify,
    connections_max: usize,
    sessions_max: usize,
    sessions_per_name: usize,
    stats: Arc<FrontStats>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<Arc<str>, Entry>,
    /// When something is to be done for an absent client.
    due: BTreeSet<(Instant, Arc<str>)>,
    live: usize,
    kept: usize,
    serial: u64,
    /// Set when the process stops: who claims now is too late.
    stopping: bool,
}

#[derive(Default)]
struct Entry {
    session: Arc<tokio::sync::Mutex<Session>>,
    /// The connection that has the id, or will have it next.
    holder: Option<Holder>,
    kept: bool,
    /// The proven name that has it, or had it last.
    name: Option<Arc<str>>,
}

/// A connection: its serial number, how to make it go, and who it is.
struct Holder {
    serial: u64,
    kicker: oneshot::Sender<Kick>,
    who: Arc<Identity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimError {
    Full,
    /// The old connection did not let go in time, or the process stops.
    Unavailable,
}

impl Sessions {
    pub(super) fn new(config: &FrontConfig, stats: Arc<FrontStats>) -> Sessions {
        let FrontConfig { connections_max, sessions_max, sessions_per_name, .. } = *config;
        Sessions {
            table: Mutex::default(),
            due_changed: Notify::new(),
            connections_max,
            sessions_max,
            sessions_per_name,
            stats,
        }
    }

    /// Takes in the sessions that the ledger had, as of clients that are away from now on.
    pub(super) fn restore(&self, restored: Vec<Restored>, expiry_max: Duration) {
        let mut table = self.lock();
        let table = &mut *table;
        let now = Instant::now();
        for Restored { client, owner, expiry_s, filters } in restored {
            let expires = now + Duration::from_secs(expiry_s.into()).min(expiry_max);
            let filters = filters.into_iter().map(|(filter, grant)| (filter, grant.into())).collect();
            let session =
                Session { kept: true, expiry_s, owner, filters, expires: Some(expires), ..Session::default() };
            let name = session.owner.clone();
            let session = Arc::new(tokio::sync::Mutex::new(session));
            table.clients.insert(client.clone(), Entry { session, holder: None, kept: true, name });
            table.due.insert((expires, client));
            table.kept += 1;
        }
        self.stats.sessions_kept.set(table.kept as u64);
    }

    /// Makes the client id the caller's: kicks who has it and waits, at most `patience`, until that one let go. `keep`
    /// says that the session shall outlive the connection.
    pub(super) async fn claim(
        self: &Arc<Self>,
        who: &Arc<Identity>,
        keep: bool,
        patience: Duration,
    ) -> Result<Claim, ClaimError> {
        let client = &who.client;
        let (kicker, kicked) = oneshot::channel();
        let (session, serial) = self.enter(who, keep, kicker)?;
        // Made before waiting, so that giving up also leaves the table.
        let mut claim = Claim {
            client: client.clone(),
            session: None,
            kicked: Kicked::Waiting(kicked),
            serial,
            sessions: self.clone(),
        };
        let guard = tokio::time::timeout(patience, session.lock_owned()).await.map_err(|_| ClaimError::Unavailable)?;
        claim.session = Some(guard);
        // Somebody newer may have come while this one waited: it goes first, by going away.
        if claim.kicked.now().is_some() {
            return Err(ClaimError::Unavailable);
        }
        let (expires, will_due) = (claim.expires.take(), claim.will.as_ref().map(|(due, _)| *due));
        self.arrived(client, keep, [expires, will_due]);
        Ok(claim)
    }

    fn enter(
        &self,
        who: &Arc<Identity>,
        keep: bool,
        kicker: oneshot::Sender<Kick>,
    ) -> Result<(Arc<tokio::sync::Mutex<Session>>, u64), ClaimError> {
        let client = &who.client;
        let mut table = self.lock();
        let table = &mut *table;
        if table.stopping {
            return Err(ClaimError::Unavailable);
        }
        let known = table.clients.get(client);
        let takeover = known.is_some_and(|entry| entry.holder.is_some());
        let already_kept = known.is_some_and(|entry| entry.kept);
        if (!takeover && table.live >= self.connections_max)
            || (keep && !already_kept && (table.kept >= self.sessions_max || self.has_all(table, who)))
        {
            return Err(ClaimError::Full);
        }
        table.serial += 1;
        let entry = table.clients.entry(client.clone()).or_default();
        entry.name = who.name.clone();
        match entry.holder.replace(Holder { serial: table.serial, kicker, who: who.clone() }) {
            Some(old) => {
                self.stats.takeovers.inc();
                // Fails only if the old one is already on its way out.
                let _ = old.kicker.send(Kick::TakenOver);
            }
            None => table.live += 1,
        }
        Ok((entry.session.clone(), table.serial))
    }

    /// Whether its name has as many kept sessions as it may. Who has no name cannot be told from others.
    fn has_all(&self, table: &Table, who: &Identity) -> bool {
        let of_it = |entry: &&Entry| entry.kept && entry.name == who.name;
        who.name.is_some() && table.clients.values().filter(of_it).count() >= self.sessions_per_name
    }

    /// Ends every connection.
    pub(super) fn kick_all(&self, kick: Kick) {
        let mut table = self.lock();
        table.stopping |= kick == Kick::Shutdown;
        let table = &mut *table;
        for entry in table.clients.values_mut() {
            if let Some(holder) = entry.holder.take() {
                table.live -= 1;
                let _ = holder.kicker.send(kick);
            }
        }
    }

    /// Ends the connections of those that `these` names, and says how many.
    pub(super) fn kick_where(&self, these: impl Fn(&Identity) -> bool) -> usize {
        let mut table = self.lock();
        let table = &mut *table;
        let mut kicked = 0;
        for entry in table.clients.values_mut() {
            if let Some(holder) = entry.holder.take_if(|holder| these(&holder.who)) {
                table.live -= 1;
                kicked += 1;
                // Fails only if it is on its way out.
                let _ = holder.kicker.send(Kick::Revoked);
            } else if entry.holder.is_none()
                && let Ok(mut session) = entry.session.try_lock()
            {
                // What it wanted to be said while it is away is not said any more, either.
                session.will.take_if(|(_, will)| these(will.who()));
            }
        }
        kicked
    }

    /// Whether a connection of the same name has this client id, so that a new one takes its place.
    pub(super) fn is_of(&self, who: &Identity) -> bool {
        let table = self.lock();
        let holder = table.clients.get(&who.client).and_then(|entry| entry.holder.as_ref());
        holder.is_some_and(|holder| holder.who.name == who.name)
    }

    /// The next client for whom something is due, when its time has come. Cancel-safe.
    pub(super) async fn next_due(self: &Arc<Self>) -> Arc<str> {
        loop {
            let changed = self.due_changed.notified();
            let first = self.lock().due.first().cloned();
            match first {
                None => changed.await,
                Some((at, client)) if at <= Instant::now() => return client,
                Some((at, _)) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// The session of a client for whom something is due, if it is still away; its due times are taken off.
    pub(super) fn claim_due(self: &Arc<Self>, client: &Arc<str>, now: Instant) -> Option<Claim> {
        let session = {
            let mut table = self.lock();
            table.due.retain(|(at, of)| *at > now || of != client);
            table.clients.get(client).filter(|entry| entry.holder.is_none())?.session.clone()
        };
        let session = session.try_lock_owned().ok()?;
        // Serial 0 is nobody's: this claim does not count as a connection.
        Some(Claim {
            client: client.clone(),
            session: Some(session),
            kicked: Kicked::Never,
            serial: 0,
            sessions: self.clone(),
        })
    }

    /// Nothing is due any more for a client that is here, and what it wants kept counts from now on.
    fn arrived(&self, client: &Arc<str>, keep: bool, times: [Option<Instant>; 2]) {
        let mut table = self.lock();
        let table = &mut *table;
        for at in times.into_iter().flatten() {
            table.due.remove(&(at, client.clone()));
        }
        if let Some(entry) = table.clients.get_mut(client).filter(|entry| keep && !entry.kept) {
            entry.kept = true;
            table.kept += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to a client id. Dropping it gives the id back; what the session says then is what is kept.
pub(super) struct Claim {
    pub(super) client: Arc<str>,
    /// `None` only while the claim still waits for it.
    session: Option<OwnedMutexGuard<Session>>,
    pub(super) kicked: Kicked,
    serial: u64,
    sessions: Arc<Sessions>,
}

/// A claim that is held is a session.
impl std::ops::Deref for Claim {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("claim() gives no claim away without its session")
    }
}

impl std::ops::DerefMut for Claim {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("claim() gives no claim away without its session")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let kept = self.session.as_ref().map(|session| {
            let times = [session.expires.filter(|_| session.kept), session.will.as_ref().map(|(due, _)| *due)];
            (session.kept || session.will.is_some(), session.kept, times)
        });
        let mut table = self.sessions.lock();
        let table = &mut *table;
        // Released under the table's lock, so nobody sees the entry between the two.
        self.session = None;
        let Some(entry) = table.clients.get_mut(&self.client) else { return };
        if entry.holder.as_ref().is_some_and(|holder| holder.serial == self.serial) {
            entry.holder = None;
            table.live -= 1;
        }
        if let Some((_, kept, times)) = kept {
            match (entry.kept, kept) {
                (false, true) => table.kept += 1,
                (true, false) => table.kept -= 1,
                _ => {}
            }
            entry.kept = kept;
            table.due.extend(times.into_iter().flatten().map(|at| (at, self.client.clone())));
            self.sessions.stats.sessions_kept.set(table.kept as u64);
            self.sessions.due_changed.notify_one();
        }
        let wanted = kept.is_some_and(|(wanted, ..)| wanted) || entry.kept || entry.holder.is_some();
        // One reference is the table's: with more, somebody waits for the lock.
        if !wanted && Arc::strong_count(&entry.session) == 1 {
            table.clients.remove(&self.client);
        }
    }
}

/// Hears the one kick that a connection can get.
pub(super) enum Kicked {
    Waiting(oneshot::Receiver<Kick>),
    By(Kick),
    Never,
}

impl Kicked {
    /// Ready once kicked, and from then on. Cancel-safe.
    pub(super) async fn wait(&mut self) -> Kick {
        match self {
            Kicked::Waiting(kicked) => {
                // A sender that is gone was replaced in the table, which is a takeover.
                let kick = kicked.await.unwrap_or(Kick::TakenOver);
                *self = Kicked::By(kick);
                kick
            }
            Kicked::By(kick) => *kick,
            Kicked::Never => std::future::pending().await,
        }
    }

    pub(super) fn now(&mut self) -> Option<Kick> {
        if let Kicked::Waiting(kicked) = self {
            match kicked.try_recv() {
                Ok(kick) => *self = Kicked::By(kick),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => *self = Kicked::By(Kick::TakenOver),
            }
        }
        match self {
            Kicked::By(kick) => Some(*kick),
            _ => None,
        }
    }
}
