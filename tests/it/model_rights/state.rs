//! What the model remembers: two sites' ledgers and sessions, the hub's disk and sessions, the wires, and ghosts.
//!
//! A ghost is written down for the properties only; no rule reads it.

use std::fmt;

pub(super) const SITES: usize = 2;

/// Lives of one site's ledger.
pub(super) const EPOCHS: usize = 3;

/// What the pool begins with.
pub(super) const POOL: u8 = 3;

/// A journal as the serials of its records, oldest in the lowest byte. A serial names one record of a site for ever, so a
/// chain is its own hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Chain(u64);

/// How a replica has used its rights: the record `Rights`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Rights {
    pub(super) granted: u8,
    pub(super) returned: u8,
    pub(super) promised: u8,
    pub(super) refunded: u8,
    pub(super) held: u8,
    pub(super) answered: u8,
}

/// The site's one hold, as a ledger has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum Hold {
    #[default]
    None,
    Open,
    /// Of an earlier life, and not in `held`. `covered`: its unit is spent in that life whatever became of it, else only
    /// the hub's chunks say that it is open.
    Inherited {
        covered: bool,
    },
    Committed,
    /// Or released: that is an expiry which nobody commits late.
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    Promised,
    /// In hand.
    Sold,
    Refunded,
    Placed,
    Ended,
    CommittedLate,
    Answered,
}

/// One event with the Rights that it ends with, and the hold as it then is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) what: What,
    pub(super) rights: Rights,
    pub(super) hold: Hold,
    /// The serial under which it was written first.
    pub(super) origin: u8,
}

