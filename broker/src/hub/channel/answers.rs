//! What requests with an idempotency key came to. A repeat gets the first answer for at least 24 powered-on hours; it is
//! written in the same commit with what the request did, so no crash comes between.

use std::ops::ControlFlow;

use prost::Message;
use proto::wire::AnswerCell;
use serde_json::json;

use super::order::{Order, Outcome, Reply};
use crate::hub::tables::{ANSWERS, decode};
use crate::hub::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Put, Read, Step};

/// Powered-on seconds for which an answer is remembered, at least.
pub const KEEP_S: u64 = 24 * 3600;
/// The most answers that are remembered. Past it requests with a new key are turned away until old ones are forgotten:
/// what was promised of a key holds. Requests without a key go on.
pub const ANSWERS_MAX: u64 = 2_000_000;
/// Cells looked at per tick, and the pause between two rounds while there is room.
const SWEEP_CELLS: usize = 512;
const PAUSE_MS: u64 = 600_000;

#[derive(Debug, Default)]
pub(super) struct Answers {
    count: u64,
    /// Where the sweep goes on.
    from: Vec<u8>,
    rest_until_ms: u64,
}

impl Answers {
    pub(super) fn recover(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        self.count = 0;
        ledger.scan_prefix(ANSWERS, &[], &mut |_, _| {
            self.count += 1;
            ControlFlow::Continue(())
        })
    }

    /// Walks over the answers a few at a time and lets the old ones go.
    pub(super) fn sweep(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Put>, LedgerError> {
        if now.mono_ms < self.rest_until_ms || self.count == 0 {
            return Ok(Vec::new());
        }
        let (mut looked, mut gone, mut next, mut damaged) = (0, Vec::new(), None, None);
        ledger.scan(ANSWERS, &self.from, &mut |key, value| {
            if looked == SWEEP_CELLS {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            looked += 1;
            match decode::<AnswerCell>(ANSWERS, value) {
                Ok(cell) if is_over(&cell, now) => gone.push(Put::delete(ANSWERS, key)),
                Ok(_) => {}
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        if next.is_none() && self.count < ANSWERS_MAX / 2 {
            self.rest_until_ms = now.mono_ms + PAUSE_MS;
        }
        self.from = next.unwrap_or_default();
        self.count = self.count.saturating_sub(gone.len() as u64);
        damaged.map_or(Ok(gone), Err)
    }
}

fn is_over(cell: &AnswerCell, now: &Now) -> bool {
    cell.powered_on_s.saturating_add(KEEP_S) < now.powered_on_s
}

impl Hub {
    /// The answer that stands already: the first one, or that the key cannot be used.
    pub(super) fn answered_before(&self, order: &Order, ledger: &dyn Read) -> Result<Option<Reply>, LedgerError> {
        let Some(key) = &order.key else { return Ok(None) };
        let Some(value) = ledger.get(ANSWERS, &key.id)? else {
            let full = self.channel.answers.count >= ANSWERS_MAX;
            let why = "no more idempotency keys can be remembered just now; without one requests are taken";
            return Ok(full.then(|| Reply::new(Outcome::KeysFull, &json!({ "detail": why }))));
        };
        let cell: AnswerCell = decode(ANSWERS, &value)?;
        if cell.digest != key.digest {
            let why = "this idempotency key was used for another request";
            return Ok(Some(Reply::new(Outcome::KeyReused, &json!({ "detail": why }))));
        }
        let damaged = || LedgerError::Value { table: ANSWERS.0, why: format!("an answer {:?}", cell.outcome) };
        let outcome = Outcome::of_code(&cell.outcome).ok_or_else(damaged)?;
        let version = Some(cell.version).filter(|version| !version.is_empty());
        Ok(Some(Reply { outcome, body: cell.body, version, replayed: true }))
    }

    pub(super) fn remember(&mut self, order: &Order, reply: &Reply, now: &Now, step: &mut Step<Effect>) {
        let Some(key) = order.key.as_ref().filter(|_| !reply.outcome.is_passing()) else { return };
        let cell = AnswerCell {
            digest: key.digest,
            outcome: reply.outcome.code().into(),
            body: reply.body.clone(),
            version: reply.version.clone().unwrap_or_default(),
            powered_on_s: now.powered_on_s,
        };
        self.channel.answers.count += 1;
        step.puts.push(Put::set(ANSWERS, key.id, cell.encode_to_vec()));
    }
}
