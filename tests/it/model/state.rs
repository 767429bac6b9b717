//! What the model remembers: two sites' ledgers and sessions, the hub's disk and sessions, the wires, and ghosts.
//!
//! A ghost is written down for the properties only; no rule reads it.

use std::fmt;

pub(super) const SITES: usize = 2;

/// A journal as the contents of its chunks, oldest in the lowest byte. It is its own hash: two chains are the same if and
/// only if all their contents are, which is what blake3 gives the code.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Chain(u64);

/// One chunk's content: which real-world record, and in which life of its box it was written down (its stamp differs).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Content(u8);

/// Real-world records, as a set of bits.
pub(super) type Records = u8;

impl Content {
    pub(super) fn new(record: u8, life: u8) -> Content {
        Content(1 + record + (life << 3))
    }

    /// What is journalled in the place of a record that is gone.
    pub(super) fn lost(self) -> Content {
        Content(self.0 | 0x80)
    }

    pub(super) fn is_lost(self) -> bool {
        self.0 & 0x80 != 0
    }

    pub(super) fn record(self) -> Records {
        1 << (((self.0 & 0x7f) - 1) & 7)
    }
}

impl Chain {
    pub(super) fn seq(self) -> u8 {
        ((71 - self.0.leading_zeros()) / 8) as u8
    }

    pub(super) fn upto(self, seq: u8) -> Chain {
        if seq >= 8 { self } else { Chain(self.0 & ((1 << (8 * seq)) - 1)) }
    }

    pub(super) fn then(self, content: Content) -> Chain {
        assert!(self.seq() < 8, "the bounds keep journals short");
        Chain(self.0 | u64::from(content.0) << (8 * self.seq()))
    }

    /// The content at `seq`, counted from 1.
    pub(super) fn at(self, seq: u8) -> Content {
        Content((self.0 >> (8 * (seq - 1))) as u8)
    }

    pub(super) fn begins(self, other: Chain) -> bool {
        other.upto(self.seq()) == self
    }

    /// The last common position.
    pub(super) fn fork(self, other: Chain) -> Chain {
        let shorter = self.seq().min(other.seq());
        (0..=shorter).rev().map(|seq| self.upto(seq)).find(|common| common.begins(other)).unwrap_or_default()
    }

    pub(super) fn contents(self) -> impl Iterator<Item = Content> {
        (1..=self.seq()).map(move |seq| self.at(seq))
    }

    /// The records that are named in it after `seq`, those that are lost among them.
    pub(super) fn records_after(self, seq: u8) -> Records {
        self.contents().skip(seq.into()).fold(0, |all, content| all | content.record())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bare, lost) = ((self.0 & 0x7f) - 1, if self.is_lost() { "-" } else { "" });
        write!(f, "{lost}{}{}", char::from(b'a' + (bare & 7)), "'".repeat((bare >> 3).into()))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        self.contents().try_for_each(|content| write!(f, "{content:?}"))?;
        f.write_str("]")
    }
}

/// A site's ledger: what survives a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Ledger {
    pub(super) epoch: u8,
    pub(super) journal: Chain,
    /// The journal begins after this seq: what is before was trimmed, only its last hash is known.
    pub(super) beginning: u8,
    /// What the hub said that it applied.
    pub(super) applied: u8,
    /// A ghost: how often the hub that said so had been restored.
    pub(super) told_by: u8,
    /// The ledger that this one follows, and how far its own records are journalled again.
    pub(super) follows: Option<Followed>,
    pub(super) lineage: Lineage,
    /// The hub has welcomed this ledger.
    pub(super) welcomed: bool,
}

/// Epochs of one site.
pub(super) const EPOCHS: usize = 4;

