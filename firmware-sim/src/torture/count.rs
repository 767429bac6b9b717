//! What devices were told against what ledgers hold: acknowledged, found, lost, doubled; by cycle and in total.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use anyhow::{Context, Result};
use proto::chunk::{self, Chunk};
use proto::wire::record::Of;
use proto::wire::{Event, Record};

use super::crew::Ack;
use super::message::{DEVICES, Dialect, Name, name, name_of};
use crate::seam;

/// The most faults that are told one by one.
const TOLD_MAX: usize = 20;

/// What one place holds: a gateway's journal, a hub's, or a subscriber's log.
#[derive(Debug, Default)]
pub(super) struct Held {
    named: HashMap<Name, Met>,
    /// By device: the seqs of its bare barcodes.
    bare: [Vec<u64>; DEVICES.len()],
    /// The first seq that is still there; a trimmed journal begins later than at 1.
    first: Option<u64>,
    last: u64,
    /// Records that stand there twice, by their own seq.
    twice: u64,
    pub(super) faults: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Met {
    times: u32,
    /// Of the first one.
    seq: u64,
}

impl Held {
    /// A stopped gateway's journal.
    pub(super) fn of_gateway(dir: &Path) -> Result<Held> {
        let mut held = Held::default();
        seam::read_stopped(dir, &mut |chunk| held.chunk(chunk))
            .with_context(|| format!("reading the ledger in {}", dir.display()))?;
        Ok(held)
    }

    /// What a stopped hub has of the one site.
    pub(super) fn of_hub(dir: &Path) -> Result<Held> {
        let mut held = Held::default();
        let mut embedded = |chunk: &Chunk| {
            for record in chunk.body.events.iter().flat_map(|event| &event.records) {
                let Some(Of::SiteChunk(embedded)) = &record.of else { continue };
                match chunk::open(&embedded.chunk) {
                    Ok(chunk) => held.chunk(&chunk),
                    Err(error) => held.fault(format!("a chunk at the hub cannot be read: {error}")),
                }
            }
        };
        seam::read_stopped(dir, &mut embedded).with_context(|| format!("reading the ledger in {}", dir.display()))?;
        Ok(held)
    }

    /// The next message that a subscriber got.
    pub(super) fn message(&mut self, topic: &str, payload: &[u8]) {
        match name_of(topic, payload) {
            Some(name) => self.meet(name, 0),
            None => self.fault(format!("the subscriber got what no device sent on {topic}")),
        }
    }

    /// The next chunk of the site's journal.
    fn chunk(&mut self, chunk: &Chunk) {
        self.first.get_or_insert(chunk.head.first.0);
        if chunk.head.first.0 <= self.last {
            self.twice += chunk.head.records();
            return;
        }
        let first = self.first == Some(chunk.head.first.0);
        if !first && chunk.head.first.0 != self.last + 1 {
            self.fault(format!("the journal goes on at {} after {}", chunk.head.first.0, self.last));
        }
        self.last = chunk.head.last.0;
        for (first, _, event) in chunk.events() {
            for (offset, record) in (0..).zip(&event.records) {
                self.record(event, record, first.0 + offset);
            }
        }
    }

    fn record(&mut self, event: &Event, record: &Record, seq: u64) {
        let device = &event.device;
        match &record.of {
            Some(Of::Movement(movement)) => {
                let id = if event.request.is_empty() { &movement.reference } else { &event.request };
                match name(device, id) {
                    Some(name) => self.meet(name, seq),
                    None => self.fault(format!("record {seq} is of {id:?} of {device:?}, whom nobody knows")),
                }
            }
            Some(Of::Lookup(_)) => match DEVICES.iter().position(|known| known == device) {
                Some(device) => self.bare[device].push(seq),
                None => self.fault(format!("record {seq} is a lookup of {device:?}, whom nobody knows")),
            },
            Some(Of::Refusal(refusal)) => {
                self.fault(format!("record {seq} refuses what {device} sent: {}", refusal.code));
            }
            _ => {}
        }
    }

    fn meet(&mut self, name: Name, seq: u64) {
        self.named.entry(name).or_insert(Met { times: 0, seq }).times += 1;
    }

    pub(super) fn has(&self, name: Name) -> bool {
        self.named.contains_key(&name)
    }

    pub(super) fn len(&self) -> usize {
        self.named.len()
    }

    /// True if the beginning of the journal was let go.
    pub(super) fn is_trimmed(&self) -> bool {
        self.first.is_some_and(|first| first > 1)
    }

    /// What was trimmed here because the hub had applied it is taken from what the hub holds.
    pub(super) fn complete_from(&mut self, hub: &Held) {
        let first = self.first.unwrap_or(1);
        for (name, met) in hub.named.iter().filter(|(_, met)| met.seq < first) {
            match self.named.entry(*name) {
                Entry::Occupied(mut here) => here.get_mut().times += met.times,
                Entry::Vacant(here) => drop(here.insert(*met)),
            }
        }
        for (here, there) in self.bare.iter_mut().zip(&hub.bare) {
            here.extend(there.iter().filter(|seq| **seq < first));
        }
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < TOLD_MAX {
            self.faults.push(fault);
        }
    }
}

/// Figures of one cycle, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) acked: u64,
    /// Acknowledged, and at every place.
    pub(super) found: u64,
    /// Acknowledged, and missing somewhere.
    pub(super) lost: u64,
    /// More than once at some place.
    pub(super) doubled: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.acked += other.acked;
        self.found += other.found;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }
}

