//! What was told, and by which hub: one that is restored may lack what the one before had shown. With it the lives that
//! led to this one, and what of the fork is journalled again.

use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Put, Read};
use proto::id::Epoch;
use proto::wire::{Ancestor, Event, IdCell, TakeoverCell};

use super::super::Effect;
use super::super::tables::{ORIGIN, PAST_ORIGIN, origin_key};
use super::{LINEAGE_MAX, Takeover};

/// Cells of origins that one tick removes.
const SWEEP_CELLS: usize = 256;

impl Takeover {
    /// Who tells all this. What a hub said that was restored since is looked for anew: it may lack what it had of the fork,
    /// and while the fork is here nothing of that is lost.
    pub(in crate::core) fn told_by(&mut self, incarnation: u64) -> Option<Put> {
        if self.cell.done || self.cell.incarnation == incarnation {
            return None;
        }
        if self.cell.incarnation != 0 {
            self.begin_anew();
        }
        self.cell.incarnation = incarnation;
        Some(self.put())
    }

    pub(super) fn begin_anew(&mut self) {
        let TakeoverCell { ids, incarnation, lineage, .. } = std::mem::take(&mut self.cell);
        self.cell = TakeoverCell { ids, incarnation, lineage, anew: true, ..TakeoverCell::default() };
        self.asked_ms = None;
        self.swept = false;
    }

    /// For every Hello, if there is anything to say.
    pub(in crate::core) fn lineage(&self) -> Option<Effect> {
        (!self.cell.lineage.is_empty()).then(|| Effect::Lineage(self.cell.lineage.clone()))
    }

    /// Lives that the hub knows to be over. Those that it named before it was restored stay.
    pub(super) fn of_lineage(&mut self, told: &[Ancestor], own: Epoch) {
        for ancestor in told.iter().filter(|ancestor| ancestor.epoch != own.0) {
            let known = self.cell.lineage.iter().any(|known| known.epoch == ancestor.epoch);
            if !known && self.cell.lineage.len() < LINEAGE_MAX {
                self.cell.lineage.push(ancestor.clone());
            }
        }
    }

    /// Whether an event that says where it was first is journalled again already: here, or by what the hub has of
    /// another life.
    pub(in crate::core) fn has_origin(&self, event: &Event, ledger: &dyn Read) -> Result<bool, LedgerError> {
        let key = origin_key(event);
        if ledger.get(ORIGIN, &key)?.is_some() {
            return Ok(true);
        }
        // Of a hub that was restored since it may be gone.
        Ok(ledger.get(PAST_ORIGIN, &key)?.is_some_and(|value| value == self.cell.incarnation.to_be_bytes()))
    }

    /// Whether the hub that is there now has shown what an earlier life answered.
    pub(in crate::core) fn is_told(&self, cell: &IdCell) -> bool {
        // Software before this one did not say whom it heard it from.
        cell.incarnation == self.cell.incarnation || (cell.incarnation == 0 && !self.cell.anew)
    }

    /// Nobody asks for origins once all is taken over.
    pub(in crate::core) fn sweep(&mut self, ledger: &dyn Read) -> Result<Vec<Put>, LedgerError> {
        let mut gone = Vec::new();
        if !self.cell.done || self.others || self.swept {
            return Ok(gone);
        }
        for table in [ORIGIN, PAST_ORIGIN] {
            ledger.scan(table, &[], &mut |key, _| {
                gone.push(Put::delete(table, key));
                if gone.len() < SWEEP_CELLS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        self.swept = gone.is_empty();
        Ok(gone)
    }
}
