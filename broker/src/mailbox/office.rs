//! What the writer and the connections share, behind one lock: the rings, and every session's place in them.
//!
//! Nothing here costs by how many sessions a ring has, but for what those sessions themselves do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk;
use super::filters::matches;
use super::letters::{Delivery, Mailbox, Message, cost};
use super::ring::Ring;
use super::session::{Flight, Held, Session, Stage, packet_id};
use super::{Grant, MailLimits, MailStats};
use crate::ledger::Put;

#[derive(Debug, Default)]
pub(super) struct Office {
    pub(super) rings: HashMap<u64, Ring>,
    ring_of: HashMap<String, u64>,
    pub(super) sessions: HashMap<u64, Session>,
    by_client: HashMap<Arc<str>, u64>,
    /// For the next ring or session.
    serial: u64,
    /// The number of the next message.
    pub(super) next: u64,
    /// Messages up to here are on disk and may be seen.
    durable: u64,
    /// Those up to here were there at the start: whether they were sent, nobody knows.
    pub(super) restored: u64,
    /// Of all messages that are in a ring, each once.
    bytes: usize,
    /// Of what is held for QoS 0.
    live_bytes: usize,
    /// Who was sent which QoS 2 message and did not answer: dropping it wants a release.
    exactly_once: HashMap<u64, BTreeSet<u64>>,
    pub(super) slots: Slots,
    /// Sessions whose progress is to be written some time.
    moved: BTreeSet<u64>,
    /// Rings with messages of the open group.
    filled: Vec<u64>,
    /// Releases of the open group.
    releasing: Vec<(u64, u64)>,
    pub(super) stats: Arc<MailStats>,
}

