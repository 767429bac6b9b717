//! The writer's end: who wants a message, and what must be written so that they get it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{self, Packer, Progress};
use super::gather::{Gathered, Letter};
use super::letters::Mailbox;
use super::office::lock;
use super::{Change, FilterTree, Grant, Mailboxes};
use crate::ledger::Put;

/// What the steps since the last call come to.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the same commit as what caused them.
    pub puts: Vec<Put>,
    /// Some time later; may be lost with a crash.
    pub lazy: Vec<Put>,
}

/// Fills the rings. Nothing that it was told is seen by a connection before [`Mail::committed`].
#[derive(Debug)]
pub struct Mail {
    shared: Arc<Mailboxes>,
    /// Rings by filter.
    filters: FilterTree<u64, ()>,
    /// How often they changed.
    changes: u64,
    /// Messages of the open group.
    gathered: Gathered,
    /// The number of the next message.
    next: u64,
    packer: Packer,
    puts: Vec<Put>,
    /// What may be written some time is gathered once a group: most of it has cancelled out by then.
    gather: bool,
    /// Used again for each message: one that waits for its verdict, and the node's own.
    held: Held,
    own: Held,
}

/// A message and who wants it.
#[derive(Debug, Default)]
struct Held {
    /// Whose rings these are, and of which state of the filters: a client's messages come in a row.
    topic: String,
    filters: u64,
    rings: Vec<u64>,
    /// As it will be on disk. Empty if it is too long to be kept.
    body: Vec<u8>,
}

impl Default for Mail {
    fn default() -> Mail {
        Mail::starting_at(1)
    }
}

impl Mail {
    /// `next` is the number of the next message.
    pub(super) fn starting_at(next: u64) -> Mail {
        let shared = Arc::new(Mailboxes::default());
        let mut office = lock(&shared.office);
        (office.next, office.restored) = (next, next - 1);
        office.stats = shared.stats.clone();
        drop(office);
        Mail {
            shared,
            filters: FilterTree::default(),
            changes: 1,
            gathered: Gathered::default(),
            next,
            packer: Packer::new(),
            puts: Vec::new(),
            gather: false,
            held: Held::default(),
            own: Held::default(),
        }
    }

    pub fn mailboxes(&self) -> Arc<Mailboxes> {
        self.shared.clone()
    }

    /// False if no message can matter to any session.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// What must be written for all that was told since the last call, but for messages.
    pub fn take_changes(&mut self) -> Changes {
        let lazy = if std::mem::take(&mut self.gather) { lock(&self.shared.office).lazy() } else { Vec::new() };
        Changes { puts: std::mem::take(&mut self.puts), lazy }
    }

    /// Keeps a message at hand until it is known whether anybody may see it. False if nobody wants it. `properties` are
    /// v5's, as they are sent.
    pub fn hold(&mut self, topic: &str, properties: &[u8], payload: &[u8]) -> bool {
        let mut held = std::mem::take(&mut self.held);
        let wanted = self.look_up(&mut held, &Letter { topic, properties, payload });
        self.held = held;
        wanted
    }

