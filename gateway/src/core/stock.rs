//! Counters: this ledger's own component of each item, moved by records; with what earlier lives of the site's ledger
//! left it is what is on hand, told in `store/stock/{gtin}`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Read, Table};
use proto::counter::Component;
use proto::gtin::Gtin;
use proto::id::{Seq, Units, WallMs};
use proto::topic::Outbound;
use proto::wire::record::Of;
use proto::wire::{CounterCell, CounterTotal, Rights};

use super::Effect;
use super::rights::{Book, available};
use super::tables::{COUNTER, PAST, counter_key, decode, gtin_of};

/// How far a count looks back for sales since it began, in records. Beyond it the count is refused: count again.
const LOOK_BACK_RECORDS: u64 = 50_000;

/// Components that the open group moved, and items whose topic must be told anew.
#[derive(Debug, Default)]
pub(super) struct Stock {
    moved: BTreeMap<Gtin, Component>,
    to_tell: BTreeSet<Gtin>,
    /// What earlier lives left, over all of them. Empty on most boxes.
    past: BTreeMap<Gtin, Units>,
}

impl Stock {
    pub(super) fn component(&self, ledger: &dyn Read, gtin: Gtin) -> Result<Component, LedgerError> {
        match self.moved.get(&gtin) {
            Some(component) => Ok(*component),
            None => stored(ledger, gtin),
        }
    }

    /// Moves `units` by the record `seq`; returns what is then on hand.
    pub(super) fn apply(
        &mut self,
        ledger: &dyn Read,
        gtin: Gtin,
        units: Units,
        seq: Seq,
    ) -> Result<Units, LedgerError> {
        let component = self.component(ledger, gtin)?.moved(units, seq);
        self.moved.insert(gtin, component);
        self.to_tell.insert(gtin);
        Ok(component.units + self.past(gtin))
    }

    pub(super) fn on_hand(&self, ledger: &dyn Read, gtin: Gtin) -> Result<Units, LedgerError> {
        Ok(self.component(ledger, gtin)?.units + self.past(gtin))
    }

    /// What is told of it besides has changed.
    pub(super) fn touched(&mut self, gtin: Gtin) {
        self.to_tell.insert(gtin);
    }

    fn past(&self, gtin: Gtin) -> Units {
        self.past.get(&gtin).copied().unwrap_or_default()
    }

    /// An earlier life's component changed by so much.
    pub(super) fn past_changed(&mut self, gtin: Gtin, units: Units) {
        *self.past.entry(gtin).or_default() += units;
        self.to_tell.insert(gtin);
    }

    /// What earlier lives left, and every item's topic, for a start.
    pub(super) fn resume(&mut self, ledger: &dyn Read, rights: &Book) -> Result<Vec<Effect>, LedgerError> {
        self.past.clear();
        self.to_tell.clear();
        let mut items: BTreeSet<Gtin> = rights.pools.keys().copied().collect();
        each_cell(ledger, PAST, &mut |gtin, units| {
            items.insert(gtin);
            *self.past.entry(gtin).or_default() += units;
        })?;
        each_cell(ledger, COUNTER, &mut |gtin, _| items.extend([gtin]))?;
        let tell = |gtin: Gtin| {
            let on_hand = stored(ledger, gtin)?.units + self.past(gtin);
            let (topic, payload) = message(gtin, on_hand, rights.shown(gtin, ledger)?);
            Ok(Effect::Restore { topic, payload })
        };
        items.into_iter().map(tell).collect()
    }

    pub(super) fn seal(&mut self, chunk_first: Seq) -> Vec<CounterTotal> {
        let total = |(gtin, component): (Gtin, Component)| CounterTotal {
            gtin: gtin.number(),
            units: component.units.0,
            // A group has at most a few hundred records.
            seq_offset: (component.seq.0 - chunk_first.0) as u32,
        };
        std::mem::take(&mut self.moved).into_iter().map(total).collect()
    }

    /// One message for each item that moved, however often it did.
    pub(super) fn changed(&mut self, ledger: &dyn Read, rights: &Book) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = Vec::new();
        for gtin in std::mem::take(&mut self.to_tell) {
            let on_hand = stored(ledger, gtin)?.units + self.past(gtin);
            let (topic, payload) = message(gtin, on_hand, rights.shown(gtin, ledger)?);
            effects.push(Effect::Publish { topic, payload, retain: true });
        }
        Ok(effects)
    }
}

fn each_cell(ledger: &dyn Read, table: Table, each: &mut dyn FnMut(Gtin, Units)) -> Result<(), LedgerError> {
    let mut damaged = None;
    ledger.scan_prefix(table, &[], &mut |key, value| match decode::<CounterCell>(table, value) {
        Ok(cell) => {
            if let Some(gtin) = gtin_of(key) {
                each(gtin, Units(cell.units));
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            damaged = Some(error);
            ControlFlow::Break(())
        }
    })?;
    damaged.map_or(Ok(()), Err)
}

/// Units that moved after `since`, by the records' stamps. `None` if the journal does not reach back that far.
pub(super) fn moved_since(ledger: &dyn Read, gtin: Gtin, since: WallMs) -> Result<Option<Units>, LedgerError> {
    let (mut sum, mut oldest, mut seen, mut reached) = (Units(0), Seq(1), 0, false);
    ledger.events_back(&mut |first, stamp, event| {
        // What was journalled again is of its own time; what comes before it in the journal is newer.
        if stamp.ms() < since && event.rejoined_of == 0 {
            reached = true;
            return ControlFlow::Break(());
        }
        for record in &event.records {
            match &record.of {
                Some(Of::Movement(movement)) if movement.gtin == gtin.number() && stamp.ms() >= since => {
                    sum += Units(movement.units)
                }
                _ => {}
            }
        }
        oldest = first;
        seen += event.records.len() as u64;
        if seen > LOOK_BACK_RECORDS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let all = seen <= LOOK_BACK_RECORDS && oldest == Seq(1);
    Ok((reached || all).then_some(sum))
}

fn stored(ledger: &dyn Read, gtin: Gtin) -> Result<Component, LedgerError> {
    match ledger.get(COUNTER, &counter_key(gtin))? {
        Some(value) => Ok((&decode::<CounterCell>(COUNTER, &value)?).into()),
        None => Ok(Component::default()),
    }
}

fn message(gtin: Gtin, on_hand: Units, rights: Option<Rights>) -> (String, bytes::Bytes) {
    let body = match rights {
        None => serde_json::json!({ "gtin": gtin, "on_hand": on_hand }),
        Some(rights) => serde_json::json!({
            "gtin": gtin,
            "on_hand": on_hand,
            "available": available(&rights),
            "held": rights.held,
            "promised": rights.promised,
        }),
    };
    (Outbound::StoreStock(gtin).to_string(), body.to_string().into())
}
