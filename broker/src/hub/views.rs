//! What HQ sees: retained JSON on `hq/…`, told once per commit however often a value changed.

use std::collections::BTreeMap;

use proto::gtin::Gtin;
use proto::id::{SiteName, Units};
use proto::topic::Outbound;
use proto::wire::{Beat, Loss, LossClass, Refusal};
use serde::Serialize;
use serde_json::{Value, json};

use super::aside::Aside;
use super::check::Checked;
use super::security::SecurityCounts;

/// Behind by more than this, a site takes part in sharing what may be sent at once.
const FAR_RECORDS: u64 = 2_048;

pub(super) fn is_far(records_behind: u64) -> bool {
    records_behind > FAR_RECORDS
}

/// What is known of a site besides its journal.
#[derive(Debug, Clone, Default)]
pub(super) struct SiteView {
    pub(super) online: bool,
    pub(super) epoch: u64,
    pub(super) applied_seq: u64,
    /// Up to here every key's latest value is known, ahead of the journal.
    pub(super) present_seq: u64,
    pub(super) beat: Beat,
    pub(super) last_seen_ms: Option<u64>,
    /// Refusals in the chunks applied since the hub started, by code.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Records that the site dropped or lost, since its beginning.
    pub(super) losses: Losses,
    pub(super) aside: Aside,
    /// An operator said that the box with its current ledger is lost.
    pub(super) is_lost: bool,
    pub(super) checked: Checked,
    /// In the chunks applied since the hub started.
    pub(super) security: SecurityCounts,
}

/// Records that are gone, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    activity: u64,
    scans: u64,
    damaged: u64,
    trimmed: u64,
}

impl Losses {
    pub(super) fn of(losses: &[Loss]) -> Losses {
        let mut sum = Losses::default();
        sum.add(losses);
        sum
    }

    pub(super) fn add(&mut self, losses: &[Loss]) {
        for loss in losses {
            let count = match loss.class() {
                LossClass::Activity => &mut self.activity,
                LossClass::Scans => &mut self.scans,
                LossClass::Trimmed => &mut self.trimmed,
                LossClass::Damaged | LossClass::Unspecified => &mut self.damaged,
            };
            *count = count.saturating_add(loss.records);
        }
    }
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of activity, {} scans, {} by damage", self.activity, self.scans, self.damaged)?;
        if self.trimmed > 0 {
            write!(f, ", {} that HQ had and lost", self.trimmed)?;
        }
        Ok(())
    }
}

impl SiteView {
    /// More than a few messages behind.
    pub(super) fn far_behind(&self) -> bool {
        self.online && is_far(self.backlog_records())
    }

    /// By what the site said it has, or by its last beat if that is more recent than what is applied.
    fn backlog_records(&self) -> u64 {
        self.beat.journal_to.saturating_sub(self.applied_seq)
    }

    pub(super) fn json(&self, site: &SiteName) -> Value {
        let behind = self.backlog_records() > 0;
        json!({
            "site": site.as_str(),
            "online": self.online,
            "epoch": format!("{:016x}", self.epoch),
            "applied_seq": self.applied_seq,
            "present_seq": self.present_seq.max(self.applied_seq),
            "backlog_records": self.backlog_records(),
            "backlog_bytes": if behind { self.beat.backlog_bytes } else { 0 },
            "backlog_age_ms": if behind { self.beat.backlog_age_ms } else { 0 },
            "skew_ms": self.beat.skew_ms,
            "clock_synced": self.beat.clock_synced,
            "clock_of": if self.beat.clock_from_hub { "hub" } else if self.beat.clock_synced { "own" } else { "nobody" },
            "disk_bytes": self.beat.disk_bytes,
            "rejects": self.beat.rejects,
            "lost": {
                "activity": self.losses.activity,
                "scans": self.losses.scans,
                "damaged": self.losses.damaged,
                "trimmed": self.losses.trimmed,
            },
            "set_aside": self.aside.count,
            "declared_lost": self.is_lost,
            "check": self.checked.json(),
            "last_seen_ms": self.last_seen_ms,
        })
    }
}

pub(super) fn site_status(site: &SiteName, view: &SiteView) -> (String, bytes::Bytes) {
    (Outbound::HqSite(site).to_string(), view.json(site).to_string().into())
}

/// `{"gtin":"04006381333931","on_hand":22,"sites":{"harbour":22}}`
pub(super) fn stock(gtin: Gtin, sites: &BTreeMap<&str, Units>) -> (String, bytes::Bytes) {
    let told = Told { gtin, on_hand: sites.values().copied().sum(), sites };
    // Names and numbers always have a text. It is kept for as long as the item is: no room for more than that.
    let body = serde_json::to_vec(&told).unwrap_or_default().into_boxed_slice();
    (Outbound::HqStock(gtin).to_string(), body.into())
}

#[derive(Serialize)]
struct Told<'a> {
    gtin: Gtin,
    on_hand: Units,
    sites: &'a BTreeMap<&'a str, Units>,
}

/// The newest refusal of a site, with counts.
pub(super) fn reject(site: &SiteName, device: &str, refusal: &Refusal, view: &SiteView) -> (String, bytes::Bytes) {
    let body = json!({
        "site": site.as_str(),
        "device": device,
        "code": refusal.code,
        "reason": refusal.reason,
        "topic": refusal.topic,
        "line": refusal.line,
        "counts": view.refusals,
    });
    (Outbound::HqReject(site).to_string(), body.to_string().into())
}

pub(super) fn alert(site: &SiteName, what: &str, say: String, at_ms: u64) -> (String, bytes::Bytes) {
    let body = json!({ "site": site.as_str(), "alert": what, "say": say, "at_ms": at_ms });
    let name = format!("{site}:{what}");
    (Outbound::HqAlert(&name).to_string(), body.to_string().into())
}
