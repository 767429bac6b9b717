//! Every site's stock as the hub holds it, in memory: what HQ is told, what other sites follow and what a message says
//! are read and compared here, and not in the ledger, where each look is a search. A view and never journalled: made
//! from the state at every start, and changed by the same steps that change the state. 45 bytes or so a key.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;

use proto::gtin::Gtin;
use proto::id::{Epoch, ReplicaId, SiteName, Units};
use proto::wire::CounterCell;

use super::tables::{COUNTER, COUNTER_BEFORE, decode, of_counter, of_counter_before};
use super::{Effect, views};
use crate::ledger::{LedgerError, Read, Table};

/// An item's stock is told with every site's part in it. So many parts are told a millisecond: with many sites at work
/// telling takes a share of the time, not all of it.
const PARTS_PER_MS: i64 = 1_000;
/// What may be told at once after a pause; a lone change never waits.
const PARTS_AT_ONCE: i64 = 50_000;
/// Moves that are no item's last one, besides as many as half of the items: past it they are thrown out.
const STALE_MOVES: usize = 64;

/// Items and lives are named by their place, 32 bits: there is memory for far fewer.
#[derive(Debug, Default)]
pub(super) struct Stock {
    place_of: HashMap<u64, u32>,
    items: Vec<Item>,
    lives: Vec<Life>,
    life_of: BTreeMap<(SiteName, Epoch), u32>,
    /// The newest position; nothing moved after it.
    pub(super) head: u64,
    /// Items whose stock changed since it was last told, in that order.
    to_tell: VecDeque<u32>,
    /// Parts that may be told now; below zero after an item of very many sites.
    credit: i64,
    credit_ms: u64,
}

#[derive(Debug)]
struct Item {
    gtin: u64,
    /// In `to_tell`.
    waits: bool,
    /// By life.
    parts: Vec<Part>,
}

/// What one life of a site's ledger has of an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) units: i64,
    /// Seq of the last movement, in that life's journal.
    pub(super) seq: u64,
    life: u32,
    /// Place of its last one among the life's moves.
    last: u32,
}

#[derive(Debug)]
struct Life {
    replica: ReplicaId,
    /// No life of a ledger: what the hub moved there itself, under the incarnation that is the epoch.
    by_hub: bool,
    items: usize,
    /// In order of position. One that is not its item's last is passed over.
    moves: Vec<Move>,
}

/// The item and the replica of a cell's key.
type OfKey = fn(&[u8]) -> Option<(u64, ReplicaId)>;

#[derive(Debug, Clone, Copy)]
#[repr(C, packed(4))]
struct Move {
    position: u64,
    item: u32,
}

impl Stock {
    pub(super) fn rebuild(ledger: &dyn Read) -> Result<Stock, LedgerError> {
        let mut stock = Stock { credit: PARTS_AT_ONCE, ..Stock::default() };
        // What an earlier version folded first: it counts for what did not move since.
        stock.gather(ledger, COUNTER_BEFORE, of_counter_before)?;
        stock.gather(ledger, COUNTER, of_counter)?;
        for life in 0..stock.lives.len() {
            stock.lives[life].moves.sort_unstable_by_key(|moved| (moved.position, moved.item));
            stock.number_moves(life as u32);
        }
        Ok(stock)
    }

    /// A replica's components of items changed, to (gtin, units, seq), by the record at `position` of our journal.
    pub(super) fn moved(
        &mut self,
        replica: &ReplicaId,
        position: u64,
        components: impl Iterator<Item = (u64, i64, u64)>,
    ) {
        let life = self.life(replica);
        self.head = self.head.max(position);
        for (gtin, units, seq) in components {
            let item = self.place(gtin);
            let last = self.lives[life as usize].moves.len() as u32;
            self.lives[life as usize].moves.push(Move { position, item });
            self.set(item, Part { units, seq, life, last });
            let held = &mut self.items[item as usize];
            if !std::mem::replace(&mut held.waits, true) {
                self.to_tell.push_back(item);
            }
        }
        let Life { items, moves, .. } = &self.lives[life as usize];
        if moves.len() > items + items / 2 + STALE_MOVES {
            self.drop_stale_moves(life);
        }
    }

    /// The hub itself moved an item at a site, under its incarnation.
    pub(super) fn moved_by_hub(&mut self, replica: &ReplicaId, position: u64, (gtin, total): (u64, i64)) {
        let life = self.life(replica);
        self.lives[life as usize].by_hub = true;
        self.moved(replica, position, std::iter::once((gtin, total, position)));
    }

    pub(super) fn is_by_hub(&self, life: u32) -> bool {
        self.lives[life as usize].by_hub
    }

    /// What a replica has of items.
    pub(super) fn of(&self, replica: &ReplicaId) -> impl Fn(u64) -> Option<Part> {
        let life = self.life_of.get(&(replica.site.clone(), replica.epoch)).copied();
        move |gtin| self.items[*self.place_of.get(&gtin)? as usize].part(life?).copied()
    }

