//! Mailboxes over a disk that forgets what was not committed, with a client that comes and goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use proptest::prelude::*;
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
            Some(value) => drop(self.cells.insert(put.key, value)),
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

    fn tell(&mut self, change: Change) {
        self.mail.change(&CLIENT.into(), change);
    }

    fn publish(&mut self, n: u32) {
        self.mail.publish("t/x", &[], &n.to_be_bytes());
        self.sent.insert(n);
    }

    fn commit(&mut self) {
        let Changes { puts, lazy } = self.mail.take_changes();
        puts.into_iter().for_each(|put| self.disk.write(put));
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
        assert_eq!(self.mail.mailboxes().stats().messages.get(), 0);
        self.dropped += self.mail.mailboxes().stats().dropped.get();
        let all = std::mem::take(&mut self.lazy);
        all.into_iter().for_each(|put| self.disk.write(put));
        // The session and its subscription.
        assert_eq!(self.disk.cells.len(), 2, "nothing stays behind: {:?}", self.disk.cells.keys());
    }
}

#[derive(Debug, Clone)]
enum Act {
    Publish,
    Commit,
    Connect,
    Disconnect,
    Deliver(u8),
    Answer(usize),
    Crash(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Publish),
        6 => Just(Act::Commit),
        2 => Just(Act::Connect),
        1 => Just(Act::Disconnect),
        6 => (1u8..5).prop_map(Act::Deliver),
        6 => any::<usize>().prop_map(Act::Answer),
        1 => any::<u64>().prop_map(Act::Crash),
    ]
}

fn run(qos: u8, limits: MailLimits, acts: Vec<Act>) -> World {
    let mut world = World::start(qos, limits);
    let mut n = 0;
    for act in acts {
        match act {
            Act::Publish => {
                n += 1;
                world.publish(n);
            }
            Act::Commit => world.commit(),
            Act::Connect => world.connect(),
            Act::Disconnect => world.disconnect(),
            Act::Deliver(times) => (0..times).for_each(|_| world.deliver()),
            Act::Answer(at) => world.answer(at),
            Act::Crash(chance) => world.crash(chance),
        }
    }
    world.settle();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn qos_2_comes_once_and_qos_1_at_least_once(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let world = run(qos, MailLimits::default(), acts);
        let got: BTreeSet<u32> = world.client.got.keys().copied().collect();
        prop_assert_eq!(&got, &world.promised);
        prop_assert_eq!(world.dropped, 0);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }

    #[test]
    fn what_a_full_mailbox_drops_is_counted(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let world = run(qos, MailLimits { messages_max: 3, ..MailLimits::default() }, acts);
        let missing = world.promised.iter().filter(|n| !world.client.got.contains_key(n)).count();
        prop_assert!(missing as u64 <= world.dropped, "{missing} are missing, {} were counted", world.dropped);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }
}

fn fill(world: &mut World, messages: u32, bytes: usize) {
    for _ in 0..messages {
        world.mail.publish("t/x", &[], &vec![b'x'; bytes]);
    }
    world.commit();
}

#[test]
fn every_bound_holds() {
    let stats = |world: &World| {
        let stats = world.mail.mailboxes().stats();
        (stats.messages.get(), stats.bytes.get(), stats.dropped.get())
    };
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    fill(&mut world, 25, 10);
    assert_eq!((stats(&world).0, stats(&world).2), (10, 15));

    let mut world = World::start(1, MailLimits { bytes_max: 10_000, ..MailLimits::default() });
    fill(&mut world, 25, 1_000);
    assert!(stats(&world).1 <= 10_000 && stats(&world).2 == 25 - stats(&world).0, "{:?}", stats(&world));

    let mut world = World::start(1, MailLimits { bytes_total_max: 10_000, ..MailLimits::default() });
    for n in 0..5 {
        let client: Arc<str> = format!("other-{n}").into();
        world.mail.change(&client, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&client, Change::Subscribed(vec![("#".into(), Grant { qos: 2, id: None })]));
    }
    fill(&mut world, 25, 1_000);
    assert!(stats(&world).1 <= 10_000 && stats(&world).2 == 25 * 6 - stats(&world).0, "{:?}", stats(&world));

    let mut world = World::start(1, MailLimits { message_bytes_max: 100, ..MailLimits::default() });
    fill(&mut world, 1, 101);
    assert_eq!(stats(&world), (0, 0, 1));
}

/// A letter that is never acknowledged keeps its packet id to itself, however many others come and go.
#[test]
fn packet_ids_are_not_given_twice() {
    let mut world = World::start(1, MailLimits::default());
    world.connect();
    world.publish(0);
    world.commit();
    let Some(Delivery::Publish { pkid: held, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    let mut seen = 0u32;
    for n in 1..=70_000 {
        world.publish(n);
        world.commit();
        let Some(Delivery::Publish { pkid, index, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
        assert_ne!(pkid, held);
        world.tell(Change::Done(index));
        seen += 1;
    }
    assert_eq!(seen, 70_000);
}

#[test]
fn qos_0_is_for_those_who_are_there() {
    let mut world = World::start(0, MailLimits::default());
    world.publish(1);
    world.commit();
    world.connect();
    world.publish(2);
    world.commit();
    let Some(Delivery::Publish { qos: 0, dup: false, message, .. }) = world.link.as_mut().unwrap().next() else {
        panic!()
    };
    assert_eq!((message.topic(), message.payload()), (&b"t/x"[..], &2u32.to_be_bytes()[..]));
    world.publish(3);
    world.commit();
    world.connect();
    assert!(world.link.as_mut().unwrap().next().is_none(), "what nobody took is gone with the connection");
    assert_eq!(world.disk.cells.len(), 2);
}

#[test]
fn overlapping_subscriptions_get_one_letter() {
    let mut world = World::start(1, MailLimits::default());
    world.tell(Change::Subscribed(vec![
        ("+/x".into(), Grant { qos: 2, id: Some(5) }),
        ("t/x".into(), Grant { qos: 0, id: Some(6) }),
    ]));
    world.publish(1);
    world.commit();
    world.connect();
    let link = world.link.as_mut().unwrap();
    let Some(Delivery::Publish { qos: 2, mut ids, .. }) = link.next() else { panic!() };
    ids.sort_unstable();
    assert_eq!((&ids[..], link.next().is_none()), (&[5, 6][..], true));
}

#[test]
fn a_session_that_is_over_leaves_nothing() {
    let mut world = World::start(2, MailLimits::default());
    fill(&mut world, 20, 100);
    world.mail.forget(CLIENT);
    world.commit();
    let all = std::mem::take(&mut world.lazy);
    all.into_iter().for_each(|put| world.disk.write(put));
    assert!(world.disk.cells.is_empty() && !world.mail.has_filters());
    assert!(world.mail.mailboxes().of(CLIENT).is_none());
    let stats = world.mail.mailboxes().stats();
    assert_eq!((stats.messages.get(), stats.bytes.get(), stats.sessions.get()), (0, 0, 0));
}
