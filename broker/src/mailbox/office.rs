//! What the writer and the connections share, behind one lock: the rings, and every session's place in them.
//!
//! Nothing here costs by how many sessions a ring has, but for what those sessions themselves do. `keep.rs` is how
//! messages come in and fall out, `counter.rs` what connections ask.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::letters::{Mailbox, Message};
use super::page::Page;
use super::ring::Ring;
use super::session::{Held, Session, Stage};
use super::slots::Slots;
use super::{Grant, MailStats, disk};
use crate::ledger::Put;

#[derive(Debug, Default)]
pub(super) struct Office {
    /// In order rather than hashed: there are few, and every message looks several times.
    pub(super) rings: BTreeMap<u64, Ring>,
    ring_of: HashMap<String, u64>,
    pub(super) sessions: HashMap<u64, Session>,
    by_client: HashMap<Arc<str>, u64>,
    /// For the next ring or session.
    serial: u64,
    /// The number of the next message.
    pub(super) next: u64,
    /// Messages up to here are on disk and may be seen.
    pub(super) durable: u64,
    /// Those up to here were there at the start: whether they were sent, nobody knows.
    pub(super) restored: u64,
    /// Of all pages that have a message in a ring.
    pub(super) bytes: usize,
    /// Of what is held for QoS 0.
    pub(super) live_bytes: usize,
    /// Who was sent which QoS 2 message and did not answer: dropping it wants a release.
    pub(super) exactly_once: HashMap<u64, BTreeSet<u64>>,
    pub(super) slots: Slots,
    /// Sessions whose progress is to be written some time.
    pub(super) moved: BTreeSet<u64>,
    /// Rings with messages of the open group.
    pub(super) filled: Vec<u64>,
    /// Releases of the open group.
    pub(super) releasing: Vec<(u64, u64)>,
    pub(super) stats: Arc<MailStats>,
}

pub(super) fn lock(office: &Mutex<Office>) -> MutexGuard<'_, Office> {
    office.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the writer tells. What must be written before anybody hears of it is added to `puts`, in an order in which any
/// part of it may be alone.
impl Office {
    pub(super) fn id(&self, client: &str) -> Option<u64> {
        self.by_client.get(client).copied()
    }

    pub(super) fn mailbox(&self, client: &str) -> Option<Arc<Mailbox>> {
        Some(self.sessions.get(&self.id(client)?)?.mailbox.clone())
    }

    pub(super) fn open(&mut self, client: &Arc<str>, mailbox: impl FnOnce(u64) -> Mailbox) -> u64 {
        self.serial += 1;
        let id = self.serial;
        let session = Session::new(client.clone(), Arc::new(mailbox(id)), self.next - 1);
        self.sessions.insert(id, session);
        self.by_client.insert(client.clone(), id);
        self.stats.sessions.set(self.sessions.len() as u64);
        id
    }