/// Places of messages on disk.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The last one is used first, so that few cells change.
    pub(super) free: Vec<u32>,
    /// Free ones whose cell may still be there.
    stale: BTreeSet<u32>,
    pub(super) end: u32,
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

    /// Puts a message into the rings that match. Nobody sees it yet.
    pub(super) fn take_in(&mut self, rings: &[u64], body: Bytes, limits: &MailLimits, puts: &mut Vec<Put>) {
        let kept = self.make_room(rings, cost(&body), limits, puts);
        let live = || rings.iter().filter(|ring| self.rings[ring].has_readers());
        if !kept && live().next().is_none() {
            return;
        }
        let slot = kept.then(|| self.slots.take());
        let message = Arc::new(Message::new(self.next, slot, body));
        self.next += 1;
        for id in rings {
            let Some(ring) = self.rings.get_mut(id) else { continue };
            if kept && !ring.members.is_empty() {
                ring.push(&message, ring.members.len());
            }
            if ring.has_readers() {
                ring.push_live(&message, &mut self.live_bytes);
            }
            if !std::mem::replace(&mut ring.filled, true) {
                self.filled.push(*id);
            }
        }
        if let Some(slot) = slot {
            self.bytes += message.cost();
            self.stats.queued.inc();
            self.stats.messages.inc();
            self.stats.bytes.set(self.bytes as u64);
            puts.push(disk::message(slot, &message));
        }
    }

    /// A message that is too large for anybody.
    pub(super) fn refuse(&self, rings: &[u64]) {
        self.stats.dropped.add(rings.iter().map(|ring| self.rings[ring].members.len() as u64).sum());
    }

    /// PUBREC.
    pub(super) fn received(&mut self, id: u64, number: u64, puts: &mut Vec<Put>) {
        let flight = self.sessions.get(&id).and_then(|session| session.in_flight.get(&number));
        if flight.is_some_and(|flight| flight.qos == 2 && flight.stage == Stage::Sent) {
            self.give_up(id, number, puts);
        }
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses.
    pub(super) fn done(&mut self, id: u64, number: u64, puts: &mut Vec<Put>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(flight) = session.in_flight.remove(&number) else { return };
        if std::mem::take(&mut session.held_back) {
            session.mailbox.wake();
        }
        self.let_go(id, number);
        self.answered(id, number);
        self.moved.insert(id);
        if flight.qos == 2 && flight.stage == Stage::Sent {
            self.write_progress(id, puts);
        }
    }

    /// All that was told is on disk.
    pub(super) fn committed(&mut self) {
        self.durable = self.next - 1;
        for (id, number) in std::mem::take(&mut self.releasing) {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if let Some(flight) = session.in_flight.get_mut(&number) {
                flight.stage = Stage::Released;
                session.mailbox.wake();
            }
        }
        for ring in std::mem::take(&mut self.filled) {
            let Some(ring) = self.rings.get_mut(&ring) else { continue };
            ring.filled = false;
            for waiter in std::mem::take(&mut ring.waiters) {
                if let Some(session) = self.sessions.get(&waiter) {
                    session.mailbox.wake();
                }
            }
        }
    }

    /// What changed since the last call and may be written some time.
    pub(super) fn lazy(&mut self) -> Vec<Put> {
        let mut lazy: Vec<Put> = std::mem::take(&mut self.slots.stale).into_iter().map(disk::no_message).collect();
        for id in std::mem::take(&mut self.moved) {
            self.write_progress(id, &mut lazy);
        }
        lazy
    }

    /// A message of the time before the start, which nobody forgot. Gives back whether anybody wants it.
    pub(super) fn put_back(&mut self, rings: &[u64], message: Message) -> bool {
        let message = Arc::new(message);
        let mut wanted: BTreeMap<u64, u8> = BTreeMap::new();
        for id in rings {
            let Some(ring) = self.rings.get_mut(id) else { continue };
            let mut left = 0;
            for member in &ring.members {
                let Some(session) = self.sessions.get(member) else { continue };
                let Some(held) = session.filters.get(&ring.filter) else { continue };
                if held.wants(message.number) && !session.is_done(message.number) {
                    left += 1;
                    let qos = wanted.entry(*member).or_default();
                    *qos = held.grant.qos.max(*qos);
                }
            }
            if left > 0 {
                ring.push(&message, left);
            }
        }
        for (id, _) in wanted.iter().filter(|(_, qos)| **qos == 2) {
            self.may_be_sent(*id, message.number);
        }
        if !wanted.is_empty() {
            self.bytes += message.cost();
            self.stats.messages.inc();
            self.stats.bytes.set(self.bytes as u64);
        }
        !wanted.is_empty()
    }

    /// Before the crash, a QoS 2 letter may have been sent if those that were sent and not answered could include it.
    fn may_be_sent(&mut self, id: u64, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let sent = session.in_flight.values().filter(|flight| flight.stage == Stage::Sent).count();
        if sent < super::IN_FLIGHT_MAX && !session.must_wait(number) {
            session.in_flight.insert(number, Flight::sent(2));
            self.exactly_once.entry(number).or_default().insert(id);
        }
    }
}

/// What connections ask.
impl Office {
    pub(super) fn attached(&mut self, id: u64, attached: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.attached = attached;
        for held in session.filters.values_mut() {
            let Some(ring) = self.rings.get_mut(&held.ring).filter(|_| held.grant.qos == 0) else { continue };
            match attached {
                true => held.seen = ring.add_reader(),
                false => ring.remove_reader(&mut self.live_bytes),
            }
        }
    }

