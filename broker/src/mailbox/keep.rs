//! How messages come into the rings, and how they go by a bound. Part of the office.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::filters::matches;
use super::gather::Sheaf;
use super::letters::Message;
use super::office::Office;
use super::page::Page;
use super::session::{Flight, Stage};
use super::{MailLimits, disk};
use crate::ledger::Put;

impl Office {
    /// Puts what the open group gathered into the rings. Nobody sees it yet.
    /// Gives back the pages that are to be written.
    pub(super) fn take_in(&mut self, sheaves: Vec<Sheaf>, limits: &MailLimits, puts: &mut Vec<Put>) -> Vec<Arc<Page>> {
        let (mut messages, mut pages) = (Vec::new(), Vec::new());
        let many = sheaves.len() > 1;
        for sheaf in sheaves {
            self.skip(&sheaf);
            let kept = sheaf.rings.iter().any(|ring| self.rings.get(ring).is_some_and(|ring| !ring.members.is_empty()));
            for draft in sheaf.pages {
                let page = Page::new(kept.then(|| self.slots.take()), draft.bytes.into(), sheaf.rings.clone());
                let letters = disk::letters(&page.bytes).unwrap_or_default();
                messages.extend(letters.into_iter().map(|(number, at)| page.message(number, at)));
                pages.push(page);
            }
        }
        if many {
            messages.sort_unstable_by_key(|message| message.number);
        }
        for message in &messages {
            self.put_in(message, limits, puts);
        }
        pages.retain(|page| self.let_page_go(page));
        self.stats.bytes.set(self.bytes as u64);
        pages
    }

    /// They would be the oldest of every ring that they are for, and are beyond its bounds.
    fn skip(&mut self, sheaf: &Sheaf) {
        if sheaf.skipped == 0 {
            return;
        }
        let mut losers = BTreeSet::<u64>::new();
        for id in &*sheaf.rings {
            let Some(ring) = self.rings.get_mut(id) else { continue };
            losers.extend(&ring.members);
            ring.skip_live(sheaf.skipped, &mut self.live_bytes);
        }
        self.stats.dropped.add(losers.len() as u64 * sheaf.skipped);
    }

    fn put_in(&mut self, message: &Message, limits: &MailLimits, puts: &mut Vec<Put>) {
        let cost = message.cost();
        let kept = message.is_kept() && self.make_room(message, cost, limits, puts);
        for id in &*message.page.rings {
            let Some(ring) = self.rings.get_mut(id) else { continue };
            if kept && !ring.members.is_empty() {
                ring.push(message, ring.members.len());
            }
            if ring.has_readers() {
                ring.push_live(message, &mut self.live_bytes);
            }
            if !std::mem::replace(&mut ring.filled, true) {
                self.filled.push(*id);
            }
        }
        if kept {
            message.page.hold(cost);
            self.bytes += cost;
            self.stats.queued.inc();
            self.stats.messages.inc();
        }
    }

    /// A message that is too large for anybody.
    pub(super) fn refuse(&self, rings: &[u64]) {
        self.stats.dropped.add(rings.iter().map(|ring| self.rings[ring].members.len() as u64).sum());
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
        let mut lazy: Vec<Put> = self.slots.clear().collect();
        for id in std::mem::take(&mut self.moved) {
            self.write_progress(id, &mut lazy);
        }
        lazy
    }

    /// A message of the time before the start, which nobody forgot.
    pub(super) fn put_back(&mut self, message: &Message) {
        let mut wanted: BTreeMap<u64, u8> = BTreeMap::new();
        for id in &*message.page.rings {
            let Some(ring) = self.rings.get_mut(id) else { continue };
            if !matches(&ring.filter, message.topic_text()) {
                continue;
            }
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
                ring.push(message, left);
            }
        }
        for (id, _) in wanted.iter().filter(|(_, qos)| **qos == 2) {
            self.may_be_sent(*id, message.number);
        }
        if !wanted.is_empty() {
            message.page.hold(message.cost());
            self.bytes += message.cost();
            self.stats.messages.inc();
            self.stats.bytes.set(self.bytes as u64);
        }
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

/// Bounds.
impl Office {
    /// True if all rings that keep the message have room.
    fn make_room(&mut self, message: &Message, cost: usize, limits: &MailLimits, puts: &mut Vec<Put>) -> bool {
        let rings = &message.page.rings;
        for ring in &**rings {
            while self.rings.get(ring).is_some_and(|ring| ring.is_full(cost, limits)) {
                self.drop_oldest(*ring, puts);
            }
        }
        while self.bytes + cost > limits.bytes_total_max {
            // The open group's own pages would not go with it.
            let oldest = |ring: &u64| self.rings.get(ring)?.oldest().filter(|number| *number <= self.durable);
            match rings.iter().filter_map(|ring| Some((oldest(ring)?, *ring))).min() {
                Some((_, ring)) => self.drop_oldest(ring, puts),
                None => {
                    self.refuse(rings);
                    return false;
                }
            }
        }
        true
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
}
