//! What an answer to `Recall` shows: the ids that earlier lives answered, what of them was done twice, and where a fork and
//! the hub part.

use std::collections::BTreeMap;

use broker::ledger::{Draft, LedgerError, Now, Put, Read, Step};
use prost::Message;
use proto::chunk::{self, Chunk, Position};
use proto::gtin::Gtin;
use proto::id::Units;
use proto::wire::record::Of;
use proto::wire::up::Of as UpOf;
use proto::wire::{Event, IdCell, Movement, MovementKind, Past, Record, Watermark};

use super::super::fold::outcome_of;
use super::super::ids::IDS_MAX;
use super::super::tables::{COUNTED, ID, PAST_IDS, PAST_ORIGIN, answered_key, counter_key, decode, origin_key};
use super::super::{Effect, Gateway};

/// Items that one answer of the hub can correct; a device repeats the requests of some minutes, not those of a week.
const TAKEN_BACK_MAX: usize = 500;

/// What an answer of the hub shows.
#[derive(Debug, Default)]
struct Shown {
    ids: BTreeMap<Vec<u8>, IdCell>,
    /// What was journalled again in other lives.
    origins: Vec<Vec<u8>>,
    /// What requests moved that were done in this life and in an earlier one.
    twice: BTreeMap<Gtin, Units>,
}

impl Gateway {
    /// A part of what the hub has of earlier lives, and the newest position in it that the fork has too.
    pub(in crate::core) fn past(
        &mut self,
        past: &Past,
        common: Option<Position>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let asked = match self.takeover.question() {
            Some(UpOf::Recall(recall)) => recall.below,
            _ => return Ok(step),
        };
        let goes_back = past.next_below == 0 || asked == 0 || past.next_below < asked;
        if past.below != asked || !goes_back {
            return Ok(step);
        }
        // The newest answer to an id counts, and the chunks come newest first.
        let mut shown = Shown::default();
        // What the hub could not read either it has set aside.
        let chunks: Vec<_> = past.chunk.iter().filter_map(|bytes| chunk::open(bytes).ok()).collect();
        let own = ledger.replica();
        let earlier = |chunk: &Chunk| chunk.head.replica.site == own.site && chunk.head.replica != *own;
        let chunks: Vec<_> = chunks.into_iter().filter(earlier).collect();
        for chunk in &chunks {
            self.ids_in(chunk, now, ledger, &mut shown)?;
        }
        let Shown { ids, origins, twice } = shown;
        step.events.extend(self.take_back(twice, now, ledger)?);
        step.events.extend(self.holds_shown(&chunks, now, ledger)?);
        let takeover = &mut self.takeover;
        takeover.cell.ids += ids.len() as u64;
        takeover.cell.below = past.next_below;
        takeover.cell.recalled = past.next_below == 0;
        if takeover.fork.is_some() && takeover.cell.common.is_none() {
            // If nothing is in common to the very end, the hub has nothing of it.
            let found = common.or(takeover.cell.recalled.then_some(Position::default()));
            takeover.cell.common = found.map(|position| Watermark {
                seq: position.seq.0,
                hash: position.hash.0.to_vec().into(),
                applied_ms: 0,
            });
        }
        takeover.end_if_all_is_done();
        takeover.asked_ms = None;
        step.then.extend(takeover.ask(now));
        // In this order: ids that are there without the note of how far it is are only looked for again.
        step.puts.extend(ids.into_iter().map(|(key, cell)| Put::set(PAST_IDS, key, cell.encode_to_vec())));
        let told_by = self.takeover.cell.incarnation.to_be_bytes();
        step.puts.extend(origins.into_iter().map(|key| Put::set(PAST_ORIGIN, key, told_by)));
        step.puts.push(self.takeover.put());
        Ok(step)
    }

    fn ids_in(&self, chunk: &Chunk, now: &Now, ledger: &dyn Read, shown: &mut Shown) -> Result<(), LedgerError> {
        for (first, _, event) in chunk.events() {
            if event.origin_seq > 0 && self.takeover.fork.is_some() {
                shown.origins.push(origin_key(event));
            }
            if event.request.is_empty() {
                continue;
            }
            let key = answered_key(event);
            let room = self.takeover.cell.ids + (shown.ids.len() as u64) < IDS_MAX;
            let told = ledger.get(PAST_IDS, &key)?.map(|value| decode::<IdCell>(PAST_IDS, &value)).transpose()?;
            if !room || shown.ids.contains_key(&key) || told.as_ref().is_some_and(|told| self.takeover.is_told(told)) {
                continue;
            }
            // What another incarnation of the hub has shown is taken back already.
            if told.is_none()
                && let Some(value) = ledger.get(ID, &key)?
                && decode::<IdCell>(ID, &value)?.digest == event.digest
            {
                moved_by(event, ledger, &mut shown.twice)?;
            }
            let cell = IdCell {
                digest: event.digest,
                first_seq: first.0,
                outcome: Some(outcome_of(event)),
                powered_on_s: now.powered_on_s,
                incarnation: self.takeover.cell.incarnation,
            };
            shown.ids.insert(key, cell);
        }
        Ok(())
    }

    /// A device sent a request again before this life knew that an earlier one had answered it, so it was done twice: the
    /// second time is taken back.
    fn take_back(
        &mut self,
        twice: BTreeMap<Gtin, Units>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<Draft>, LedgerError> {
        let mut records = Vec::new();
        for (gtin, units) in twice.into_iter().filter(|(_, units)| *units != Units(0)).take(TAKEN_BACK_MAX) {
            self.stock.apply(ledger, gtin, -units, ledger.next_seq().plus(records.len() as u64))?;
            let movement = Movement {
                gtin: gtin.number(),
                units: -units.0,
                kind: MovementKind::Adjust.into(),
                reference: "sent again, and answered by an earlier ledger".into(),
                ..Movement::default()
            };
            records.push(Record { of: Some(Of::Movement(movement)) });
        }
        Ok((!records.is_empty()).then(|| self.draft(Event { records, ..Event::default() }, now)))
    }
}

/// What a request moved, but for items that were counted since: whoever counted saw all there is.
fn moved_by(event: &Event, ledger: &dyn Read, sums: &mut BTreeMap<Gtin, Units>) -> Result<(), LedgerError> {
    for record in &event.records {
        let Some(Of::Movement(movement)) = &record.of else { continue };
        let Ok(gtin) = Gtin::from_number(movement.gtin) else { continue };
        if movement.kind() != MovementKind::Count && ledger.get(COUNTED, &counter_key(gtin))?.is_none() {
            *sums.entry(gtin).or_default() += Units(movement.units);
        }
    }
    Ok(())
}
