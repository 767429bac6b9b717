//! The office's counter: what connections ask, and what their clients answer.

use super::Grant;
use super::filters::matches;
use super::letters::{Delivery, Message};
use super::office::Office;
use super::session::{Flight, Stage, packet_id};
use crate::ledger::Put;

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
            let next = fresh.as_ref().filter(|_| !self.must_wait(id, fresh.as_ref())).map(|message| message.number);
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
        fresh.is_kept() && session.must_wait(fresh.number)
    }

    fn send(&mut self, id: u64, cursor: &mut u64, fresh: Option<Message>) -> Option<Delivery> {
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
    fn fresh(&mut self, id: u64) -> Option<Message> {
        let Office { sessions, rings, stats, durable, .. } = self;
        let session = sessions.get_mut(&id)?;
        let mut oldest: Option<&Message> = None;
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
        let topic = message.topic_text();
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
}
