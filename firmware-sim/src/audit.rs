//! Reads what stopped nodes have on disk and holds it against what the devices were told and what the oracle says.
//! No counter of any node is believed.

use std::collections::{BTreeMap, BTreeSet};

use proto::chunk::{self, Chunk, Position};
use proto::id::ReplicaId;
use proto::wire::record::Of;
use proto::wire::{Event, Record};

use crate::log::Log;
use crate::oracle::{Code, Due, Expected, Key};

/// The most faults that are told one by one; further ones are only counted.
pub const TOLD_MAX: usize = 20;

/// A record's name: site, epoch, seq.
type Dot = (String, u64, u64);

/// Everything one or more ledgers hold, by what it is about.
#[derive(Debug, Default)]
pub struct Holdings {
    /// How often each record was met; more than once is a fault.
    met: BTreeMap<Dot, u32>,
    /// What each request left.
    requests: BTreeMap<Key, Left>,
    /// Lookups and refusals without a request id, per (site, device).
    lookups: BTreeMap<(usize, String), u64>,
    bare_refusals: BTreeMap<(usize, String), u64>,
    stock: BTreeMap<(usize, Code), i64>,
    /// Where each replica's chain stands.
    chains: BTreeMap<ReplicaId, Position>,
    /// Breaks of the chain, chunks that cannot be read, sites nobody knows.
    faults: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Left {
    movements: Vec<(Code, i64, Dot)>,
    refusals: Vec<(u32, String)>,
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

/// The outcome of the audit. All counts are of movement records unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub sent: u64,
    pub acked: u64,
    pub in_ledgers: u64,
    pub applied: u64,
    /// Refused lines and requests, as recorded in the ledgers.
    pub refused: u64,
    /// Records of any kind that a device was promised and that are not there, at its gateway or at HQ.
    pub lost: u64,
    /// Records applied more than once, and lines that left more than one record.
    pub doubled: u64,
    pub stock_cells: u64,
    pub stock_mismatches: u64,
    /// Records of any kind at HQ, and messages that devices had acknowledged.
    pub records_applied: u64,
    pub messages: u64,
    /// What is wrong, in words; empty if nothing is.
    pub faults: Vec<String>,
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
            Some(Of::Refusal(refusal)) if event.request.is_empty() => {
                let _ = refusal;
                *self.bare_refusals.entry(device).or_default() += 1;
            }
            Some(Of::Refusal(refusal)) => {
                self.requests.entry(key).or_default().refusals.push((refusal.line, refusal.code.clone()));
            }
            Some(Of::Lookup(_)) => *self.lookups.entry(device).or_default() += 1,
            _ => {}
        }
    }

    fn movements(&self) -> impl Iterator<Item = &(Code, i64, Dot)> {
        self.requests.values().flat_map(|left| &left.movements)
    }

    fn refusals(&self) -> u64 {
        let named: usize = self.requests.values().map(|left| left.refusals.len()).sum();
        named as u64 + self.bare_refusals.values().sum::<u64>()
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

/// Holds everything against everything. `stock_live` is what HQ's topics showed at the end, if they could be read.
pub fn judge(
    sites: &[&str],
    expected: &Expected,
    logs: &[Log],
    stores: &Holdings,
    hq: &Holdings,
    stock_live: Option<&BTreeMap<(usize, Code), i64>>,
) -> Findings {
    let mut judge = Judge { sites, expected, logs, stores, hq, findings: Findings::default() };
    judge.chains();
    judge.requests();
    judge.bare_scans();
    judge.transfer();
    judge.repeats();
    judge.stock(stock_live);
    judge.totals();
    judge.findings
}

struct Judge<'a> {
    sites: &'a [&'a str],
    expected: &'a Expected,
    logs: &'a [Log],
    stores: &'a Holdings,
    hq: &'a Holdings,
    findings: Findings,
}

