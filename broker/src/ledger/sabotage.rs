//! Faults on purpose, so that a check can be seen to fail.

use proto::wire::record::Of;

use super::core::Draft;

/// Faults on purpose, for showing that the checks see them. Never reachable from a shipped command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Answer, but leave one movement out of the journal.
    DropRecord,
    /// Journal one site's chunk twice.
    ApplyTwice,
    /// Answer before the commit.
    AckEarly,
}

/// What the writer appends instead of `draft`: once, after a few records, something else.
pub(super) fn drafts(sabotage: &mut Option<Sabotage>, records: u64, draft: Draft) -> Vec<Draft> {
    let holds =
        |wanted: fn(&Of) -> bool| draft.event.records.iter().filter_map(|record| record.of.as_ref()).any(wanted);
    match sabotage {
        Some(Sabotage::DropRecord) if records > 50 && holds(|of| matches!(of, Of::Movement(_))) => {
            *sabotage = None;
            vec![]
        }
        Some(Sabotage::ApplyTwice) if records > 5 && holds(|of| matches!(of, Of::SiteChunk(_))) => {
            *sabotage = None;
            vec![draft.clone(), draft]
        }
        _ => vec![draft],
    }
}