    /// The items that a replica moved.
    pub(super) fn items_of(&self, replica: &ReplicaId) -> impl Iterator<Item = u64> {
        let life = self.life_of.get(&(replica.site.clone(), replica.epoch)).copied();
        life.into_iter().flat_map(|life| self.after(life, 0).map(|(_, gtin, _)| gtin))
    }

    /// The lives of a site's ledger that moved anything, by their places.
    pub(super) fn lives_of(&self, site: &SiteName) -> impl Iterator<Item = (&ReplicaId, u32)> {
        let range = (site.clone(), Epoch(0))..=(site.clone(), Epoch(u64::MAX));
        self.life_of.range(range).map(|(_, life)| (&self.lives[*life as usize].replica, *life))
    }

    /// Of every site.
    pub(super) fn lives(&self) -> impl Iterator<Item = (&ReplicaId, u32)> {
        (0..).zip(&self.lives).map(|(place, life)| (&life.replica, place))
    }

    /// The newest position of a life.
    pub(super) fn head_of(&self, life: u32) -> u64 {
        self.lives[life as usize].moves.last().map_or(0, |last| last.position)
    }

    /// What a life moved after a position, each item once: position, gtin and what it has of it now.
    pub(super) fn after(&self, life: u32, position: u64) -> impl Iterator<Item = (u64, u64, &Part)> {
        let moves = &self.lives[life as usize].moves;
        let from = moves.partition_point(|earlier| earlier.position <= position);
        (from as u32..).zip(&moves[from..]).filter_map(move |(at, moved)| {
            let held = &self.items[moved.item as usize];
            let part = held.part(life).filter(|part| part.last == at)?;
            Some((moved.position, held.gtin, part))
        })
    }

    /// What HQ is to be told now.
    pub(super) fn changed(&mut self, now_ms: u64) -> Vec<Effect> {
        let passed = i64::try_from(now_ms.saturating_sub(self.credit_ms)).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_add(passed.saturating_mul(PARTS_PER_MS)).min(PARTS_AT_ONCE);
        self.credit_ms = now_ms;
        let mut effects = Vec::new();
        while self.credit > 0
            && let Some(place) = self.to_tell.pop_front()
        {
            let item = &mut self.items[place as usize];
            item.waits = false;
            self.credit -= item.parts.len() as i64;
            effects.extend(self.told(place).map(Effect::tell));
        }
        effects
    }

    /// Every item's stock, for a start.
    pub(super) fn all(&self) -> impl Iterator<Item = Effect> {
        (0..self.items.len() as u32).filter_map(|place| self.told(place).map(Effect::restore))
    }

    fn told(&self, place: u32) -> Option<(String, bytes::Bytes)> {
        let item = &self.items[place as usize];
        // A number that is no GTIN cannot have passed a gateway's decoder; it has no topic.
        let gtin = Gtin::from_number(item.gtin).ok()?;
        Some(views::stock(gtin, &self.sites_of(item)))
    }

    /// On hand by site.
    pub(super) fn on_hand(&self, gtin: Gtin) -> BTreeMap<&str, Units> {
        let item = self.place_of.get(&gtin.number()).map(|place| &self.items[*place as usize]);
        item.map(|item| self.sites_of(item)).unwrap_or_default()
    }

    fn sites_of(&self, item: &Item) -> BTreeMap<&str, Units> {
        let mut sites: BTreeMap<&str, Units> = BTreeMap::new();
        for part in &item.parts {
            *sites.entry(self.lives[part.life as usize].replica.site.as_str()).or_default() += Units(part.units);
        }
        sites
    }

