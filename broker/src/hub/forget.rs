//! Forgetting: a deleted register goes for good once every site knows that it is deleted, and a register's vector loses
//! what earlier lives of a site wrote. Who comes back from before that takes a snapshot first, and what it had written
//! until then cannot bring back what is gone.
//!
//! A cursor is *settled* when the site has taken over the registers up to it and all that it wrote before it had done so
//! is applied here. The least settled cursor of all sites is the *horizon*: no write is still to come from one who did not
//! know what is up to there. So a deletion up to the horizon has done its work.
//!
//! What is pruned counts as covered. A merge asks a register's vector one thing: whether a write is in it already. An entry
//! of an earlier life goes only when that life's journal is applied up to it, so its chunks are repeats by the watermark and
//! never come to a merge. Whatever else comes of that life goes the normal way: the winner's own dot stays in the vector,
//! so a write that saw it wins, and any other one is a conflict, which is kept. Nothing is lost by that, at worst told twice.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use prost::Message;
use proto::id::{ReplicaId, Seq, SiteName};
use proto::register::Register;
use proto::wire::record::Of;
use proto::wire::{
    ConflictCell, Feed, FeedAck, FeedEntry, Forgotten, Hello, KeyRange, RegisterCell, RegisterMerged, RegisterState,
    SettledCell,
};
use serde_json::{Value, json};

use super::feed::{BYTES_MAX, ENTRIES_MAX};
use super::session::Session;
use super::tables::{CONFLICT, HUB, HUB_FORGOTTEN, REGISTER, SETTLED, decode, replica_key, replica_of};
use super::views::SiteView;
use super::{Effect, Hub, sync};
use crate::ledger::{LedgerError, Now, Put, Read, Step};

/// Registers that one tick looks at, and bytes of records that it makes; the next one goes on.
const KEYS_MAX: usize = 1_000;
const RECORDS_BYTES: usize = 32 << 10;
/// A part of a snapshot that nobody acknowledged for this long is sent again.
const RANGE_WAIT_MS: u64 = 5_000;

/// How forgetting stands.
#[derive(Debug)]
pub(super) struct Forgetting {
    every_ms: u64,
    due_ms: u64,
    settled: BTreeMap<ReplicaId, SettledCell>,
    /// Up to here there is nothing to forget or prune, as far as we have looked since the start.
    looked: u64,
}

impl Forgetting {
    pub(super) fn every(every: Duration) -> Forgetting {
        let every_ms = every.as_millis() as u64;
        Forgetting { every_ms, due_ms: 0, settled: BTreeMap::new(), looked: 0 }
    }

