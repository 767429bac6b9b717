//! Everything held against everything.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::holdings::{Holdings, Left};
use crate::log::{Entry, Log};
use crate::oracle::{Code, Due, Expected};

/// The most faults that are told one by one; further ones are only counted.
const TOLD_MAX: usize = 20;

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
    judge.unnamed();
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
        let due = due.refusals.iter().filter(|(line, _)| *line > 0).map(|(line, code)| (*line, (*code).to_owned()));
        let best = if at_hq.refusals.len() > left.refusals.len() { at_hq } else { left };
        let missing = surplus(due, best.refusals.iter().cloned());
        if !missing.is_empty() {
            self.findings.lost += missing.len() as u64;
            tell(&mut self.findings, format!("{name} was acknowledged and left no refusal of {missing:?}"));
        }
    }

    /// The first outcome must be the oracle's; repeats are `duplicate`.
    fn replies(&mut self, name: &str, due: &Due, entry: &Entry) {
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
            let refused: BTreeSet<_> = first.refusals().collect();
            let due: BTreeSet<_> = due.refusals.iter().copied().collect();
            if first.status != status || refused != due {
                let got = (&first.status, refused);
                tell(&mut self.findings, format!("{name} was answered {got:?}, not {:?}", (status, due)));
            }
        } else if entry.sends == 1 {
            tell(&mut self.findings, format!("{name} was sent once and answered {:?}", reply.status));
        }
    }

    /// Bare barcode text has no id, nor has the record of a request that was refused as a whole. Such a message may be
    /// recorded more than once if its acknowledgement was lost, so each device has at least as many as it was promised.
    fn unnamed(&mut self) {
        for log in self.logs {
            let device = (log.site, log.device.clone());
            let sum = |tally: &BTreeMap<(usize, String), u64>| tally.get(&device).copied().unwrap_or(0);
            let (good, bad) = (sum(&self.expected.lookups), sum(&self.expected.bad_lookups));
            let name = format!("{} at {}", log.device, self.sites[log.site]);
            if u64::from(log.plain.acks) < good + bad {
                let acks = log.plain.acks;
                tell(&mut self.findings, format!("{name} had {acks} of {} price checks acknowledged", good + bad));
                continue;
            }
            let here =
                self.expected.requests.iter().filter(|((site, name, _), _)| (*site, name) == (log.site, &log.device));
            let refused = here.filter(|((_, _, id), due)| due.is_refused_whole() && log.is_acked(id)).count() as u64;
            let rows = [
                ("price checks", good, sum(&self.stores.lookups)),
                ("refused requests", bad + refused, sum(&self.stores.whole_refusals)),
            ];
            for (what, promised, held) in rows.into_iter().filter(|(_, promised, held)| held < promised) {
                self.findings.lost += promised - held;
                tell(
                    &mut self.findings,
                    format!("{name} had {promised} {what} acknowledged, {held} are in the ledger"),
                );
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
                let text = format!(
                    "{} records are in {place} more than once, the first is {seq} of {site}, {times} times",
                    twice.len()
                );
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
                let text = format!(
                    "{code:014} at {site} must be {due}: HQ's journal sums to {journal}, hq/stock shows {shown}"
                );
                tell(&mut self.findings, text);
            }
        }
    }
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
