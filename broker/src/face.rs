//! What the hub answers to `status` and `/metrics`, beyond what every node does.

use serde_json::Value;

use crate::hub::{Ask, Hub, Input};
use crate::node::metrics::{self, Exposition, seconds};
use crate::node::process::{Face, OwnQuestion};
use crate::node::show;
use crate::{conflicts, history, pools, sites, verify};

/// Sites that have series of their own. The totals are of all.
const SITES_MAX: usize = 2_000;

pub(crate) const FACE: Face<Hub> = Face {
    status: Input::Status,
    complete: |_, _| {},
    metrics,
    question: |words, answer| {
        let look = history::of_words(words).or_else(|| verify::of_words(words));
        if let Some(look) = look.or_else(|| pools::look_of_words(words)) {
            return Some(OwnQuestion::Look(look));
        }
        if let ["verify" | "totals", site] = words {
            let site = site.parse().ok()?;
            let input = if words[0] == "verify" { Input::Verify(site, answer) } else { Input::Totals(site, answer) };
            return Some(OwnQuestion::Ask(input));
        }
        if let Some(lost) = sites::of_words(words) {
            return Some(OwnQuestion::Write(Input::Lost(lost, answer)));
        }
        if let Some(ask) = pools::of_words(words) {
            let (writes, input) = (ask.writes(), |ask| Input::Rights(ask, answer));
            return Some(if writes { OwnQuestion::Write(input(ask)) } else { OwnQuestion::Ask(input(ask)) });
        }
        let ask = conflicts::of_words(words)?;
        let writes = matches!(ask, Ask::Restore { .. });
        let input = Input::Conflicts(ask, answer);
        Some(if writes { OwnQuestion::Write(input) } else { OwnQuestion::Ask(input) })
    },
    again: None,
    audit: Input::Audit,
};

fn metrics(status: &Value, out: &mut Exposition) {
    metrics::common(status, out);
    let sync = &status["sync"];
    let counters = [
        ("batches", "Messages with chunks that gateways sent since the start."),
        ("repeats", "Chunks that were applied already."),
        ("gaps", "Chunks that came before what they continue."),
        ("undecodable", "Chunks and messages that could not be read; each was asked for again."),
        ("set_aside", "Chunks and records that were set aside since the start."),
        ("refused", "Messages that were refused."),
    ];
    for (key, help) in counters {
        out.counter(&format!("tillsync_hub_{key}_total"), help, &sync[key]);
    }
    let conflicts = &status["conflicts"];
    out.counter("tillsync_hub_conflicts_total", "Conflicts since the start.", &conflicts["since_start"]);
    out.gauge("tillsync_hub_conflicts_kept", "Conflicts that are kept.", &conflicts["kept"]);
    let forgetting = &status["forgetting"];
    out.gauge(
        "tillsync_hub_forgetting_horizon",
        "Deletions up to here are known to every site.",
        &forgetting["horizon"],
    );
    rights(&status["rights"], out);
    channel(&status["channel"], out);
    access(&status["access"], out);
    sites(&status["sites"], out);
}

fn rights(rights: &Value, out: &mut Exposition) {
    out.gauge("tillsync_hub_pools", "Items that are sold from a pool.", &rights["pools"]);
    out.gauge("tillsync_hub_pools_units", "Units of all pools.", &rights["units"]);
    out.gauge("tillsync_hub_pools_free", "Units of them that may be granted or promised.", &rights["free"]);
    let help =
        "What pools have granted to sites, in all; less what came back it is what sites promised, hold or have left.";
    out.gauge("tillsync_hub_pools_granted", help, &rights["granted"]);
    out.gauge("tillsync_hub_pools_returned", "Units that sites gave back, in all.", &rights["returned"]);
    out.gauge("tillsync_hub_pools_promised", "Units that are promised for good, anywhere.", &rights["promised"]);
    out.gauge("tillsync_hub_pools_held", "Units in open holds and reservations.", &rights["held"]);
    out.gauge("tillsync_hub_pools_refunded", "Units that buyers brought back, in all.", &rights["refunded"]);
    out.gauge("tillsync_hub_pools_short", "Pools of which more was sold in hand than there was.", &rights["short"]);
    let counters = [
        ("grants", "Grants since the start."),
        ("granted_units", "Units granted since the start, beyond what sales had taken already."),
        ("asks", "Times that a site was asked to give back what it did not use."),
        ("wants", "Times that a site said that an item runs out."),
        ("missed_units", "Units that buyers were turned away for since the start, at sites and at the hub."),
        ("oversold_units", "Units that sites sold in hand beyond their rights."),
    ];
    for (key, help) in counters {
        out.counter(&format!("tillsync_hub_rights_{key}_total"), help, &rights[key]);
    }
    let help = "Times that a site said other than the hub knew: sold beyond its rights, sold without knowing of the pool, granted \
                more than a restored hub remembers.";
    out.counters("tillsync_hub_rights_discrepancies_total", help).samples("kind", &rights["discrepancies"], 3);
    let waits = i32::from(rights["waits_for"].is_string());
    out.gauge("tillsync_hub_rights_waiting", "1 while a restored hub waits for what sites hold.", &waits.into());
}

