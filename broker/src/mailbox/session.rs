//! One session's place in the rings of its filters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::Progress;
use super::letters::Mailbox;
use super::{Grant, PACKET_IDS};

/// A client that leaves a letter unanswered while it answers this many later ones gets no more until it does.
const DONE_MAX: usize = 1_000;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<str>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) filters: BTreeMap<String, Held>,
    /// Everything up to here was sent, and is in flight or done.
    pub(super) cursor: u64,
    /// Sent and not acknowledged, by message number.
    pub(super) in_flight: BTreeMap<u64, Flight>,
    /// Nothing up to here is to be sent again.
    floor: u64,
    /// Nor are these, above it.
    pub(super) done: BTreeSet<u64>,
    pub(super) attached: bool,
    /// The next letter waits until an earlier one is answered.
    pub(super) held_back: bool,
}

/// A filter of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) ring: u64,
    pub(super) grant: Grant,
    /// Messages before this one are not for the session.
    pub(super) from: u64,
    /// At QoS 0: how far it read.
    pub(super) seen: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) qos: u8,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It may be with the client.
    Sent,
    /// It will not be sent again, and that is not on disk yet: nothing may be sent for it.
    Releasing,
    /// What is left is PUBREL and PUBCOMP.
    Released,
}

impl Session {
    /// One that has nothing to get of messages up to `floor`.
    pub(super) fn new(client: Arc<str>, mailbox: Arc<Mailbox>, floor: u64) -> Session {
        Session {
            client,
            mailbox,
            filters: BTreeMap::new(),
            cursor: floor,
            in_flight: BTreeMap::new(),
            floor,
            done: BTreeSet::new(),
            attached: false,
            held_back: false,
        }
    }

    pub(super) fn restore(&mut self, progress: Progress) {
        let Progress { floor, done, released } = progress;
        (self.floor, self.cursor) = (floor, floor);
        self.done = done.into_iter().collect();
        self.done.extend(released.iter().filter(|number| **number > floor));
        self.in_flight = released.into_iter().map(|number| (number, Flight::released())).collect();
    }

    pub(super) fn progress(&self) -> Progress {
        let released = self.in_flight.iter().filter(|(_, flight)| flight.stage != Stage::Sent);
        Progress {
            floor: self.floor,
            done: self.done.iter().copied().collect(),
            released: released.map(|(number, _)| *number).collect(),
        }
    }

    /// Kept filters, which are those with a place in a ring.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Held> {
        self.filters.values().filter(|held| held.grant.qos > 0)
    }

    pub(super) fn is_done(&self, number: u64) -> bool {
        number <= self.floor || self.done.contains(&number)
    }

    /// It will not be sent again. False if that was known.
    pub(super) fn set_done(&mut self, number: u64) -> bool {
        !self.is_done(number) && self.done.insert(number)
    }

    /// Takes together what is done without a gap. The client was sent everything up to `cursor`.
    pub(super) fn settle(&mut self) {
        let open = self.in_flight.iter().find(|(_, flight)| flight.stage == Stage::Sent).map(|(number, _)| *number);
        let floor = open.map_or(self.cursor, |open| self.cursor.min(open - 1));
        if floor > self.floor {
            self.floor = floor;
            self.done = self.done.split_off(&(floor + 1));
        }
    }

    /// Whether sending this one would give its packet id twice, or the list of what is done would get too long.
    pub(super) fn must_wait(&self, number: u64) -> bool {
        let (Some((first, _)), Some((last, _))) = (self.in_flight.first_key_value(), self.in_flight.last_key_value())
        else {
            return false;
        };
        let collides = number.max(*last) - number.min(*first) >= PACKET_IDS
            && self.in_flight.keys().any(|other| packet_id(*other) == packet_id(number));
        collides || (self.done.len() >= DONE_MAX && self.in_flight.values().any(|flight| flight.stage == Stage::Sent))
    }
}

impl Held {
    pub(super) fn wants(&self, number: u64) -> bool {
        self.grant.qos > 0 && self.from <= number
    }
}

impl Flight {
    pub(super) fn sent(qos: u8) -> Flight {
        Flight { qos, stage: Stage::Sent }
    }

    fn released() -> Flight {
        Flight { qos: 2, stage: Stage::Released }
    }
}

/// The same for the same message, over reconnects and restarts.
pub(super) fn packet_id(number: u64) -> u16 {
    (number % PACKET_IDS) as u16 + 1
}