    /// The next letter above `cursor`: in flight since an earlier connection, or new.
    pub(super) fn next(&mut self, id: u64, cursor: &mut u64) -> Option<Delivery> {
        loop {
            let fresh = self.fresh(id);
            let next = fresh.as_ref().filter(|_| !self.must_wait(id, fresh.as_deref())).map(|message| message.number);
            let session = self.sessions.get_mut(&id)?;
            let again = session.in_flight.range(*cursor + 1..).next().map(|(number, flight)| (*number, *flight));
            let Some((number, flight)) = again.filter(|(number, _)| next.is_none_or(|next| *number < next)) else {
                session.held_back = fresh.is_some() && next.is_none();
                return self.send(id, cursor, fresh.filter(|_| next.is_some()));
            };
            let (index, pkid) = (number, packet_id(number));
            match flight.stage {
                // Soon: whoever commits wakes us.
                Stage::Releasing => return None,
                Stage::Released => {
                    *cursor = number;
                    return Some(Delivery::Release { index, pkid });
                }
                Stage::Sent => {}
            }
            *cursor = number;
            match self.held(id, number) {
                Some(message) => {
                    self.stats.redelivered.inc();
                    let (_, ids) = self.terms(id, &message);
                    return Some(Delivery::Publish { index, pkid, qos: flight.qos, dup: true, ids, message });
                }
                // It was dropped meanwhile, and counted.
                None => {
                    debug_assert!(flight.qos == 1, "what may have been sent at QoS 2 is released");
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.in_flight.remove(&number);
                        session.set_done(number);
                        session.settle();
                    }
                    self.moved.insert(id);
                }
            }
        }
    }

    fn must_wait(&self, id: u64, fresh: Option<&Message>) -> bool {
        let (Some(session), Some(fresh)) = (self.sessions.get(&id), fresh) else { return false };
        // At QoS 0 it takes no packet id.
        fresh.slot.is_some() && session.must_wait(fresh.number)
    }

    fn send(&mut self, id: u64, cursor: &mut u64, fresh: Option<Arc<Message>>) -> Option<Delivery> {
        let Some(message) = fresh else {
            self.wait(id);
            return None;
        };
        let number = message.number;
        let (qos, ids) = self.terms(id, &message);
        let session = self.sessions.get_mut(&id)?;
        if qos > 0 {
            session.in_flight.insert(number, Flight::sent(qos));
        }
        session.cursor = number;
        *cursor = number.max(*cursor);
        if qos == 2 {
            self.exactly_once.entry(number).or_default().insert(id);
        }
        let dup = number <= self.restored;
        if dup {
            self.stats.redelivered.inc();
        }
        Some(Delivery::Publish { index: number, pkid: packet_id(number), qos, dup, ids, message })
    }

    /// The oldest message that the session was not sent, if it may be seen.
    fn fresh(&mut self, id: u64) -> Option<Arc<Message>> {
        let Office { sessions, rings, stats, durable, .. } = self;
        let session = sessions.get_mut(&id)?;
        let mut oldest: Option<&Arc<Message>> = None;
        let mut lost = 0;
        for held in session.filters.values_mut() {
            let Some(ring) = rings.get(&held.ring) else { continue };
            let open = |number: u64| !session.done.contains(&number) && !session.in_flight.contains_key(&number);
            let found = match held.grant.qos {
                0 => ring.live(&mut held.seen, session.cursor, &mut lost),
                _ => ring.from(held.from.max(session.cursor + 1)).find(|message| open(message.number)),
            };
            oldest = found.into_iter().chain(oldest).min_by_key(|message| message.number);
        }
        stats.dropped.add(lost);
        oldest.filter(|message| message.number <= *durable).cloned()
    }

    /// One delivery for all of the session's filters that match, by the highest QoS of them [MQTT-3.3.5-1].
    fn terms(&self, id: u64, message: &Message) -> (u8, Box<[u32]>) {
        let Some(session) = self.sessions.get(&id) else { return (0, Box::default()) };
        let topic = std::str::from_utf8(message.topic()).unwrap_or_default();
        let matching = session.filters.iter().filter(|(filter, held)| match held.wants(message.number) {
            true => self.rings.get(&held.ring).is_some_and(|ring| ring.get(message.number).is_some()),
            false => held.grant.qos == 0 && matches(filter, topic),
        });
        let grants: Vec<Grant> = matching.map(|(_, held)| held.grant).collect();
        let qos = grants.iter().map(|grant| grant.qos).max().unwrap_or(0);
        (qos, grants.iter().filter_map(|grant| grant.id).collect())
    }

    /// Whoever fills one of its rings wakes it.
    fn wait(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        for held in session.filters.values() {
            if let Some(ring) = self.rings.get_mut(&held.ring) {
                ring.waiters.insert(id);
            }
        }
    }
}

