//! The hub's feed: registers that changed, what earlier lives of this site's ledger left, other sites' stock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use bytes::Bytes;
use prost::Message;
use proto::gtin::Gtin;
use proto::id::{Epoch, SiteName, Units};
use proto::register::{Register, RegisterKey};
use proto::topic::Outbound;
use proto::wire::record::Of;
use proto::wire::{CounterCell, Event, Feed, FeedCursor, FeedEntry, Movement, MovementKind, Record, StockEntry};
use serde_json::json;

use super::tables::{
    COUNTED, ELSEWHERE, HUB, OWN, PAST, SYNC, counter_key, cursor_key, decode, elsewhere_of, elsewhere_prefix, past_key,
};
use super::{Effect, Gateway, hub, items};
use crate::request::Refused;
use crate::sync::{Ack, RIGHTS};

/// Who sent what the feed brought, in records of what could not be read of it. No device has this name.
const FEED: &str = "";

impl Gateway {
    /// Takes over what the hub's feed says, if it continues where we stand; else says where that is.
    pub(super) fn adopt(
        &mut self,
        incarnation: u64,
        feed: Feed,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        // A stream that is not followed any more needs no answer.
        let Some(cursor) = self.hub.cursors.get_mut(&feed.stream) else { return Ok(Step::nothing()) };
        let here = if cursor.incarnation == incarnation { *cursor } else { anew(cursor, incarnation) };
        let stream = feed.stream.clone();
        if feed.prev != here.position {
            let ack = Ack { resend: true, ..hub::ack(&stream, here, ledger) };
            return Ok(Step { then: vec![Effect::FeedAck(ack)], ..Step::nothing() });
        }
        if let Some(bucket) = feed.bucket {
            return self.repair(bucket, &feed, now, ledger);
        }
        if let Some(range) = &feed.range {
            return self.take_range(here, range, &feed, now, ledger);
        }
        *cursor = FeedCursor { position: feed.upto, ..here };
        let cursor = *cursor;
        let mut step = Step::nothing();
        for entry in &feed.entries {
            self.adopt_register(entry, now, ledger, &mut step)?;
        }
        self.adopt_stock(&feed, now, ledger, &mut step)?;
        if stream == RIGHTS {
            self.adopt_rights(&feed.rights, now, ledger, &mut step)?;
        }
        step.puts.push(Put::set(SYNC, cursor_key(&stream), cursor.encode_to_vec()));
        step.then.push(Effect::FeedAck(hub::ack(&stream, cursor, ledger)));
        Ok(step)
    }

    pub(super) fn adopt_register(
        &mut self,
        entry: &FeedEntry,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let state = entry.state.clone().unwrap_or_default();
        let (Ok(key), Ok(register)) = (entry.key.parse::<RegisterKey>(), Register::try_from(&state)) else {
            self.reject_entry(&entry.key, entry.encode_to_vec(), now, ledger, step);
            return Ok(());
        };
        // What was applied before this was said has been taken into account, also if the vector that told it was forgotten
        // since. Gone for good: nobody would say it again after a crash.
        if let Some(own) = items::stored(ledger, OWN, &entry.key)?
            && (register.seen.covers(&own.dot) || own.dot.seq <= self.hub.applied)
        {
            step.puts.push(Put::delete(OWN, entry.key.as_str()));
        }
        step.puts.push(Put::set(HUB, entry.key.as_str(), state.encode_to_vec()));
        self.items.touched(&key);
        Ok(())
    }

    fn adopt_stock(
        &mut self,
        feed: &Feed,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let (mut elsewhere, mut adjusted) = (BTreeSet::new(), Vec::new());
        for entry in &feed.stock {
            let (Ok(gtin), Ok(site)) = (Gtin::from_number(entry.gtin), entry.site.parse::<SiteName>()) else {
                let name = format!("the stock of {} at {:?}", entry.gtin, entry.site);
                self.reject_entry(&name, entry.encode_to_vec(), now, ledger, step);
                continue;
            };
            let cell = CounterCell { units: entry.units, seq: entry.seq, feed_position: 0, by_hub: false };
            if site != ledger.replica().site {
                let key = [&elsewhere_prefix(&site, gtin)[..], &entry.epoch.to_be_bytes()].concat();
                step.puts.push(Put::set(ELSEWHERE, key, cell.encode_to_vec()));
                elsewhere.insert((site, gtin));
            } else if entry.epoch != ledger.replica().epoch.0
                && let Some(movement) = self.adopt_past(gtin, entry, &cell, ledger, step)?
            {
                let seq = step.next_seq(ledger).plus(adjusted.len() as u64);
                self.stock.apply(ledger, gtin, Units(movement.units), seq)?;
                adjusted.push(Record { of: Some(Of::Movement(movement)) });
            }
        }
        // One event, and so one commit with the figures and the cursor: a part of it would be done again.
        if !adjusted.is_empty() {
            let draft = self.draft(Event { records: adjusted, ..Event::default() }, now);
            step.events.push(draft);
        }
        for (site, gtin) in elsewhere {
            let (topic, payload) = message(&site, gtin, on_hand(&site, gtin, &feed.stock, ledger)?);
            step.then.push(Effect::Publish { topic, payload, retain: true });
        }
        Ok(())
    }

