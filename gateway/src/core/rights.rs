//! Rights to promise units of items that are sold from a pool: what the hub granted to this life of the ledger, and how it
//! has used that. A hold needs one; a sale in hand goes through without, and lowers what may still be promised.
//!
//! Every number has one writer and only grows (but `held`), so a stale view of it is the safe one (Balegas et al. 2015,
//! bounded counters). Items without a pool are told by a set in memory: their sales look nothing up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use prost::Message;
use proto::gtin::Gtin;
use proto::wire::record::Of;
use proto::wire::{Event, MovementKind, Record, Rights, RightsEntry};
use serde_json::{Value, json};

use super::holds::Open;
use super::requests::Found;
use super::restate::Restate;
use super::tables::{EARLIER, GRANTED, RIGHTS, counter_key, decode, earlier_key, gtin_of};
use super::wants::{Report, Wants};
use super::{Effect, Gateway};
use crate::request::{Line, Moves};

/// Items with a pool that are kept; an entry of the feed beyond them is refused, and the item sold as shelf stock, which
/// the hub sees.
pub(super) const POOLS_MAX: usize = 100_000;
/// Items and lives of which is kept what they may have promised; past it a hub that is restored does not hear of the rest.
const EARLIER_MAX: usize = 100_000;
/// Records of one event: far below what a chunk holds.
pub(super) const EVENT_RECORDS: usize = 256;
/// Items that `status` shows, and its metrics.
const SHOWN_MAX: usize = 100;

/// What the hub said of an item.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pool {
    pub(super) granted: u64,
    pub(super) asked: u64,
    /// What came with the last grant since the start.
    pub(super) last_grant: u64,
}

/// What is known of rights, besides the ledger.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) pools: BTreeMap<Gtin, Pool>,
    pub(super) open: Open,
    pub(super) wants: Wants,
    /// By epoch and item: what other lives of this site may have promised, for a hub that was restored.
    pub(super) earlier: BTreeMap<(u64, u64), u64>,
    pub(super) report: Report,
    pub(super) restate: Restate,
}

/// Rights as one step leaves them, on top of what the ledger holds.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    rights: BTreeMap<Gtin, Rights>,
    touched: BTreeSet<Gtin>,
}

