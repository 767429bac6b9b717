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

fn run(mut world: World, acts: Vec<Act>) -> World {
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
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn qos_2_comes_once_and_qos_1_at_least_once(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let mut world = run(World::start(qos, MailLimits::default()), acts);
        world.settle();
        world.assert_clean();
        let got: BTreeSet<u32> = world.client.got.keys().copied().collect();
        prop_assert_eq!(&got, &world.promised);
        prop_assert_eq!(world.dropped, 0);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }

    #[test]
    fn what_a_full_mailbox_drops_is_counted(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let mut world = run(World::start(qos, MailLimits { messages_max: 3, ..MailLimits::default() }), acts);
        world.settle();
        world.assert_clean();
        let missing = world.promised.iter().filter(|n| !world.client.got.contains_key(n)).count();
        prop_assert!(missing as u64 <= world.dropped, "{missing} are missing, {} were counted", world.dropped);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }

    #[test]
    fn others_and_second_filters_change_nothing_of_it(
        messages_max in prop_oneof![Just(3usize), Just(1_000)],
        acts in prop::collection::vec(act(), 0..120),
    ) {
        let mut world = run(World::crowded(2, MailLimits { messages_max, ..MailLimits::default() }), acts);
        world.settle();
        let missing = world.promised.iter().filter(|n| !world.client.got.contains_key(n)).count();
        prop_assert!(missing as u64 <= world.dropped, "{missing} are missing, {} were counted", world.dropped);
        prop_assert!(messages_max == 3 || missing == 0);
        prop_assert!(world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
        // The absent one still has what the first filter holds, and is the only reason that it is there.
        world.mail.forget("absent");
        world.commit();
        prop_assert_eq!(world.mail.mailboxes().stats().messages.get(), 0);
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
    // Five have one filter, so it is one ring of its own; the sixth has another. All messages are in both.
    let (messages, bytes, dropped) = stats(&world);
    assert!(bytes <= 10_000 && dropped == 6 * (25 - messages), "{:?}", stats(&world));

    let mut world = World::start(1, MailLimits { message_bytes_max: 100, ..MailLimits::default() });
    fill(&mut world, 1, 101);
    assert_eq!(stats(&world), (0, 0, 1));
}

/// A letter that is not acknowledged keeps its packet id to itself, however many others pass meanwhile.
#[test]
fn packet_ids_are_not_given_twice() {
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    let other: Arc<str> = "other".into();
    world.mail.change(&other, Change::Open { owner: None, expiry_s: 60 });
    world.mail.change(&other, Change::Subscribed(vec![("other/#".into(), Grant { qos: 1, id: None })]));
    world.connect();
    world.publish(0);
    world.commit();
    let Some(Delivery::Publish { pkid: held, index: first, .. }) = world.link.as_mut().unwrap().next() else {
        panic!()
    };
    for _ in 1..PACKET_IDS {
        world.mail.publish("other/x", &[], &[]);
        world.mail.take_changes();
    }
    world.publish(1);
    world.commit();
    assert!(world.link.as_mut().unwrap().next().is_none(), "its packet id is taken");
    world.connect();
    let Some(Delivery::Publish { pkid, dup: true, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    assert_eq!(pkid, held);
    assert!(world.link.as_mut().unwrap().next().is_none(), "and stays so");
    world.tell(Change::Done(first));
    let Some(Delivery::Publish { pkid, index, dup: false, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    assert_eq!((pkid, index - first), (held, PACKET_IDS));
}

/// One that leaves a letter unanswered gets no more when its packet id would come again, or too much is answered past
/// it; once it answers, it goes on.
#[test]
fn who_does_not_answer_waits() {
    let mut world = World::start(1, MailLimits::default());
    world.connect();
    world.publish(0);
    world.commit();
    let Some(Delivery::Publish { index: held, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    let mut seen = 0;
    for n in 1..2_000 {
        world.publish(n);
        world.commit();
        let Some(Delivery::Publish { index, .. }) = world.link.as_mut().unwrap().next() else { break };
        world.tell(Change::Done(index));
        seen += 1;
    }
    assert_eq!(seen, 1_000);
    world.tell(Change::Done(held));
    assert!(world.link.as_mut().unwrap().next().is_some());
}

/// A hundred who are away cost a message no more than one does.
#[test]
fn a_message_is_written_once_for_all() {
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    for n in 0..100 {
        let client: Arc<str> = format!("other-{n}").into();
        world.mail.change(&client, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&client, Change::Subscribed(vec![("t/#".into(), Grant { qos: 1, id: None })]));
    }
    world.commit();
    let before = world.disk.cells.len();
    for n in 0..50 {
        world.publish(n);
        assert_eq!(world.mail.take_changes().puts.len(), 1);
    }
    fill(&mut world, 50, 10);
    assert_eq!(world.disk.cells.len() - before, 10, "places are used again");
    assert_eq!(world.mail.mailboxes().stats().dropped.get(), 90 * 101);
}

/// Two filters of one session: a message that one of them lost is still delivered by the other, and not counted.
#[test]
fn what_another_filter_still_has_is_not_lost() {
    let mut world = World::start(2, MailLimits { messages_max: 3, ..MailLimits::default() });
    world.tell(Change::Subscribed(vec![("t/x".into(), Grant { qos: 1, id: None })]));
    world.commit();
    world.publish(1);
    for n in 0..3 {
        world.mail.publish("t/y", &[], &[n]);
    }
    world.commit();
    assert_eq!(world.mail.mailboxes().stats().dropped.get(), 0);
    world.connect();
    world.deliver();
    assert!(world.client.got.contains_key(&1));
}

/// What a waiting connection has to do with wakes: none is lost, and those who do not wait are left alone.
#[tokio::test]
async fn who_waits_is_woken() {
    let mut world = World::start(1, MailLimits::default());
    world.connect();
    assert!(world.link.as_mut().unwrap().next().is_none());
    world.publish(1);
    world.commit();
    world.link.as_ref().unwrap().woken().await;
    assert!(world.link.as_mut().unwrap().next().is_some());
    world.publish(2);
    world.commit();
    let idle = tokio::time::timeout(std::time::Duration::ZERO, world.link.as_ref().unwrap().woken()).await;
    assert!(idle.is_err(), "it did not say that it waits");
    assert!(world.link.as_mut().unwrap().next().is_some());
}

#[test]
fn cells_of_another_layout_are_taken_out() {
    let mut world = World::start(1, MailLimits::default());
    let cells = world.disk.cells.clone();
    for (key, value) in [(&b"lc\x0012345678"[..], &b"\x01"[..]), (b"m12345678", b"\0\x01t\0\0"), (b"?", b"")] {
        world.disk.cells.insert(key.to_vec(), value.to_vec());
    }
    world.crash(0);
    assert_eq!(world.disk.cells, cells);
    assert_eq!(world.mail.mailboxes().stats().restored.get(), 1);
}

/// A subscription begins with the message after it, also after a crash.
#[test]
fn new_subscribers_get_nothing_old() {
    let mut world = World::start(1, MailLimits::default());
    world.publish(1);
    world.commit();
    let late: Arc<str> = "late".into();
    world.mail.change(&late, Change::Open { owner: None, expiry_s: 60 });
    world.mail.change(&late, Change::Subscribed(vec![("t/#".into(), Grant { qos: 1, id: None })]));
    world.publish(2);
    world.commit();
    for _ in 0..2 {
        let mut link = world.mail.mailboxes().of("late").unwrap().attach();
        let Some(Delivery::Publish { message, .. }) = link.next() else { panic!() };
        assert_eq!(message.payload(), 2u32.to_be_bytes());
        assert!(link.next().is_none());
        world.crash(u64::MAX);
    }
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
fn who_does_not_take_qos_0_loses_the_oldest_counted() {
    let mut world = World::start(0, MailLimits::default());
    world.connect();
    fill(&mut world, 300, 10);
    let link = world.link.as_mut().unwrap();
    let got = std::iter::from_fn(|| link.next()).count() as u64;
    assert_eq!((got, got + world.mail.mailboxes().stats().dropped.get()), (100, 300));
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
