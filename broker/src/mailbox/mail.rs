//! The writer's end: who wants a message, and what must be written so that they get it.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::disk::{self, Cell, TABLE};
use super::letters::{Dropped, Letter, Mailbox, Message, Stage};
use super::{Change, FilterTree, Grant, Mailboxes, Restored};
use crate::ledger::{LedgerError, Put, Read};

/// What the steps since the last call come to.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the same commit as what caused them.
    pub puts: Vec<Put>,
    /// Some time later; may be lost with a crash.
    pub lazy: Vec<Put>,
}

/// Fills the mailboxes. Nothing that it was told is seen by a connection before [`Mail::committed`].
#[derive(Debug, Default)]
pub struct Mail {
    shared: Arc<Mailboxes>,
    sessions: HashMap<Arc<str>, Session>,
    /// Sessions by number, which is shorter in the tree.
    numbers: BTreeMap<u32, Arc<str>>,
    filters: FilterTree<u32, Grant>,
    next_session: u32,
    next_message: u64,
    changes: Changes,
    /// Mailboxes with letters of the open group.
    filled: Vec<Arc<Mailbox>>,
    /// Letters whose release is in the open group.
    releasing: Vec<(Arc<Mailbox>, u64)>,
    /// Used again for each message.
    wanting: Vec<(u32, Grant)>,
}

#[derive(Debug)]
struct Session {
    number: u32,
    mailbox: Arc<Mailbox>,
    filters: BTreeMap<String, Grant>,
}

