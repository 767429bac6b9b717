//! The down-feed: what changed, only the latest entry of each key, in commit order. A gateway follows streams of it:
//! the registers, what earlier lives of its own ledger left, and other sites' stock if it wants to. Rebuilt from the
//! state at every start; 100 bytes or so a register. What there is of stock, `stock.rs` knows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::{Bound, ControlFlow};

use prost::Message;
use proto::id::{ReplicaId, SiteName};
use proto::wire::{Feed, FeedEntry, RegisterCell, StockEntry};

use super::rights::Pools;
use super::stock::Stock;
use super::tables::{HUB, HUB_FORGOTTEN, REGISTER, decode};
use crate::ledger::{LedgerError, Read};

/// What one message carries at most, but for one entry or position more. A register has 40 KiB at most, an entry of stock
/// 110 bytes. Entries of one position stay together: a site's chunk has about a thousand, and never more than
/// `SITE_CHUNK_TOTALS_MAX`. So a message has 96 KiB of registers at most, or 480 KiB of stock; a gateway reads 1 MiB.
pub(super) const ENTRIES_MAX: usize = 200;
pub(super) const BYTES_MAX: usize = 48 << 10;

/// What a gateway may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stream {
    Registers,
    /// What earlier lives of this site's ledger left.
    Own,
    /// Another site's stock.
    Site(SiteName),
    /// Every other site's stock.
    Sites,
    /// This life's rights, and which items are sold from a pool. `rights/pools.rs` knows them.
    Rights,
}