/// The hub's own channel. Series by what was asked and what it came to: 8 by 18 at most.
fn channel(channel: &Value, out: &mut Exposition) {
    for (key, name, help) in [
        (
            "requests",
            "tillsync_hub_channel_requests_total",
            "Requests of the hub's own channel since the start, each once.",
        ),
        ("units", "tillsync_hub_channel_units_total", "Units that they asked for."),
    ] {
        let mut family = out.counters(name, help);
        for (what, outcomes) in channel[key].as_object().into_iter().flatten() {
            for (outcome, count) in outcomes.as_object().into_iter().flatten() {
                family.sample(&[("what", what), ("outcome", outcome)], count);
            }
        }
    }
    let help = "Requests that got the answer of an earlier one under their idempotency key.";
    out.counter("tillsync_hub_channel_repeats_total", help, &channel["repeats"]);
    out.gauge("tillsync_hub_reservations_open", "Reservations that are open.", &channel["reservations_open"]);
    let help = "Reservations that ended by their deadline since the start.";
    out.counter("tillsync_hub_reservations_expired_total", help, &channel["reservations_expired"]);
}

/// Of a hub without an HTTPS listener there is nothing.
fn access(access: &Value, out: &mut Exposition) {
    out.counter("tillsync_access_granted_total", "HTTPS requests whose bearer is known.", &access["granted"]);
    let help = "HTTPS requests that were refused, by why.";
    out.counters("tillsync_access_refused_total", help).samples("why", &access["refused"], 16);
    out.gauge("tillsync_access_local_tokens", "Tokens that this hub gave out.", &access["local_tokens"]);
    let issuer = &access["issuer"];
    out.gauge("tillsync_access_issuer_keys", "Keys of the tokens' issuer that are believed.", &issuer["usable"]);
    let help = "Since the issuer's keys were last had.";
    out.gauge("tillsync_access_issuer_keys_age_seconds", help, &seconds(&issuer["age_ms"]));
    let help = "Times that the issuer's keys could not be had.";
    out.counter("tillsync_access_issuer_failures_total", help, &issuer["failures"]);
}

fn sites(sites: &Value, out: &mut Exposition) {
    let all = || sites.as_object().into_iter().flatten();
    out.gauge("tillsync_hub_sites", "Sites that the hub knows.", &all().count().into());
    let online = all().filter(|(_, site)| site["online"] == true).count();
    out.gauge("tillsync_hub_sites_online", "Sites that are connected.", &online.into());
    let of_site = |key: &'static str| move |site: &Value| site[key].clone();
    type Take = Box<dyn Fn(&Value) -> Value>;
    let gauges: [(&str, &str, Take); 7] = [
        ("online", "1 if the site is connected.", Box::new(of_site("online"))),
        ("applied_seq", "Up to where the site's journal is applied.", Box::new(of_site("applied_seq"))),
        ("backlog_records", "Records of the site that are not applied yet.", Box::new(of_site("backlog_records"))),
        ("backlog_bytes", "Bytes of them.", Box::new(of_site("backlog_bytes"))),
        ("backlog_age_seconds", "Age of the oldest of them.", Box::new(|site| seconds(&site["backlog_age_ms"]))),
        ("clock_skew_seconds", "The hub's clock minus the site's.", Box::new(|site| seconds(&site["skew_ms"]))),
        ("set_aside", "Parts of the site's journal that were set aside, ever.", Box::new(of_site("set_aside"))),
    ];
    for (key, help, take) in gauges {
        let name = format!("tillsync_hub_site_{key}");
        let mut family = out.gauges(&name, help);
        for (site, view) in all().take(SITES_MAX) {
            family.sample(&[("site", site)], &take(view));
        }
    }
    let mut lost = out.gauges("tillsync_hub_site_lost_records", "Records that the site dropped or lost, ever.");
    for (site, view) in all().take(SITES_MAX) {
        for (class, records) in view["lost"].as_object().into_iter().flatten() {
            lost.sample(&[("site", site), ("class", class)], records);
        }
    }
}

