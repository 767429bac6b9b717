//! What ledgers hold, sorted by what it is about.

use std::collections::BTreeMap;

use proto::chunk::{self, Chunk, Position};
use proto::id::ReplicaId;
use proto::wire::record::Of;
use proto::wire::{Event, Record};

use crate::oracle::{Code, Key};

/// A record's name: site, epoch, seq.
pub(super) type Dot = (String, u64, u64);

/// Everything one or more ledgers hold, by what it is about.
#[derive(Debug, Default)]
pub struct Holdings {
    /// How often each record was met; more than once is a fault.
    pub(super) met: BTreeMap<Dot, u32>,
    /// What each request left.
    pub(super) requests: BTreeMap<Key, Left>,
    /// Lookups, and refusals of whole requests, per (site, device).
    pub(super) lookups: BTreeMap<(usize, String), u64>,
    pub(super) whole_refusals: BTreeMap<(usize, String), u64>,
    pub(super) stock: BTreeMap<(usize, Code), i64>,
    /// Where each replica's chain stands.
    chains: BTreeMap<ReplicaId, Position>,
    /// Breaks of the chain, chunks that cannot be read, sites nobody knows.
    pub(super) faults: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) movements: Vec<(Code, i64, Dot)>,
    pub(super) refusals: Vec<(u32, String)>,
}

/// What HQ decided about registers.
#[derive(Debug, Default)]
pub struct HqRegisters {
    /// Latest merged value by key, as JSON text.
    pub values: BTreeMap<String, String>,
    pub conflicts: Vec<Lost>,
}

/// One conflict: which register, which site's value stands, which lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub key: String,
    pub winner_site: String,
    pub winner: String,
    pub loser_site: String,
    pub loser: String,
}

#[derive(Debug, Default)]
pub struct Hq {
    pub holdings: Holdings,
    pub registers: HqRegisters,
}

impl Holdings {
    /// Takes the next chunk of a site's journal. `site` is an index into the caller's list of `sites`.
    pub fn take(&mut self, chunk: &Chunk, sites: &[&str]) {
        let replica = &chunk.head.replica;
        let Some(site) = sites.iter().position(|name| *name == replica.site.as_str()) else {
            self.faults.push(format!("a chunk of an unknown site {replica}"));
            return;
        };
        self.follow(chunk);
        for (first, _, event) in chunk.events() {
            for (offset, record) in event.records.iter().enumerate() {
                let dot = (replica.site.as_str().to_owned(), replica.epoch.0, first.0 + offset as u64);
                self.record(site, event, record, dot);
            }
        }
    }

    /// The chain must go on where it stood. A chunk that was met before is counted by its records.
    fn follow(&mut self, chunk: &Chunk) {
        let stands = self.chains.get(&chunk.head.replica).copied();
        let (before, after) = (chunk.head.before(), chunk.head.after());
        match stands {
            Some(stands) if stands == before => {}
            // A trimmed journal starts where it starts.
            None => {}
            Some(stands) if after.seq <= stands.seq => return,
            Some(stands) => self.faults.push(format!(
                "the chain of {} breaks: {} {} is followed by {} {}",
                chunk.head.replica,
                stands.seq,
                stands.hash.short(),
                chunk.head.first,
                before.hash.short()
            )),
        }
        self.chains.insert(chunk.head.replica.clone(), after);
    }

    fn record(&mut self, site: usize, event: &Event, record: &Record, dot: Dot) {
        let times = self.met.entry(dot.clone()).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        let device = (site, event.device.clone());
        let key = (site, event.device.clone(), event.request.clone());
        match &record.of {
            Some(Of::Movement(movement)) => {
                *self.stock.entry((site, movement.gtin)).or_default() += movement.units;
                self.requests.entry(key).or_default().movements.push((movement.gtin, movement.units, dot));
            }
            // A request that is refused as a whole changed nothing: its id is free again, and not in the record.
            Some(Of::Refusal(refusal)) if refusal.line == 0 => {
                *self.whole_refusals.entry(device).or_default() += 1;
            }
            Some(Of::Refusal(refusal)) => {
                self.requests.entry(key).or_default().refusals.push((refusal.line, refusal.code.clone()));
            }
            Some(Of::Lookup(_)) => *self.lookups.entry(device).or_default() += 1,
            _ => {}
        }
    }

    pub(super) fn movements(&self) -> impl Iterator<Item = &(Code, i64, Dot)> {
        self.requests.values().flat_map(|left| &left.movements)
    }

    pub(super) fn refusals(&self) -> u64 {
        let named: usize = self.requests.values().map(|left| left.refusals.len()).sum();
        named as u64 + self.whole_refusals.values().sum::<u64>()
    }
}

impl Hq {
    /// Takes the next chunk of the hub's own journal.
    pub fn take(&mut self, chunk: &Chunk, sites: &[&str]) {
        for record in chunk.body.events.iter().flat_map(|event| &event.records) {
            match &record.of {
                Some(Of::SiteChunk(embedded)) => match chunk::open(&embedded.chunk) {
                    Ok(chunk) => self.holdings.take(&chunk, sites),
                    Err(error) => self.holdings.faults.push(format!("a chunk at HQ cannot be read: {error}")),
                },
                Some(Of::Merged(merged)) => {
                    let value = merged.state.as_ref().map(|state| text(&state.value)).unwrap_or_default();
                    self.registers.values.insert(merged.key.clone(), value);
                }
                Some(Of::Forgotten(forgotten)) => drop(self.registers.values.remove(&forgotten.key)),
                Some(Of::Conflict(conflict)) => {
                    let side = |state: &Option<proto::wire::RegisterState>| {
                        let state = state.clone().unwrap_or_default();
                        (state.dot.unwrap_or_default().site, text(&state.value))
                    };
                    let ((winner_site, winner), (loser_site, loser)) = (side(&conflict.winner), side(&conflict.loser));
                    let key = conflict.key.clone();
                    self.registers.conflicts.push(Lost { key, winner_site, winner, loser_site, loser });
                }
                _ => {}
            }
        }
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
