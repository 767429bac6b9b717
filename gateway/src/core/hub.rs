//! What is known of the hub: the link, how far it has applied our journal, how far its feed was taken over.

use std::collections::BTreeMap;

use broker::ledger::{LedgerError, Now, Put, Read, ReadCell, Step};
use prost::Message;
use proto::chunk::Position;
use proto::id::Seq;
use proto::wire::{FeedCursor, Watermark};
use serde_json::{Value, json};

use super::tables::{SYNC, SYNC_APPLIED, cursor_key, decode};
use super::{Effect, Gateway};
use crate::sync::{ALWAYS, Ack, FromHub};

/// How the connection to the hub stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LinkState {
    #[default]
    Away,
    Connected,
    /// The hub will not sync with this ledger until a person acts.
    Turned {
        code: String,
        advice: String,
    },
}

/// What is known of the hub.
#[derive(Debug, Default)]
pub(super) struct HubView {
    pub(super) link: LinkState,
    pub(super) applied: Seq,
    /// Of each stream that is followed.
    pub(super) cursors: BTreeMap<String, FeedCursor>,
    pub(super) heard_mono_ms: Option<u64>,
    /// Feed entries that could not be read.
    pub(super) feed_rejects: u64,
}

impl HubView {
    pub(super) fn following(follow: &[String]) -> HubView {
        let streams = ALWAYS.into_iter().chain(follow.iter().map(String::as_str));
        let cursors = streams.map(|stream| (stream.to_owned(), FeedCursor::default())).collect();
        HubView { cursors, ..HubView::default() }
    }

    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        for (stream, cursor) in &mut self.cursors {
            if let Some(value) = ledger.get(SYNC, &cursor_key(stream))? {
                *cursor = decode(SYNC, &value)?;
            }
        }
        if let Some(value) = ledger.get(SYNC, SYNC_APPLIED)? {
            self.applied = Seq(decode::<Watermark>(SYNC, &value)?.seq);
        }
        Ok(())
    }

    pub(super) fn acks(&self, ledger: &dyn Read) -> impl Iterator<Item = Ack> {
        self.cursors.iter().map(|(stream, cursor)| ack(stream, *cursor, ledger))
    }
}

/// What is said of a stream, once it is on disk.
pub(super) fn ack(stream: &str, cursor: FeedCursor, ledger: &dyn Read) -> Ack {
    let journal_to = Seq(ledger.next_seq().0.saturating_sub(1));
    Ack { stream: stream.to_owned(), cursor, resend: false, journal_to, taken: None }
}

/// What a stopped gateway last heard of how far HQ has applied its journal.
pub(crate) fn applied_on_disk(read: ReadCell<'_>) -> Value {
    let mark = read(SYNC, SYNC_APPLIED).and_then(|value| decode::<Watermark>(SYNC, &value).ok());
    json!({ "applied_seq": mark.map_or(0, |mark| mark.seq) })
}

impl Gateway {
    pub(super) fn heard(
        &mut self,
        message: FromHub,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        self.hub.heard_mono_ms = Some(now.mono_ms);
        match message {
            FromHub::Applied { incarnation, position, hub_ms, awaits_rights } => {
                let puts =
                    self.takeover.told_by(incarnation).into_iter().chain(self.no_rights_used(incarnation)).collect();
                Ok(Step {
                    puts,
                    then: self.rights_due(incarnation, awaits_rights, now),
                    ..self.applied_up_to(position, hub_ms)
                })
            }
            FromHub::Feed { incarnation, feed } => self.adopt(incarnation, feed, now, ledger),
            // The uplink compares it with the journal of the life before, on its way here.
            FromHub::Past(past) => self.past(&past, None, now, ledger),
            FromHub::Followed { incarnation, followed } => self.followed(incarnation, &followed, ledger),
        }
    }

    fn applied_up_to(&mut self, position: Position, hub_ms: u64) -> Step<Effect> {
        // Lower than before: the hub was restored from a backup. Within one connection it never is. What it lacks must
        // not be trimmed, and counts as waiting again.
        if position.seq == self.hub.applied {
            return Step::nothing();
        }
        self.hub.applied = position.seq;
        let mark = Watermark { seq: position.seq.0, hash: position.hash.0.to_vec().into(), applied_ms: hub_ms };
        // Lazily: the hub says it again at every connection.
        Step { lazy: vec![Put::set(SYNC, SYNC_APPLIED, mark.encode_to_vec())], ..Step::nothing() }
    }
}

#[cfg(test)]
mod tests {
    use broker::ledger::Core;

    use super::*;
    use crate::core::Rules;

    #[test]
    fn a_hub_that_was_restored_gets_its_records_again() {
        let mut gateway = Gateway::new(Rules::default());
        for seq in [900, 400, 401] {
            let position = Position { seq: Seq(seq), ..Position::default() };
            let step = gateway.applied_up_to(position, u64::MAX);
            assert_eq!((gateway.applied(), step.lazy.len()), (Seq(seq), 1), "what is after {seq} may not be trimmed");
        }
    }
}
