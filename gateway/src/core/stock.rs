//! Counters: this ledger's own component of each item, moved by records and told in `store/stock/{gtin}`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Read};
use proto::counter::Component;
use proto::gtin::Gtin;
use proto::id::{Seq, Units, WallMs};
use proto::topic::Outbound;
use proto::wire::record::Of;
use proto::wire::{CounterCell, CounterTotal};

use super::Effect;
use super::tables::{COUNTER, counter_key, decode};

/// How far a count looks back for sales since it began, in records. Beyond it the count is refused: count again.
const LOOK_BACK_RECORDS: u64 = 50_000;

/// Components that the open group moved, and items whose topic must be told anew.
#[derive(Debug, Default)]
pub(super) struct Stock {
    moved: BTreeMap<Gtin, Component>,
    to_tell: BTreeSet<Gtin>,
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
        Ok(component.units)
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
    pub(super) fn changed(&mut self, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = Vec::new();
        for gtin in std::mem::take(&mut self.to_tell) {
            let (topic, payload) = message(gtin, stored(ledger, gtin)?.units);
            effects.push(Effect::Publish { topic, payload, retain: true });
        }
        Ok(effects)
    }
}

/// Every item's topic, for a start.
pub(super) fn all(ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
    let mut found = Vec::new();
    ledger.scan_prefix(COUNTER, &[], &mut |key, value| {
        let gtin = key.try_into().ok().and_then(|bytes| Gtin::from_number(u64::from_be_bytes(bytes)).ok());
        found.extend(gtin.map(|gtin| (gtin, value.to_vec())));
        ControlFlow::Continue(())
    })?;
    let tell = |(gtin, value): (Gtin, Vec<u8>)| {
        let (topic, payload) = message(gtin, Units(decode::<CounterCell>(COUNTER, &value)?.units));
        Ok(Effect::Restore { topic, payload })
    };
    found.into_iter().map(tell).collect()
}

/// Units that moved after `since`, by the records' stamps. `None` if the journal does not reach back that far.
pub(super) fn moved_since(ledger: &dyn Read, gtin: Gtin, since: WallMs) -> Result<Option<Units>, LedgerError> {
    let (mut sum, mut oldest, mut seen, mut reached) = (Units(0), Seq(1), 0, false);
    ledger.events_back(&mut |first, stamp, event| {
        if stamp.ms() < since {
            reached = true;
            return ControlFlow::Break(());
        }
        for record in &event.records {
            match &record.of {
                Some(Of::Movement(movement)) if movement.gtin == gtin.number() => sum += Units(movement.units),
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

fn message(gtin: Gtin, on_hand: Units) -> (String, bytes::Bytes) {
    let body = serde_json::json!({ "gtin": gtin, "on_hand": on_hand });
    (Outbound::StoreStock(gtin).to_string(), body.to_string().into())
}
