//! How the hub and its sites are doing, for `status` and for HQ.

use proto::id::SiteName;
use serde_json::{Value, json};

use super::{Effect, Hub, views};
use crate::ledger::Now;

/// A site from which nothing was heard for this long is offline.
const OFFLINE_MS: u64 = 15_000;
/// How often a site's status is told while only its numbers change.
const STATUS_MS: u64 = 1_000;

impl Hub {
    pub(super) fn status(&self) -> Value {
        let sites: serde_json::Map<String, Value> =
            self.sites.iter().map(|(site, view)| (site.to_string(), view.json(site))).collect();
        json!({
            "incarnation": format!("{:016x}", self.incarnation),
            "sites": sites,
            "sync": {
                "batches": self.tally.batches,
                "repeats": self.tally.repeats,
                "gaps": self.tally.gaps,
                "undecodable": self.tally.undecodable,
                "set_aside": self.tally.set_aside,
                "refused": self.tally.refused,
                "feed_head": self.feed.registers_head(),
            },
            "rights": self.rights_status(),
            "channel": self.channel_status(),
            "forgetting": self.forgetting_status(),
            "conflicts": {
                "kept": self.conflicts.len(),
                "since_start": self.tally.conflicts,
                "dropped": self.tally.conflicts_dropped,
                "restored": self.tally.conflicts_restored,
            },
        })
    }

    /// Statuses of the sites that changed, and offline for those that fell silent.
    pub(super) fn tell_sites(&mut self, now: &Now) -> Vec<Effect> {
        let silent: Vec<SiteName> = self
            .sessions
            .iter()
            .filter(|(_, session)| now.mono_ms >= session.heard_ms + OFFLINE_MS)
            .map(|(site, _)| site.clone())
            .collect();
        let mut effects = Vec::new();
        for site in silent {
            effects.extend(self.gone(&site));
        }
        if now.mono_ms >= self.status_told_ms + STATUS_MS {
            self.status_told_ms = now.mono_ms;
            for site in std::mem::take(&mut self.site_changed) {
                effects.extend(self.sites.get(&site).map(|view| Effect::tell(views::site_status(&site, view))));
            }
        }
        effects
    }

    /// The gateway left: HQ hears it at once.
    pub(super) fn gone(&mut self, site: &SiteName) -> Option<Effect> {
        self.sessions.remove(site)?;
        let view = self.sites.get_mut(site)?;
        view.online = false;
        Some(Effect::tell(views::site_status(site, view)))
    }
}
