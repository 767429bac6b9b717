//! What the gateway's journal means. Reads nothing but the record, so that every replay ends the same.

use broker::ledger::{Placed, Put};
use prost::Message;
use proto::id::{Dot, Seq};
use proto::wire::record::Of;
use proto::wire::{
    CounterCell, CounterTotal, Event, Hold, HoldCell, HoldEnded, IdCell, LineRefusal, MovementKind, Outcome,
    RegisterState, RegisterWrite, Status,
};

use super::tables::{COUNTED, COUNTER, HOLDS, ID, ORIGIN, OWN, REJOINED, RIGHTS, answered_key, origin_key};

pub(super) fn event(placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
    let event = placed.event;
    for (offset, record) in (0..).zip(&event.records) {
        match &record.of {
            Some(Of::Register(write)) => {
                let dot = Dot { replica: placed.replica.clone(), seq: placed.first.plus(offset) };
                put(Put::set(OWN, write.key.as_str(), own_register(write, &dot, &event.device).encode_to_vec()));
            }
            // A count of the life before said nothing of what this one knows.
            Some(Of::Movement(movement)) if movement.kind() == MovementKind::Count && event.rejoined_of == 0 => {
                put(Put::set(COUNTED, movement.gtin.to_be_bytes(), []));
            }
            Some(Of::Rights(rights)) => {
                put(Put::set(RIGHTS, rights.gtin.to_be_bytes(), rights.encode_to_vec()));
            }
            Some(Of::Hold(hold)) => {
                let at_s = placed.powered_on_s.saturating_add(hold.seconds);
                let cell = HoldCell { hold: Some(hold.clone()), at_s, ..hold_cell(placed, offset) };
                put(Put::set(HOLDS, hold.id.as_str(), cell.encode_to_vec()));
            }
            Some(Of::HoldEnded(ended)) => {
                put(Put::set(HOLDS, ended.id.as_str(), ended_hold(ended, hold_cell(placed, offset)).encode_to_vec()));
            }
            _ => {}
        }
    }
    if event.rejoined_of > 0 {
        put(Put::set(REJOINED, [], event.rejoined_of.to_be_bytes()));
        put(Put::set(ORIGIN, origin_key(event), []));
    }
    if !event.request.is_empty() {
        let cell = IdCell {
            digest: event.digest,
            first_seq: placed.first.0,
            outcome: Some(outcome_of(event)),
            powered_on_s: placed.powered_on_s,
            ..IdCell::default()
        };
        let key = answered_key(event);
        put(Put::set(ID, key, cell.encode_to_vec()));
    }
}

pub(super) fn total(total: &CounterTotal, chunk_first: Seq, put: &mut dyn FnMut(Put)) {
    let seq = chunk_first.0 + u64::from(total.seq_offset);
    let cell = CounterCell { units: total.units, seq, feed_position: 0, by_hub: false };
    put(Put::set(COUNTER, total.gtin.to_be_bytes(), cell.encode_to_vec()));
}

fn hold_cell(placed: &Placed<'_>, offset: u64) -> HoldCell {
    let (device, seq) = (placed.event.device.clone(), placed.first.plus(offset).0);
    HoldCell { at_s: placed.powered_on_s, device, seq, ..HoldCell::default() }
}

fn ended_hold(ended: &HoldEnded, cell: HoldCell) -> HoldCell {
    let HoldEnded { id, gtin, units, reference, .. } = ended.clone();
    let hold = Hold { id, gtin, units, reference, ..Hold::default() };
    HoldCell { hold: Some(hold), ended: ended.how, ..cell }
}

fn own_register(write: &RegisterWrite, dot: &Dot, device: &str) -> RegisterState {
    RegisterState {
        value: write.value.clone(),
        deleted: write.deleted,
        stamp: write.stamp,
        dot: Some(dot.into()),
        seen: write.seen.clone(),
        writer: device.to_owned(),
        replaces_value: write.replaces_value,
    }
}

/// The answer that an event's records amount to.
pub fn outcome_of(event: &Event) -> Outcome {
    let refusals = line_refusals(event);
    let good = event.records.iter().any(|record| !matches!(record.of, Some(Of::Refusal(_))));
    let status = match (good, refusals.is_empty()) {
        (true, true) => Status::Ok,
        (true, false) => Status::Partial,
        (false, _) => Status::Refused,
    };
    Outcome { status: status.into(), refusals }
}

/// The refusals of single lines in an event.
pub fn line_refusals(event: &Event) -> Vec<LineRefusal> {
    let refusals = event.records.iter().filter_map(|record| match &record.of {
        Some(Of::Refusal(refusal)) if refusal.line > 0 => Some(refusal),
        _ => None,
    });
    refusals.map(|r| LineRefusal { line: r.line, code: r.code.clone(), reason: r.reason.clone() }).collect()
}