/// The verdict of a run: rows by cycle; an acknowledgement belongs to the cycle in which the device saw it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) cycles: Vec<Count>,
    pub(super) total: Count,
    pub(super) faults: Vec<String>,
}

/// Holds the devices' logs against all places. Everything that was sent must have been acknowledged by now.
pub(super) fn judge(dialect: Dialect, log: &[Ack], cycles: usize, places: &[Held]) -> Counts {
    let mut counts = Counts { cycles: vec![Count::default(); cycles], ..Counts::default() };
    let mut bare = [0u64; DEVICES.len()];
    let mut known = 0;
    for ack in log {
        let row = &mut counts.cycles[ack.cycle as usize];
        row.acked += 1;
        if dialect.is_bare(ack.name) {
            bare[ack.name.device] += 1;
            // Which one is missing cannot be told: the difference is taken from the last cycle below.
            row.found += 1;
            continue;
        }
        known += 1;
        let times = |place: &Held| place.named.get(&ack.name).map_or(0, |met| met.times);
        if places.iter().all(|place| times(place) > 0) {
            row.found += 1;
        } else {
            row.lost += 1;
        }
        row.doubled += u64::from(places.iter().any(|place| times(place) > 1));
    }
    for row in &counts.cycles {
        counts.total.add(*row);
    }
    for (device, promised) in bare.into_iter().enumerate() {
        let held = places.iter().map(|place| place.bare[device].len() as u64).min().unwrap_or(0);
        let missing = promised.saturating_sub(held);
        counts.move_to_lost(missing);
    }
    for place in places {
        counts.faults.extend(place.faults.iter().cloned());
        counts.total.doubled += place.twice;
        if place.len() > known {
            counts.faults.push(format!("{} messages are there that no device knows of", place.len() - known));
        }
    }
    counts
}

impl Counts {
    fn move_to_lost(&mut self, missing: u64) {
        let last = self.cycles.iter_mut().rev().find(|row| row.found >= missing);
        for row in last.into_iter().chain([&mut self.total]) {
            row.found -= missing.min(row.found);
            row.lost += missing;
        }
    }

    pub(super) fn held(&self) -> bool {
        self.total.lost == 0 && self.total.doubled == 0 && self.faults.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(device: usize, n: u64) -> Name {
        Name { device, n }
    }

    fn held(names: &[Name]) -> Held {
        let mut held = Held { first: Some(1), ..Held::default() };
        for (seq, name) in (1..).zip(names) {
            held.meet(*name, seq);
        }
        held
    }

    #[test]
    fn each_cycle_answers_for_what_was_acknowledged_in_it() {
        let log = [(at(0, 0), 0), (at(0, 1), 0), (at(0, 2), 1), (at(1, 0), 1)];
        let log = log.map(|(name, cycle)| Ack { name, cycle });
        let all = log.map(|ack| ack.name);
        let check = |places: &[Held], total, cycles: [(u64, u64, u64, u64); 2]| {
            let counts = judge(Dialect::Ids, &log, 2, places);
            let row = |(acked, found, lost, doubled)| Count { acked, found, lost, doubled };
            assert_eq!((counts.total, counts.cycles), (row(total), cycles.map(row).to_vec()));
            assert_eq!(counts.faults, Vec::<String>::new());
        };
        check(&[held(&all), held(&all)], (4, 4, 0, 0), [(2, 2, 0, 0), (2, 2, 0, 0)]);
        // Missing at one place is lost, twice at one place is doubled.
        check(&[held(&all), held(&all[1..])], (4, 3, 1, 0), [(2, 1, 1, 0), (2, 2, 0, 0)]);
        let twice = [&all[..], &all[3..]].concat();
        check(&[held(&twice), held(&all)], (4, 4, 0, 1), [(2, 2, 0, 0), (2, 2, 0, 1)]);
    }

    #[test]
    fn bare_barcodes_are_counted_and_a_trimmed_beginning_is_taken_from_the_hub() {
        let bare = at(2, 3);
        let log: Vec<Ack> = (0..2).map(|cycle| Ack { name: bare, cycle }).collect();
        let mut few = held(&[]);
        few.bare[2].push(9);
        let counts = judge(Dialect::All, &log, 2, &[few]);
        assert_eq!((counts.total.found, counts.total.lost, counts.cycles[1].lost), (1, 1, 1));

        let (mut trimmed, hub) = (held(&[]), held(&[at(0, 0), at(0, 1)]));
        trimmed.first = Some(2);
        trimmed.meet(at(0, 1), 2);
        trimmed.complete_from(&hub);
        assert_eq!((trimmed.named[&at(0, 0)].times, trimmed.named[&at(0, 1)].times), (1, 1));
    }

    #[test]
    fn what_nobody_sent_is_a_fault() {
        let counts = judge(Dialect::Ids, &[], 1, &[held(&[at(0, 0)])]);
        assert!(!counts.held() && counts.total.lost == 0);
    }
}
