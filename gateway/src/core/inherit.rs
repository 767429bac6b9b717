//! Rights and holds of earlier lives. The hub counts all that an earlier life was granted as promised, so what it sold or
//! held within that spends nothing here: only what it sold beyond, and what came back to it, counts again. Its open holds
//! go on here, with their full time, outside of this life's rights.

use std::collections::BTreeMap;

use broker::ledger::{Draft, LedgerError, Now, Put, Read};
use proto::chunk::Chunk;
use proto::gtin::Gtin;
use proto::id::{Epoch, HoldId};
use proto::wire::record::Of;
use proto::wire::{EarlierRights, Event, Hold, HoldCell, HoldEnd, HoldEnded, MovementKind, Record, Rights};

use super::Gateway;
use super::rights::{EVENT_RECORDS, Sheet, available, net};
use super::tables::{HOLDS, decode};

/// Holds of earlier lives go on beside as many of this life: past this they are left out, and said to be unknown here.
const INHERITED_TIMES: usize = 2;

/// Rights and holds as one step leaves them that brings several events of an earlier life.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) sheet: Sheet,
    holds: BTreeMap<String, Known>,
    begun: usize,
}

/// What is known here of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Own,
    Inherited { unsure: bool },
    Ended(HoldEnd),
}

impl Again {
    fn known(&self, id: &str, ledger: &dyn Read) -> Result<Option<Known>, LedgerError> {
        if let Some(known) = self.holds.get(id) {
            return Ok(Some(*known));
        }
        let Some(value) = ledger.get(HOLDS, id.as_bytes())? else { return Ok(None) };
        let cell: HoldCell = decode(HOLDS, &value)?;
        Ok(Some(match cell.ended {
            0 => match cell.hold.unwrap_or_default() {
                Hold { inherited: true, unsure, .. } => Known::Inherited { unsure },
                _ => Known::Own,
            },
            how => Known::Ended(HoldEnd::try_from(how).unwrap_or_default()),
        }))
    }
}

impl Gateway {
    /// A hold of an earlier life goes on, unless this one knows the name. What only the hub showed of it, the box's own
    /// journal makes sure.
    pub(super) fn inherit(
        &self,
        hold: &Hold,
        again: &mut Again,
        ledger: &dyn Read,
    ) -> Result<Option<Record>, LedgerError> {
        let sound = hold.id.parse::<HoldId>().is_ok() && Gtin::from_number(hold.gtin).is_ok();
        let known = again.known(&hold.id, ledger)?;
        let surer = known == Some(Known::Inherited { unsure: true }) && !hold.unsure;
        if !sound || (known.is_some() && !surer) {
            return Ok(None);
        }
        if !surer && self.rights.open.len() + again.begun >= self.rules.holds_max.saturating_mul(INHERITED_TIMES) {
            tracing::error!(hold = hold.id, "a hold of the ledger before is not taken over: too many are open");
            return Ok(None);
        }
        again.begun += usize::from(!surer);
        again.holds.insert(hold.id.clone(), Known::Inherited { unsure: hold.unsure });
        Ok(Some(Record { of: Some(Of::Hold(Hold { inherited: true, ..hold.clone() })) }))
    }

    /// That a hold of an earlier life ended, told in order. What this life made under the name is another one.
    pub(super) fn inherit_end(
        &self,
        ended: &HoldEnded,
        again: &mut Again,
        ledger: &dyn Read,
    ) -> Result<Option<Record>, LedgerError> {
        let follows = match again.known(&ended.id, ledger)? {
            None | Some(Known::Inherited { .. }) => true,
            Some(Known::Own) => false,
            Some(Known::Ended(HoldEnd::Expired)) => ended.how() == HoldEnd::CommittedLate,
            Some(Known::Ended(HoldEnd::Committed | HoldEnd::CommittedLate)) => ended.how() == HoldEnd::Collected,
            Some(Known::Ended(_)) => false,
        };
        let sound = ended.id.parse::<HoldId>().is_ok() && Gtin::from_number(ended.gtin).is_ok();
        if !follows || !sound {
            return Ok(None);
        }
        again.holds.insert(ended.id.clone(), Known::Ended(ended.how()));
        Ok(Some(Record { of: Some(Of::HoldEnded(ended.clone())) }))
    }