    pub(super) fn recover(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        let (settled, mut damaged) = (&mut self.settled, None);
        ledger.scan_prefix(SETTLED, &[], &mut |key, value| {
            match (replica_of(key), decode::<SettledCell>(SETTLED, value)) {
                (Some(replica), Ok(cell)) => drop(settled.insert(replica, cell)),
                (_, Err(error)) => damaged = Some(error),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// A new life of a ledger: what its forerunners wrote can be pruned now.
    pub(super) fn site_joined(&mut self) {
        self.looked = 0;
    }
}

/// Cursors that a gateway said, with where its journal must be applied before they are settled. While the first waits
/// only the latest is kept besides: a gateway that is never caught up still settles one after the other.
#[derive(Debug, Default)]
pub(super) struct Settling {
    first: Option<(u64, Seq)>,
    latest: Option<(u64, Seq)>,
}

impl Settling {
    fn said(&mut self, cursor: u64, journal_to: Seq) {
        match self.first {
            None => self.first = Some((cursor, journal_to)),
            Some(_) => self.latest = Some((cursor, journal_to)),
        }
    }

    fn reached(&mut self, applied: Seq) -> Option<u64> {
        let mut reached = None;
        while let Some((cursor, journal_to)) = self.first
            && journal_to <= applied
        {
            reached = Some(cursor);
            self.first = self.latest.take();
        }
        reached
    }
}

/// A snapshot under way: key range by key range, each sent when the one before is taken over. Until then nothing else of
/// the site is taken.
#[derive(Debug)]
pub(super) struct Snapshot {
    after: String,
    /// The cursor that it leads to.
    upto: u64,
    /// A part is on its way since this moment.
    out_ms: Option<u64>,
}

impl Snapshot {
    fn leading_to(upto: u64) -> Snapshot {
        Snapshot { after: String::new(), upto, out_ms: None }
    }

    /// The next part, if none is on its way.
    pub(super) fn next(&mut self, prev: u64, now_ms: u64, ledger: &dyn Read) -> Result<Option<Feed>, LedgerError> {
        if self.out_ms.is_some_and(|since_ms| now_ms < since_ms + RANGE_WAIT_MS) {
            return Ok(None);
        }
        self.out_ms = Some(now_ms);
        let (mut entries, mut bytes, mut more, mut damaged) = (Vec::<FeedEntry>::new(), 0, false, None);
        ledger.scan(REGISTER, self.after.as_bytes(), &mut |key, value| {
            if key == self.after.as_bytes() {
                return ControlFlow::Continue(());
            }
            more = entries.len() == ENTRIES_MAX || bytes > BYTES_MAX;
            if more {
                return ControlFlow::Break(());
            }
            match decode::<RegisterCell>(REGISTER, value) {
                Ok(cell) => {
                    let entry = FeedEntry { key: String::from_utf8_lossy(key).into_owned(), state: cell.state };
                    bytes += entry.encoded_len();
                    entries.push(entry);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    damaged = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        let last = entries.last().filter(|_| more).map(|entry| entry.key.clone());
        let range = Some(KeyRange { after: self.after.clone(), to: last.unwrap_or_default() });
        let feed = Feed { prev, upto: self.upto, entries, range, ..Feed::default() };
        damaged.map_or(Ok(Some(feed)), Err)
    }
}

impl Hub {
    /// How often the hub looks for what can be forgotten.
    #[must_use]
    pub fn forgetting_every(self, every: Duration) -> Hub {
        Hub { forgetting: Forgetting::every(every), ..self }
    }

    /// A Hello says a cursor too, and shows whether the gateway may hold what is forgotten here.
    pub(super) fn begin_settling(
        &mut self,
        site: &SiteName,
        session: &mut Session,
        hello: &Hello,
        step: &mut Step<Effect>,
    ) {
        let ours = hello.feed_incarnation == self.incarnation;
        let cursor = if ours { hello.feed_cursor.min(self.feed.registers_head()) } else { 0 };
        let replica = session.replica(site);
        let held = self.forgetting.settled.get(&replica).copied();
        let before = held.filter(|held| held.incarnation == self.incarnation).unwrap_or_default();
        let settled = SettledCell {
            incarnation: self.incarnation,
            cursor: before.cursor.min(cursor),
            begun: if cursor == 0 { self.feed.forgotten } else { before.begun },
        };
        if held != Some(settled) {
            let key = replica_key(site.as_str(), session.epoch);
            step.puts.push(Put::set(SETTLED, key, settled.encode_to_vec()));
            self.forgetting.settled.insert(replica, settled);
        }
        // An older gateway does not say what it wrote before it knew, and takes no snapshot: it holds the horizon.
        if hello.protocol < 2 {
            return;
        }
        session.settling.said(cursor, Seq(hello.journal_to));
        session.stale_to = if ours { Seq(hello.snapshot_to) } else { Seq::ZERO };
        if cursor.max(settled.begun) < self.feed.forgotten {
            tracing::warn!(%site, cursor, forgotten = self.feed.forgotten, "it takes a snapshot of the registers first");
            session.snapshot = Some(Snapshot::leading_to(self.feed.registers_head()));
        }
    }

    pub(super) fn feed_acknowledged(&mut self, site: &SiteName, ack: &FeedAck) {
        let (head, forgotten) = (self.feed.registers_head(), self.feed.forgotten);
        let Some(session) = self.sessions.get_mut(site) else { return };
        if let Some(followed) = session.streams.iter_mut().find(|followed| followed.stream.name() == ack.stream) {
            followed.acknowledged(ack.cursor, ack.resend);
        }
        if !ack.stream.is_empty() {
            return;
        }
        if let Some(journal_to) = ack.journal_to {
            session.settling.said(ack.cursor.min(head), Seq(journal_to));
        }
        let Some(snapshot) = &mut session.snapshot else { return };
        if ack.cursor < snapshot.upto {
            let taken = ack.taken.as_ref().filter(|taken| **taken > snapshot.after);
            // An acknowledgement that comes twice brings no part twice.
            if taken.is_some() || ack.resend {
                snapshot.out_ms = None;
            }
            if let Some(taken) = taken {
                snapshot.after.clone_from(taken);
            }
            return;
        }
        session.stale_to = Seq(ack.snapshot_to);
        // More was forgotten meanwhile: only a life that is not the site's current one does not hold the horizon.
        session.snapshot = (ack.cursor < forgotten).then(|| Snapshot::leading_to(head));
        session.owes_applied = true;
    }

    /// No write is still to come from a site that had not seen what is up to here.
    fn horizon(&self) -> u64 {
        self.awaited().map(|(site, view)| self.settled(site, view.epoch)).min().unwrap_or(0)
    }

    /// Sites whose box is not lost.
    fn awaited(&self) -> impl Iterator<Item = (&SiteName, &SiteView)> {
        self.sites.iter().filter(|(_, view)| !view.is_lost)
    }

    fn settled(&self, site: &SiteName, epoch: u64) -> u64 {
        let replica = ReplicaId { site: site.clone(), epoch: proto::id::Epoch(epoch) };
        let settled = self.forgetting.settled.get(&replica);
        settled.filter(|settled| settled.incarnation == self.incarnation).map_or(0, |settled| settled.cursor)
    }

    /// For the status: whoever holds the horizon is named, as it keeps what is deleted from being forgotten.
    pub(super) fn forgetting_status(&self) -> Value {
        let held_by = self.awaited().min_by_key(|(site, view)| self.settled(site, view.epoch));
        json!({
            "forgotten_upto": self.feed.forgotten,
            "horizon": self.horizon(),
            "held_by": held_by.map(|(site, _)| site.as_str()),
        })
    }

    /// Cursors whose journal has arrived. Lazily: after a crash a lower one stands, and the next Hello says it again.
    fn settle(&mut self, step: &mut Step<Effect>) {
        for (site, session) in &mut self.sessions {
            let Some(cursor) = session.settling.reached(session.watermark.seq) else { continue };
            let Some(settled) = self.forgetting.settled.get_mut(&session.replica(site)) else { continue };
            if settled.cursor != cursor {
                settled.cursor = cursor;
                let key = replica_key(site.as_str(), session.epoch);
                step.lazy.push(Put::set(SETTLED, key, settled.encode_to_vec()));
            }
        }
    }

    /// Forgets and prunes up to the horizon, a bounded part of it at a time, in one event with the new position.
    pub(super) fn forget(&mut self, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) -> Result<(), LedgerError> {
        self.settle(step);
        if now.mono_ms < self.forgetting.due_ms {
            return Ok(());
        }
        let (horizon, mut looked) = (self.horizon(), self.forgetting.looked);
        let part = self.feed.registers_between(looked, horizon).take(KEYS_MAX);
        let keys: Vec<(u64, String)> = part.map(|(position, key)| (position, key.to_owned())).collect();
        let (first, mut records, mut bytes) = (step.next_seq(ledger), Vec::new(), 0);
        let mut all = keys.len() < KEYS_MAX;
        for (position, key) in keys {
            if bytes >= RECORDS_BYTES {
                all = false;
                break;
            }
            looked = position;
            let Some(value) = ledger.get(REGISTER, key.as_bytes())? else { continue };
            let state = decode::<RegisterCell>(REGISTER, &value)?.state.unwrap_or_default();
            if state.deleted {
                self.feed.forget(&key);
                bytes += key.len();
                records.push(Of::Forgotten(Forgotten { key }));
            } else if let Some(state) = self.pruned(&state, ledger)? {
                self.feed.changed(&key, first.plus(records.len() as u64).0);
                bytes += state.encoded_len();
                records.push(Of::Merged(RegisterMerged { key, state: Some(state) }));
            }
        }
        self.forgetting.looked = looked;
        if all {
            self.forgetting.due_ms = now.mono_ms + self.forgetting.every_ms;
        }
        if !records.is_empty() {
            tracing::info!(
                registers = records.len(),
                horizon,
                "forgot deleted registers and what earlier ledgers wrote"
            );
            let draft = self.draft(records, now);
            step.events.push(draft);
            step.puts.push(Put::set(HUB, HUB_FORGOTTEN, self.feed.forgotten.to_be_bytes()));
        }
        Ok(())
    }

    /// The register without what earlier lives of sites had in it, if that is less. The winner's own dot stays.
    fn pruned(&self, state: &RegisterState, ledger: &dyn Read) -> Result<Option<RegisterState>, LedgerError> {
        let Ok(mut register) = Register::try_from(state) else { return Ok(None) };
        let (before, mut damaged) = (register.seen.len(), None);
        let winner = register.dot.replica.clone();
        register.seen.retain(|replica, seq| {
            let current = self.sites.get(&replica.site).is_none_or(|view| view.epoch == replica.epoch.0);
            // Its box may still show its own writes until it hears that they are covered.
            let live = self.sessions.get(&replica.site).is_some_and(|session| session.epoch == replica.epoch);
            if current || live || *replica == winner {
                return true;
            }
            match sync::watermark(&replica.site, replica.epoch, ledger) {
                Ok(applied) => seq > applied.seq,
                Err(error) => {
                    damaged = Some(error);
                    true
                }
            }
        });
        let smaller = register.seen.len() < before;
        damaged.map_or(Ok(smaller.then(|| RegisterState::from(&register))), Err)
    }
}

/// Writes of a replica that are in the conflict log because their register was forgotten: key and seq.
pub(super) fn in_conflict_log(replica: &ReplicaId, ledger: &dyn Read) -> Result<HashSet<(String, u64)>, LedgerError> {
    let (mut found, mut damaged) = (HashSet::new(), None);
    ledger.scan_prefix(CONFLICT, &[], &mut |_, value| {
        match decode::<ConflictCell>(CONFLICT, value) {
            Ok(cell) => {
                let conflict = cell.conflict.unwrap_or_default();
                let dot = conflict.loser.and_then(|loser| loser.dot).unwrap_or_default();
                let forgotten = conflict.winner.is_some_and(|winner| winner.dot.is_none());
                if forgotten && dot.site == replica.site.as_str() && dot.epoch == replica.epoch.0 {
                    found.insert((conflict.key, dot.seq));
                }
            }
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(found), Err)
}
