//! What the gateway says of itself: to `status`, to `store/status`, and to the hub in every beat.

use std::collections::BTreeMap;

use broker::ledger::{Now, Read};
use proto::topic::Outbound;
use proto::wire::Beat;
use serde_json::{Value, json};

use super::hub::LinkState;
use super::{Effect, Gateway};
use crate::sync::REGISTERS;

/// How often `store/status` is told.
const EVERY_MS: u64 = 2_000;

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: u64,
    pub(super) partial: u64,
    pub(super) duplicates: u64,
    /// QoS 2 messages that came again under a taken packet id.
    pub(super) repeats: u64,
    /// Refusals by code, of requests and of single lines. The codes are ours, so there are few.
    pub(super) refused: BTreeMap<String, u64>,
    next_status_ms: u64,
}

impl Tally {
    pub(super) fn refuse(&mut self, code: &str) {
        match self.refused.get_mut(code) {
            Some(count) => *count += 1,
            None => {
                self.refused.insert(code.to_owned(), 1);
            }
        }
    }
}

impl Gateway {
    pub(super) fn status(&self, now: &Now, ledger: &dyn Read) -> Value {
        let (connected, turned) = match &self.hub.link {
            LinkState::Away => (false, None),
            LinkState::Connected => (true, None),
            LinkState::Turned { code, advice } => (false, Some(json!({ "code": code, "advice": advice }))),
        };
        let last = ledger.next_seq().0 - 1;
        json!({
            "site": ledger.replica().site.as_str(),
            "epoch": ledger.replica().epoch.to_string(),
            "uplink": {
                "configured": self.rules.has_hub,
                "connected": connected,
                "turned_away": turned,
                "applied_seq": self.hub.applied.0,
                "backlog_records": last.saturating_sub(self.hub.applied.0),
                "last_heard_ms_ago": self.hub.heard_mono_ms.map(|at| now.mono_ms - at),
                "feed_cursor": self.hub.cursors.get(REGISTERS).map_or(0, |cursor| cursor.position),
                "feed_rejects": self.hub.feed_rejects,
            },
            "rights": self.rights.brief(),
            "takeover": self.takeover.status(self.rules.has_hub),
            "clock": { "synced": now.synced, "of": self.time.quality(), "skew_ms": self.time.skew_ms, "wall_ms": now.wall.0 },
            "requests": {
                "accepted": self.tally.accepted,
                "partial": self.tally.partial,
                "duplicates": self.tally.duplicates,
                "qos2_repeats": self.tally.repeats,
                "refused": self.tally.refused,
            },
            "ids_kept_s": self.sweep.keep_s,
        })
    }

    /// `store/status` and the hub's beat, every two seconds.
    pub(super) fn report(&mut self, now: &Now, ledger: &dyn Read) -> Vec<Effect> {
        if now.mono_ms < self.tally.next_status_ms {
            return Vec::new();
        }
        self.tally.next_status_ms = now.mono_ms + EVERY_MS;
        let status = self.status(now, ledger);
        let shown = json!({
            "site": status["site"],
            "uplink": status["uplink"],
            "clock": { "synced": status["clock"]["synced"], "of": status["clock"]["of"], "skew_ms": status["clock"]["skew_ms"] },
        });
        let topic = Outbound::StoreStatus.to_string();
        let beat = Beat {
            skew_ms: self.time.skew_ms.unwrap_or(0),
            rejects: self.tally.refused.values().sum(),
            wall_ms: now.wall.0,
            clock_synced: now.synced,
            clock_from_hub: self.time.by_hub(),
            ..Beat::default()
        };
        vec![Effect::Publish { topic, payload: shown.to_string().into(), retain: true }, Effect::Beat(beat)]
    }
}