    /// Of an event of the fork: what its sales were not covered by there, and what came back. Its own words say which items
    /// had a pool there; they are said anew here, so that nobody takes it for a sale of shelf stock.
    pub(super) fn rights_again(
        &self,
        event: &Event,
        again: &mut Again,
        ledger: &dyn Read,
    ) -> Result<Vec<Record>, LedgerError> {
        let sums = net(event.records.iter().filter_map(bought));
        for record in &event.records {
            let Some(Of::Rights(then)) = &record.of else { continue };
            let Ok(gtin) = Gtin::from_number(then.gtin) else { continue };
            let Some(net) = sums.get(&gtin) else { continue };
            let sold = net.sold.saturating_sub(collected(event, then.gtin));
            let uncovered = available(then).min(0).unsigned_abs().min(sold);
            let rights = again.sheet.of(gtin, &self.rights, ledger)?;
            rights.promised = rights.promised.saturating_add(uncovered);
            rights.refunded = rights.refunded.saturating_add(net.back);
        }
        Ok(again.sheet.records())
    }

    /// What an event of the fork shows that its life was granted, and may have promised: a hub that was restored hears of it
    /// from here. What it sold beyond that this life has promised.
    pub(super) fn had_in(&mut self, event: &Event, epoch: Epoch) -> Vec<Put> {
        let had = |record: &Record| match &record.of {
            Some(Of::Rights(then)) => {
                self.rights.had_earlier(epoch.0, then.gtin, then.granted.saturating_sub(then.returned))
            }
            _ => None,
        };
        event.records.iter().filter_map(had).collect()
    }

    /// Holds in what the hub has of earlier lives. Chunks come newest first, so an end is seen before its hold, and stays
    /// known in the journal: a crash between two parts would forget it else.
    pub(super) fn holds_shown(
        &mut self,
        chunks: &[Chunk],
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Vec<Draft>, LedgerError> {
        let (mut again, mut records) = (Again::default(), Vec::new());
        for chunk in chunks {
            // Of a life whose journal is not at hand nobody knows what it did since.
            let lost = self.takeover.fork.as_ref().is_none_or(|fork| fork.epoch != chunk.head.replica.epoch);
            let events: Vec<_> = chunk.events().map(|(_, _, event)| event).collect();
            for of in events.iter().rev().flat_map(|event| event.records.iter().rev()).filter_map(|r| r.of.as_ref()) {
                match of {
                    Of::Hold(hold) if again.known(&hold.id, ledger)?.is_none() => {
                        let hold = Hold { unsure: hold.unsure || lost, ..hold.clone() };
                        records.extend(self.inherit(&hold, &mut again, ledger)?);
                    }
                    // The newest of them stands.
                    Of::HoldEnded(ended) if again.known(&ended.id, ledger)?.is_none() => {
                        records.extend(self.inherit_end(ended, &mut again, ledger)?);
                    }
                    _ => {}
                }
            }
        }
        let event = |records: &[Record]| Event { records: records.to_vec(), ..Event::default() };
        Ok(records.chunks(EVENT_RECORDS).map(|records| self.draft(event(records), now)).collect())
    }
}

/// Units that a record moved between the shelf and buyers.
fn bought(record: &Record) -> Option<(Gtin, i64)> {
    match &record.of {
        Some(Of::Movement(movement)) if matches!(movement.kind(), MovementKind::Sale | MovementKind::Refund) => {
            Some((Gtin::from_number(movement.gtin).ok()?, movement.units))
        }
        _ => None,
    }
}

/// Units of an item that an event's sale handed over from a hold, but for those that took a right in the same event.
fn collected(event: &Event, gtin: u64) -> u64 {
    let units = |how: HoldEnd| {
        let of = |record: &Record| match &record.of {
            Some(Of::HoldEnded(ended)) if ended.gtin == gtin && ended.how() == how => Some(ended.units),
            _ => None,
        };
        event.records.iter().filter_map(of).fold(0, u64::saturating_add)
    };
    units(HoldEnd::Collected).saturating_sub(units(HoldEnd::CommittedLate))
}

/// What a life of the ledger that is over said of its rights, for the hub.
pub(super) fn said_by(epoch: Epoch, rights: &Rights) -> Record {
    Record { of: Some(Of::EarlierRights(EarlierRights { epoch: epoch.0, rights: Some(*rights) })) }
}
