//! What the table says at the start, put together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::disk::{self, Cell, Place, Progress, TABLE};
use super::mail::Mail;
use super::office::lock;
use super::page::Page;
use super::{Grant, Restored};
use crate::ledger::{LedgerError, Put, Read};

#[derive(Default)]
struct Found {
    sessions: BTreeMap<Arc<str>, (Option<Arc<str>>, u32)>,
    filters: BTreeMap<Arc<str>, BTreeMap<String, (Grant, u64)>>,
    progress: BTreeMap<Arc<str>, Progress>,
    /// By slot: the value, and what is where in it.
    pages: BTreeMap<u32, (Bytes, Vec<(u64, Place)>)>,
    /// Removes what cannot be read or has lost its counterpart.
    lost: Vec<Put>,
}

impl Mail {
    /// Reads what the ledger has. Cells that a crash left behind without their counterpart are taken out.
    pub fn recover(ledger: &dyn Read) -> Result<Mail, LedgerError> {
        let mut found = Found::default();
        ledger.scan_prefix(TABLE, &[], &mut |key, value| {
            match disk::read(key, value) {
                Some(cell) => found.add(cell),
                None => {
                    tracing::warn!(key = %key.escape_ascii(), "a mailbox's cell cannot be read: dropped");
                    found.lost.push(disk::nothing(key));
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.into_mail())
    }
}

impl Found {
    fn add(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Filter { client, filter, grant, from } => {
                self.filters.entry(client.into()).or_default().insert(filter.to_owned(), (grant, from));
            }
            Cell::Progress { client, progress } => drop(self.progress.insert(client.into(), progress)),
            Cell::Session { client, owner, expiry_s } => {
                self.sessions.insert(client.into(), (owner.map(Arc::from), expiry_s));
            }
            Cell::Page { slot, page, letters } => drop(self.pages.insert(slot, (page, letters))),
        }
    }

    /// Nothing that a cell names is given to another message, also if that cell is about to go.
    fn newest(&self) -> u64 {
        let froms = self.filters.values().flat_map(BTreeMap::values).map(|(_, from)| *from);
        let progress = self
            .progress
            .values()
            .flat_map(|progress| progress.done.iter().chain(&progress.released).copied().chain([progress.floor]));
        let messages = self.pages.values().flat_map(|(_, letters)| letters).map(|(number, _)| *number);
        messages.chain(froms).chain(progress).max().unwrap_or(0)
    }

    fn into_mail(mut self) -> Mail {
        let mut mail = Mail::starting_at(self.newest() + 1);
        let mut restored = Vec::new();
        for (client, (owner, expiry_s)) in std::mem::take(&mut self.sessions) {
            let filters = self.filters.remove(&client).unwrap_or_default();
            let progress = self.progress.remove(&client).unwrap_or_default();
            mail.put_back(&client, progress, &filters);
            let filters = filters.into_iter().map(|(filter, (grant, _))| (filter, grant)).collect();
            restored.push(Restored { client, owner, expiry_s, filters });
        }
        let shared = mail.mailboxes();
        shared.stats.restored.set(restored.len() as u64);
        *shared.restored.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        let mut puts = self.lost;
        let filters = self.filters.iter().flat_map(|(c, filters)| filters.keys().map(|f| disk::no_filter(c, f)));
        puts.extend(filters.chain(self.progress.keys().map(|client| disk::no_progress(client))));
        let used = mail.put_back_pages(self.pages, &mut puts);
        lock(&shared.office).slots.restore(&used);
        mail.committed();
        mail.write(puts);
        mail
    }
}

impl Mail {
    /// Gives back the places of those of which something is wanted.
    fn put_back_pages(&self, pages: BTreeMap<u32, (Bytes, Vec<(u64, Place)>)>, lost: &mut Vec<Put>) -> BTreeSet<u32> {
        let shared = self.mailboxes();
        let mut office = lock(&shared.office);
        let (mut messages, mut all) = (BTreeMap::new(), Vec::new());
        for (slot, (bytes, letters)) in pages {
            let topics = letters.iter().filter_map(|(_, at)| disk::topic(at.of(&bytes)));
            let page = Page::new(Some(slot), bytes.clone(), self.rings_of(topics));
            messages.extend(letters.into_iter().map(|(number, at)| (number, page.message(number, at))));
            all.push(page);
        }
        messages.values().for_each(|message| office.put_back(message));
        let (used, unused): (Vec<_>, Vec<_>) = all.into_iter().partition(|page| office.let_page_go(page));
        lost.extend(unused.iter().filter_map(|page| page.slot).map(disk::no_page));
        used.iter().filter_map(|page| page.slot).collect()
    }
}