/// What may be promised or held now; below 0 if more was sold in hand than there were rights for.
pub(super) fn available(rights: &Rights) -> i64 {
    let Rights { granted, returned, promised, held, .. } = *rights;
    let left = i128::from(granted) - i128::from(returned) - i128::from(promised) - i128::from(held);
    left.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl Sheet {
    /// Rights to an item, to be changed: its event says them anew.
    pub(super) fn of(&mut self, gtin: Gtin, book: &Book, ledger: &dyn Read) -> Result<&mut Rights, LedgerError> {
        self.touched.insert(gtin);
        match self.rights.entry(gtin) {
            std::collections::btree_map::Entry::Occupied(held) => Ok(held.into_mut()),
            std::collections::btree_map::Entry::Vacant(none) => Ok(none.insert(book.rights(gtin, ledger)?)),
        }
    }

    /// The same, to look at.
    pub(super) fn seen(&self, gtin: Gtin, book: &Book, ledger: &dyn Read) -> Result<Rights, LedgerError> {
        self.rights.get(&gtin).map_or_else(|| book.rights(gtin, ledger), |rights| Ok(*rights))
    }

    /// What an event ends with: all that changed since the last one.
    pub(super) fn records(&mut self) -> Vec<Record> {
        let touched = std::mem::take(&mut self.touched);
        let record = |gtin| Some(Record { of: Some(Of::Rights(*self.rights.get(&gtin)?)) });
        touched.into_iter().filter_map(record).collect()
    }
}

impl Book {
    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        *self = Book { restate: Restate::resume(ledger)?, ..Book::default() };
        let mut damaged = None;
        ledger.scan_prefix(GRANTED, &[], &mut |key, value| {
            match decode::<RightsEntry>(GRANTED, value) {
                Ok(RightsEntry { granted, asked, .. }) => {
                    self.pools.extend(gtin_of(key).map(|gtin| (gtin, Pool { granted, asked, last_grant: 0 })));
                }
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        ledger.scan_prefix(EARLIER, &[], &mut |_, value| {
            match decode::<RightsEntry>(EARLIER, value) {
                Ok(entry) => drop(self.earlier.insert((entry.epoch, entry.gtin), entry.granted)),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)?;
        for gtin in self.pools.keys().copied().collect::<Vec<_>>() {
            let rights = self.rights(gtin, ledger)?;
            if rights.promised > 0 || rights.held > 0 {
                self.used(gtin, &rights);
            }
        }
        self.open.resume(ledger)
    }

    /// Items with a pool, in order.
    pub(super) fn items_after(&self, gtin: Option<Gtin>) -> impl Iterator<Item = Gtin> {
        let after = gtin.map_or(Bound::Unbounded, Bound::Excluded);
        self.pools.range((after, Bound::Unbounded)).map(|(gtin, _)| *gtin)
    }

    pub(super) fn is_pooled(&self, gtin: Gtin) -> bool {
        self.pools.contains_key(&gtin)
    }

    /// Another life of this site may have promised so many units; whoever knew more keeps it.
    pub(super) fn had_earlier(&mut self, epoch: u64, gtin: u64, units: u64) -> Option<Put> {
        let (key, full) = ((epoch, gtin), self.earlier.len() >= EARLIER_MAX);
        if self.earlier.get(&key).is_some_and(|held| *held >= units) || units == 0 {
            return None;
        }
        if full && !self.earlier.contains_key(&key) {
            tracing::error!(
                gtin,
                units,
                "what an earlier ledger may have promised is not noted: there is too much of it"
            );
            return None;
        }
        self.earlier.insert(key, units);
        let cell = RightsEntry { gtin, granted: units, asked: 0, epoch };
        Some(Put::set(EARLIER, earlier_key(epoch, gtin), cell.encode_to_vec()))
    }

    /// How this life stands with an item.
    pub(super) fn rights(&self, gtin: Gtin, ledger: &dyn Read) -> Result<Rights, LedgerError> {
        let rights = match ledger.get(RIGHTS, &counter_key(gtin))? {
            Some(value) => decode(RIGHTS, &value)?,
            None => Rights { gtin: gtin.number(), ..Rights::default() },
        };
        let granted = self.pools.get(&gtin).map_or(0, |pool| pool.granted);
        Ok(Rights { granted: rights.granted.max(granted), ..rights })
    }

    /// Units were promised or held: what is left may be too little.
    pub(super) fn used(&mut self, gtin: Gtin, rights: &Rights) {
        if available(rights) <= self.low_water(gtin) {
            self.wants.runs_out(gtin);
        }
    }

    /// A third of what was last granted, and at least one unit.
    pub(super) fn low_water(&self, gtin: Gtin) -> i64 {
        let last = self.pools.get(&gtin).map_or(0, |pool| pool.last_grant);
        i64::try_from(last / 3).unwrap_or(i64::MAX).max(1)
    }

    /// Of items with a pool: for `store/stock` and `status`.
    pub(super) fn shown(&self, gtin: Gtin, ledger: &dyn Read) -> Result<Option<Rights>, LedgerError> {
        self.is_pooled(gtin).then(|| self.rights(gtin, ledger)).transpose()
    }

    pub(super) fn brief(&self) -> Value {
        json!({ "pools": self.pools.len(), "holds_open": self.open.len(), "wanted": self.wants.len() })
    }

    /// The first of the items with a pool, one by one.
    pub(super) fn items(&self, ledger: &dyn Read) -> Result<Value, LedgerError> {
        let mut items = serde_json::Map::new();
        for gtin in self.pools.keys().take(SHOWN_MAX) {
            let rights = self.rights(*gtin, ledger)?;
            let Rights { granted, returned, promised, refunded, held, .. } = rights;
            let item = json!({
                "granted": granted, "returned": returned, "promised": promised, "refunded": refunded, "held": held,
                "available": available(&rights),
            });
            items.insert(gtin.to_string(), item);
        }
        Ok(items.into())
    }
}

impl Gateway {
    /// Takes over what the hub granted and what it asks back. It is answered at once and once, with what is free, so
    /// nothing goes to and fro.
    pub(super) fn adopt_rights(
        &mut self,
        entries: &[RightsEntry],
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let mut sheet = Sheet::default();
        for entry in entries {
            if entry.epoch != 0 {
                step.puts.extend(self.rights.had_earlier(entry.epoch, entry.gtin, entry.granted));
                continue;
            }
            let known = Gtin::from_number(entry.gtin).ok();
            let Some(gtin) = known.filter(|gtin| self.rights.is_pooled(*gtin) || self.rights.pools.len() < POOLS_MAX)
            else {
                let name = format!("the rights to {}", entry.gtin);
                self.reject_entry(&name, entry.encode_to_vec(), now, ledger, step);
                continue;
            };
            step.puts.extend(self.granted(gtin, entry));
            let asked = self.rights.pools.get(&gtin).map_or(0, |pool| pool.asked);
            let rights = self.rights.rights(gtin, ledger)?;
            if asked > rights.answered {
                let rights = sheet.of(gtin, &self.rights, ledger)?;
                let free = available(rights).max(0).unsigned_abs();
                rights.returned = rights.returned.saturating_add(free.min(asked - rights.answered.min(asked)));
                rights.answered = asked;
            }
        }
        for records in sheet.records().chunks(EVENT_RECORDS) {
            let draft = self.draft(Event { records: records.to_vec(), ..Event::default() }, now);
            step.events.push(draft);
        }
        Ok(())
    }

    /// Whoever knows a higher number keeps it: a hub that was restored may say a lower one.
    fn granted(&mut self, gtin: Gtin, entry: &RightsEntry) -> Option<Put> {
        let held = self.rights.pools.get(&gtin).copied();
        let pool = held.unwrap_or_default();
        let (granted, asked) = (pool.granted.max(entry.granted), pool.asked.max(entry.asked));
        if held.is_some() && (granted, asked) == (pool.granted, pool.asked) {
            return None;
        }
        let more = granted - pool.granted;
        let last_grant = if more > 0 { more } else { pool.last_grant };
        if more > 0 {
            self.rights.wants.granted(gtin);
        }
        self.rights.pools.insert(gtin, Pool { granted, asked, last_grant });
        self.stock.touched(gtin);
        let cell = RightsEntry { gtin: gtin.number(), granted, asked, epoch: 0 };
        Some(Put::set(GRANTED, counter_key(gtin), cell.encode_to_vec()))
    }

    /// What sold and refunded lines do to rights. In hand is in hand: what is sold counts as promised, whatever is left.
    pub(super) fn spend(
        &mut self,
        moves: &Moves,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<(), LedgerError> {
        let spends = matches!(moves.kind, MovementKind::Sale | MovementKind::Refund);
        let pooled = |line: &Line| self.rights.is_pooled(line.gtin);
        if !spends || (moves.hold.is_none() && !moves.lines.iter().any(pooled)) {
            return Ok(());
        }
        let sums = net(moves.lines.iter().map(|line| (line.gtin, line.units.0)));
        let covered = match &moves.hold {
            Some(hold) => self.collect(hold, &sums, &moves.reference, found, now, ledger)?,
            None => None,
        };
        for (gtin, net) in sums {
            if !self.rights.is_pooled(gtin) {
                continue;
            }
            let set_aside = covered.filter(|(of, _)| *of == gtin).map_or(0, |(_, units)| units);
            let rights = found.sheet.of(gtin, &self.rights, ledger)?;
            rights.promised = rights.promised.saturating_add(net.sold.saturating_sub(set_aside));
            rights.refunded = rights.refunded.saturating_add(net.back);
            let rights = *rights;
            if net.sold > 0 {
                self.rights.used(gtin, &rights);
            }
            if let Some(hold) = found.hold.as_mut().filter(|hold| hold.gtin == Some(gtin)) {
                hold.available = Some(available(&rights));
            }
        }
        Ok(())
    }
}

/// What one event did with an item, in all: a line that was taken back in the same basket was never sold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) sold: u64,
    /// Came back from buyers.
    pub(super) back: u64,
}

/// From units as they moved the shelf: what was sold is negative.
pub(super) fn net(units: impl Iterator<Item = (Gtin, i64)>) -> BTreeMap<Gtin, Net> {
    let mut sums = BTreeMap::<Gtin, i64>::new();
    for (gtin, units) in units {
        let sum = sums.entry(gtin).or_default();
        *sum = sum.saturating_add(units);
    }
    let net = |(gtin, sum): (Gtin, i64)| {
        let units = sum.unsigned_abs();
        (gtin, if sum < 0 { Net { sold: units, back: 0 } } else { Net { sold: 0, back: units } })
    };
    sums.into_iter().map(net).collect()
}