    /// What an earlier life left of an item. If this life counted the item before it heard of that, the count stands:
    /// whoever counted saw all there is. What the hub itself moved is no part of that: it stays moved.
    fn adopt_past(
        &mut self,
        gtin: Gtin,
        entry: &StockEntry,
        cell: &CounterCell,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Option<Movement>, LedgerError> {
        let key = past_key(gtin, Epoch(entry.epoch));
        let held = ledger.get(PAST, &key)?.map(|value| decode::<CounterCell>(PAST, &value)).transpose()?;
        let change = Units(entry.units) + -Units(held.map_or(0, |held| held.units));
        self.stock.past_changed(gtin, change);
        step.puts.push(Put::set(PAST, key, cell.encode_to_vec()));
        if entry.by_hub || held.is_some() || change == Units(0) || ledger.get(COUNTED, &counter_key(gtin))?.is_none() {
            return Ok(None);
        }
        Ok(Some(Movement {
            gtin: gtin.number(),
            units: -change.0,
            kind: MovementKind::Adjust.into(),
            reference: "counted before the earlier ledger's stock was known".into(),
            ..Movement::default()
        }))
    }

    pub(super) fn reject_entry(
        &mut self,
        what: &str,
        bytes: Vec<u8>,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) {
        self.hub.feed_rejects += 1;
        let reason = format!("the hub says of {what:?} what cannot be read; what this site had of it stays");
        let why = Refused::new("feed_unreadable", reason);
        let topic = Outbound::Down(&ledger.replica().site).to_string();
        let draft = self.refusal_event(FEED, (&topic, &bytes.into()), &why, None, now);
        step.events.push(draft);
    }
}

/// Another site's stock of an item: what is stored, but for what the message at hand changes.
fn on_hand(site: &SiteName, gtin: Gtin, news: &[StockEntry], ledger: &dyn Read) -> Result<Units, LedgerError> {
    let (prefix, mut lives) = (elsewhere_prefix(site, gtin), BTreeMap::new());
    let mut damaged = None;
    ledger.scan_prefix(ELSEWHERE, &prefix, &mut |key, value| {
        match decode::<CounterCell>(ELSEWHERE, value) {
            Ok(cell) => drop(lives.insert(key[prefix.len()..].to_vec(), Units(cell.units))),
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    for entry in news.iter().filter(|entry| entry.gtin == gtin.number() && entry.site == site.as_str()) {
        lives.insert(entry.epoch.to_be_bytes().to_vec(), Units(entry.units));
    }
    damaged.map_or(Ok(lives.into_values().sum()), Err)
}

/// Every other site's stock that is followed, for a start; what is followed no more goes.
pub(super) fn resume(follow: &[String], ledger: &dyn Read) -> Result<(Vec<Put>, Vec<Effect>), LedgerError> {
    let (mut gone, mut stock, mut damaged) = (Vec::new(), BTreeMap::<_, Units>::new(), None);
    let mut unfollowed = BTreeSet::new();
    ledger.scan_prefix(ELSEWHERE, &[], &mut |key, value| {
        let Some((site, gtin)) = elsewhere_of(key) else { return ControlFlow::Continue(()) };
        let stream = format!("site/{site}");
        if !follow.iter().any(|followed| *followed == stream || followed == "sites") {
            gone.push(Put::delete(ELSEWHERE, key));
            unfollowed.insert(stream);
            return ControlFlow::Continue(());
        }
        match decode::<CounterCell>(ELSEWHERE, value) {
            Ok(cell) => *stock.entry((site, gtin)).or_default() += Units(cell.units),
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    gone.extend(unfollowed.iter().map(|stream| Put::delete(SYNC, cursor_key(stream))));
    if !unfollowed.is_empty() {
        gone.push(Put::delete(SYNC, cursor_key("sites")));
    }
    let restore = |((site, gtin), units): ((SiteName, Gtin), Units)| {
        let (topic, payload) = message(&site, gtin, units);
        Effect::Restore { topic, payload }
    };
    damaged.map_or_else(|| Ok((gone, stock.into_iter().map(restore).collect())), Err)
}

/// From the beginning of another hub's feed. What a snapshot of the one before has hidden stays hidden, but is not said to
/// this one: it may still have what the snapshot did not name.
fn anew(cursor: &FeedCursor, incarnation: u64) -> FeedCursor {
    let snapshot_of = if cursor.snapshot_of > 0 { cursor.snapshot_of } else { cursor.incarnation };
    let snapshot_of = if snapshot_of == incarnation { 0 } else { snapshot_of };
    FeedCursor { incarnation, snapshot_to: cursor.snapshot_to, snapshot_of, ..FeedCursor::default() }
}

fn message(site: &SiteName, gtin: Gtin, on_hand: Units) -> (String, Bytes) {
    let body = json!({ "gtin": gtin, "site": site.as_str(), "on_hand": on_hand });
    (Outbound::StoreElsewhere(site, gtin).to_string(), body.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Cursors;

    /// What a snapshot has hidden stays hidden when the hub is restored, and is told to the incarnation that it was of.
    #[test]
    fn what_a_snapshot_has_hidden_outlives_the_hub() {
        let first = FeedCursor { incarnation: 7, position: 90, snapshot_to: 30, snapshot_of: 0 };
        let second = FeedCursor { position: 4, ..anew(&first, 8) };
        let third = anew(&second, 9);
        let told = |cursor: FeedCursor| {
            let mut cursors = Cursors::default();
            let stream = crate::sync::REGISTERS.to_owned();
            cursors.set(&Ack { stream, cursor, resend: false, journal_to: proto::id::Seq(40), taken: None });
            cursors.snapshot_to()
        };
        assert_eq!((second.snapshot_of, third.snapshot_of, anew(&third, 7).snapshot_of), (7, 7, 0));
        assert_eq!(
            [first, second, third].map(|cursor| (cursor.snapshot_to, told(cursor))),
            [(30, 30), (30, 0), (30, 0)]
        );
        assert_eq!(third.position, 0);
    }
}
