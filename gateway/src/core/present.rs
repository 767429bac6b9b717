//! The present: the latest value of each key that changed after a seq, for a hub that is far behind.

use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Read};
use prost::Message;
use proto::id::Seq;
use proto::register::Register;
use proto::wire::{CounterCell, Present, PresentTotal, PresentWrite, RegisterState, RegisterWrite};

use super::tables::{COUNTER, OWN, decode, gtin_of};
use crate::sync::PresentAsk;

/// What one part carries at most.
const PART_BYTES: usize = 32 << 10;

/// The parts, at least one, and how many keys were looked at. Values are those of the last commit; they may be newer than
/// `as_of`, never older.
pub(super) fn since(ask: PresentAsk, ledger: &dyn Read) -> Result<(Vec<Present>, u64), LedgerError> {
    let mut parts = Parts { ask, done: Vec::new(), open: Present::default(), bytes: 0, looked: 0 };
    let mut damaged = None;
    ledger.scan_prefix(COUNTER, &[], &mut |key, value| {
        parts.looked += 1;
        match (gtin_of(key), decode::<CounterCell>(COUNTER, value)) {
            (Some(gtin), Ok(cell)) if cell.seq > ask.since.0 => {
                let total = PresentTotal { gtin: gtin.number(), units: cell.units, seq: cell.seq };
                parts.grow(total.encoded_len());
                parts.open.totals.push(total);
            }
            (_, Err(error)) => damaged = Some(error),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    ledger.scan_prefix(OWN, &[], &mut |key, value| {
        parts.looked += 1;
        match decode::<RegisterState>(OWN, value).map(|state| write(key, &state)) {
            Ok(Some(write)) if write.seq > ask.since.0 => {
                parts.grow(write.encoded_len());
                parts.open.writes.push(write);
            }
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    match damaged {
        Some(error) => Err(error),
        None => Ok(parts.finish()),
    }
}

struct Parts {
    ask: PresentAsk,
    done: Vec<Present>,
    open: Present,
    bytes: usize,
    looked: u64,
}

impl Parts {
    fn grow(&mut self, bytes: usize) {
        if self.bytes + bytes > PART_BYTES {
            self.close(false);
        }
        self.bytes += bytes;
    }

    fn close(&mut self, last: bool) {
        let part = self.done.len() as u32;
        let open = std::mem::take(&mut self.open);
        let Seq(since) = self.ask.since;
        self.done.push(Present { since, as_of: self.ask.as_of.0, part, last, ..open });
        self.bytes = 0;
    }

    fn finish(mut self) -> (Vec<Present>, u64) {
        self.close(true);
        (self.done, self.looked)
    }
}

fn write(key: &[u8], state: &RegisterState) -> Option<PresentWrite> {
    let register = Register::try_from(state).ok()?;
    let write = RegisterWrite {
        key: String::from_utf8(key.to_vec()).ok()?,
        value: state.value.clone(),
        deleted: state.deleted,
        stamp: state.stamp,
        seen: state.seen.clone(),
        replaces_value: state.replaces_value,
    };
    Some(PresentWrite { write: Some(write), seq: register.dot.seq.0, device: register.writer })
}
