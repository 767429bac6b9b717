//! The messages of one filter, for all persistent sessions that have it.

use std::collections::{BTreeSet, VecDeque};

use super::MailLimits;
use super::letters::Message;

/// What is held for those who subscribed at QoS 0 and are there: beyond it the oldest goes.
pub(super) const LIVE_MAX: usize = 100;
pub(super) const LIVE_BYTES_MAX: usize = 64 << 10;
/// The same for all rings: beyond it a ring's own oldest goes, and at last the new one.
const LIVE_BYTES_TOTAL_MAX: usize = 4 << 20;

/// Sessions come and go at their own pace; none of them holds a message of its own.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) filter: String,
    /// Sessions with this filter, at any QoS.
    pub(super) users: usize,
    /// Those that want QoS 1 or 2.
    pub(super) members: BTreeSet<u64>,
    /// By number. None of them is done for everybody.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Sessions that were told that there is nothing more. No others are woken.
    pub(super) waiters: BTreeSet<u64>,
    /// Something of the open group is in it.
    pub(super) filled: bool,
    /// Connected sessions that have it at QoS 0.
    readers: usize,
    live: VecDeque<Message>,
    live_bytes: usize,
    /// How many were put into `live` ever.
    live_end: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    /// Members that are not done with it.
    pub(super) left: usize,
}

impl Ring {
    pub(super) fn new(filter: &str) -> Ring {
        Ring {
            filter: filter.to_owned(),
            users: 0,
            members: BTreeSet::new(),
            entries: VecDeque::new(),
            bytes: 0,
            waiters: BTreeSet::new(),
            filled: false,
            readers: 0,
            live: VecDeque::new(),
            live_bytes: 0,
            live_end: 0,
        }
    }

    pub(super) fn is_full(&self, cost: usize, limits: &MailLimits) -> bool {
        !self.entries.is_empty() && (self.entries.len() >= limits.messages_max || self.bytes + cost > limits.bytes_max)
    }

    pub(super) fn push(&mut self, message: &Message, left: usize) {
        debug_assert!(left > 0 && self.entries.back().is_none_or(|last| last.message.number < message.number));
        self.bytes += message.cost();
        self.entries.push_back(Entry { message: message.clone(), left });
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.message.number)
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.message.cost();
        Some(entry)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Message> {
        self.at(number).map(|at| &self.entries[at].message)
    }

    /// From `number` on.
    pub(super) fn from(&self, number: u64) -> impl Iterator<Item = &Message> {
        let at = self.entries.partition_point(|entry| entry.message.number < number);
        self.entries.range(at..).map(|entry| &entry.message)
    }

    /// One member is done with it. Gives back the message once all are.
    pub(super) fn done(&mut self, number: u64) -> Option<Message> {
        let at = self.at(number)?;
        let entry = &mut self.entries[at];
        entry.left -= 1;
        if entry.left > 0 {
            return None;
        }
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.message.cost();
        Some(entry.message)
    }

    pub(super) fn add_reader(&mut self) -> u64 {
        self.readers += 1;
        self.live_end
    }

    /// `total` are the bytes that all rings hold for readers.
    pub(super) fn remove_reader(&mut self, total: &mut usize) {
        self.readers -= 1;
        while self.readers == 0 && self.forget_live(total) {}
    }

    pub(super) fn has_readers(&self) -> bool {
        self.readers > 0
    }

    pub(super) fn push_live(&mut self, message: &Message, total: &mut usize) {
        // Readers count what they miss from it.
        self.live_end += 1;
        self.live.push_back(message.clone());
        self.live_bytes += message.cost();
        *total += message.cost();
        while self.live.len() > LIVE_MAX
            || (self.live_bytes > LIVE_BYTES_MAX && self.live.len() > 1)
            || (*total > LIVE_BYTES_TOTAL_MAX && !self.live.is_empty())
        {
            self.forget_live(total);
        }
    }

    /// So many came and went before the next one.
    pub(super) fn skip_live(&mut self, skipped: u64, total: &mut usize) {
        while skipped > 0 && self.forget_live(total) {}
        self.live_end += skipped;
    }

    fn forget_live(&mut self, total: &mut usize) -> bool {
        let Some(oldest) = self.live.pop_front() else { return false };
        self.live_bytes -= oldest.cost();
        *total -= oldest.cost();
        true
    }

    /// The message at a reader's place above `cursor`, after moving the place over those that are below it. Adds to
    /// `lost` what went before it was read.
    pub(super) fn live(&self, seen: &mut u64, cursor: u64, lost: &mut u64) -> Option<&Message> {
        let first = self.live_end - self.live.len() as u64;
        *lost += first.saturating_sub(*seen);
        *seen = first.max(*seen);
        let rest = self.live.range((*seen - first) as usize..);
        *seen += rest.take_while(|message| message.number <= cursor).count() as u64;
        self.live.get((*seen - first) as usize)
    }

    fn at(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.message.number).ok()
    }
}
