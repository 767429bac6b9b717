//! The self-check: every hour, when HQ has applied all, digests of what this site holds go to the hub. It asks for what
//! differs in the stock, and says anew what differs in the registers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use prost::Message;
use proto::check::{Sums, register_bucket};
use proto::topic::Outbound;
use proto::wire::up::Of as UpOf;
use proto::wire::{Check, CounterCell, Feed, RegisterState};

use super::hub::LinkState;
use super::tables::{COUNTER, HUB, decode, gtin_of};
use super::{Effect, Gateway};
use crate::request::Refused;
use crate::sync::REGISTERS;

const EVERY_MS: u64 = 3_600_000;
/// The first one after a start.
const FIRST_MS: u64 = 300_000;
/// Names of repaired keys that are told.
const NAMED_MAX: usize = 20;

/// When the next check is due.
#[derive(Debug)]
pub(super) struct CheckTimer {
    due_ms: u64,
}

impl Default for CheckTimer {
    fn default() -> Self {
        CheckTimer { due_ms: FIRST_MS }
    }
}

impl Gateway {
    /// The hub can only compare when it has all that is counted here.
    pub(super) fn check(&mut self, now: &Now, ledger: &dyn Read) -> Result<Option<Effect>, LedgerError> {
        let all_applied = self.hub.applied.next() == ledger.next_seq();
        if now.mono_ms < self.check.due_ms || !all_applied || self.hub.link != LinkState::Connected {
            return Ok(None);
        }
        self.check.due_ms = now.mono_ms + EVERY_MS;
        let (mut stock, mut registers, mut damaged) = (Sums::default(), Sums::default(), None);
        ledger.scan_prefix(COUNTER, &[], &mut |key, value| {
            match (gtin_of(key), decode::<CounterCell>(COUNTER, value)) {
                (Some(gtin), Ok(cell)) => stock.add_stock(gtin.number(), cell.units, cell.seq),
                (_, Err(error)) => damaged = Some(error),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        ledger.scan_prefix(HUB, &[], &mut |key, value| {
            // One side may have forgotten what is deleted.
            if !RegisterState::decode(value).is_ok_and(|state| state.deleted) {
                registers.add_register(&String::from_utf8_lossy(key), value);
            }
            ControlFlow::Continue(())
        })?;
        let check = Check {
            as_of: self.hub.applied.0,
            stock: stock.into_vec(),
            feed_cursor: self.hub.cursors.get(REGISTERS).map_or(0, |cursor| cursor.position),
            registers: registers.into_vec(),
        };
        damaged.map_or(Ok(Some(Effect::Say(UpOf::Check(check)))), Err)
    }

    /// The hub says all registers of a bucket in which we differ. What was wrong is replaced, named and reported.
    pub(super) fn repair(
        &mut self,
        bucket: u32,
        feed: &Feed,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let mut held = BTreeMap::new();
        // A bucket that is too much for one message comes in ranges of its keys.
        let range = feed.range.clone().unwrap_or_default();
        let is_meant = |key: &str| *key > *range.after && (range.to.is_empty() || *key <= *range.to);
        ledger.scan_prefix(HUB, &[], &mut |key, value| {
            let key = String::from_utf8_lossy(key).into_owned();
            if register_bucket(&key) == bucket as usize && is_meant(&key) {
                held.insert(key, value.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        let mut wrong = Vec::new();
        for entry in &feed.entries {
            let said = entry.state.as_ref().map(RegisterState::encode_to_vec).unwrap_or_default();
            if held.remove(&entry.key).as_ref() != Some(&said) {
                wrong.push(entry.key.clone());
                self.adopt_register(entry, now, ledger, &mut step)?;
            }
        }
        // What is deleted here and not known there was forgotten: both say the same.
        held.retain(|_, value| !RegisterState::decode(&value[..]).is_ok_and(|state| state.deleted));
        for key in held.into_keys() {
            if let Ok(register) = key.parse() {
                self.items.touched(&register);
            }
            step.puts.push(Put::delete(HUB, key.as_str()));
            wrong.push(key);
        }
        if wrong.is_empty() {
            return Ok(step);
        }
        tracing::warn!(
            keys = wrong.len(),
            first = wrong[0],
            "what this site held of the hub's registers was wrong: repaired"
        );
        let named = wrong.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let reason = format!("{} registers differed from the hub's and were replaced: {named}", wrong.len());
        let why = Refused::new("state_repaired", reason);
        let topic = Outbound::Down(&ledger.replica().site).to_string();
        let draft = self.refusal_event("", (&topic, &bytes::Bytes::new()), &why, None, now);
        step.events.push(draft);
        Ok(step)
    }
}
