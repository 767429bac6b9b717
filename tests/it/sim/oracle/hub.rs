//! What the hub's journal says, followed record by record: each life's chunks in one chain, counters that only go forward,
//! registers decided once more.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::chunk::{self, Chunk, Position};
use proto::wire::record::Of;
use proto::wire::{CounterCell, Record, RegisterCell, SiteChunk, SitePresent, Watermark};

use super::super::disk::{Decided, Disk, Written};
use super::grants::HubRights;
use super::registers::Registers;
use super::{Life, Oracle, Rep, rep};

/// The hub's tables, by their numbers on disk.
const WATERMARK: u8 = 2;
const COUNTER: u8 = 17;
const REGISTER: u8 = 4;

/// What a hub holds of one life's journal.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Held {
    pub(in super::super) at: Position,
    /// The events that it has by their first seq, with the request that each answers.
    events: BTreeMap<u64, Option<usize>>,
    /// Per item the requests that moved it, by their event's first seq.
    movers: BTreeMap<u64, BTreeMap<u64, usize>>,
    /// Spans of which records are gone.
    pub(in super::super) remnants: Vec<(u64, u64)>,
}

impl Held {
    pub(in super::super) fn has(&self, first: u64) -> bool {
        self.events.contains_key(&first)
    }

    /// The requests that its events answer; more than once if more than one event does.
    pub(in super::super) fn requests(&self) -> impl Iterator<Item = usize> {
        self.events.values().filter_map(|uid| *uid)
    }

    /// Those of events that moved an item and begin at or before a seq.
    pub(in super::super) fn movers_to(&self, gtin: u64, seq: u64) -> impl Iterator<Item = usize> {
        let movers = self.movers.get(&gtin).into_iter();
        movers.flat_map(move |movers| movers.range(..=seq).map(|(_, uid)| *uid))
    }

    pub(in super::super) fn lacks(&self, seq: u64) -> bool {
        self.remnants.iter().any(|(from, to)| (*from..=*to).contains(&seq))
    }
}

/// The state that the hub's journal must have come to. Goes back with the disk when the hub is restored.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct HubModel {
    pub(in super::super) held: BTreeMap<Rep, Held>,
    pub(in super::super) counters: BTreeMap<(u64, Rep), (u64, i64)>,
    pub(in super::super) registers: Registers,
    pub(in super::super) rights: HubRights,
    /// Lives that it closed.
    pub(in super::super) retired: BTreeSet<Rep>,
    /// Event positions, for the feed: the newest.
    pub(in super::super) end: u64,
}

impl HubModel {
    /// A commit of the hub became durable.
    pub(in super::super) fn wrote(&mut self, written: &Written, oracle: &mut Oracle, now_ms: u64) {
        for decided in &written.events {
            self.decided(decided, &oracle.lives);
            self.rights.wrote(decided, now_ms, &mut oracle.promises);
        }
        self.end = written.after.seq.0;
        for (rep, held) in &self.held {
            let ever = oracle.ever_applied.entry(rep.clone()).or_default();
            *ever = held.at.seq.0.max(*ever);
        }
    }

    fn decided(&mut self, decided: &Decided, lives: &BTreeMap<Rep, Life>) {
        let mut conflict = None;
        for Record { of } in &decided.event.records {
            match of {
                Some(Of::SiteChunk(site_chunk)) => self.applied(site_chunk, lives),
                Some(Of::SitePresent(present)) => self.present(present, lives),
                Some(Of::Conflict(found)) if found.winner.as_ref().is_none_or(|winner| winner.dot.is_none()) => {
                    self.registers.too_late(found, lives);
                }
                Some(Of::Conflict(found)) => conflict = Some(found),
                Some(Of::SiteFollows(follows)) => {
                    let of = (follows.site.clone(), follows.retired);
                    self.retired.insert(of.clone());
                    if follows.lacks == 0 {
                        continue;
                    }
                    let held = self.held.entry(of).or_default();
                    held.remnants.push((follows.lacks_to - follows.lacks + 1, follows.lacks_to));
                }
                Some(Of::Forgotten(forgotten)) => self.registers.forget(&forgotten.key),
                Some(Of::Merged(merged)) => {
                    self.registers.merged(merged, conflict.take(), &decided.moment, lives, &self.held)
                }
                Some(Of::SetAside(aside)) => panic!("set aside, though nobody sent nonsense: {aside:?}"),
                Some(Of::Refusal(refusal)) => panic!("the hub refused what a gateway sent: {refusal:?}"),
                _ => {}
            }
        }
        assert!(conflict.is_none(), "a conflict without what it came to");
    }

