//! The records that the life before had and the hub did not, journalled again in this one: as they were, with their
//! device, request and moment, under new names. Each event says where it comes from (`rejoined_of`), and folding that is
//! how far it is, so none comes twice.

use broker::ledger::{Draft, LedgerError, Now, Read, Step};
use bytes::Bytes;
use prost::Message;
use proto::chunk;
use proto::clock::Stamp;
use proto::gtin::Gtin;
use proto::id::{Dot, Epoch, Seq, Units};
use proto::register::RegisterKey;
use proto::version::VersionVector;
use proto::wire::record::Of;
use proto::wire::{CounterCell, Event, IdCell, Movement, MovementKind, Record, RegisterWrite, TimeAnchor};

use super::inherit::{Again, said_by};
use super::tables::{COUNTED, ID, PAST, PAST_IDS, answered_key, counter_key, decode, past_key};
use super::{Effect, Gateway, items};
use crate::request::Refused;

/// What one step journals: it must be one chunk, so that its totals are those of its own movements.
const STEP_RECORDS: usize = 512;
const STEP_BYTES: usize = 32 << 10;
/// A run is named by its first seq: those of the life before must not be taken for this life's.
const OF_ANOTHER_LIFE: u64 = 1 << 63;
/// How far back the refusal is looked for that an event was another try of.
const LOOK_BACK_EVENTS: usize = 20_000;
/// Who sent what of the fork cannot be read, and on which topic. No device has this name.
const FORK: &str = "";

/// What is told apart about one event of the fork.
struct Source {
    epoch: Epoch,
    /// The hub's figures of that life hold its movements up to where they say, also beyond its journal.
    figures_are_its_own: bool,
    /// Where the event was.
    seq: Seq,
    /// Its id was answered in another life as well.
    is_known: bool,
}

