//! The open group: what the steps since the last commit came to, and the ledger as seen over it.

use prost::Message;
use proto::chunk::{self, Position};
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

/// A chunk is closed at this many records or body bytes; one more event may come on top. So it fits into one record of
/// the hub's journal.
const CHUNK_RECORDS_MAX: u64 = 1024;
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// A group is closed at this many chunks, or bytes before they are packed: several chunks that wait share one sync.
const GROUP_CHUNKS_MAX: usize = 8;
const GROUP_BYTES_MAX: usize = CHUNK_BYTES_MAX * GROUP_CHUNKS_MAX;

/// A chunk, with where the journal stands before and after it.
pub(super) type SealedChunk = (Position, Position, Vec<u8>);

/// What the open group has gathered.
pub(super) struct Pending<E> {
    /// Closed ones, in order. Not on disk yet.
    pub(super) chunks: Vec<SealedChunk>,
    /// Of the open chunk, which comes after them.
    pub(super) events: Vec<(Seq, Stamp, Event)>,
    pub(super) records: u64,
    chunk_bytes: usize,
    /// Of all events and puts.
    bytes: usize,
    pub(super) puts: Vec<Put>,
    pub(super) effects: Vec<E>,
    pub(super) answers: Vec<(oneshot::Sender<Vec<Verdict>>, Vec<Verdict>)>,
}

impl<E> Default for Pending<E> {
    fn default() -> Self {
        let (chunks, events, puts, effects, answers) = (vec![], vec![], vec![], vec![], vec![]);
        Pending { chunks, events, records: 0, chunk_bytes: 0, bytes: 0, puts, effects, answers }
    }
}

impl<E> Pending<E> {
    pub(super) fn full(&self) -> bool {
        let last = self.chunks.len() + 1 >= GROUP_CHUNKS_MAX;
        self.bytes >= GROUP_BYTES_MAX || (last && self.chunk_full())
    }

    pub(super) fn chunk_full(&self) -> bool {
        self.records >= CHUNK_RECORDS_MAX || self.chunk_bytes >= CHUNK_BYTES_MAX
    }

    pub(super) fn nothing_to_write(&self) -> bool {
        self.chunks.is_empty() && self.events.is_empty() && self.puts.is_empty()
    }

    pub(super) fn add_event(&mut self, first: Seq, stamp: Stamp, event: Event) {
        let bytes = event.encoded_len();
        self.records += event.records.len() as u64;
        self.chunk_bytes += bytes;
        self.bytes += bytes;
        self.events.push((first, stamp, event));
    }

    pub(super) fn add_put(&mut self, put: Put) {
        self.bytes += put.bytes();
        self.puts.push(put);
    }

    /// The open chunk's events, and how many records they have: what comes next is in another chunk.
    pub(super) fn take_events(&mut self) -> (Vec<(Seq, Stamp, Event)>, u64) {
        self.chunk_bytes = 0;
        (std::mem::take(&mut self.events), std::mem::take(&mut self.records))
    }

    /// All that is to be written: what comes next is in another group. The open chunk must have been closed.
    pub(super) fn take(&mut self) -> (Vec<SealedChunk>, Vec<Put>) {
        debug_assert!(self.events.is_empty(), "these would be left behind");
        self.bytes = 0;
        (std::mem::take(&mut self.chunks), std::mem::take(&mut self.puts))
    }
}

/// State, journal and the open group as one.
pub(super) struct View<'a> {
    store: &'a Store,
    state: &'a State,
    log: &'a Log,
    chunks: &'a [SealedChunk],
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
    let next = last.seq.plus(pending.records).next();
    View { store, state, log, chunks: &pending.chunks, events: &pending.events, next }
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
        let unwritten = self.chunks.iter().rev().map(|(before, _, bytes)| {
            chunk::open(bytes).map_err(|why| LedgerError::Chunk { at: before.seq.next(), why })
        });
        let written = self.log.chunks_back().map(|stored| stored?.open());
        for chunk in unwritten.chain(written) {
            let chunk = chunk?;
            if chunk.events().rev().try_for_each(|(seq, stamp, event)| each(seq, stamp, event)).is_break() {
                break;
            }
        }
        Ok(())
    }
}
