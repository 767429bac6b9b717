//! What came of it, from the stopped ledgers and from what buyers were told, and from nothing that a node says of itself.
//! No code of the nodes beyond the chunk format.

use std::collections::BTreeMap;

use proto::chunk::{self, Chunk};
use proto::id::ReplicaId;
use proto::wire::record::Of;
use proto::wire::{HoldEnd, Rights};

use super::floor::Told;
use super::plan::Buyer;
use super::shop::NUMBER;

/// Faults that are told one by one.
const FAULTS_MAX: usize = 20;

/// A record's name.
type Dot = (ReplicaId, u64);

/// What ledgers hold of the item.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// To whom, and how many units.
    promises: BTreeMap<Dot, (String, u64)>,
    /// As each replica said them last.
    rights: BTreeMap<ReplicaId, Rights>,
    /// Up to where each replica's journal was read.
    read_to: BTreeMap<ReplicaId, u64>,
    /// Records that were met a second time.
    doubled: u64,
    faults: Vec<String>,
}

impl Book {
    /// Takes the next chunk of a ledger; of the hub's, with the stores' chunks that are in it.
    pub(super) fn take(&mut self, chunk: &Chunk) {
        let replica = chunk.head.replica.clone();
        let mut read_to = self.read_to.get(&replica).copied().unwrap_or_default();
        for (first, _, event) in chunk.events() {
            for (seq, record) in (first.0..).zip(&event.records) {
                if seq <= read_to {
                    self.doubled += 1;
                    continue;
                }
                read_to = seq;
                match &record.of {
                    Some(Of::SiteChunk(embedded)) => match chunk::open(&embedded.chunk) {
                        Ok(chunk) => self.take(&chunk),
                        Err(error) => self.faults.push(format!("a chunk at the hub cannot be read: {error}")),
                    },
                    Some(of) => self.record((replica.clone(), seq), of),
                    None => {}
                }
            }
        }
        self.read_to.insert(replica, read_to);
    }

    fn record(&mut self, dot: Dot, of: &Of) {
        match of {
            Of::Promise(promise) if promise.gtin == NUMBER => {
                self.promises.insert(dot, (promise.reference.clone(), promise.units));
            }
            Of::HoldEnded(ended) if ended.gtin == NUMBER => {
                // What is collected was committed before.
                if matches!(ended.how(), HoldEnd::Committed | HoldEnd::CommittedLate) {
                    self.promises.insert(dot, (ended.reference.clone(), ended.units));
                }
            }
            Of::Rights(rights) if rights.gtin == NUMBER => drop(self.rights.insert(dot.0, *rights)),
            _ => {}
        }
    }
}

/// The figures of the run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) units: u64,
    pub(super) buyers: usize,
    /// Units that the ledgers have promised.
    pub(super) promised: u64,
    /// Of them, beyond what there is.
    pub(super) oversold: u64,
    /// Units that nobody got though somebody was refused.
    pub(super) left_over: u64,
    /// Buyers who were told yes.
    pub(super) sold: u64,
    pub(super) refused: u64,
    /// Refusals while there were units for sure that nobody had.
    pub(super) stranded: u64,
    /// Promises to a buyer who has one already.
    pub(super) doubled: u64,
    /// Buyers who were told yes and are in no ledger.
    pub(super) missing: u64,
    /// Buyers who were told no and are in a ledger.
    pub(super) denied: u64,
    /// Buyers without a clear answer.
    pub(super) unclear: u64,
    /// Units in holds that are still open.
    pub(super) held: u64,
    /// By place: online first, then each store.
    pub(super) places: Vec<Place>,
    pub(super) faults: Vec<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) buyers: u64,
    pub(super) sold: u64,
    pub(super) refused: u64,
    pub(super) stranded: u64,
}