    fn gather(&mut self, ledger: &dyn Read, table: Table, of: OfKey) -> Result<(), LedgerError> {
        let mut damaged = None;
        ledger.scan_prefix(table, &[], &mut |key, value| {
            match (of(key), decode::<CounterCell>(table, value)) {
                (Some((gtin, replica)), Ok(cell)) => {
                    let (item, life) = (self.place(gtin), self.life(&replica));
                    // Cells of an older version have no position; no cursor is before 1.
                    let position = cell.feed_position.max(1);
                    self.head = self.head.max(position);
                    self.set(item, Part { units: cell.units, seq: cell.seq, life, last: 0 });
                    self.lives[life as usize].by_hub |= cell.by_hub;
                    self.lives[life as usize].moves.push(Move { position, item });
                }
                (_, Err(error)) => damaged = Some(error),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)
    }

    fn place(&mut self, gtin: u64) -> u32 {
        let next = self.items.len() as u32;
        let place = *self.place_of.entry(gtin).or_insert(next);
        if place == next {
            self.items.push(Item { gtin, waits: false, parts: Vec::new() });
        }
        place
    }

    fn life(&mut self, replica: &ReplicaId) -> u32 {
        let next = self.lives.len() as u32;
        let life = *self.life_of.entry((replica.site.clone(), replica.epoch)).or_insert(next);
        if life == next {
            self.lives.push(Life { replica: replica.clone(), by_hub: false, items: 0, moves: Vec::new() });
        }
        life
    }

    fn set(&mut self, item: u32, part: Part) {
        let parts = &mut self.items[item as usize].parts;
        match parts.binary_search_by_key(&part.life, |held| held.life) {
            Ok(at) => parts[at] = part,
            Err(at) => {
                self.lives[part.life as usize].items += 1;
                if parts.len() == parts.capacity() {
                    // There are many of these, and twice what is needed is too much.
                    parts.reserve_exact(parts.len() / 8 + 1);
                }
                parts.insert(at, part);
            }
        }
    }

    fn drop_stale_moves(&mut self, life: u32) {
        let mut moves = std::mem::take(&mut self.lives[life as usize].moves);
        let mut at = 0..;
        moves.retain(|moved| self.items[moved.item as usize].part(life).map(|part| part.last) == at.next());
        self.lives[life as usize].moves = moves;
        self.number_moves(life);
    }

    /// The places of a life's moves are new.
    fn number_moves(&mut self, life: u32) {
        for (at, moved) in (0..).zip(&self.lives[life as usize].moves) {
            if let Some(part) = self.items[moved.item as usize].part_mut(life) {
                part.last = at;
            }
        }
    }
}

impl Item {
    fn part(&self, life: u32) -> Option<&Part> {
        self.parts.binary_search_by_key(&life, |part| part.life).ok().map(|at| &self.parts[at])
    }

    fn part_mut(&mut self, life: u32) -> Option<&mut Part> {
        self.parts.binary_search_by_key(&life, |part| part.life).ok().map(|at| &mut self.parts[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replica(site: u64) -> ReplicaId {
        ReplicaId { site: format!("site-{}", site % 3).parse().unwrap(), epoch: Epoch(site) }
    }

    type Found = Vec<(u64, u64, i64, u64)>;

    fn found(stock: &Stock, site: u64, after: u64) -> Found {
        let life = stock.life_of.get(&(replica(site).site, Epoch(site)));
        let moves = life.into_iter().flat_map(|life| stock.after(*life, after));
        moves.map(|(position, gtin, part)| (position, gtin, part.units, part.seq)).collect()
    }

    proptest! {
        /// Against a table that is searched whole each time.
        #[test]
        fn is_what_was_set_last_in_order_of_position(
            steps in prop::collection::vec((0..5u64, prop::collection::vec((0..40u64, -9..9i64), 0..20)), 0..60),
            after in 0..60u64,
        ) {
            let (mut stock, mut model) = (Stock::default(), BTreeMap::new());
            for (position, (site, moved)) in (1..).zip(&steps) {
                stock.moved(&replica(*site), position, moved.iter().map(|(gtin, units)| (*gtin, *units, position + 100)));
                model.extend(moved.iter().map(|(gtin, units)| ((*site, *gtin), (position, *units))));
            }
            for site in 0..5 {
                let of = replica(site);
                let held = stock.of(&of);
                let of_site = model.iter().filter(|((of, _), _)| *of == site);
                let mut wanted: Found = Vec::new();
                for ((_, gtin), (position, units)) in of_site {
                    prop_assert_eq!(held(*gtin).map(|part| (part.units, part.seq)), Some((*units, position + 100)));
                    wanted.extend((*position > after).then_some((*position, *gtin, *units, position + 100)));
                }
                wanted.sort_unstable();
                let mut of_site = found(&stock, site, after);
                prop_assert!(of_site.is_sorted_by_key(|(position, ..)| *position));
                of_site.sort_unstable();
                prop_assert_eq!(of_site, wanted);
            }
            for (place, item) in (0..).zip(&stock.items) {
                let sum: i64 = model.iter().filter(|((_, gtin), _)| *gtin == item.gtin).map(|(_, (_, units))| units).sum();
                let told = stock.told(place).map(|(_, body)| serde_json::from_slice::<serde_json::Value>(&body).unwrap());
                prop_assert!(told.is_none_or(|told| told["on_hand"] == sum));
            }
        }
    }

    #[test]
    fn telling_takes_turns_and_a_lone_change_never_waits() {
        let mut stock = Stock { credit: 2, ..Stock::default() };
        let gtins: Vec<u64> = (1..=6).map(|n| Gtin::with_check_digit(n).unwrap().number()).collect();
        stock.moved(&replica(1), 1, gtins.iter().map(|gtin| (*gtin, 1, 1)));
        assert_eq!(stock.changed(0).len(), 2);
        stock.moved(&replica(1), 2, gtins.iter().take(2).map(|gtin| (*gtin, 2, 2)));
        assert_eq!(stock.changed(0).len(), 0);
        let told = stock.changed(1);
        let topics: Vec<_> = told
            .iter()
            .map(|effect| match effect {
                Effect::Publish { topic, .. } => topic.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        let wanted = [2, 3, 4, 5, 0, 1].map(|n| format!("hq/stock/{:014}", gtins[n]));
        assert_eq!(topics, wanted, "what waits longest goes first");
    }
}
