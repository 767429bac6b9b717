//! Units that go for good: promised out of an item's pool, or moved at a site where there is none.

use std::collections::{BTreeMap, BTreeSet};

use proto::gtin::Gtin;
use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::record::Of;
use proto::wire::{Promise, Rights, StockMoved};
use serde_json::{Value, json};

use super::order::{Line, LinesOf, Order, Outcome, Reply};
use crate::hub::{Effect, Hub};
use crate::ledger::{Now, Read, Step};

/// A restored hub waits for sites that are away; whoever asks need not ask every second.
pub(super) const UNSURE_DETAIL: &str =
    "this hub was restored from a backup and does not know yet what these sites were granted";

impl Hub {
    pub(super) fn decrement(
        &mut self,
        order: &Order,
        of: &LinesOf,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Reply {
        let lines = of.lines();
        let refused = lines.iter().find_map(|line| self.misplaced(line)).or_else(|| self.lacking(lines, now));
        if let Some(refused) = refused {
            return refused;
        }
        let (mut records, mut answers, mut spent) = (Vec::new(), Vec::new(), BTreeSet::new());
        let first = step.next_seq(ledger);
        for line in lines {
            let position = first.plus(records.len() as u64).0;
            let (record, said) = match &line.site {
                None => {
                    spent.insert(line.gtin);
                    self.promise(line, position)
                }
                Some(site) => self.move_at(site, line, position),
            };
            records.push(record);
            answers.push(said);
        }
        records.extend(spent.into_iter().map(|gtin| Of::Rights(self.pools.of_hub(gtin.number()))));
        let draft = self.draft_for(order, records, now);
        step.events.push(draft);
        Reply::new(Outcome::Done, &as_asked(of, answers))
    }

    /// A line that names a site where a pool is, or none where none is.
    fn misplaced(&self, line: &Line) -> Option<Reply> {
        let (outcome, why) = match (&line.site, self.pools.is_pooled(line.gtin.number())) {
            (None, true) => return None,
            (Some(site), false) if self.sites.contains_key(site) => return None,
            (None, false) => (Outcome::SiteMissing, "it has no pool: say at which `site` its stock moves".to_owned()),
            (Some(site), false) => (Outcome::SiteUnknown, format!("no site is called {site}")),
            (Some(_), true) => (
                Outcome::Pooled,
                "it is sold from a pool: leave `site` out, its stock moves where the goods are handed over".into(),
            ),
        };
        Some(Reply::new(outcome, &json!({ "detail": format!("{}: {why}", line.gtin), "gtin": line.gtin })))
    }

    /// The answer if there is less free than these lines take in all of an item with a pool. Whoever hears it is demand.
    pub(super) fn lacking(&mut self, lines: &[Line], now: &Now) -> Option<Reply> {
        let mut wanted: BTreeMap<Gtin, i64> = BTreeMap::new();
        for line in lines.iter().filter(|line| self.pools.is_pooled(line.gtin.number())) {
            *wanted.entry(line.gtin).or_default() += i64::from(line.units);
        }
        if let Some(refused) = self.unsure().filter(|_| !wanted.is_empty()) {
            return Some(refused);
        }
        let wanted = wanted.into_iter().map(|(gtin, asked)| (gtin, asked, self.left(gtin)));
        let short: Vec<(Gtin, i64, i64)> = wanted.filter(|(_, asked, left)| left < asked).collect();
        for (gtin, asked, _) in &short {
            self.channel_missed(gtin.number(), asked.unsigned_abs(), now);
        }
        let (gtin, asked, left) = short.first()?;
        let why = format!("of {gtin} there are {left} left, {asked} were asked for");
        let detail = if short.len() > 1 { format!("{why}; {} items lack units", short.len()) } else { why };
        let short = short.iter().map(|(gtin, asked, left)| json!({ "gtin": gtin, "asked": asked, "left": left }));
        let body = json!({ "detail": detail, "left": left, "short": short.collect::<Value>() });
        Some(Reply::new(Outcome::NotEnough, &body))
    }

    /// Why nothing may be promised just now, if it is so.
    pub(super) fn unsure(&self) -> Option<Reply> {
        let sites = self.pools.unsure()?;
        Some(Reply::new(Outcome::RightsUnsure, &json!({ "detail": format!("{UNSURE_DETAIL}: {sites}") })))
    }

    /// What may still be promised of an item with a pool.
    pub(super) fn left(&self, gtin: Gtin) -> i64 {
        self.pools.free(gtin.number()).unwrap_or_default().max(0)
    }

    /// Changes how the hub's own channel used an item. The record of it ends the event.
    pub(super) fn use_rights(&mut self, gtin: Gtin, change: impl FnOnce(&mut Rights)) -> Rights {
        let mut own = self.pools.of_hub(gtin.number());
        change(&mut own);
        self.pools.own_changed(own);
        own
    }

    fn promise(&mut self, line: &Line, position: u64) -> (Of, Value) {
        let Line { gtin, units, reference, channel, .. } = line;
        self.use_rights(*gtin, |own| own.promised = own.promised.saturating_add(u64::from(*units)));
        let record = Promise {
            gtin: gtin.number(),
            units: u64::from(*units),
            reference: reference.clone(),
            channel: channel.clone(),
        };
        let said = json!({ "gtin": gtin, "units": units, "record": position, "left": self.left(*gtin) });
        (Of::Promise(record), said)
    }

    fn move_at(&mut self, site: &SiteName, line: &Line, position: u64) -> (Of, Value) {
        let Line { gtin, units, reference, channel, .. } = line;
        let replica = ReplicaId { site: site.clone(), epoch: Epoch(self.incarnation) };
        let moved = -i64::from(*units);
        let held = self.feed.stock.of(&replica)(gtin.number()).map_or(0, |part| part.units);
        let total = held.saturating_add(moved);
        self.feed.stock.moved_by_hub(&replica, position, (gtin.number(), total));
        let record = StockMoved {
            site: site.to_string(),
            gtin: gtin.number(),
            units: moved,
            total,
            incarnation: self.incarnation,
            reference: reference.clone(),
            channel: channel.clone(),
        };
        let on_hand = self.feed.stock.on_hand(*gtin).get(site.as_str()).copied().unwrap_or_default();
        let said = json!({ "gtin": gtin, "units": units, "record": position, "site": site, "on_hand": on_hand });
        (Of::StockMoved(record), said)
    }
}

/// A single line is answered by itself.
pub(super) fn as_asked(of: &LinesOf, mut answers: Vec<Value>) -> Value {
    match of {
        LinesOf::One(_) => answers.pop().unwrap_or_default(),
        LinesOf::Many(_) => json!({ "lines": answers }),
    }
}
