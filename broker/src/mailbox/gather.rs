//! What the open group has for rings: encoded as it will be on disk, by the rings that want it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::MailLimits;
use super::disk;
use super::page::cost;
use super::ring::{LIVE_BYTES_MAX, LIVE_MAX};

/// A page is closed at this size. Small, since it stays as long as one of its messages does, and far below what the
/// state takes as one value; a longer message has a page of its own.
const PAGE_BYTES_MAX: usize = 16 << 10;

/// Buffers of pages that are kept for the next ones.
const SPARE_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Gathered {
    sheaves: Vec<Sheaf>,
    by_rings: HashMap<Arc<[u64]>, usize>,
    /// The sheaf that was added to last: most often the next one, too.
    last: usize,
    bytes: usize,
    /// Of pages that were skipped: the next one's is warm.
    spare: Vec<Vec<u8>>,
}

/// Messages for the same rings, in order.
#[derive(Debug)]
pub(super) struct Sheaf {
    pub(super) rings: Arc<[u64]>,
    pub(super) pages: VecDeque<Draft>,
    letters: usize,
    cost: usize,
    /// How many of its oldest are gone already: there are newer ones enough to fill every ring.
    pub(super) skipped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) bytes: Vec<u8>,
    letters: usize,
    cost: usize,
}

/// A message as it was published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter<'a> {
    pub(super) topic: &'a str,
    pub(super) properties: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Letter<'_> {
    pub(super) fn bytes(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.sheaves.is_empty()
    }

    /// Of all letters.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, rings: &[u64], number: u64, body: &[u8], limits: &MailLimits) {
        let at = self.sheaf_of(rings);
        let sheaf = &mut self.sheaves[at];
        self.bytes += sheaf.add(number, body, &mut self.spare);
        self.bytes -= sheaf.trim(limits, &mut self.spare);
    }

    pub(super) fn take(&mut self) -> Vec<Sheaf> {
        let spare = std::mem::take(&mut self.spare);
        std::mem::replace(self, Gathered { spare, ..Gathered::default() }).sheaves
    }

    fn sheaf_of(&mut self, rings: &[u64]) -> usize {
        if self.sheaves.get(self.last).is_none_or(|sheaf| *sheaf.rings != *rings) {
            self.last = self.by_rings.get(rings).copied().unwrap_or_else(|| {
                let rings: Arc<[u64]> = rings.into();
                self.by_rings.insert(rings.clone(), self.sheaves.len());
                self.sheaves.push(Sheaf::new(rings));
                self.sheaves.len() - 1
            });
        }
        self.last
    }
}

impl Sheaf {
    fn new(rings: Arc<[u64]>) -> Sheaf {
        Sheaf { rings, pages: VecDeque::new(), letters: 0, cost: 0, skipped: 0 }
    }

    /// Gives back by how many bytes its pages grew.
    fn add(&mut self, number: u64, body: &[u8], spare: &mut Vec<Vec<u8>>) -> usize {
        let (bytes, cost) = (disk::letter_bytes(body), cost(body.len()));
        if self.pages.back().is_none_or(|page| page.bytes.len() + bytes > PAGE_BYTES_MAX) {
            // The first one is most often the only one.
            let room = if self.pages.is_empty() { bytes } else { PAGE_BYTES_MAX.max(bytes) };
            let bytes = spare.pop().unwrap_or_else(|| disk::begin_page(room));
            self.pages.push_back(Draft { bytes, letters: 0, cost: 0 });
        }
        if let Some(page) = self.pages.back_mut() {
            disk::write_letter(number, body, &mut page.bytes);
            (page.letters, page.cost) = (page.letters + 1, page.cost + cost);
        }
        (self.letters, self.cost) = (self.letters + 1, self.cost + cost);
        bytes
    }

    /// Forgets what no ring would have at the end of the group. Gives back how many bytes that were.
    fn trim(&mut self, limits: &MailLimits, spare: &mut Vec<Vec<u8>>) -> usize {
        let (letters_max, cost_max) = (limits.messages_max.max(LIVE_MAX), limits.bytes_max.max(LIVE_BYTES_MAX));
        let mut gone = 0;
        while self.pages.len() > 1 {
            let oldest = &self.pages[0];
            if self.letters - oldest.letters < letters_max && self.cost - oldest.cost < cost_max {
                break;
            }
            (self.letters, self.cost) = (self.letters - oldest.letters, self.cost - oldest.cost);
            self.skipped += oldest.letters as u64;
            gone += oldest.bytes.len() - disk::EMPTY_PAGE_BYTES;
            let page = self.pages.pop_front().map(|page| page.bytes);
            spare.extend(page.filter(|_| spare.len() < SPARE_MAX).map(disk::empty_page));
        }
        gone
    }
}
