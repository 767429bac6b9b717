//! The open group: what the steps since the last commit came to, and the ledger as seen over it.

use proto::chunk::Position;
use proto::clock::Stamp;
use proto::id::{ReplicaId, Seq};
use proto::wire::Event;
use tokio::sync::oneshot;

use super::core::{EachCell, EachEvent, Put, Read, Table};
use super::error::LedgerError;
use super::log::Log;
use super::state::State;
use super::store::Store;
use crate::front::Verdict;

/// A group is closed at this many records or body bytes; one more event may come on top. So a chunk fits into one
/// record of the hub's journal.
const GROUP_RECORDS_MAX: u64 = 1024;
const GROUP_BYTES_MAX: usize = 64 << 10;
/// What the open group has gathered.
pub(super) struct Pending<E> {
    pub(super) events: Vec<(Seq, Stamp, Event)>,
    pub(super) records: u64,
    pub(super) bytes: usize,
    pub(super) puts: Vec<Put>,
    pub(super) effects: Vec<E>,
    pub(super) answers: Vec<(oneshot::Sender<Vec<Verdict>>, Vec<Verdict>)>,
}

impl<E> Default for Pending<E> {
    fn default() -> Self {
        Pending { events: vec![], records: 0, bytes: 0, puts: vec![], effects: vec![], answers: vec![] }
    }
}

impl<E> Pending<E> {
    pub(super) fn full(&self) -> bool {
        self.records >= GROUP_RECORDS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    pub(super) fn nothing_to_write(&self) -> bool {
        self.events.is_empty() && self.puts.is_empty()
    }
}

/// State, journal and the open group as one.
pub(super) struct View<'a> {
    store: &'a Store,
    state: &'a State,
    log: &'a Log,
    events: &'a [(Seq, Stamp, Event)],
    next: Seq,
}

pub(super) fn view<'a, E>(
    store: &'a Store,
    state: &'a State,
    log: &'a Log,
    pending: &'a Pending<E>,
    last: Position,
) -> View<'a> {
    View { store, state, log, events: &pending.events, next: last.seq.plus(pending.records).next() }
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        self.state.get(self.store, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        self.state.scan(self.store, table, from, each)
    }

    fn replica(&self) -> &ReplicaId {
        &self.store.replica
    }

    fn next_seq(&self) -> Seq {
        self.next
    }

    fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError> {
        for (seq, stamp, event) in self.events.iter().rev() {
            if each(*seq, *stamp, event).is_break() {
                return Ok(());
            }
        }
        for stored in self.log.chunks_back() {
            let chunk = stored?.open()?;
            if chunk.events().rev().try_for_each(|(seq, stamp, event)| each(seq, stamp, event)).is_break() {
                break;
            }
        }
        Ok(())
    }
}
