//! How far each stream of the hub's feed was taken over.

use std::collections::BTreeMap;

use proto::id::Seq;
use proto::wire::{Ancestor, FeedCursor, StreamCursor};

/// The stream of registers; it has no name.
pub const REGISTERS: &str = "";

/// The stream of what earlier lives of this site's ledger left.
pub const OWN_PAST: &str = "own";

/// The stream of what this life of the ledger may promise of items that are sold from a pool.
pub const RIGHTS: &str = "rights";

/// Streams that every gateway follows.
pub(crate) const ALWAYS: [&str; 3] = [REGISTERS, OWN_PAST, RIGHTS];

/// What the core says of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub stream: String,
    pub cursor: FeedCursor,
    /// What came does not continue the cursor: send again from it.
    pub resend: bool,
    /// The last record that was made without what the cursor stands for.
    pub journal_to: Seq,
    /// Of a snapshot: everything up to this key was taken over.
    pub taken: Option<String>,
}

/// What `Hello` tells besides the journal: all cursors, and which earlier lives led to this one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cursors {
    streams: BTreeMap<String, FeedCursor>,
    lineage: Vec<Ancestor>,
}

impl Cursors {
    /// Every stream that is followed, from its beginning: the first Hello may leave before the core has said how far it is,
    /// and the hub tells a session only what its Hello names.
    pub fn following(follow: &[String]) -> Cursors {
        let streams = ALWAYS.into_iter().chain(follow.iter().map(String::as_str));
        let streams = streams.map(|stream| (stream.to_owned(), FeedCursor::default())).collect();
        Cursors { streams, lineage: Vec::new() }
    }

    pub fn set(&mut self, ack: &Ack) {
        self.streams.insert(ack.stream.clone(), ack.cursor);
    }

    pub fn registers(&self) -> FeedCursor {
        self.streams.get(REGISTERS).copied().unwrap_or_default()
    }

    pub fn follows(&mut self, lineage: Vec<Ancestor>) {
        self.lineage = lineage;
    }

    pub fn lineage(&self) -> &[Ancestor] {
        &self.lineage
    }

    /// Up to where own writes are older than the last snapshot, if it was of the incarnation that the cursor is of.
    pub fn snapshot_to(&self) -> u64 {
        let cursor = self.registers();
        if cursor.snapshot_of == 0 { cursor.snapshot_to } else { 0 }
    }

    /// Every other stream. A position in the feed of another hub's life means nothing.
    pub fn streams(&self) -> Vec<StreamCursor> {
        let incarnation = self.registers().incarnation;
        let others = self.streams.iter().filter(|(stream, _)| *stream != REGISTERS);
        let cursor = |(stream, cursor): (&String, &FeedCursor)| StreamCursor {
            stream: stream.clone(),
            position: if cursor.incarnation == incarnation { cursor.position } else { 0 },
        };
        others.map(cursor).collect()
    }
}