    /// The message that is held goes to everybody who wants it.
    pub fn publish_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.gather(&held);
        self.held = held;
    }

    /// A message for everybody who wants it.
    pub fn publish(&mut self, topic: &str, properties: &[u8], payload: &[u8]) {
        let mut own = std::mem::take(&mut self.own);
        if self.look_up(&mut own, &Letter { topic, properties, payload }) {
            self.gather(&own);
        }
        self.own = own;
    }

    fn look_up(&self, held: &mut Held, letter: &Letter<'_>) -> bool {
        if held.filters != self.changes || held.topic != letter.topic {
            held.rings.clear();
            self.filters.each_match(letter.topic, &mut |ring, ()| held.rings.push(ring));
            held.topic.clear();
            held.topic.push_str(letter.topic);
            held.filters = self.changes;
        }
        if held.rings.is_empty() {
            return false;
        }
        held.body.clear();
        if letter.bytes() <= self.shared.limits().message_bytes_max {
            disk::write_body(letter, &mut held.body);
        }
        true
    }

    fn gather(&mut self, held: &Held) {
        if held.body.is_empty() {
            lock(&self.shared.office).refuse(&held.rings);
            return;
        }
        self.gathered.add(&held.rings, self.next, &held.body, &self.shared.limits());
        self.next += 1;
    }

    /// Bytes of the messages that wait for [`Mail::close_group`].
    pub fn gathered_bytes(&self) -> usize {
        self.gathered.bytes()
    }

    /// The group is about to be written: the messages that came since are now among the changes.
    pub fn close_group(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let limits = self.shared.limits();
        let mut office = lock(&self.shared.office);
        office.next = self.next;
        let pages = office.take_in(self.gathered.take(), &limits, &mut self.puts);
        drop(office);
        let Mail { puts, packer, .. } = self;
        puts.extend(pages.iter().filter_map(|page| Some(packer.page(page.slot?, &page.bytes))));
    }

    pub fn change(&mut self, client: &Arc<str>, change: Change) {
        if let Change::Open { owner, expiry_s } = change {
            self.puts.push(disk::session(client, owner.as_deref(), expiry_s));
            self.open(client);
            return;
        }
        if matches!(change, Change::Subscribed(_) | Change::Unsubscribed(_)) {
            // What came before is for those who had a filter then.
            self.close_group();
            self.changes += 1;
        }
        let shared = self.shared.clone();
        let mut office = lock(&shared.office);
        // A connection speaks of its session only while it has one.
        let Some(id) = office.id(client) else { return };
        match change {
            Change::Open { .. } => {}
            Change::Received(number) => office.received(id, number, &mut self.puts),
            Change::Done(number) => office.done(id, number, &mut self.puts),
            Change::Subscribed(filters) => {
                for (filter, grant) in filters {
                    let from = office.regrant(id, &filter, grant).unwrap_or_else(|| {
                        if let Some(ring) = office.unsubscribe(id, &filter, &mut self.puts) {
                            self.filters.remove(&filter, ring);
                        }
                        let from = office.next;
                        if let Some((ring, true)) = office.subscribe(id, &filter, grant, from) {
                            self.filters.insert(&filter, ring, ());
                        }
                        from
                    });
                    self.puts.push(disk::filter(client, &filter, grant, from));
                }
            }
            Change::Unsubscribed(filters) => {
                for filter in filters {
                    if let Some(ring) = office.unsubscribe(id, &filter, &mut self.puts) {
                        self.filters.remove(&filter, ring);
                    }
                    self.puts.push(disk::no_filter(client, &filter));
                }
            }
        }
    }

    /// The session is over. Not lazily: a session that starts anew uses the same keys.
    pub fn forget(&mut self, client: &str) {
        self.close_group();
        self.changes += 1;
        let mut office = lock(&self.shared.office);
        let Some(id) = office.id(client) else { return };
        self.puts.push(disk::no_session(client));
        self.puts.push(disk::no_progress(client));
        if let Some(session) = office.sessions.get(&id) {
            self.puts.extend(session.filters.keys().map(|filter| disk::no_filter(client, filter)));
        }
        let mut gone = Vec::new();
        office.close(id, &mut gone);
        for (filter, ring) in gone {
            self.filters.remove(&filter, ring);
        }
    }

    /// All that was told is on disk: connections may see it.
    pub fn committed(&mut self) {
        lock(&self.shared.office).committed();
        self.gather = true;
    }

    fn open(&mut self, client: &Arc<str>) {
        let mut office = lock(&self.shared.office);
        if office.id(client).is_none() {
            office.open(client, |id| Mailbox::new(id, self.shared.office.clone()));
        }
    }

    pub(super) fn put_back(&mut self, client: &Arc<str>, progress: Progress, filters: &BTreeMap<String, (Grant, u64)>) {
        self.open(client);
        self.changes += 1;
        let mut office = lock(&self.shared.office);
        let Some(id) = office.id(client) else { return };
        if let Some(session) = office.sessions.get_mut(&id) {
            session.restore(progress);
        }
        for (filter, (grant, from)) in filters {
            if let Some((ring, true)) = office.subscribe(id, filter, *grant, *from) {
                self.filters.insert(filter, ring, ());
            }
        }
    }

    /// The rings of all these topics.
    pub(super) fn rings_of<'a>(&self, topics: impl Iterator<Item = &'a str>) -> Arc<[u64]> {
        let mut rings = BTreeSet::new();
        for topic in topics {
            self.filters.each_match(topic, &mut |ring, ()| {
                rings.insert(ring);
            });
        }
        rings.into_iter().collect()
    }

    pub(super) fn write(&mut self, puts: Vec<Put>) {
        self.puts.extend(puts);
    }
}