impl Verdict {
    pub(super) fn held(&self) -> bool {
        let wrong = [self.oversold, self.left_over, self.doubled, self.missing, self.denied, self.unclear, self.held];
        wrong.iter().all(|count| *count == 0) && self.faults.is_empty()
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// `stores` is what the stores' ledgers hold, `hq` what the hub's does. `told` is by the buyers' numbers.
pub(super) fn judge(
    units: u64,
    sites: usize,
    buyers: &[Buyer],
    told: &[Option<Told>],
    stores: &Book,
    hq: &Book,
) -> Verdict {
    let places = vec![Place::default(); sites + 1];
    let mut verdict = Verdict { units, buyers: buyers.len(), places, ..Verdict::default() };
    verdict.doubled = stores.doubled + hq.doubled;
    stores.faults.iter().chain(&hq.faults).for_each(|fault| verdict.fault(fault.clone()));
    let mut found = promised(stores, hq, &mut verdict);
    for (buyer, told) in buyers.iter().zip(told) {
        let times = found.remove(&buyer.name()).unwrap_or_default();
        verdict.doubled += times.saturating_sub(1);
        answered(buyer, told.as_ref(), times, &mut verdict);
    }
    for (name, times) in found {
        verdict.fault(format!("{times} units are promised to {name:?}, who is no buyer"));
    }
    verdict.oversold = verdict.promised.saturating_sub(units);
    verdict.left_over = if verdict.refused > 0 { units.saturating_sub(verdict.promised) } else { 0 };
    verdict
}

/// How often each is promised a unit. The two ledgers that hold a promise must agree, and each replica's own sum with both.
fn promised(stores: &Book, hq: &Book, verdict: &mut Verdict) -> BTreeMap<String, u64> {
    for (dot, promise) in &stores.promises {
        if hq.promises.get(dot) != Some(promise) {
            verdict.fault(format!("{} {} is promised to {}: not so at the hub", dot.0, dot.1, promise.0));
        }
    }
    for (replica, read_to) in &stores.read_to {
        let at_hub = hq.read_to.get(replica).copied().unwrap_or_default();
        if at_hub != *read_to {
            verdict.fault(format!("{replica} has {read_to} records, the hub {at_hub} of them"));
        }
    }
    let (mut found, mut sums): (BTreeMap<String, u64>, BTreeMap<&ReplicaId, u64>) = Default::default();
    let only_stores = stores.promises.iter().filter(|(dot, _)| !hq.promises.contains_key(*dot));
    for ((replica, _), (name, units)) in hq.promises.iter().chain(only_stores) {
        *found.entry(name.clone()).or_default() += units;
        *sums.entry(replica).or_default() += units;
        verdict.promised += units;
    }
    for replica in hq.rights.keys().chain(sums.keys().copied().filter(|replica| !hq.rights.contains_key(*replica))) {
        let rights = hq.rights.get(replica).copied().unwrap_or_default();
        let sum = sums.get(replica).copied().unwrap_or_default();
        verdict.held += rights.held;
        if rights.promised != sum {
            verdict.fault(format!("{replica} says that it promised {}, its records {sum}", rights.promised));
        }
    }
    found
}

/// Holds what a buyer was told beside how often the ledgers have a promise.
fn answered(buyer: &Buyer, told: Option<&Told>, times: u64, verdict: &mut Verdict) {
    let at = buyer.store.map_or(0, |store| store + 1);
    verdict.places[at].buyers += 1;
    let name = buyer.name();
    match told {
        Some(Told::Yes) => {
            verdict.sold += 1;
            verdict.places[at].sold += 1;
            if times == 0 {
                verdict.missing += 1;
                verdict.fault(format!("{name} was told yes and is in no ledger"));
            }
        }
        Some(Told::No { stranded }) => {
            verdict.refused += 1;
            verdict.stranded += u64::from(*stranded);
            verdict.places[at].refused += 1;
            verdict.places[at].stranded += u64::from(*stranded);
            if times > 0 {
                verdict.denied += 1;
                verdict.fault(format!("{name} was told no and is in a ledger"));
            }
        }
        Some(Told::Unclear(why)) => {
            verdict.unclear += 1;
            verdict.fault(format!("{name}: {why}"));
        }
        None => {
            verdict.unclear += 1;
            verdict.fault(format!("{name} was never served"));
        }
    }
    if times > 1 {
        verdict.fault(format!("{name} is in the ledgers {times} times"));
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