/// A site's ledger: what survives a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Ledger {
    pub(super) epoch: u8,
    pub(super) journal: Chain,
    pub(super) rights: Rights,
    pub(super) asked: u8,
    pub(super) hold: Hold,
    /// With what the life began: the hold, and how many records are journalled again.
    pub(super) began: (Hold, u8),
    /// Of each epoch that led to this one, what it had in all: its last exposure, as its fork and the hub knew it.
    pub(super) earlier: [Option<u8>; EPOCHS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Phase {
    #[default]
    Away,
    Greeting,
    Streaming {
        incarnation: u8,
    },
    Turned,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Site {
    pub(super) ledger: Ledger,
    /// The ledger as it was before its last rejoin: a backup that may be restored.
    pub(super) backup: Option<Box<Ledger>>,
    pub(super) nonce: u8,
    pub(super) phase: Phase,
    pub(super) up: Vec<Up>,
    pub(super) down: Vec<Down>,
    /// By serial, all that was ever written here.
    pub(super) written: Vec<Record>,
    pub(super) ghost: Ghost,
}

/// What the hold's buyer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Buyer {
    #[default]
    Nobody,
    Waits,
    Has,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Ghost {
    /// Units that somebody here was promised for good or took along, but for the hold's.
    pub(super) sold: u8,
    pub(super) buyer: Buyer,
    pub(super) refunded: u8,
    /// Sales in hand without a right, as origins.
    pub(super) beyond: u32,
    pub(super) sales: u8,
    pub(super) events: u8,
    pub(super) epochs: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Over {
    #[default]
    No,
    Lost,
    Retired,
}

/// What the hub has of one life of a site's ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Life {
    pub(super) applied: Chain,
    pub(super) granted: u8,
    pub(super) asked: u8,
    pub(super) reclaimed: u8,
    /// What a later life reported that this one had.
    pub(super) seen: u8,
    pub(super) over: Over,
    /// The last incarnation that it reported to.
    pub(super) reported: u8,
    /// Only of a hub that adds up: what it added again.
    pub(super) added: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) units: u8,
    /// By the hub's own channel.
    pub(super) promised: u8,
    pub(super) lives: [Vec<Life>; SITES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) nonce: u8,
    pub(super) epoch: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Hub {
    /// 0 is a hub that was never restored.
    pub(super) incarnation: u8,
    pub(super) disk: Disk,
    pub(super) sessions: [Option<Session>; SITES],
    pub(super) backup: Option<Box<Disk>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Up {
    Hello {
        nonce: u8,
        epoch: u8,
        to: Chain,
        /// Epochs, as bits.
        lineage: u8,
    },
    /// All of the journal from what the hub has on.
    Batch { nonce: u8, epoch: u8, to: Chain },
    /// `RightsHeld`.
    Held { nonce: u8, incarnation: u8, granted: u8, earlier: [Option<u8>; EPOCHS] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Down {
    Welcome { nonce: u8, incarnation: u8, applied: Chain },
    Turned { nonce: u8 },
    Grants { nonce: u8, incarnation: u8, granted: u8, asked: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) sites: [Site; SITES],
    pub(super) hub: Hub,
    /// Faults and an operator's words, as often as they came.
    pub(super) count: Count,
    /// Ghosts: what the pool really has, what the hub's channel really promised, and by how much more than the pool may be
    /// promised, by what is outside the promise.
    pub(super) pool: u8,
    pub(super) online: u8,
    pub(super) outside: u8,
    pub(super) seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Count {
    pub(super) asks: u8,
    pub(super) withdrawals: u8,
    pub(super) hub_crashes: u8,
    pub(super) hub_restores: u8,
    pub(super) site_restores: u8,
    pub(super) swaps: u8,
    pub(super) losts: u8,
    pub(super) reclaims: u8,
}

/// What happened, for `sometimes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Seen {
    pub(super) inherited: bool,
    pub(super) late: bool,
}

impl Chain {
    pub(super) fn seq(self) -> u8 {
        ((71 - self.0.leading_zeros()) / 8) as u8
    }

    pub(super) fn upto(self, seq: u8) -> Chain {
        if seq >= 8 { self } else { Chain(self.0 & ((1 << (8 * seq)) - 1)) }
    }

    pub(super) fn then(self, serial: u8) -> Chain {
        assert!(self.seq() < 8, "the bounds keep journals short");
        Chain(self.0 | u64::from(serial) << (8 * self.seq()))
    }

    pub(super) fn begins(self, other: Chain) -> bool {
        other.upto(self.seq()) == self
    }

    /// How long the beginning is that both have.
    pub(super) fn common(self, other: Chain) -> u8 {
        let shorter = self.seq().min(other.seq());
        (0..=shorter).rev().find(|seq| self.upto(*seq) == other.upto(*seq)).unwrap_or_default()
    }

    pub(super) fn serials(self) -> impl Iterator<Item = u8> {
        (0..self.seq()).map(move |n| (self.0 >> (8 * n)) as u8)
    }

    pub(super) fn last(self) -> Option<u8> {
        self.serials().last()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.serials().collect::<Vec<_>>())
    }
}

impl Rights {
    pub(super) fn available(&self) -> i8 {
        let [granted, returned, promised, held] =
            [self.granted, self.returned, self.promised, self.held].map(|units| units as i8);
        granted - returned - promised - held
    }

    /// All that a life of this had: what it may promise or has.
    pub(super) fn exposure(&self) -> u8 {
        self.granted.saturating_sub(self.returned).max(self.promised + self.held)
    }

    /// The rights outstanding: what a ledger of this may still give to somebody, with or without a hold.
    pub(super) fn outstanding(&self) -> u8 {
        self.held + self.available().max(0) as u8
    }
}

impl Hold {
    pub(super) fn is_open(self) -> bool {
        matches!(self, Hold::Open | Hold::Inherited { .. })
    }
}

impl Site {
    pub(super) fn record(&self, serial: u8) -> &Record {
        &self.written[usize::from(serial) - 1]
    }

    /// The last Rights of a journal.
    pub(super) fn rights(&self, journal: Chain) -> Rights {
        journal.last().map(|serial| self.record(serial).rights).unwrap_or_default()
    }

    pub(super) fn origins(&self, journal: Chain) -> u32 {
        journal.serials().fold(0, |all, serial| all | 1 << self.record(serial).origin)
    }
}

impl Ghost {
    /// What was promised here, open holds in it.
    pub(super) fn promised(&self) -> u8 {
        self.sold + u8::from(matches!(self.buyer, Buyer::Waits | Buyer::Has))
    }
}

impl Default for State {
    fn default() -> State {
        let lives = [vec![Life::default()], vec![Life::default()]];
        let disk = Disk { units: POOL, promised: 0, lives };
        State {
            sites: <[Site; SITES]>::default(),
            hub: Hub { incarnation: 0, disk, sessions: [None; SITES], backup: None },
            count: Count::default(),
            pool: POOL,
            online: 0,
            outside: 0,
            seen: Seen::default(),
        }
    }
}