/// How messages go.
impl Office {
    /// True if there is a ring that keeps the message, and all that keep it have room.
    fn make_room(&mut self, rings: &[u64], cost: usize, limits: &MailLimits, puts: &mut Vec<Put>) -> bool {
        let mut kept = false;
        for ring in rings {
            if self.rings[ring].members.is_empty() {
                continue;
            }
            kept = true;
            while self.rings[ring].is_full(cost, limits) {
                self.drop_oldest(*ring, puts);
            }
        }
        while kept && self.bytes + cost > limits.bytes_total_max {
            let oldest = rings.iter().filter_map(|ring| Some((self.rings[ring].oldest()?, *ring))).min();
            match oldest {
                Some((_, ring)) => self.drop_oldest(ring, puts),
                None => {
                    self.refuse(rings);
                    kept = false;
                }
            }
        }
        kept
    }

    fn drop_oldest(&mut self, ring: u64, puts: &mut Vec<Put>) {
        let Some(place) = self.rings.get_mut(&ring) else { return };
        let Some(entry) = place.pop() else { return };
        let number = entry.message.number;
        if self.leave(&entry.message) {
            self.stats.dropped.add(entry.left as u64);
            for id in self.exactly_once.get(&number).cloned().unwrap_or_default() {
                self.give_up(id, number, puts);
            }
            return;
        }
        // Another ring has it, too: who has both filters does not lose it.
        let (members, filter) = (&self.rings[&ring].members, &self.rings[&ring].filter);
        let loses = |id: &u64| {
            let Some(session) = self.sessions.get(id) else { return false };
            let wants = session.filters.get(filter).is_some_and(|held| held.wants(number));
            wants && !session.is_done(number) && !self.holds(*id, number)
        };
        let losers: Vec<u64> = members.iter().copied().filter(loses).collect();
        self.stats.dropped.add(losers.len() as u64);
        for id in losers {
            self.give_up(id, number, puts);
        }
    }

    /// Nothing more than a PUBREL will be sent for this letter, which the ledger must know first.
    fn give_up(&mut self, id: u64, number: u64, puts: &mut Vec<Put>) {
        self.answered(id, number);
        let flight = self.sessions.get_mut(&id).and_then(|session| session.in_flight.get_mut(&number));
        let Some(flight) = flight.filter(|flight| flight.qos == 2 && flight.stage == Stage::Sent) else { return };
        flight.stage = Stage::Releasing;
        self.releasing.push((id, number));
        self.let_go(id, number);
        self.write_progress(id, puts);
    }

    /// The session needs the message no more.
    fn let_go(&mut self, id: u64, number: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.set_done(number) {
            let mut over = Vec::new();
            for held in session.kept().filter(|held| held.wants(number)) {
                over.extend(self.rings.get_mut(&held.ring).and_then(|ring| ring.done(number)));
            }
            session.settle();
            for message in over {
                self.leave(&message);
            }
        }
    }

    /// A ring let go of the message. True if that was the last one.
    fn leave(&mut self, message: &Message) -> bool {
        let last = message.leave_ring();
        if last {
            self.bytes -= message.cost();
            self.stats.messages.sub(1);
            self.stats.bytes.set(self.bytes as u64);
            self.slots.give_back(message.slot);
        }
        last
    }

    fn answered(&mut self, id: u64, number: u64) {
        if let Some(who) = self.exactly_once.get_mut(&number) {
            who.remove(&id);
            if who.is_empty() {
                self.exactly_once.remove(&number);
            }
        }
    }

    fn held(&self, id: u64, number: u64) -> Option<Arc<Message>> {
        let mut kept = self.sessions.get(&id)?.kept().filter(|held| held.wants(number));
        kept.find_map(|held| self.rings.get(&held.ring)?.get(number).cloned())
    }

    fn holds(&self, id: u64, number: u64) -> bool {
        self.held(id, number).is_some()
    }

    fn write_progress(&self, id: u64, puts: &mut Vec<Put>) {
        if let Some(session) = self.sessions.get(&id) {
            puts.push(disk::progress(&session.client, &session.progress()));
        }
    }
}

impl Slots {
    fn take(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.stale.remove(&slot);
        slot
    }

    pub(super) fn give_back(&mut self, slot: Option<u32>) {
        if let Some(slot) = slot {
            self.free.push(slot);
            self.stale.insert(slot);
        }
    }
}
