//! What goes when there is no room: classes of events, and taking one out of a chunk's body.

use crate::wire::record::Of;
use crate::wire::{self, LossClass};

/// The class that an event is evicted with; `None` for what is never evicted: movements and register writes.
pub fn class_of(event: &wire::Event) -> Option<LossClass> {
    let mut class = LossClass::Activity;
    for record in &event.records {
        match &record.of {
            Some(Of::Refusal(_)) => {}
            Some(Of::Note(note)) if note.kind != "feedback" => {}
            Some(Of::Note(_) | Of::Lookup(_)) => class = LossClass::Scans,
            _ => return None,
        }
    }
    Some(class)
}

/// Takes the events of `class` and those that go before it out of a body. False if there were none.
pub fn strip(body: &mut wire::Body, class: LossClass) -> bool {
    let (mut skipped, mut gone) = (0, [0u64; 3]);
    body.events = std::mem::take(&mut body.events)
        .into_iter()
        .filter_map(|mut event| match class_of(&event) {
            Some(of) if of <= class => {
                let records = event.records.len() as u64;
                gone[of as usize] += records;
                skipped += event.skipped + records;
                None
            }
            _ => {
                event.skipped += std::mem::take(&mut skipped);
                Some(event)
            }
        })
        .collect();
    body.skipped_at_end += skipped;
    for (of, records) in [LossClass::Activity, LossClass::Scans].into_iter().map(|of| (of, gone[of as usize])) {
        lose(body, of, records);
    }
    gone.iter().any(|records| *records > 0)
}

/// Adds to what a remnant says is gone.
pub fn lose(body: &mut wire::Body, class: LossClass, records: u64) {
    match body.losses.iter_mut().find(|loss| loss.class() == class) {
        _ if records == 0 => {}
        Some(loss) => loss.records += records,
        None => body.losses.push(wire::Loss { class: class.into(), records }),
    }
}