impl Stream {
    pub(super) fn named(name: &str) -> Option<Stream> {
        match name {
            "" => Some(Stream::Registers),
            "own" => Some(Stream::Own),
            "sites" => Some(Stream::Sites),
            "rights" => Some(Stream::Rights),
            name => name.strip_prefix("site/")?.parse().ok().map(Stream::Site),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Stream::Registers => String::new(),
            Stream::Own => "own".into(),
            Stream::Sites => "sites".into(),
            Stream::Rights => "rights".into(),
            Stream::Site(site) => format!("site/{site}"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct FeedIndex {
    by_position: BTreeMap<u64, String>,
    position_of: HashMap<String, u64>,
    /// The highest position of a tombstone that was forgotten.
    pub(super) forgotten: u64,
    pub(super) stock: Stock,
}

impl FeedIndex {
    pub(super) fn rebuild(ledger: &dyn Read) -> Result<FeedIndex, LedgerError> {
        let forgotten = ledger.get(HUB, HUB_FORGOTTEN)?.map_or(0, |bytes| number(&bytes));
        let stock = Stock::rebuild(ledger)?;
        let (mut index, mut damaged) = (FeedIndex { forgotten, stock, ..FeedIndex::default() }, None);
        ledger.scan_prefix(REGISTER, &[], &mut |key, value| match decode::<RegisterCell>(REGISTER, value) {
            Ok(cell) => {
                index.changed(&String::from_utf8_lossy(key), cell.feed_position);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damaged = Some(error);
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(index), Err)
    }

    /// A register changed.
    pub(super) fn changed(&mut self, key: &str, position: u64) {
        if let Some(old) = self.position_of.insert(key.to_owned(), position) {
            self.by_position.remove(&old);
        }
        self.by_position.insert(position, key.to_owned());
    }

    /// A deleted register is gone for good.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some(position) = self.position_of.remove(key) {
            self.by_position.remove(&position);
            self.forgotten = self.forgotten.max(position);
        }
    }

    /// Registers that last changed after one position and up to another.
    pub(super) fn registers_between(&self, after: u64, upto: u64) -> impl Iterator<Item = (u64, &str)> {
        let range = (Bound::Excluded(after), Bound::Included(upto.max(after)));
        self.by_position.range(range).map(|(position, key)| (*position, key.as_str()))
    }

    /// The newest position of the registers; nothing comes after it.
    pub(super) fn registers_head(&self) -> u64 {
        self.by_position.last_key_value().map_or(0, |(position, _)| *position).max(self.forgotten)
    }

    /// The newest position of all streams of this kind; nothing comes after it.
    pub(super) fn head(&self, stream: &Stream, pools: &Pools) -> u64 {
        match stream {
            Stream::Registers => self.registers_head(),
            Stream::Own | Stream::Site(_) | Stream::Sites => self.stock.head,
            Stream::Rights => pools.head(),
        }
    }

    /// What comes after `cursor`, as much as fits in one message. `None` if nothing does. `to` is the life that asks.
    pub(super) fn after(
        &self,
        stream: &Stream,
        to: &ReplicaId,
        cursor: u64,
        pools: &Pools,
        ledger: &dyn Read,
    ) -> Result<Option<Feed>, LedgerError> {
        let feed = match stream {
            Stream::Rights => pools.after(to, cursor),
            Stream::Registers => self.registers_after(cursor, ledger)?,
            Stream::Own => {
                let lives = self.stock.lives_of(&to.site).filter(|(life, _)| life.epoch != to.epoch);
                stock_after(&self.stock, lives, cursor)
            }
            Stream::Site(site) => stock_after(&self.stock, self.stock.lives_of(site), cursor),
            Stream::Sites => {
                let lives = self.stock.lives().filter(|(life, _)| life.site != to.site);
                stock_after(&self.stock, lives, cursor)
            }
        };
        Ok((feed.upto > cursor).then(|| Feed { stream: stream.name(), ..feed }))
    }

    /// Position of the newest entry of the stream `own` of this life.
    pub(super) fn own_head(&self, to: &ReplicaId) -> u64 {
        let lives = self.stock.lives_of(&to.site).filter(|(life, _)| life.epoch != to.epoch);
        lives.map(|(_, life)| self.stock.head_of(life)).max().unwrap_or(0)
    }

    fn registers_after(&self, cursor: u64, ledger: &dyn Read) -> Result<Feed, LedgerError> {
        let mut feed = Feed { prev: cursor, upto: cursor, ..Feed::default() };
        let mut bytes = 0;
        for (position, key) in self.by_position.range((Bound::Excluded(cursor), Bound::Unbounded)) {
            if feed.entries.len() == ENTRIES_MAX || bytes > BYTES_MAX {
                break;
            }
            feed.upto = *position;
            let Some(value) = ledger.get(REGISTER, key.as_bytes())? else { continue };
            let entry = FeedEntry { key: key.clone(), state: decode::<RegisterCell>(REGISTER, &value)?.state };
            bytes += entry.encoded_len();
            feed.entries.push(entry);
        }
        Ok(feed)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// Merges the lives by position.
fn stock_after<'a>(stock: &'a Stock, lives: impl Iterator<Item = (&'a ReplicaId, u32)>, cursor: u64) -> Feed {
    let mut feed = Feed { prev: cursor, upto: cursor, ..Feed::default() };
    let mut sources: Vec<_> =
        lives.map(|(replica, life)| (replica, life, stock.after(life, cursor).peekable())).collect();
    let mut next: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    for (n, (_, _, moves)) in sources.iter_mut().enumerate() {
        next.extend(moves.peek().map(|(position, ..)| Reverse((*position, n))));
    }
    while let Some(Reverse((position, n))) = next.pop() {
        if feed.stock.len() >= ENTRIES_MAX && position > feed.upto {
            break;
        }
        feed.upto = position;
        let (replica, life, moves) = &mut sources[n];
        if let Some((_, gtin, part)) = moves.next() {
            let (site, epoch) = (replica.site.to_string(), replica.epoch.0);
            let by_hub = stock.is_by_hub(*life);
            feed.stock.push(StockEntry { gtin, site, epoch, units: part.units, seq: part.seq, by_hub });
        }
        next.extend(moves.peek().map(|(position, ..)| Reverse((*position, n))));
    }
    feed
}