/// What people see of it first.
pub(crate) fn lines(status: &Value) -> Vec<(String, String)> {
    let ledger = &status["ledger"];
    let mut lines = vec![
        ("incarnation".to_owned(), show::number(&status["incarnation"])),
        (
            "ledger".to_owned(),
            format!(
                "{} records, journal {}, state {}",
                show::number(&ledger["last_seq"]),
                show::bytes(&ledger["journal_bytes"]),
                show::bytes(&ledger["state_bytes"])
            ),
        ),
        ("disk".to_owned(), show::disk(&status["disk"])),
        ("certificates".to_owned(), show::certificates(&status["certificates"])),
        ("connections".to_owned(), show::number(&status["front"]["connections"])),
        ("conflicts kept".to_owned(), show::number(&status["conflicts"]["kept"])),
    ];
    let rights = &status["rights"];
    if rights["pools"].as_u64().is_some_and(|pools| pools > 0) {
        let short = rights["short"].as_u64().filter(|short| *short > 0);
        let short = short.map(|short| format!(", SHORT: {short}")).unwrap_or_default();
        let waits = rights["waits_for"].as_str().map(|sites| format!(", WAITS FOR {sites}")).unwrap_or_default();
        let line = format!(
            "{} of {} units free, sold in hand beyond rights {}{short}{waits}",
            show::number(&rights["free"]),
            show::number(&rights["units"]),
            show::number(&rights["oversold_units"])
        );
        lines.push((format!("pools: {}", show::number(&rights["pools"])), line));
    }
    for (site, view) in status["sites"].as_object().into_iter().flatten() {
        let aside = match view["set_aside"].as_u64() {
            Some(1..) => format!(", SET ASIDE: {}", show::number(&view["set_aside"])),
            _ => String::new(),
        };
        let line = format!(
            "{:7}  applied {}, behind {} records ({}, {}), skew {} ms{aside}",
            if view["online"] == Value::Bool(true) { "online" } else { "OFFLINE" },
            show::number(&view["applied_seq"]),
            show::number(&view["backlog_records"]),
            show::bytes(&view["backlog_bytes"]),
            show::span(&view["backlog_age_ms"]),
            show::number(&view["skew_ms"]),
        );
        lines.push((format!("site {site}"), line));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_site_has_its_series() {
        let site = |online| json!({ "online": online, "applied_seq": 7, "backlog_age_ms": 1500, "set_aside": 2, "lost": { "scans": 3 } });
        let access = json!({ "refused": { "invalid": 2, "throttled": 1 }, "issuer": { "usable": 3, "age_ms": 500 } });
        let sites = json!({ "harbour": site(true), "hill": site(false) });
        let status = json!({ "sites": sites, "sync": { "gaps": 4 }, "access": access });
        let mut out = Exposition::default();
        metrics(&status, &mut out);
        let text = out.into_text();
        for line in [
            "tillsync_hub_gaps_total 4",
            "tillsync_access_refused_total{why=\"invalid\"} 2",
            "tillsync_access_issuer_keys 3",
            "tillsync_access_issuer_keys_age_seconds 0.5",
            "tillsync_hub_sites 2",
            "tillsync_hub_sites_online 1",
            "tillsync_hub_site_online{site=\"hill\"} 0",
            "tillsync_hub_site_backlog_age_seconds{site=\"harbour\"} 1.5",
            "tillsync_hub_site_set_aside{site=\"harbour\"} 2",
            "tillsync_hub_site_lost_records{site=\"hill\",class=\"scans\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
    }
}