    pub(super) fn close(&mut self, id: u64, gone: &mut Vec<(String, u64)>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let filters: Vec<String> = session.filters.keys().cloned().collect();
        for filter in filters {
            gone.extend(self.unsubscribe(id, &filter, &mut Vec::new()).map(|ring| (filter, ring)));
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        for number in session.in_flight.keys() {
            self.answered(id, *number);
        }
        self.by_client.remove(&session.client);
        self.moved.remove(&id);
        self.stats.sessions.set(self.sessions.len() as u64);
    }

    /// Gives back the ring, and whether it is new.
    pub(super) fn subscribe(&mut self, id: u64, filter: &str, grant: Grant, from: u64) -> Option<(u64, bool)> {
        let session = self.sessions.get_mut(&id)?;
        let (ring, new) = match self.ring_of.get(filter) {
            Some(ring) => (*ring, false),
            None => {
                self.serial += 1;
                self.ring_of.insert(filter.to_owned(), self.serial);
                self.rings.insert(self.serial, Ring::new(filter));
                (self.serial, true)
            }
        };
        let place = self.rings.get_mut(&ring)?;
        place.users += 1;
        let mut held = Held { ring, grant, from, seen: 0 };
        if grant.qos > 0 {
            place.members.insert(id);
        } else if session.attached {
            held.seen = place.add_reader();
        }
        session.filters.insert(filter.to_owned(), held);
        Some((ring, new))
    }

    /// Changes what a subscription was granted, if what waits for it can stay. Gives back from where it counts.
    pub(super) fn regrant(&mut self, id: u64, filter: &str, grant: Grant) -> Option<u64> {
        let held = self.sessions.get_mut(&id)?.filters.get_mut(filter)?;
        ((held.grant.qos > 0) == (grant.qos > 0)).then(|| {
            held.grant = grant;
            held.from
        })
    }

    /// Gives back the ring if nobody has it any more. What was not sent is not sent any more; what was sent is not sent
    /// again.
    pub(super) fn unsubscribe(&mut self, id: u64, filter: &str, puts: &mut Vec<Put>) -> Option<u64> {
        let session = self.sessions.get_mut(&id)?;
        let held = session.filters.remove(filter)?;
        let ring = self.rings.get_mut(&held.ring)?;
        ring.users -= 1;
        ring.waiters.remove(&id);
        if held.grant.qos == 0 && session.attached {
            ring.remove_reader(&mut self.live_bytes);
        }
        if ring.members.remove(&id) {
            let numbers = ring.from(held.from).map(|message| message.number);
            let open: Vec<u64> = numbers.filter(|number| !session.is_done(*number)).collect();
            for number in open {
                let over = self.rings.get_mut(&held.ring).and_then(|ring| ring.done(number));
                if let Some(message) = over {
                    self.leave(&message);
                }
                if !self.holds(id, number) {
                    self.give_up(id, number, puts);
                }
            }
        }
        let unused = self.rings.get(&held.ring).is_some_and(|ring| ring.users == 0);
        unused.then(|| {
            self.rings.remove(&held.ring);
            self.ring_of.remove(filter);
            held.ring
        })
    }
}

/// How messages go.
impl Office {
    /// Nothing more than a PUBREL will be sent for this letter, which the ledger must know first.
    pub(super) fn give_up(&mut self, id: u64, number: u64, puts: &mut Vec<Put>) {
        self.answered(id, number);
        let flight = self.sessions.get_mut(&id).and_then(|session| session.in_flight.get_mut(&number));
        let Some(flight) = flight.filter(|flight| flight.qos == 2 && flight.stage == Stage::Sent) else { return };
        flight.stage = Stage::Releasing;
        self.releasing.push((id, number));
        self.let_go(id, number);
        self.write_progress(id, puts);
    }

    /// The session needs the message no more.
    pub(super) fn let_go(&mut self, id: u64, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.set_done(number) {
            let rings: Vec<u64> = session.kept().filter(|held| held.wants(number)).map(|held| held.ring).collect();
            session.settle();
            for ring in rings {
                if let Some(message) = self.rings.get_mut(&ring).and_then(|ring| ring.done(number)) {
                    self.leave(&message);
                }
            }
        }
    }

    /// A ring let go of the message. True if that was the last one.
    pub(super) fn leave(&mut self, message: &Message) -> bool {
        let Message { number, page, .. } = message;
        let last = match page.rings[..] {
            [_] => true,
            _ => !page.rings.iter().any(|ring| self.rings.get(ring).is_some_and(|ring| ring.get(*number).is_some())),
        };
        if last {
            self.stats.messages.sub(1);
            self.let_page_go(page);
        }
        last
    }

    /// False if nothing of it is wanted any more: its place is free.
    pub(super) fn let_page_go(&mut self, page: &Page) -> bool {
        let over = page.let_go();
        if over {
            self.bytes -= page.cost();
            self.stats.bytes.set(self.bytes as u64);
            self.slots.give_back(page.slot);
        }
        !over
    }

    pub(super) fn answered(&mut self, id: u64, number: u64) {
        if let Some(who) = self.exactly_once.get_mut(&number) {
            who.remove(&id);
            if who.is_empty() {
                self.exactly_once.remove(&number);
            }
        }
    }

    pub(super) fn held(&self, id: u64, number: u64) -> Option<Message> {
        let mut kept = self.sessions.get(&id)?.kept().filter(|held| held.wants(number));
        kept.find_map(|held| self.rings.get(&held.ring)?.get(number).cloned())
    }

    pub(super) fn holds(&self, id: u64, number: u64) -> bool {
        self.held(id, number).is_some()
    }

    pub(super) fn write_progress(&self, id: u64, puts: &mut Vec<Put>) {
        if let Some(session) = self.sessions.get(&id) {
            puts.push(disk::progress(&session.client, &session.progress()));
        }
    }
}
