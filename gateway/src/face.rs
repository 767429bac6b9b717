//! What the gateway answers to `status` and `/metrics`, beyond what every node does.

use broker::ledger::Reader;
use broker::node::metrics::{self, Exposition, seconds};
use broker::node::process::Face;
use broker::node::show;
use proto::id::{Seq, WallMs};
use serde_json::Value;

use crate::core::{Gateway, Input};

/// Codes of refusals that have series of their own; ours are a few dozen.
const CODES_MAX: usize = 100;
/// Items that have some; the core shows no more.
const ITEMS_MAX: usize = 100;

pub(crate) const FACE: Face<Gateway> = Face {
    status: Input::Status,
    complete,
    metrics,
    question: |_, _| None,
    again: Some(Input::Again),
    audit: Input::Audit,
};

/// How old what waits for HQ is: the ledger has the stamp.
fn complete(status: &mut Value, reader: &Reader) {
    let (applied, last) = (status["uplink"]["applied_seq"].as_u64(), status["ledger"]["last_seq"].as_u64());
    let age = match (applied, last) {
        (Some(applied), Some(last)) if applied < last => {
            // What cannot be read is told by the uplink; here it is only unknown.
            let oldest = reader.stamped_after(Seq(applied)).ok().flatten();
            let now = status["clock"]["wall_ms"].as_u64();
            oldest.zip(now).map(|(WallMs(oldest), now)| now.saturating_sub(oldest))
        }
        _ => Some(0),
    };
    status["uplink"]["backlog_age_ms"] = age.into();
}

fn metrics(status: &Value, out: &mut Exposition) {
    metrics::common(status, out);
    let uplink = &status["uplink"];
    out.gauge("tillsync_uplink_connected", "1 while the hub takes what this site has.", &uplink["connected"]);
    let turned = uplink["turned_away"].is_object();
    out.gauge("tillsync_uplink_turned_away", "1 if a person must act before syncing goes on.", &turned.into());
    out.gauge("tillsync_uplink_applied_seq", "Up to where HQ has applied this journal.", &uplink["applied_seq"]);
    let help = "Since the hub was last heard.";
    out.gauge("tillsync_uplink_last_heard_seconds", help, &seconds(&uplink["last_heard_ms_ago"]));
    let help = "Entries of the hub's feed that could not be read since the start.";
    out.counter("tillsync_uplink_feed_rejects_total", help, &uplink["feed_rejects"]);
    let backlog = &uplink["backlog_records"];
    out.gauge("tillsync_backlog_records", "Records that HQ has not applied yet.", backlog);
    out.gauge("tillsync_backlog_bytes", "Bytes of them.", &status["ledger"]["backlog_bytes"]);
    out.gauge("tillsync_backlog_age_seconds", "Age of the oldest of them.", &seconds(&uplink["backlog_age_ms"]));
    out.gauge("tillsync_clock_synced", "1 if the box's clock is believed.", &status["clock"]["synced"]);
    let help = "The hub's clock minus this box's.";
    out.gauge("tillsync_clock_skew_seconds", help, &seconds(&status["clock"]["skew_ms"]));
    let pending = ["waiting", "taking over"].iter().any(|state| status["takeover"]["state"] == *state);
    let help = "1 while what earlier ledgers of this store left is not taken over.";
    out.gauge("tillsync_takeover_pending", help, &pending.into());
    rights(&status["rights"], out);
    requests(&status["requests"], out);
}

fn rights(rights: &Value, out: &mut Exposition) {
    out.gauge("tillsync_rights_pools", "Items that are sold from a pool.", &rights["pools"]);
    out.gauge("tillsync_rights_wanted", "Of them, those that run out here.", &rights["wanted"]);
    out.gauge("tillsync_holds_open", "Units set aside for buyers: open holds.", &rights["holds_open"]);
    let of = |part: &str| {
        let items = rights["items"].as_object().into_iter().flatten();
        Value::Object(items.map(|(gtin, item)| (gtin.clone(), item[part].clone())).collect())
    };
    for (name, help, part) in [
        ("tillsync_rights_available", "Units that may be promised here now, of the first 100 items.", "available"),
        ("tillsync_rights_held", "Units in open holds, of the first 100 items.", "held"),
        ("tillsync_rights_promised", "Units that this ledger promised in all, of the first 100 items.", "promised"),
    ] {
        out.gauges(name, help).samples("gtin", &of(part), ITEMS_MAX);
    }
}

fn requests(requests: &Value, out: &mut Exposition) {
    let mut outcomes = out.counters("tillsync_requests_total", "Requests of devices by outcome since the start.");
    for outcome in ["accepted", "partial", "duplicates", "qos2_repeats"] {
        outcomes.sample(&[("outcome", outcome)], &requests[outcome]);
    }
    let help = "Refusals of requests and of single lines by code since the start.";
    out.counters("tillsync_refusals_total", help).samples("code", &requests["refused"], CODES_MAX);
}

