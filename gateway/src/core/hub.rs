//! What the hub says: how far our journal is applied, and which registers changed elsewhere.

use broker::ledger::{LedgerError, Now, Put, Read, ReadCell, Step};
use prost::Message;
use proto::chunk::Position;
use proto::id::Seq;
use proto::register::{Register, RegisterKey};
use proto::topic::Outbound;
use proto::wire::{Feed, FeedCursor, FeedEntry, Watermark};
use serde_json::{Value, json};

use super::items;
use super::tables::{HUB, OWN, SYNC, SYNC_APPLIED, SYNC_CURSOR, decode};
use super::{Effect, Gateway};
use crate::request::Refused;
use crate::sync::FromHub;

/// Who sent what the feed brought, in records of what could not be read of it. No device has this name.
const FEED: &str = "";

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
    pub(super) cursor: FeedCursor,
    /// Hub clock minus ours, milliseconds, when last heard.
    pub(super) skew_ms: Option<i64>,
    pub(super) heard_mono_ms: Option<u64>,
    /// Feed entries that could not be read.
    pub(super) feed_rejects: u64,
}

impl HubView {
    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        if let Some(value) = ledger.get(SYNC, SYNC_CURSOR)? {
            self.cursor = decode(SYNC, &value)?;
        }
        if let Some(value) = ledger.get(SYNC, SYNC_APPLIED)? {
            self.applied = Seq(decode::<Watermark>(SYNC, &value)?.seq);
        }
        Ok(())
    }
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
            FromHub::Applied { position, hub_ms } => Ok(self.applied_up_to(position, hub_ms, now)),
            FromHub::Feed { incarnation, feed } => self.adopt(incarnation, feed, now, ledger),
        }
    }

    fn applied_up_to(&mut self, position: Position, hub_ms: u64, now: &Now) -> Step<Effect> {
        self.hub.skew_ms = Some((hub_ms as i64).saturating_sub(now.wall.0 as i64));
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

    /// Takes over what the hub's feed says, if it continues where we stand; else says where that is.
    fn adopt(
        &mut self,
        incarnation: u64,
        feed: Feed,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let here = if self.hub.cursor.incarnation == incarnation { self.hub.cursor.position } else { 0 };
        if feed.prev != here {
            let ask = Effect::FeedAck { cursor: FeedCursor { incarnation, position: here }, resend: true };
            return Ok(Step { then: vec![ask], ..Step::nothing() });
        }
        let mut step = Step::nothing();
        for entry in &feed.entries {
            self.adopt_entry(entry, now, ledger, &mut step)?;
        }
        self.hub.cursor = FeedCursor { incarnation, position: feed.upto };
        step.puts.push(Put::set(SYNC, SYNC_CURSOR, self.hub.cursor.encode_to_vec()));
        step.then.push(Effect::FeedAck { cursor: self.hub.cursor, resend: false });
        Ok(step)
    }

    fn adopt_entry(
        &mut self,
        entry: &FeedEntry,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let state = entry.state.clone().unwrap_or_default();
        let (Ok(key), Ok(register)) = (entry.key.parse::<RegisterKey>(), Register::try_from(&state)) else {
            self.hub.feed_rejects += 1;
            let reason = format!("the hub says of {:?} what cannot be read; what this site had of it stays", entry.key);
            let why = Refused::new("feed_unreadable", reason);
            let topic = Outbound::Down(&ledger.replica().site).to_string();
            let draft = self.refusal_event(FEED, (&topic, &entry.encode_to_vec().into()), &why, None, now);
            step.events.push(draft);
            return Ok(());
        };
        if let Some(own) = items::stored(ledger, OWN, &entry.key)?
            && register.seen.covers(&own.dot)
        {
            step.lazy.push(Put::delete(OWN, entry.key.as_str()));
        }
        step.puts.push(Put::set(HUB, entry.key.as_str(), state.encode_to_vec()));
        self.items.touched(&key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use broker::ledger::Core;
    use proto::id::WallMs;

    use super::*;
    use crate::core::Rules;

    #[test]
    fn a_hub_that_was_restored_gets_its_records_again() {
        let mut gateway = Gateway::new(Rules::default());
        let now = Now { wall: WallMs(1), synced: true, mono_ms: 1, powered_on_s: 1 };
        for seq in [900, 400, 401] {
            let position = Position { seq: Seq(seq), ..Position::default() };
            let step = gateway.applied_up_to(position, u64::MAX, &now);
            assert_eq!((gateway.applied(), step.lazy.len()), (Seq(seq), 1), "what is after {seq} may not be trimmed");
        }
    }
}
