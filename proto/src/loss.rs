//! What goes when there is no room: classes of events, and taking one out of a chunk's body.

use crate::wire::record::Of;
use crate::wire::{self, LossClass};

/// The class that an event is evicted with; `None` for what is never evicted: movements, register writes, and what an
/// operator did about who belongs. What a stranger caused goes with the scans: it must not crowd out sales, and whoever
/// fills the journal to be rid of his traces must first fill it with scans.
pub fn class_of(event: &wire::Event) -> Option<LossClass> {
    let mut class = LossClass::Activity;
    for record in &event.records {
        match &record.of {
            Some(Of::Refusal(_)) => {}
            Some(Of::Note(note)) if note.kind != "feedback" => {}
            Some(Of::Note(_) | Of::Lookup(_)) => class = LossClass::Scans,
            Some(Of::Security(event)) if event.by.is_empty() => class = LossClass::Scans,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Event, Record, SecurityEvent};

    #[test]
    fn what_a_stranger_causes_can_go_and_what_an_operator_did_cannot() {
        let of = |by: &str| {
            let security = SecurityEvent { by: by.into(), ..SecurityEvent::default() };
            Event { records: vec![Record { of: Some(Of::Security(security)) }], ..Event::default() }
        };
        assert_eq!(class_of(&of("")), Some(LossClass::Scans));
        assert_eq!(class_of(&of("root")), None);
    }
}