impl Judge<'_> {
    fn totals(&mut self) {
        self.findings.in_ledgers = self.stores.movements().count() as u64;
        self.findings.applied = self.hq.movements().count() as u64;
        self.findings.refused = self.stores.refusals();
        self.findings.records_applied = self.hq.met.len() as u64;
        self.findings.messages = self.logs.iter().map(Log::messages_acked).sum();
    }

    fn chains(&mut self) {
        for fault in self.stores.faults.iter().chain(&self.hq.faults) {
            tell(&mut self.findings, fault.clone());
        }
    }

    /// Every request against the log of its device and what the ledgers hold of it.
    fn requests(&mut self) {
        let logs: BTreeMap<_, _> = self.logs.iter().map(|log| ((log.site, log.device.as_str()), log)).collect();
        let nothing = Left::default();
        for (key, due) in &self.expected.requests {
            let (site, device, id) = key;
            let entry = logs.get(&(*site, device.as_str())).and_then(|log| log.entries.get(id));
            let name = format!("{id} of {device} at {}", self.sites[*site]);
            let (sent, acked) = entry.map_or((0, 0), |entry| (entry.sends, entry.acks));
            let lines = due.movements.len() as u64;
            if sent > 0 {
                self.findings.sent += lines;
            }
            if acked == 0 {
                tell(&mut self.findings, format!("{name} was never acknowledged (sent {sent} times)"));
            } else {
                self.findings.acked += lines;
                let left = self.stores.requests.get(key).unwrap_or(&nothing);
                let at_hq = self.hq.requests.get(key).unwrap_or(&nothing);
                self.missing(&name, due, left, at_hq);
            }
            if let Some(entry) = entry.filter(|entry| entry.acks > 0) {
                self.replies(&name, due, entry);
            }
        }
        for (key, left) in &self.stores.requests {
            let due = self.expected.requests.get(key).map_or(&[][..], |due| &due.movements);
            let surplus = surplus(left.movements.iter().map(|(code, units, _)| (*code, *units)), due.iter().copied());
            if !surplus.is_empty() {
                self.findings.doubled += surplus.len() as u64;
                let (site, device, id) = key;
                let name = format!("{id} of {device} at {}", self.sites[*site]);
                tell(&mut self.findings, format!("{name} left {} records too many: {surplus:?}", surplus.len()));
            }
        }
    }

    /// What a device was promised is at its gateway; a record that only HQ has was trimmed there, not lost.
    fn missing(&mut self, name: &str, due: &Due, left: &Left, at_hq: &Left) {
        let held = |left: &Left| left.movements.iter().map(|(code, units, _)| (*code, *units)).collect::<Vec<_>>();
        let best = if at_hq.movements.len() > left.movements.len() { at_hq } else { left };
        let missing = surplus(due.movements.iter().copied(), held(best).into_iter());
        if !missing.is_empty() {
            self.findings.lost += missing.len() as u64;
            tell(&mut self.findings, format!("{name} was acknowledged and is not in the ledger: {missing:?}"));
        }
        let refusals = |left: &Left| left.refusals.iter().map(normal).collect::<Vec<_>>();
        let due: Vec<_> = due.refusals.iter().map(|(line, code)| normal(&(*line, (*code).to_owned()))).collect();
        let best = if at_hq.refusals.len() > left.refusals.len() { at_hq } else { left };
        let missing = surplus(due.into_iter(), refusals(best).into_iter());
        if !missing.is_empty() {
            self.findings.lost += missing.len() as u64;
            tell(&mut self.findings, format!("{name} was acknowledged and left no refusal of {missing:?}"));
        }
    }

    /// The first outcome must be the oracle's; repeats are `duplicate`.
    fn replies(&mut self, name: &str, due: &Due, entry: &crate::log::Entry) {
        let Some(reply) = entry.replies.first() else {
            return tell(&mut self.findings, format!("{name} was acknowledged and never answered"));
        };
        let status = match (due.movements.is_empty(), due.refusals.is_empty()) {
            (_, true) => "ok",
            (false, false) => "partial",
            (true, false) => "refused",
        };
        let first = entry.replies.iter().find(|reply| reply.status != "duplicate");
        if let Some(first) = first {
            let refused: BTreeSet<_> =
                first.refused.iter().map(|line| normal(&(line.line, line.code.clone()))).collect();
            let due: BTreeSet<_> = due.refusals.iter().map(|(line, code)| normal(&(*line, (*code).to_owned()))).collect();
            if first.status != status || refused != due {
                let got = (&first.status, refused);
                tell(&mut self.findings, format!("{name} was answered {got:?}, not {:?}", (status, due)));
            }
        } else if entry.sends == 1 {
            tell(&mut self.findings, format!("{name} was sent once and answered {:?}", reply.status));
        }
    }

    /// Bare barcode text has no id: each one that was acknowledged left at least one record.
    fn bare_scans(&mut self) {
        for log in self.logs {
            let device = (log.site, log.device.clone());
            let sum = |tally: &BTreeMap<(usize, String), u64>| tally.get(&device).copied().unwrap_or(0);
            let (good, bad) = (sum(&self.expected.lookups), sum(&self.expected.bad_lookups));
            let (held, refused) = (sum(&self.stores.lookups), sum(&self.stores.bare_refusals));
            let acked = u64::from(log.plain.acks);
            let name = format!("{} at {}", log.device, self.sites[log.site]);
            if acked < good + bad {
                tell(&mut self.findings, format!("{name} had {acked} of {} price checks acknowledged", good + bad));
            }
            let short = good.min(acked).saturating_sub(held) + bad.saturating_sub(refused);
            if acked > 0 && short > 0 {
                self.findings.lost += short;
                let held = held + refused;
                tell(&mut self.findings, format!("{name} had {acked} price checks acknowledged and {held} recorded"));
            }
        }
    }

    /// Everything in a store's ledger is at HQ.
    fn transfer(&mut self) {
        let away: Vec<_> = self.stores.met.keys().filter(|dot| !self.hq.met.contains_key(*dot)).collect();
        self.findings.lost += away.len() as u64;
        if let Some((site, _, seq)) = away.first() {
            let text = format!("{} records of the stores are not at HQ, the first is {seq} of {site}", away.len());
            tell(&mut self.findings, text);
        }
    }

    fn repeats(&mut self) {
        for (place, holdings) in [("a store's ledger", self.stores), ("HQ's ledger", self.hq)] {
            let twice: Vec<_> = holdings.met.iter().filter(|(_, times)| **times > 1).collect();
            self.findings.doubled += twice.len() as u64;
            if let Some(((site, _, seq), times)) = twice.first() {
                let text =
                    format!("{} records are in {place} more than once, the first is {seq} of {site}, {times} times", twice.len());
                tell(&mut self.findings, text);
            }
        }
    }

    fn stock(&mut self, live: Option<&BTreeMap<(usize, Code), i64>>) {
        let nothing = BTreeMap::new();
        let mut cells: BTreeSet<_> = self.expected.stock.keys().chain(self.hq.stock.keys()).collect();
        cells.extend(live.unwrap_or(&nothing).keys());
        self.findings.stock_cells = cells.len() as u64;
        for cell in cells {
            let due = self.expected.stock.get(cell).copied().unwrap_or(0);
            let journal = self.hq.stock.get(cell).copied().unwrap_or(0);
            let shown = live.map(|live| live.get(cell).copied().unwrap_or(0));
            if journal != due || shown.is_some_and(|shown| shown != due) {
                self.findings.stock_mismatches += 1;
                let (site, code) = (self.sites[cell.0], cell.1);
                let shown = shown.map_or("nothing".into(), |shown| shown.to_string());
                let text =
                    format!("{code:014} at {site} must be {due}: HQ's journal sums to {journal}, hq/stock shows {shown}");
                tell(&mut self.findings, text);
            }
        }
    }
}

/// A scan is one line; whether its refusal names line 1 or the request as a whole says the same.
fn normal(refusal: &(u32, String)) -> (u32, String) {
    (refusal.0.max(1), refusal.1.clone())
}

/// What `have` holds beyond `want`, as multisets.
fn surplus<T: Ord + Clone>(have: impl Iterator<Item = T>, want: impl Iterator<Item = T>) -> Vec<T> {
    let mut wanted: BTreeMap<T, usize> = BTreeMap::new();
    for item in want {
        *wanted.entry(item).or_default() += 1;
    }
    have.filter(|item| match wanted.get_mut(item) {
        Some(left @ 1..) => {
            *left -= 1;
            false
        }
        _ => true,
    })
    .collect()
}

fn tell(findings: &mut Findings, fault: String) {
    match findings.faults.len() {
        0..TOLD_MAX => findings.faults.push(fault),
        TOLD_MAX => findings.faults.push("and more".into()),
        _ => {}
    }
}