impl Mail {
    /// Reads what the ledger has. Cells that a crash left behind without their counterpart are taken out.
    pub fn recover(ledger: &dyn Read) -> Result<Mail, LedgerError> {
        let mut found = Found::default();
        let mut damage = None;
        ledger.scan_prefix(TABLE, &[], &mut |key, value| match disk::read(key, value) {
            Ok(cell) => {
                found.add(cell, value);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match damage {
            Some(error) => Err(error),
            None => Ok(found.into_mail()),
        }
    }

    pub fn mailboxes(&self) -> Arc<Mailboxes> {
        self.shared.clone()
    }

    /// False if no message can matter to any session.
    pub fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// What must be written for all that was told since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// A message for everybody who wants it. `properties` are v5's, as they are sent.
    pub fn publish(&mut self, topic: &str, properties: &[u8], payload: &[u8]) {
        let Mail { filters, wanting, .. } = self;
        filters.each_match(topic, &mut |number, grant| wanting.push((number, *grant)));
        if self.wanting.is_empty() {
            return;
        }
        let mut wanting = std::mem::take(&mut self.wanting);
        wanting.sort_by_key(|(number, _)| *number);
        let limits = self.shared.limits();
        if topic.len() + properties.len() + payload.len() > limits.message_bytes_max {
            self.shared.stats.dropped.add(wanting.len() as u64);
        } else {
            let message = Arc::new(Message {
                number: self.next_message,
                body: disk::body(topic, properties, payload),
                letters: AtomicU32::new(0),
            });
            for grants in wanting.chunk_by(|a, b| a.0 == b.0) {
                self.deliver(&message, grants);
            }
            if message.letters.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                self.next_message += 1;
                self.changes.puts.push(disk::message(&message));
            }
        }
        wanting.clear();
        self.wanting = wanting;
    }

    /// One letter to one session, by the highest QoS of its subscriptions [MQTT-3.3.5-1].
    fn deliver(&mut self, message: &Arc<Message>, grants: &[(u32, Grant)]) {
        let Some(client) = grants.first().and_then(|(number, _)| self.numbers.get(number)).cloned() else { return };
        let Some(mailbox) = self.sessions.get(&client).map(|session| session.mailbox.clone()) else { return };
        let qos = grants.iter().map(|(_, grant)| grant.qos).max().unwrap_or(0);
        let ids: Box<[u32]> = grants.iter().filter_map(|(_, grant)| grant.id).collect();
        let mut dropped = Vec::new();
        let index = mailbox.push(message, qos, ids.clone(), &self.shared.limits(), &mut dropped);
        if !dropped.is_empty() {
            self.filled.push(mailbox.clone());
        }
        for dropped in dropped {
            if let Dropped::Released { index, .. } = &dropped {
                self.releasing.push((mailbox.clone(), *index));
            }
            self.write_off(&client, dropped);
        }
        let Some(index) = index else { return };
        if qos > 0 {
            message.add_letter();
            self.changes.puts.push(disk::letter(&client, index, qos, message.number, &ids));
        }
        self.filled.push(mailbox);
    }

    pub fn change(&mut self, client: &Arc<str>, change: Change) {
        if let Change::Open { owner, expiry_s } = change {
            self.changes.puts.push(disk::session(client, owner.as_deref(), expiry_s));
            return self.open(client);
        }
        // A connection speaks of its session only while it has one.
        let Some(session) = self.sessions.get_mut(client) else { return };
        match change {
            Change::Open { .. } => {}
            Change::Subscribed(filters) => {
                for (filter, grant) in filters {
                    self.filters.insert(&filter, session.number, grant);
                    self.changes.puts.push(disk::filter(client, &filter, grant));
                    session.filters.insert(filter, grant);
                }
            }
            Change::Unsubscribed(filters) => {
                for filter in filters {
                    self.filters.remove(&filter, session.number);
                    self.changes.puts.push(disk::no_filter(client, &filter));
                    session.filters.remove(&filter);
                }
            }
            Change::Received(index) => {
                if session.mailbox.may_release(index) {
                    self.changes.puts.push(disk::released(client, index));
                    self.releasing.push((session.mailbox.clone(), index));
                }
            }
            Change::Done(index) => {
                if let Some(dropped) = session.mailbox.remove(index) {
                    self.write_off(client, dropped);
                }
            }
        }
    }

    /// The session is over. Not lazily: a session that starts anew uses the same keys.
    pub fn forget(&mut self, client: &str) {
        let Some(Session { number, mailbox, filters }) = self.sessions.remove(client) else { return };
        self.numbers.remove(&number);
        self.shared.by_client.lock().unwrap_or_else(PoisonError::into_inner).remove(client);
        self.shared.stats.sessions.set(self.sessions.len() as u64);
        self.changes.puts.push(disk::no_session(client));
        for filter in filters.keys() {
            self.filters.remove(filter, number);
            self.changes.puts.push(disk::no_filter(client, filter));
        }
        for dropped in mailbox.remove_all() {
            let Dropped::Gone { index, message } = dropped else { continue };
            self.changes.puts.push(disk::no_letter(client, index));
            self.put_away(message);
        }
    }

    /// All that was told is on disk: connections may see it.
    pub fn committed(&mut self) {
        for (mailbox, index) in std::mem::take(&mut self.releasing) {
            let message = mailbox.release(index);
            self.put_away(message);
        }
        for mailbox in self.filled.drain(..) {
            mailbox.committed();
        }
    }

    fn open(&mut self, client: &Arc<str>) {
        if !self.sessions.contains_key(client) {
            self.add(client, Vec::new(), 1, BTreeMap::new());
        }
    }

    fn add(&mut self, client: &Arc<str>, letters: Vec<Letter>, next: u64, filters: BTreeMap<String, Grant>) {
        let number = self.next_session;
        // Wraps after 4 billion sessions of one life; those that are still there keep their numbers.
        self.next_session = (1..=u32::MAX)
            .map(|step| number.wrapping_add(step))
            .find(|number| !self.numbers.contains_key(number))
            .unwrap_or(number);
        for (filter, grant) in &filters {
            self.filters.insert(filter, number, *grant);
        }
        let mailbox = Arc::new(Mailbox::new(self.shared.stats.clone(), letters, next));
        self.numbers.insert(number, client.clone());
        let by_client = &self.shared.by_client;
        by_client.lock().unwrap_or_else(PoisonError::into_inner).insert(client.clone(), mailbox.clone());
        self.sessions.insert(client.clone(), Session { number, mailbox, filters });
        self.shared.stats.sessions.set(self.sessions.len() as u64);
    }

    /// That a letter is gone may be lost with a crash: then it comes again, and goes again.
    fn write_off(&mut self, client: &str, dropped: Dropped) {
        let message = match dropped {
            Dropped::Gone { index, message } => {
                self.changes.lazy.push(disk::no_letter(client, index));
                message
            }
            Dropped::Released { index, message } => {
                self.changes.puts.push(disk::released(client, index));
                Some(message)
            }
        };
        self.put_away(message);
    }

    fn put_away(&mut self, message: Option<Arc<Message>>) {
        if let Some(message) = message.filter(|message| message.remove_letter()) {
            self.changes.lazy.push(disk::no_message(message.number));
        }
    }
}

/// The table's content, before it is put together.
#[derive(Default)]
struct Found {
    sessions: BTreeMap<Arc<str>, (Option<Arc<str>>, u32)>,
    filters: BTreeMap<Arc<str>, BTreeMap<String, Grant>>,
    letters: BTreeMap<Arc<str>, Vec<(u64, Option<disk::Stored>)>>,
    messages: BTreeMap<u64, Arc<Message>>,
}

impl Found {
    fn add(&mut self, cell: Cell<'_>, value: &[u8]) {
        match cell {
            Cell::Filter { client, filter, grant } => {
                self.filters.entry(client.into()).or_default().insert(filter.to_owned(), grant);
            }
            Cell::Letter { client, index, of } => self.letters.entry(client.into()).or_default().push((index, of)),
            Cell::Message { number } => {
                let body = Bytes::copy_from_slice(value);
                self.messages.insert(number, Arc::new(Message { number, body, letters: AtomicU32::new(0) }));
            }
            Cell::Session { client, owner, expiry_s } => {
                self.sessions.insert(client.into(), (owner.map(Arc::from), expiry_s));
            }
        }
    }

    fn into_mail(mut self) -> Mail {
        // Nothing that a cell still names is given to another, also if that cell is about to go.
        let named = self.letters.values().flatten().filter_map(|(_, of)| of.as_ref().map(|of| of.number));
        let newest = named.chain(self.messages.keys().copied()).max().unwrap_or(0);
        let mut mail = Mail { next_message: newest + 1, ..Mail::default() };
        let mut restored = Vec::new();
        for (client, (owner, expiry_s)) in std::mem::take(&mut self.sessions) {
            let filters = self.filters.remove(&client).unwrap_or_default();
            let letters = self.letters.remove(&client).unwrap_or_default();
            let next = letters.last().map_or(1, |(index, _)| index + 1);
            let letters = letters.into_iter().filter_map(|(index, of)| {
                let letter = self.letter(index, of);
                if letter.is_none() {
                    mail.changes.puts.push(disk::no_letter(&client, index));
                }
                letter
            });
            let letters = letters.collect();
            mail.add(&client, letters, next, filters.clone());
            restored.push(Restored { client, owner, expiry_s, filters });
        }
        mail.shared.stats.restored.set(restored.len() as u64);
        *mail.shared.restored.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        let lost_filters = self.filters.iter().flat_map(|(c, filters)| filters.keys().map(|f| disk::no_filter(c, f)));
        mail.changes.puts.extend(lost_filters);
        let lost_letters =
            self.letters.iter().flat_map(|(c, letters)| letters.iter().map(|(i, _)| disk::no_letter(c, *i)));
        mail.changes.puts.extend(lost_letters);
        let unused = self.messages.values().filter(|message| Arc::strong_count(message) == 1);
        mail.changes.puts.extend(unused.map(|message| disk::no_message(message.number)));
        mail
    }

    /// A message goes only after all of its letters were done: one that lacks it is done, which for QoS 2 still wants
    /// its PUBREL.
    fn letter(&self, index: u64, of: Option<disk::Stored>) -> Option<Letter> {
        let released = Letter { index, qos: 2, ids: Box::default(), stage: Stage::Released };
        let Some(disk::Stored { qos, number, ids }) = of else { return Some(released) };
        match self.messages.get(&number) {
            Some(message) => {
                message.add_letter();
                Some(Letter { index, qos, ids, stage: Stage::Sent(message.clone()) })
            }
            None => (qos == 2).then_some(released),
        }
    }
}
