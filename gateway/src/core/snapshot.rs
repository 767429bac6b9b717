//! A snapshot: the hub has forgotten deletions that this box never heard of, so it says all registers anew, range by range,
//! and what it does not name is gone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use prost::Message;
use proto::register::RegisterKey;
use proto::wire::{Feed, FeedCursor, KeyRange, RegisterState};

use super::tables::{HUB, OWN, SYNC, cursor_key};
use super::{Effect, Gateway, hub};
use crate::sync::{Ack, REGISTERS};

/// Registers of ours that one part replaces; if there are more, the hub goes on from the last of them.
const KEYS_MAX: usize = 2_000;

impl Gateway {
    /// Replaces what is held in a range by what the hub says of it. The cursor moves with the last range, in one commit;
    /// with it goes up to where this site's own writes are older than the snapshot: those that the hub does not name by
    /// then have come too late, and it keeps them as conflicts.
    pub(super) fn take_range(
        &mut self,
        here: FeedCursor,
        range: &KeyRange,
        feed: &Feed,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let (mut held, taken) = held(range, ledger)?;
        for entry in feed.entries.iter().filter(|entry| taken.as_ref().is_none_or(|last| entry.key <= *last)) {
            let said = entry.state.as_ref().map(RegisterState::encode_to_vec).unwrap_or_default();
            if held.remove(&entry.key).as_ref() != Some(&said) {
                self.adopt_register(entry, now, ledger, &mut step)?;
            }
        }
        for key in held.into_keys() {
            if let Ok(register) = key.parse() {
                self.items.touched(&register);
            }
            step.puts.push(Put::delete(HUB, key));
        }
        if taken.is_some() {
            step.then.push(Effect::FeedAck(Ack { taken, ..hub::ack(REGISTERS, here, ledger) }));
            return Ok(step);
        }
        let snapshot_to = ledger.next_seq().0.saturating_sub(1);
        let cursor = FeedCursor { position: feed.upto, snapshot_to, snapshot_of: 0, ..here };
        self.hub.cursors.insert(REGISTERS.to_owned(), cursor);
        step.puts.push(Put::set(SYNC, cursor_key(REGISTERS), cursor.encode_to_vec()));
        step.then.push(Effect::FeedAck(hub::ack(REGISTERS, cursor, ledger)));
        self.touch_own(ledger)?;
        tracing::info!(upto = feed.upto, "took over all of the hub's registers anew");
        Ok(step)
    }

    /// Own writes that came too late show no more.
    fn touch_own(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        ledger.scan_prefix(OWN, &[], &mut |key, _| {
            if let Some(key) = std::str::from_utf8(key).ok().and_then(|key| key.parse::<RegisterKey>().ok()) {
                self.items.touched(&key);
            }
            ControlFlow::Continue(())
        })
    }
}

/// Registers as they are stored, by key.
type Cells = BTreeMap<String, Vec<u8>>;

/// What is held of a range, and its last key unless the range goes to the end: sooner if there is much.
fn held(range: &KeyRange, ledger: &dyn Read) -> Result<(Cells, Option<String>), LedgerError> {
    let mut held = BTreeMap::new();
    let mut taken = (!range.to.is_empty()).then(|| range.to.clone());
    ledger.scan(HUB, range.after.as_bytes(), &mut |key, value| {
        let key = String::from_utf8_lossy(key).into_owned();
        if key == range.after {
            return ControlFlow::Continue(());
        }
        if taken.as_ref().is_some_and(|last| key > *last) {
            return ControlFlow::Break(());
        }
        held.insert(key.clone(), value.to_vec());
        if held.len() == KEYS_MAX {
            taken = Some(key);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok((held, taken))
}
