//! Mailboxes over a disk that forgets what was not committed, with a client that comes and goes.

mod bounds;
mod cases;
mod laws;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use proto::id::{Epoch, ReplicaId, Seq};

use super::*;
use crate::ledger::{EachCell, EachEvent, LedgerError, Put, Read, Table};

/// What is on disk.
struct Disk {
    cells: BTreeMap<Vec<u8>, Vec<u8>>,
    replica: ReplicaId,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk { cells: BTreeMap::new(), replica: ReplicaId { site: "s".parse().unwrap(), epoch: Epoch(1) } }
    }
}

impl Disk {
    fn write(&mut self, put: Put) {
        assert_eq!(put.table, TABLE);
        match put.value {
            Some(value) => drop(self.cells.insert(put.key, value.to_vec())),
            None => drop(self.cells.remove(&put.key)),
        }
    }
}

impl Read for Disk {
    fn get(&self, _: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.cells.get(key).cloned())
    }

    fn scan(&self, _: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        for (key, value) in self.cells.range(from.to_vec()..) {
            if let ControlFlow::Break(()) = each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn next_seq(&self) -> Seq {
        Seq::ZERO
    }

    fn events_back(&self, _: EachEvent<'_>) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// A node, its disk and the one client, with all that is under way between them.
#[derive(Default)]
struct World {
    disk: Disk,
    mail: Mail,
    limits: MailLimits,
    /// Not written yet: it may get lost, each for itself.
    lazy: VecDeque<Put>,
    link: Option<Attached>,
    /// PUBRECs whose change is in the open group: the PUBREL comes with the commit.
    releasing: Vec<(u64, u16)>,
    client: ClientState,
    sent: BTreeSet<u32>,
    /// Committed, so it must arrive or be counted.
    promised: BTreeSet<u32>,
    dropped: u64,
}

/// The receiver's half of QoS 1 and 2 (OASIS MQTT 3.1.1, section 4.3).
#[derive(Default)]
struct ClientState {
    got: BTreeMap<u32, u32>,
    /// Packet ids that wait for PUBREL.
    received: BTreeSet<u16>,
    /// Answers that the node did not get yet.
    answers: VecDeque<Answer>,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Ack(u64),
    Rec(u64, u16),
    Comp(u64),
}

const CLIENT: &str = "c";

impl World {
    fn start(qos: u8, limits: MailLimits) -> World {
        let mut world = World { limits, ..World::default() };
        world.mail.mailboxes().limit(limits);
        let client: Arc<str> = CLIENT.into();
        world.mail.change(&client, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&client, Change::Subscribed(vec![("t/#".into(), Grant { qos, id: None })]));
        world.commit();
        world
    }

    /// With a second filter that matches the same, and another session that is never there and shares the first.
    fn crowded(qos: u8, limits: MailLimits) -> World {
        let mut world = World::start(qos, limits);
        world.tell(Change::Subscribed(vec![("+/x".into(), Grant { qos: 1, id: None })]));
        let absent: Arc<str> = "absent".into();
        world.mail.change(&absent, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&absent, Change::Subscribed(vec![("t/#".into(), Grant { qos: 2, id: None })]));
        world.commit();
        world
    }

    fn tell(&mut self, change: Change) {
        self.mail.change(&CLIENT.into(), change);
    }

    fn publish(&mut self, n: u32) {
        self.mail.publish("t/x", &[], &n.to_be_bytes());
        self.sent.insert(n);
    }

    fn commit(&mut self) {
        self.mail.close_group();
        let Changes { puts, lazy } = self.mail.take_changes();
        for put in puts {
            // A cell has one newest value, whichever way it came.
            self.lazy.retain(|older| older.key != put.key);
            self.disk.write(put);
        }
        self.lazy.extend(lazy);
        self.mail.committed();
        self.lazy.extend(self.mail.take_changes().lazy);
        self.promised.extend(std::mem::take(&mut self.sent));
        for (index, pkid) in std::mem::take(&mut self.releasing) {
            if self.link.is_some() {
                self.release(index, pkid);
            }
        }
    }

    /// A PUBREL reaches the client.
    fn release(&mut self, index: u64, pkid: u16) {
        self.client.received.remove(&pkid);
        self.client.answers.push_back(Answer::Comp(index));
    }

    fn connect(&mut self) {
        self.disconnect();
        self.link = Some(self.mail.mailboxes().of(CLIENT).expect("the session is there").attach());
    }

    fn disconnect(&mut self) {
        self.link = None;
        self.client.answers.clear();
        self.releasing.clear();
    }

    fn deliver(&mut self) {
        match self.link.as_mut().and_then(Attached::next) {
            None => {}
            Some(Delivery::Release { index, pkid }) => self.release(index, pkid),
            Some(Delivery::Publish { index, pkid, qos, message, .. }) => {
                let n = u32::from_be_bytes(message.payload().try_into().unwrap());
                assert!(self.promised.contains(&n), "seen before it was committed");
                if qos == 1 || self.client.received.insert(pkid) {
                    *self.client.got.entry(n).or_default() += 1;
                }
                self.client.answers.push_back(if qos == 1 { Answer::Ack(index) } else { Answer::Rec(index, pkid) });
            }
        }
    }

    /// The node hears the `at`th answer.
    fn answer(&mut self, at: usize) {
        let Some(len) = Some(self.client.answers.len()).filter(|len| *len > 0) else { return };
        match self.client.answers.remove(at % len) {
            Some(Answer::Ack(index) | Answer::Comp(index)) => self.tell(Change::Done(index)),
            Some(Answer::Rec(index, pkid)) => {
                self.tell(Change::Received(index));
                self.releasing.push((index, pkid));
            }
            None => {}
        }
    }

    /// kill -9: what was not committed is gone, and of what is written lazily each cell may be there or not.
    fn crash(&mut self, mut chance: u64) {
        self.disconnect();
        self.dropped += self.mail.mailboxes().stats().dropped.get();
        for put in std::mem::take(&mut self.lazy) {
            if chance & 1 == 1 {
                self.disk.write(put);
            }
            chance = chance.rotate_right(1);
        }
        self.sent.clear();
        self.mail = Mail::recover(&self.disk).expect("the table can be read");
        self.mail.mailboxes().limit(self.limits);
        self.commit();
    }

    /// Until nothing is left to be delivered or answered.
    fn settle(&mut self) {
        self.commit();
        self.connect();
        for _ in 0..10_000 {
            self.deliver();
            self.answer(0);
            self.commit();
        }
        self.dropped += self.mail.mailboxes().stats().dropped.get();
    }

    fn assert_clean(&mut self) {
        assert_eq!(self.mail.mailboxes().stats().messages.get(), 0);
        let all = std::mem::take(&mut self.lazy);
        all.into_iter().for_each(|put| self.disk.write(put));
        // The session, its subscription, and how far it is.
        assert!(self.disk.cells.len() <= 3, "nothing stays behind: {:?}", self.disk.cells.keys());
    }
}

fn fill(world: &mut World, messages: u32, bytes: usize) {
    for _ in 0..messages {
        world.mail.publish("t/x", &[], &vec![b'x'; bytes]);
    }
    world.commit();
}
