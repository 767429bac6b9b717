//! The down-feed: which registers changed, only the latest entry of each key, in commit order. Rebuilt from the
//! registers at every start; 100 bytes or so a register.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};

use prost::Message;
use proto::wire::{Feed, FeedEntry, RegisterCell};

use super::tables::{REGISTER, decode};
use crate::ledger::{LedgerError, Read};

/// What one message carries at most.
const ENTRIES_MAX: usize = 200;
const BYTES_MAX: usize = 48 << 10;

#[derive(Debug, Default)]
pub(super) struct FeedIndex {
    by_position: BTreeMap<u64, String>,
    position_of: HashMap<String, u64>,
}

impl FeedIndex {
    pub(super) fn rebuild(ledger: &dyn Read) -> Result<FeedIndex, LedgerError> {
        let (mut index, mut damaged) = (FeedIndex::default(), None);
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

    pub(super) fn changed(&mut self, key: &str, position: u64) {
        if let Some(old) = self.position_of.insert(key.to_owned(), position) {
            self.by_position.remove(&old);
        }
        self.by_position.insert(position, key.to_owned());
    }

    pub(super) fn head(&self) -> u64 {
        self.by_position.last_key_value().map_or(0, |(position, _)| *position)
    }

    /// What comes after `cursor`, as much as fits in one message. `None` if nothing does.
    pub(super) fn after(&self, cursor: u64, ledger: &dyn Read) -> Result<Option<Feed>, LedgerError> {
        let mut feed = Feed { prev: cursor, upto: cursor, entries: Vec::new() };
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
        Ok((feed.upto > cursor).then_some(feed))
    }
}
