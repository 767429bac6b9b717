//! Request ids: looked up before anything is done, kept at least seven powered-on days, then swept.

use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Now, Put, Read, Table};
use proto::dedupe::{self, Repeat};
use proto::id::{DeviceName, RequestId};
use proto::wire::{HoldCell, IdCell};

use super::tables::{ID, PAST_IDS, decode, id_key};

const KEEP_S: u64 = 7 * 24 * 3600;
/// The most ids that are kept. Past it they are kept for less time; `status` shows for how long.
pub(super) const IDS_MAX: u64 = 2_000_000;
/// Never for less than this, whatever it takes: devices send again within minutes.
const KEEP_LEAST_S: u64 = 3600;
/// Cells looked at per tick, and the pause between two rounds.
const SWEEP_CELLS: usize = 256;
const PAUSE_MS: u64 = 600_000;

/// What an id that was answered before, in this life of the ledger or an earlier one, says to the same id now.
pub(super) fn look_up(
    ledger: &dyn Read,
    device: &DeviceName,
    id: &RequestId,
    digest: u32,
) -> Result<Option<(Repeat, u64)>, LedgerError> {
    let key = id_key(device, id);
    for table in [ID, PAST_IDS] {
        if let Some(value) = ledger.get(table, &key)? {
            let first: IdCell = decode(table, &value)?;
            return Ok(Some((dedupe::compare(&first, digest), first.first_seq)));
        }
    }
    Ok(None)
}

/// The powered-on second from which a cell ages; `None` while it must stay.
pub(super) type Since = fn(Table, &[u8]) -> Result<Option<u64>, LedgerError>;

pub(super) fn answered_s(table: Table, value: &[u8]) -> Result<Option<u64>, LedgerError> {
    Ok(Some(decode::<IdCell>(table, value)?.powered_on_s))
}

/// Holds that have ended go the same way; an open one stays.
pub(super) fn ended_s(table: Table, value: &[u8]) -> Result<Option<u64>, LedgerError> {
    let cell: HoldCell = decode(table, value)?;
    Ok((cell.ended != 0).then_some(cell.at_s))
}

/// Walks over the cells of a table a few at a time and lets the old ones go.
#[derive(Debug)]
pub(super) struct Sweep {
    table: Table,
    since: Since,
    from: Vec<u8>,
    seen: u64,
    rest_until_ms: u64,
    pub(super) keep_s: u64,
}

impl Sweep {
    pub(super) fn of(table: Table, since: Since) -> Sweep {
        Sweep { table, since, from: Vec::new(), seen: 0, rest_until_ms: 0, keep_s: KEEP_S }
    }

    pub(super) fn expired(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Put>, LedgerError> {
        if now.mono_ms < self.rest_until_ms {
            return Ok(Vec::new());
        }
        let (mut looked, mut gone, mut next) = (0, Vec::new(), None);
        let mut damaged = None;
        let (table, since) = (self.table, self.since);
        ledger.scan(table, &self.from, &mut |key, value| {
            if looked == SWEEP_CELLS {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            looked += 1;
            match since(table, value) {
                Ok(Some(since_s)) if since_s + self.keep_s < now.powered_on_s => gone.push(Put::delete(table, key)),
                Ok(_) => self.seen += 1,
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = damaged {
            return Err(error);
        }
        match next {
            Some(key) => self.from = key,
            None => self.end_round(now),
        }
        Ok(gone)
    }

    fn end_round(&mut self, now: &Now) {
        self.keep_s =
            if self.seen > IDS_MAX { (self.keep_s / 4 * 3).max(KEEP_LEAST_S) } else { KEEP_S.min(self.keep_s * 2) };
        self.from.clear();
        self.seen = 0;
        self.rest_until_ms = now.mono_ms + PAUSE_MS;
    }
}
