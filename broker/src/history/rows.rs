//! A site's records with the time at which they were made, as well as it is known.

use std::collections::HashMap;

use proto::chunk::Chunk;
use proto::gtin::Gtin;
use proto::id::{Epoch, Seq};
use proto::pseudonym;
use proto::wire::record::Of;
use proto::wire::{self, Event, SecurityEvent, TimeAnchor};
use serde_json::{Value, json};

/// What the site's later records say of the time of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    runs: HashMap<(Epoch, u64), TimeAnchor>,
}

impl Anchors {
    pub(super) fn read(&mut self, chunk: &Chunk) {
        let records = chunk.body.events.iter().flat_map(|event| &event.records);
        for record in records {
            if let Some(Of::TimeAnchor(anchor)) = &record.of {
                self.runs.insert((chunk.head.replica.epoch, anchor.run), *anchor);
            }
        }
    }

    /// The anchor of a later run, for a run that never learned the time.
    fn after(&self, epoch: Epoch, run: u64) -> Option<&TimeAnchor> {
        let later = self.runs.iter().filter(|((of, later), _)| *of == epoch && *later > run);
        later.min_by_key(|((_, later), _)| *later).map(|(_, anchor)| anchor)
    }
}

/// One record of a site.
#[derive(Debug)]
pub(super) struct Row {
    epoch: Epoch,
    seq: Seq,
    device: String,
    what: Value,
    /// By field, as pseudonyms.
    people: Value,
    stamp_ms: u64,
    /// Of a box that did not know the time: run and milliseconds since it began.
    unsynced: Option<(u64, u64)>,
    powered_on_s: u64,
}

pub(super) fn rows_of(chunk: &Chunk, item: Option<Gtin>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (first, stamp, event) in chunk.events() {
        for (offset, record) in (0..).zip(&event.records) {
            let Some(of) = &record.of else { continue };
            let (about, what) = describe(of);
            if item.is_some_and(|item| about != Some(item.number())) {
                continue;
            }
            rows.push(Row {
                epoch: chunk.head.replica.epoch,
                seq: first.plus(offset),
                device: event.device.clone(),
                what,
                people: people_of(event),
                stamp_ms: stamp.ms().0,
                unsynced: unsynced(event),
                powered_on_s: chunk.body.powered_on_s,
            });
        }
    }
    rows
}

fn people_of(event: &Event) -> Value {
    let person =
        |person: &wire::Pseudonym| Some((person.field.clone(), pseudonym::write(&person.of[..].try_into().ok()?)));
    let told = event.people.iter().filter_map(person).map(|(field, of)| (field, of.into()));
    Value::Object(told.collect())
}

fn unsynced(event: &Event) -> Option<(u64, u64)> {
    event.unsynced.then_some((event.run, event.uptime_ms))
}

impl Row {
    /// The time, and how it is known: by the box's `clock`, by a later `anchor` of the same run, `about` (no later than
    /// that: a later run learned the time, and nobody knows how long the box was off between), or it is `unknown`.
    fn time(&self, anchors: &Anchors) -> (Option<u64>, &'static str) {
        let Some((run, uptime_ms)) = self.unsynced else { return (Some(self.stamp_ms), "clock") };
        if let Some(anchor) = anchors.runs.get(&(self.epoch, run)) {
            return (Some(anchor.zero_ms.saturating_add(uptime_ms)), "anchor");
        }
        match anchors.after(self.epoch, run) {
            Some(later) => {
                let ran_since_ms = later.powered_on_s.saturating_sub(self.powered_on_s).saturating_mul(1_000);
                (Some(later.wall_ms.saturating_sub(ran_since_ms)), "about")
            }
            None => (None, "unknown"),
        }
    }

    pub(super) fn json(&self, anchors: &Anchors) -> Value {
        let (at_ms, time) = self.time(anchors);
        json!({
            "epoch": self.epoch.to_string(),
            "seq": self.seq.0,
            "at_ms": at_ms,
            "time": time,
            "device": self.device,
            "what": self.what,
            "people": self.people,
        })
    }
}

/// Security events of the hub's own journal.
pub(super) fn own_rows(epoch: Epoch, first: Seq, stamp_ms: u64, event: &Event) -> Vec<Row> {
    let mut rows = Vec::new();
    for (offset, record) in (0..).zip(&event.records) {
        let Some(Of::Security(security)) = &record.of else { continue };
        let (device, what) = (String::new(), self::security(security));
        let (seq, powered_on_s) = (first.plus(offset), 0);
        let (people, unsynced) = (people_of(event), unsynced(event));
        rows.push(Row { epoch, seq, device, what, people, stamp_ms, unsynced, powered_on_s });
    }
    rows
}

fn security(event: &SecurityEvent) -> Value {
    let at_ms = (event.at_ms > 0).then_some(event.at_ms);
    json!({
        "kind": event.what,
        "who": event.who,
        "by": event.by,
        "peer": event.peer,
        "detail": event.detail,
        "count": event.count,
        "happened_ms": at_ms,
    })
}