/// Of each epoch that led to this one, the last position that the hub had in common with it.
pub(super) type Lineage = [Option<Chain>; EPOCHS];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Followed {
    pub(super) epoch: u8,
    pub(super) journal: Chain,
    pub(super) beginning: u8,
    /// What the hub said that it holds of it.
    pub(super) recalled: Chain,
    /// The last common position.
    pub(super) fork: Chain,
    pub(super) next: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Phase {
    #[default]
    Away,
    Greeting,
    Streaming {
        incarnation: u8,
        applied: Chain,
    },
    /// With what the hub holds of this replica: the answer to Recall.
    Turned {
        recalled: Chain,
        retired: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Site {
    pub(super) ledger: Ledger,
    pub(super) nonce: u8,
    pub(super) phase: Phase,
    /// A device's record that is committed or not, but was not acknowledged: it will send it again.
    pub(super) unacknowledged: Option<u8>,
    /// The ledger as it was before its last rejoin: a backup that may be restored.
    pub(super) backup: Option<Box<Ledger>>,
    pub(super) up: Vec<Up>,
    pub(super) down: Vec<Down>,
    pub(super) ghost: Ghost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Ghost {
    /// How many real-world records there were, lives of the box, epochs of its ledgers.
    pub(super) recorded: u8,
    pub(super) life: u8,
    pub(super) epochs: u8,
    pub(super) acknowledged: Records,
    /// In the tail that a restored backup overwrote.
    pub(super) overwritten: Records,
    /// Given up at the site because the hub had them.
    pub(super) given_up: Records,
    /// The hub had them and was restored to a state that has not.
    pub(super) taken_back: Records,
    /// Chains that were really written and then overwritten, with their epoch.
    pub(super) written: Vec<(u8, Chain)>,
    /// Epochs of which a ledger was rolled back to a backup, as bits.
    pub(super) rolled_back: u8,
    /// Chains that the hub held, with their epoch, and was restored from.
    pub(super) held: Vec<(u8, Chain)>,
    /// How often the hub had been restored, as the newest Welcome knew.
    pub(super) heard: u8,
    pub(super) seen: Seen,
}

/// What happened, for `sometimes`, and what must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Seen {
    pub(super) resent: bool,
    pub(super) bridged: bool,
    pub(super) trimmed_too_much: bool,
    pub(super) went_back: bool,
    pub(super) retired_grew: bool,
    pub(super) needless: bool,
}

/// What the hub holds of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Mark {
    pub(super) watermark: Chain,
    /// Bits by seq: the content is here; it is counted as lost; it was here already, under another dot.
    pub(super) has: u8,
    pub(super) lost: u8,
    pub(super) left_out: u8,
    pub(super) retired: bool,
    /// How many records between the watermark and the fork are counted as lost.
    pub(super) lost_after: u8,
    /// A ghost: a ledger that follows this one has said Hello.
    pub(super) followed: bool,
}

/// Of one site, the marks by epoch.
pub(super) type Marks = Vec<Mark>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) nonce: u8,
    pub(super) epoch: u8,
    /// With what is not committed yet.
    pub(super) mark: Mark,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Hub {
    pub(super) incarnation: u8,
    pub(super) disk: [Marks; SITES],
    pub(super) sessions: [Option<Session>; SITES],
    /// The disk as it was before the last restore: a second one may go to it.
    pub(super) newer: Option<Box<[Marks; SITES]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Up {
    Hello { nonce: u8, epoch: u8, beginning: u8, to: Chain, follows: Lineage },
    Batch { nonce: u8, epoch: u8, before: Chain, after: Chain, remnant: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Down {
    /// The hub's life is a ghost; it is the incarnation if that is new at each restore.
    Welcome {
        nonce: u8,
        incarnation: u8,
        life: u8,
        applied: Chain,
    },
    Applied {
        nonce: u8,
        incarnation: u8,
        applied: Chain,
    },
    Turned {
        nonce: u8,
        recalled: Chain,
        retired: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct State {
    pub(super) sites: [Site; SITES],
    pub(super) hub: Hub,
    /// Faults that happened.
    pub(super) crashes: u8,
    pub(super) hub_restores: u8,
    pub(super) site_restores: u8,
}

impl Mark {
    pub(super) fn push(&mut self, content: Content, has: bool, left_out: bool) {
        let bit = 1 << self.watermark.seq();
        self.watermark = self.watermark.then(content);
        match (left_out, has) {
            (true, _) => self.left_out |= bit,
            (_, true) => self.has |= bit,
            _ => self.lost |= bit,
        }
    }

    pub(super) fn upto(mut self, seq: u8) -> Mark {
        let mask = ((1u16 << seq) - 1) as u8;
        self.watermark = self.watermark.upto(seq);
        (self.has, self.lost, self.left_out) = (self.has & mask, self.lost & mask, self.left_out & mask);
        self
    }

    pub(super) fn contents(&self) -> impl Iterator<Item = Content> + '_ {
        self.watermark.contents().enumerate().filter(|(n, _)| self.has >> n & 1 == 1).map(|(_, content)| content)
    }

    pub(super) fn records(&self) -> Records {
        self.contents().fold(0, |all, content| all | content.record())
    }
}

pub(super) fn records(marks: &[Mark]) -> Records {
    marks.iter().fold(0, |all, mark| all | mark.records())
}

impl Ledger {
    /// Everything whose request id this ledger knows, trimmed or not; after a rejoin also what the hub handed over.
    pub(super) fn ids(&self) -> Records {
        let old = self.follows.as_ref().map_or(0, |old| old.journal.records_after(0) | old.recalled.records_after(0));
        self.journal.records_after(0) | old
    }

    /// What can still be sent.
    pub(super) fn holds(&self) -> Records {
        let kept = self.journal.contents().skip(self.beginning.into()).filter(|content| !content.is_lost());
        let waiting = self.follows.as_ref().map_or(0, |old| old.journal.records_after(old.next.max(old.beginning)));
        kept.fold(waiting, |all, content| all | content.record())
    }

    /// The position of the journal's beginning, as Hello says it.
    pub(super) fn standing_at(&self, seq: u8) -> Option<Chain> {
        (seq == 0 || (self.beginning..=self.journal.seq()).contains(&seq)).then(|| self.journal.upto(seq))
    }
}