impl Gateway {
    pub(super) fn rejournal(
        &mut self,
        after: Seq,
        chunks: &[Bytes],
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let Some((common, applied)) = self.takeover.closed() else { return Ok(step) };
        let Some(fork) = self.takeover.fork.as_ref().filter(|fork| fork.at == after) else { return Ok(step) };
        let (epoch, mut at, mut records, mut bytes) = (fork.epoch, after, 0, 0);
        let mut again = Again::default();
        if chunks.is_empty() {
            let (put, then) = self.takeover.end();
            step.puts.push(put);
            step.then.extend(then);
            return Ok(step);
        }
        'parts: for stored in chunks {
            let chunk = match chunk::open(stored) {
                Ok(chunk) => chunk,
                Err(why) => {
                    step.events.push(self.fork_unreadable(stored, &why.to_string(), now));
                    at = chunk::head(stored).map_or(at.next(), |head| head.last).max(at);
                    break;
                }
            };
            for (first, stamp, event) in chunk.events().filter(|(first, ..)| *first > after) {
                if records >= STEP_RECORDS || bytes >= STEP_BYTES {
                    break 'parts;
                }
                let end = first.plus((event.records.len() as u64).saturating_sub(1));
                step.puts.extend(self.had_in(event, epoch));
                let event = &with_origin(event, epoch, first, stamp);
                if self.takeover.has_origin(event, ledger)? {
                    at = end;
                    continue;
                }
                let is_known = self.is_known(event, ledger)?;
                // More than we have in common: another box went on with it, and the figures are that one's.
                let source = Source { epoch, figures_are_its_own: common == applied, seq: first, is_known };
                if let Some(draft) = self.journalled_again(&source, (stamp, event), &mut again, ledger, &step)? {
                    records += draft.event.records.len();
                    bytes += draft.event.encoded_len();
                    step.events.push(draft);
                }
                at = end;
            }
            at = at.max(chunk.head.last);
        }
        if let Some(fork) = &mut self.takeover.fork {
            fork.at = at;
        }
        step.then.push(Effect::ReadFork { after: at });
        Ok(step)
    }

    /// `None` if there is nothing to say of it.
    fn journalled_again(
        &mut self,
        source: &Source,
        (stamp, event): (Stamp, &Event),
        rights: &mut Again,
        ledger: &dyn Read,
        step: &Step<Effect>,
    ) -> Result<Option<Draft>, LedgerError> {
        let first = step.next_seq(ledger);
        let (mut records, mut taken_back, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let mut said_there = Vec::new();
        for (old, record) in (source.seq.0..).zip(&event.records) {
            let seq = first.plus(records.len() as u64);
            match &record.of {
                Some(Of::Movement(movement)) => {
                    if !source.is_known {
                        self.move_again(movement, movement.units, seq, ledger)?;
                        records.push(record.clone());
                    }
                    taken_back.extend(counted_already(source, Seq(old), movement, ledger)?);
                }
                Some(Of::Register(write)) if !source.is_known => {
                    let dot = Dot { replica: ledger.replica().clone(), seq };
                    records.push(Record { of: Some(Of::Register(written_again(write, &dot))) });
                    repeated.extend(self.newer(write, ledger)?);
                }
                Some(Of::TimeAnchor(anchor)) if !source.is_known => {
                    let run = anchor.run | OF_ANOTHER_LIFE;
                    records.push(Record { of: Some(Of::TimeAnchor(TimeAnchor { run, ..*anchor })) });
                }
                // Those of this life come last.
                Some(Of::Rights(then)) if !source.is_known => said_there.push(said_by(source.epoch, then)),
                Some(Of::Rights(_)) => {}
                Some(Of::Hold(hold)) if !source.is_known => records.extend(self.inherit(hold, rights, ledger)?),
                Some(Of::HoldEnded(ended)) if !source.is_known => {
                    records.extend(self.inherit_end(ended, rights, ledger)?);
                }
                _ if !source.is_known => records.push(record.clone()),
                _ => {}
            }
        }
        for movement in taken_back {
            self.move_again(&movement, movement.units, first.plus(records.len() as u64), ledger)?;
            records.push(Record { of: Some(Of::Movement(movement)) });
        }
        for write in repeated {
            let dot = Dot { replica: ledger.replica().clone(), seq: first.plus(records.len() as u64) };
            records.push(Record { of: Some(Of::Register(written_again(&write, &dot))) });
        }
        if !source.is_known {
            records.extend(self.rights_again(event, rights, ledger)?);
        }
        // Of a request of which nothing follows here, that it was answered must not be lost.
        if records.is_empty() && (event.request.is_empty() || said_there.is_empty()) {
            return Ok(None);
        }
        records.extend(said_there);
        let again = match source.is_known {
            true => Event { unsynced: event.unsynced, uptime_ms: event.uptime_ms, ..Event::default() },
            false => self.under_its_id(event, ledger)?,
        };
        let run = if event.unsynced { event.run | OF_ANOTHER_LIFE } else { 0 };
        let Event { origin_epoch, origin_seq, origin_hash, .. } = *event;
        let event = Event { records, rejoined_of: source.seq.0, origin_epoch, origin_seq, origin_hash, run, ..again };
        // Its own moment. The clock does not follow it: it goes on after what this life did by itself.
        Ok(Some(Draft { stamp, event }))
    }

    fn move_again(&mut self, movement: &Movement, units: i64, seq: Seq, ledger: &dyn Read) -> Result<(), LedgerError> {
        if let Ok(gtin) = Gtin::from_number(movement.gtin) {
            self.stock.apply(ledger, gtin, Units(units), seq)?;
        }
        Ok(())
    }

    /// This life's own later write of the same register. To the hub a replica's later seq has seen the earlier one and
    /// replaces it, so what is newer is said once more after it.
    fn newer(&mut self, write: &RegisterWrite, ledger: &dyn Read) -> Result<Option<RegisterWrite>, LedgerError> {
        if let Ok(key) = write.key.parse::<RegisterKey>() {
            self.items.touched(&key);
        }
        let shown = items::visible(ledger, &write.key)?;
        let newer = shown.filter(|shown| shown.dot.replica == *ledger.replica() && shown.stamp.0 > write.stamp);
        Ok(newer.map(|newer| RegisterWrite {
            key: write.key.clone(),
            deleted: newer.value.is_none(),
            value: newer.value.unwrap_or_default(),
            stamp: newer.stamp.0,
            seen: Some((&newer.seen).into()),
            // Of the one that it is said behind.
            replaces_value: false,
        }))
    }

    /// Whether another life answered the same request: the hub's copy shows it, or the device sent it again since. Another
    /// request under its id is another request, and what only a hub had that was restored since is nowhere any more.
    fn is_known(&self, event: &Event, ledger: &dyn Read) -> Result<bool, LedgerError> {
        if event.request.is_empty() {
            return Ok(false);
        }
        let key = answered_key(event);
        for table in [ID, PAST_IDS] {
            let Some(value) = ledger.get(table, &key)? else { continue };
            let cell: IdCell = decode(table, &value)?;
            if cell.digest == event.digest && (table == ID || self.takeover.is_told(&cell)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An event of the fork as it is said here. If this life answered another request under its id already, it goes without
    /// the id: that answer must stay known, since an earlier fork may have it too.
    fn under_its_id(&self, event: &Event, ledger: &dyn Read) -> Result<Event, LedgerError> {
        let again = Event { retry_of: refusal_of(event, ledger)?, skipped: 0, ..event.clone() };
        let key = answered_key(event);
        if event.request.is_empty() || ledger.get(ID, &key)?.is_none() {
            return Ok(again);
        }
        Ok(Event { request: String::new(), digest: 0, ..again })
    }

    fn fork_unreadable(&mut self, bytes: &Bytes, why: &str, now: &Now) -> Draft {
        let reason = format!("records of the earlier ledger cannot be read and are not taken over: {why}");
        self.refusal_event(FORK, ("fork", bytes), &Refused::new("fork_unreadable", reason), None, now)
    }
}

/// An event of the fork with where it was first: there, or in a life before that.
fn with_origin(event: &Event, epoch: Epoch, first: Seq, stamp: Stamp) -> Event {
    if event.origin_seq > 0 {
        return event.clone();
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let parts = [stamp.0.to_be_bytes().to_vec(), event.device.clone().into(), event.request.clone().into()];
    let records = event.records.iter().map(Message::encode_to_vec);
    // FNV-1a (Fowler, Noll, Vo): it tells two things of one name apart, nobody has a reason to make them alike.
    for byte in parts.into_iter().chain(records).flatten() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    Event { origin_epoch: epoch.0, origin_seq: first.0, origin_hash: hash, ..event.clone() }
}

/// The movement that takes back what is on hand without it: the hub had it in the life's figures, ahead of its
/// journal, or this life counted the item before.
fn counted_already(
    source: &Source,
    old: Seq,
    movement: &Movement,
    ledger: &dyn Read,
) -> Result<Option<Movement>, LedgerError> {
    let Ok(gtin) = Gtin::from_number(movement.gtin) else { return Ok(None) };
    let held = ledger.get(PAST, &past_key(gtin, source.epoch))?;
    let held = held.map(|value| decode::<CounterCell>(PAST, &value)).transpose()?;
    let in_figures = source.figures_are_its_own && held.is_some_and(|held| held.seq >= old.0);
    let counted = ledger.get(COUNTED, &counter_key(gtin))?.is_some();
    let reference = match (source.is_known, in_figures, counted) {
        (true, true, false) | (false, true, _) => "HQ had this in the earlier ledger's figures",
        (false, false, true) => "counted before the earlier ledger's movements were known",
        _ => return Ok(None),
    };
    Ok(Some(Movement {
        gtin: movement.gtin,
        units: movement.units.saturating_neg(),
        kind: MovementKind::Adjust.into(),
        reference: reference.into(),
        ..Movement::default()
    }))
}

/// What it had seen stays, so that it is a conflict with what it was one with, and with nothing else.
fn written_again(write: &RegisterWrite, dot: &Dot) -> RegisterWrite {
    let seen = write.seen.as_ref().and_then(|seen| VersionVector::try_from(seen).ok());
    let mut seen = seen.unwrap_or_default();
    seen.insert(dot);
    RegisterWrite { seen: Some((&seen).into()), ..write.clone() }
}

/// Where the refusal is now that the event was another try of; 0 if it is not found.
fn refusal_of(event: &Event, ledger: &dyn Read) -> Result<u64, LedgerError> {
    let (mut found, mut looked) = (0, 0);
    if event.retry_of == 0 {
        return Ok(0);
    }
    ledger.events_back(&mut |seq, _, earlier| {
        looked += 1;
        let offset = event.retry_of.wrapping_sub(earlier.rejoined_of);
        if earlier.rejoined_of > 0 && offset < earlier.records.len() as u64 {
            found = seq.plus(offset).0;
        }
        match found == 0 && looked < LOOK_BACK_EVENTS {
            true => std::ops::ControlFlow::Continue(()),
            false => std::ops::ControlFlow::Break(()),
        }
    })?;
    Ok(found)
}