/// What a record is about, and says.
fn describe(of: &Of) -> (Option<u64>, Value) {
    match of {
        Of::Movement(m) => {
            let kind = m.kind().as_str_name().to_lowercase();
            (
                Some(m.gtin),
                json!({ "kind": kind, "gtin": format!("{:014}", m.gtin), "units": m.units, "cents": m.cents }),
            )
        }
        Of::Lookup(l) => (Some(l.gtin), json!({ "kind": "lookup", "gtin": format!("{:014}", l.gtin) })),
        Of::Register(w) => {
            let about = w.key.split('/').nth(1).and_then(|gtin| gtin.parse().ok());
            let value: Value = serde_json::from_slice(&w.value).unwrap_or(Value::Null);
            (about, json!({ "kind": "edit", "key": w.key, "value": value, "deleted": w.deleted }))
        }
        Of::Refusal(r) => (None, json!({ "kind": "refusal", "code": r.code })),
        Of::Note(n) => (None, json!({ "kind": n.kind, "bytes": n.payload.len() })),
        Of::TimeAnchor(a) => (None, json!({ "kind": "time_anchor", "wall_ms": a.wall_ms })),
        Of::Security(e) => (None, security(e)),
        Of::Rights(r) => (
            Some(r.gtin),
            json!({
                "kind": "rights", "gtin": format!("{:014}", r.gtin), "granted": r.granted, "returned": r.returned,
                "promised": r.promised, "refunded": r.refunded, "held": r.held,
            }),
        ),
        Of::EarlierRights(earlier) => {
            let r = earlier.rights.unwrap_or_default();
            (
                Some(r.gtin),
                json!({
                    "kind": "earlier_rights", "gtin": format!("{:014}", r.gtin), "life": Epoch(earlier.epoch).to_string(),
                    "granted": r.granted, "returned": r.returned, "promised": r.promised, "held": r.held,
                }),
            )
        }
        Of::Hold(h) => (
            Some(h.gtin),
            json!({
                "kind": "hold", "gtin": format!("{:014}", h.gtin), "units": h.units, "hold": h.id, "seconds": h.seconds,
                "reference": h.reference, "inherited": h.inherited,
            }),
        ),
        Of::HoldEnded(h) => {
            let how = format!("hold_{}", h.how().as_str_name().to_lowercase());
            (
                Some(h.gtin),
                json!({
                    "kind": how, "gtin": format!("{:014}", h.gtin), "units": h.units, "hold": h.id,
                    "reference": h.reference,
                }),
            )
        }
        _ => (None, json!({ "kind": "other" })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(run: u64, uptime_ms: u64, powered_on_s: u64, unsynced: bool) -> Row {
        let (epoch, device, what, people) = (Epoch(1), String::new(), Value::Null, Value::Null);
        let unsynced = unsynced.then_some((run, uptime_ms));
        Row { epoch, seq: Seq(1), device, what, people, stamp_ms: 77, unsynced, powered_on_s }
    }

    #[test]
    fn holds_and_rights_are_told_by_their_item() {
        let hold = wire::Hold { id: "H-1".into(), gtin: 96_385_074, units: 2, seconds: 600, ..wire::Hold::default() };
        let ended = wire::HoldEnded { id: "H-1".into(), gtin: 96_385_074, units: 2, ..wire::HoldEnded::default() };
        let committed = wire::HoldEnded { how: wire::HoldEnd::Committed.into(), ..ended };
        let rights = wire::Rights { gtin: 96_385_074, granted: 9, promised: 2, ..wire::Rights::default() };
        let rows = [Of::Hold(hold), Of::HoldEnded(committed), Of::Rights(rights)].map(|of| describe(&of));
        let kinds = rows.each_ref().map(|(about, what)| (*about, what["kind"].as_str()));
        assert_eq!(kinds, ["hold", "hold_committed", "rights"].map(|kind| (Some(96_385_074), Some(kind))));
        assert_eq!((&rows[1].1["hold"], &rows[2].1["promised"]), (&json!("H-1"), &json!(2)));
    }

    #[test]
    fn times_are_as_good_as_what_is_known() {
        let mut anchors = Anchors::default();
        assert_eq!(row(5, 300, 1, false).time(&anchors), (Some(77), "clock"));
        assert_eq!(row(5, 300, 1, true).time(&anchors), (None, "unknown"));
        let anchor = TimeAnchor { run: 9, zero_ms: 1_000_000, powered_on_s: 50, wall_ms: 1_400_000 };
        anchors.runs.insert((Epoch(1), 9), anchor);
        assert_eq!(row(9, 300, 1, true).time(&anchors), (Some(1_000_300), "anchor"));
        assert_eq!(row(5, 300, 20, true).time(&anchors), (Some(1_370_000), "about"));
        assert_eq!(row(12, 300, 20, true).time(&anchors), (None, "unknown"));
    }
}
