//! What a node's logic sees of the ledger, and what it gives back: events in, one step out, no I/O.

use std::ops::ControlFlow;

use bytes::Bytes;
use proto::clock::{Reading, Stamp};
use proto::id::{ReplicaId, Seq, WallMs};
use proto::wire::{CounterTotal, Event};

use super::error::LedgerError;
use crate::front::{Inbound, Verdict};

/// A table of the state. The number is on disk: never give one a second meaning. 0 is the ledger's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub table: Table,
    pub key: Vec<u8>,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

impl Put {
    pub fn set(table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Put {
        Put { table, key: key.into(), value: Some(value.into().into()) }
    }

    /// What it adds to a commit.
    pub(super) fn bytes(&self) -> usize {
        1 + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    pub fn delete(table: Table, key: impl Into<Vec<u8>>) -> Put {
        Put { table, key: key.into(), value: None }
    }
}

/// The moment at which an input is handled. The writer reads the clocks; cores never do.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall: WallMs,
    /// Whether the wall clock is believed.
    pub synced: bool,
    /// Milliseconds since the process started; never jumps.
    pub mono_ms: u64,
    /// Seconds that this ledger has been powered on in all.
    pub powered_on_s: u64,
}

impl Now {
    pub fn reading(&self) -> Reading {
        Reading { wall: self.wall, synced: self.synced }
    }
}

/// Sees a cell's key and value, and says whether to go on.
pub type EachCell<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;
/// Sees an event with its stamp and the seq of its first record, and says whether to go on.
pub type EachEvent<'a> = &'a mut dyn FnMut(Seq, Stamp, &Event) -> ControlFlow<()>;

/// The state and the journal as they stand, this group's earlier steps included.
pub trait Read {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError>;

    /// The cells of a table from the key `from` on, in key order, until `each` breaks.
    fn scan(&self, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError>;

    /// Every cell of a table whose key starts with `prefix`, in key order.
    fn scan_prefix(&self, table: Table, prefix: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        self.scan(table, prefix, &mut |key, value| match key.starts_with(prefix) {
            true => each(key, value),
            false => ControlFlow::Break(()),
        })
    }

    /// Which life of the ledger this is.
    fn replica(&self) -> &ReplicaId;

    /// The seq that the next record will get.
    fn next_seq(&self) -> Seq;

    /// Events from the newest back, as far as the journal reaches.
    fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError>;
}

/// An event with its stamp; the writer places it in a chunk.
#[derive(Debug, Clone)]
pub struct Draft {
    pub stamp: Stamp,
    pub event: Event,
}

/// An event at its place in the journal.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    pub replica: &'a ReplicaId,
    /// Seq of its first record.
    pub first: Seq,
    pub stamp: Stamp,
    pub event: &'a Event,
    pub powered_on_s: u64,
}

/// What one input comes to. Effects ride behind their commit, so an early one cannot be written down.
#[derive(Debug)]
pub struct Step<E> {
    /// Journalled, in order, in one commit with everything else here.
    pub events: Vec<Draft>,
    /// Written in the same commit, to tables that no event folds into.
    pub puts: Vec<Put>,
    /// Changes of the state that may be lost with a crash: they are written some time later and never wait.
    pub lazy: Vec<Put>,
    /// What to tell the connection that sent it; looked at for inbounds only.
    pub verdict: Verdict,
    /// Carried out after the commit, by whoever opened the writer.
    pub then: Vec<E>,
}

impl<E> Step<E> {
    pub fn nothing() -> Step<E> {
        Step { events: Vec::new(), puts: Vec::new(), lazy: Vec::new(), verdict: Verdict::ACCEPTED, then: Vec::new() }
    }

    /// The seq that the next record of this step will get.
    pub fn next_seq(&self, ledger: &dyn Read) -> Seq {
        let records: usize = self.events.iter().map(|draft| draft.event.records.len()).sum();
        ledger.next_seq().plus(records as u64)
    }
}

/// A node's logic: the gateway's shop rules, the hub's merge.
pub trait Core: Send + 'static {
    /// Inputs besides those of the front: sync messages, ticks, questions.
    type Input: Send + 'static;
    type Effect: Send + 'static;

    /// Decides what one publish, release or session end comes to.
    fn inbound(&mut self, inbound: Inbound, now: &Now, ledger: &dyn Read) -> Result<Step<Self::Effect>, LedgerError>;

    fn input(&mut self, input: Self::Input, now: &Now, ledger: &dyn Read) -> Result<Step<Self::Effect>, LedgerError>;

    /// An input whose step, of less than a group's bounds, is one chunk with nothing else before it.
    fn begins_group(_input: &Self::Input) -> bool {
        false
    }

    /// Every second or so, also when nothing else comes.
    fn tick(&mut self, now: &Now, ledger: &dyn Read) -> Result<Step<Self::Effect>, LedgerError>;

    /// What an event changes in the state. Reads nothing: replaying a journal gives the same state, in any version.
    fn fold(&mut self, placed: &Placed<'_>, put: &mut dyn FnMut(Put));

    /// What a chunk's totals change in the state.
    fn fold_total(&mut self, total: &CounterTotal, chunk_first: Seq, put: &mut dyn FnMut(Put));

    /// The counters that the events since the last call moved, for the end of their chunk.
    fn seal(&mut self, chunk_first: Seq) -> Vec<CounterTotal>;

    /// Once, after the journal was replayed and before the first input. `last` is the newest event's stamp.
    fn recovered(&mut self, last: Stamp, now: &Now, ledger: &dyn Read) -> Result<Step<Self::Effect>, LedgerError>;

    /// After each commit: what to tell, coalesced over the group. Reads the state that was just made durable.
    fn committed(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Self::Effect>, LedgerError>;

    /// The message that an effect tells subscribers, if it does: persistent sessions get it from the ledger. Not for what
    /// is only restored.
    fn outgoing(_effect: &Self::Effect) -> Option<(&str, &Bytes)> {
        None
    }

    /// Up to which seq the journal may be trimmed for all this core knows.
    fn applied(&self) -> Seq;
}