    fn applied(&mut self, site_chunk: &SiteChunk, lives: &BTreeMap<Rep, Life>) {
        let chunk = chunk::open(&site_chunk.chunk).expect("the hub journals what it could open");
        let of = rep(&chunk.head.replica);
        let life = lives.get(&of).unwrap_or_else(|| panic!("nobody ever was {of:?}"));
        let held = self.held.entry(of.clone()).or_default();
        let Chunk { head, body } = &chunk;
        let covers = head.remnant && head.first <= held.at.seq;
        assert!(head.before() == held.at || covers, "{head:?} does not continue {:?} of {of:?}", held.at);
        assert!(head.last > held.at.seq, "applied twice: {head:?} of {of:?}, which is at {:?}", held.at);
        assert!(life.was_at(head.after()), "{:?} was never durable at {of:?}", head.after());
        let journal = life.between(held.at, head.after());
        let journal = journal.unwrap_or_else(|| panic!("{head:?} joins {:?} of {of:?} to another fork of it", held.at));
        for (first, _, event) in chunk.events() {
            assert!(life.wrote_event(first.0, event), "{of:?} never wrote {event:?} at {first}");
            let uid = journal.get(&first.0).copied().flatten();
            for record in uid.iter().flat_map(|_| &event.records) {
                let Some(Of::Movement(movement)) = &record.of else { continue };
                held.movers.entry(movement.gtin).or_default().extend(uid.map(|uid| (first.0, uid)));
            }
            let news = held.events.insert(first.0, uid).is_none();
            assert!(news || covers, "{first} of {of:?} was applied twice");
        }
        if head.remnant {
            held.remnants.push((head.first.0, head.last.0));
        }
        held.at = head.after();
        for (n, total) in (0..).zip(&body.totals) {
            let seq = head.first.0 + u64::from(total.seq_offset);
            let overtaken = site_chunk.overtaken.contains(&n);
            self.moved(total.gtin, &of, (seq, total.units), overtaken, life);
        }
    }

    fn present(&mut self, present: &SitePresent, lives: &BTreeMap<Rep, Life>) {
        let of = (present.site.clone(), present.epoch);
        let life = lives.get(&of).unwrap_or_else(|| panic!("nobody ever was {of:?}"));
        for total in &present.totals {
            self.moved(total.gtin, &of, (total.seq, total.units), false, life);
        }
    }

    /// A component is one that its owner had, and never goes back.
    fn moved(&mut self, gtin: u64, of: &Rep, (seq, units): (u64, i64), overtaken: bool, life: &Life) {
        let held = self.counters.get(&(gtin, of.clone())).copied().unwrap_or_default();
        assert!(life.stood_at(gtin, seq, units), "{gtin} never stood at {units} after {seq} of {of:?}");
        if overtaken {
            assert!(held.0 >= seq, "{gtin} of {of:?}: {seq} was passed by for {held:?}");
        } else {
            assert!(held.0 <= seq, "{gtin} of {of:?} went back from {held:?} to {seq}");
            self.counters.insert((gtin, of.clone()), (seq, units));
        }
    }

    /// The hub's tables are what its journal means.
    pub(in super::super) fn check(&self, disk: &Disk) {
        for (of, held) in &self.held {
            let Some(cell) = disk.cell(WATERMARK, &replica_key(of)) else {
                assert_eq!(held.at, Position::default(), "no watermark of {of:?}");
                continue;
            };
            let mark = Watermark::decode(cell).expect("a cell of the hub");
            assert_eq!((mark.seq, &mark.hash[..]), (held.at.seq.0, &held.at.hash.0[..]), "the watermark of {of:?}");
        }
        let cells =
            disk.table(COUNTER).map(|(key, value)| (key, CounterCell::decode(value).expect("a cell of the hub")));
        let found: BTreeMap<Vec<u8>, (u64, i64)> =
            cells.map(|(key, cell)| (key.to_vec(), (cell.seq, cell.units))).collect();
        let due = self
            .counters
            .iter()
            .map(|((gtin, of), cell)| ([&replica_key(of)[..], &gtin.to_be_bytes()].concat(), *cell));
        assert_eq!(found, due.collect(), "the hub's counters");
        let mut registers = 0;
        for (key, value) in disk.table(REGISTER) {
            let cell = RegisterCell::decode(value).expect("a cell of the hub");
            self.registers.check(key, &cell.state.expect("a register has a state"));
            registers += 1;
        }
        assert_eq!(registers, self.registers.len(), "registers at the hub");
    }
}

fn replica_key((site, epoch): &Rep) -> Vec<u8> {
    [site.as_bytes(), b"\0", &epoch.to_be_bytes()].concat()
}