/// What people see of it first.
pub(crate) fn lines(status: &Value) -> Vec<(String, String)> {
    let (ledger, uplink) = (&status["ledger"], &status["uplink"]);
    let link = match (&uplink["connected"], &uplink["turned_away"]) {
        (Value::Bool(true), _) => "connected".to_owned(),
        _ if uplink["configured"] == Value::Bool(false) => "none configured: this store works for itself".to_owned(),
        (_, Value::Null) => "AWAY: selling goes on, records are kept".to_owned(),
        (_, turned) => format!("TURNED AWAY: {}", show::number(&turned["advice"])),
    };
    let refused: Vec<String> = status["requests"]["refused"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(code, count)| format!("{code} {}", show::number(count)))
        .collect();
    vec![
        ("site".into(), format!("{} (ledger {})", show::number(&status["site"]), show::number(&status["epoch"]))),
        ("hub".into(), link),
        (
            "waiting".into(),
            format!(
                "{} records, {}, applied at HQ up to {}",
                show::number(&uplink["backlog_records"]),
                show::bytes(&ledger["backlog_bytes"]),
                show::number(&uplink["applied_seq"])
            ),
        ),
        (
            "ledger".into(),
            format!(
                "{} records, journal {}, state {}{}",
                show::number(&ledger["last_seq"]),
                show::bytes(&ledger["journal_bytes"]),
                show::bytes(&ledger["state_bytes"]),
                if ledger["full"] == Value::Bool(true) { ", FULL: publishes are refused" } else { "" }
            ),
        ),
        ("takeover".into(), takeover(&status["takeover"])),
        ("disk".into(), show::disk(&status["disk"])),
        (
            "requests".into(),
            format!(
                "{} accepted, {} partial, {} duplicates since the start",
                show::number(&status["requests"]["accepted"]),
                show::number(&status["requests"]["partial"]),
                show::number(&status["requests"]["duplicates"])
            ),
        ),
        ("refused".into(), if refused.is_empty() { "nothing".into() } else { refused.join(", ") }),
        ("rights".into(), rights_line(&status["rights"])),
        ("certificates".into(), show::certificates(&status["certificates"])),
        ("devices".into(), show::number(&status["front"]["connections"])),
        (
            "clock".into(),
            format!(
                "{}, hub is {} ms ahead",
                if status["clock"]["synced"] == Value::Bool(true) { "believed" } else { "NOT SET" },
                show::number(&status["clock"]["skew_ms"])
            ),
        ),
    ]
}

/// What is sold from pools here.
fn rights_line(rights: &Value) -> String {
    if rights["pools"].as_u64().unwrap_or(0) == 0 {
        return "no item is sold from a pool".into();
    }
    let (pools, open) = (show::number(&rights["pools"]), show::number(&rights["holds_open"]));
    format!(
        "{pools} items sold from pools, {} of them running out here, {open} holds open",
        show::number(&rights["wanted"])
    )
}

/// How far this ledger has taken over what earlier ones of the store left.
fn takeover(takeover: &Value) -> String {
    let ids = show::number(&takeover["ids"]);
    let fork = &takeover["fork"];
    match (takeover["state"].as_str(), fork["end_seq"].as_u64()) {
        _ if takeover["fork_unreadable"].is_string() => {
            format!("STOPPED: the earlier ledger cannot be read: {}", show::number(&takeover["fork_unreadable"]))
        }
        (Some("taking over"), Some(_)) => {
            let (at, end) = (show::number(&fork["at_seq"]), show::number(&fork["end_seq"]));
            let more = if takeover["others_wait"] == true { "; an earlier one waits" } else { "" };
            let ledger = show::number(&fork["ledger"]);
            format!("taking over ({ids} ids, records up to {at} of {end} of ledger {ledger}{more})")
        }
        (Some("taking over"), None) => format!("taking over ({ids} ids)"),
        (Some("waiting"), _) => "waiting for the hub".into(),
        (Some(state), _) => state.into(),
        (None, _) => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_shown_by_outcome_and_code() {
        let status = json!({
            "uplink": { "connected": true, "turned_away": null, "backlog_records": 5, "backlog_age_ms": 2500 },
            "ledger": { "backlog_bytes": 90 },
            "requests": { "accepted": 3, "partial": 1, "duplicates": 2, "refused": { "qty_zero": 4 } },
            "rights": {
                "pools": 1, "wanted": 0, "holds_open": 2,
                "items": { "04006381333931": { "available": -1, "held": 2, "promised": 5 } },
            },
        });
        let mut out = Exposition::default();
        metrics(&status, &mut out);
        let text = out.into_text();
        for line in [
            "tillsync_uplink_connected 1",
            "tillsync_uplink_turned_away 0",
            "tillsync_backlog_records 5",
            "tillsync_backlog_bytes 90",
            "tillsync_backlog_age_seconds 2.5",
            "tillsync_requests_total{outcome=\"duplicates\"} 2",
            "tillsync_refusals_total{code=\"qty_zero\"} 4",
            "tillsync_holds_open 2",
            "tillsync_rights_available{gtin=\"04006381333931\"} -1",
            "tillsync_rights_promised{gtin=\"04006381333931\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
    }
}
