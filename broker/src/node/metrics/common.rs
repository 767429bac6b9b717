//! What every node shows: its ledger, its disk, what its start found, its front.

use serde_json::Value;

use super::text::Exposition;

/// Of a status, what all nodes have.
pub fn common(status: &Value, out: &mut Exposition) {
    ledger(&status["ledger"], out);
    disk(&status["disk"], out);
    recovery(&status["recovery"], out);
    front(&status["front"], out);
    identity(&status["identity"], out);
    mailboxes(&status["front"]["mailboxes"], out);
    certificates(&status["certificates"], out);
}

fn certificates(certificates: &Value, out: &mut Exposition) {
    let help = "Days until a certificate of this node ends; it is renewed long before.";
    let mut days = out.gauges("tillsync_certificate_days_left", help);
    for (of, certificate) in certificates.as_object().into_iter().flatten() {
        days.sample(&[("of", of)], &certificate["days_left"]);
    }
}

fn ledger(ledger: &Value, out: &mut Exposition) {
    let gauges = [
        ("durable_seq", "last_seq", "Seq of the newest record that is on disk."),
        ("first_seq", "first_seq", "Seq of the oldest record that is still here."),
        ("folded_seq", "folded_seq", "Up to where the state on disk holds the journal."),
        ("chunks", "chunks", "Chunks in the journal."),
        ("journal_bytes", "journal_bytes", "Bytes of the journal's files."),
        ("state_bytes", "state_bytes", "Bytes of the state's files."),
        ("disk_bytes", "disk_bytes", "Bytes of all the ledger's files."),
        ("backlog_bytes", "backlog_bytes", "Bytes of the journal that are not applied elsewhere yet."),
        ("dirty_cells", "cells_waiting", "Cells of the state that wait for a checkpoint."),
        ("full", "full", "1 while publishes are refused for want of room."),
    ];
    for (name, key, help) in gauges {
        out.gauge(&format!("tillsync_ledger_{name}"), help, &ledger[key]);
    }
    let counters = [
        ("records", "records", "Records written since the start."),
        ("commits", "commits", "Commits, each with its fdatasync, since the start."),
        ("appended_bytes", "appended_bytes", "Bytes appended to the journal since the start."),
        ("evicted_records", "evicted_records", "Records dropped for want of room since the start."),
        ("evicted_bytes", "evicted_bytes", "Bytes dropped for want of room since the start."),
    ];
    for (name, key, help) in counters {
        out.counter(&format!("tillsync_ledger_{name}_total"), help, &ledger[key]);
    }
}

fn disk(disk: &Value, out: &mut Exposition) {
    out.gauge("tillsync_up_seconds", "Since the node was started.", &disk["up_s"]);
    out.gauge("tillsync_disk_free_bytes", "Free space where the ledger lives.", &disk["free_bytes"]);
    let help = "Bytes that the kernel wrote to storage for this process since it began.";
    out.counter("tillsync_disk_written_bytes_total", help, &disk["written_bytes"]);
}

fn recovery(recovery: &Value, out: &mut Exposition) {
    out.gauge("tillsync_recovery_clean", "1 if the last stop was a clean one.", &recovery["clean"]);
    let help = "Bytes of an unfinished commit that the start found and nobody had been told of.";
    out.gauge("tillsync_recovery_torn_bytes", help, &recovery["torn_bytes"]);
    let spans = recovery["lost"].as_array().into_iter().flatten();
    let lost: u64 = spans.filter_map(|span| Some(span[1].as_u64()?.saturating_sub(span[0].as_u64()?) + 1)).sum();
    out.gauge("tillsync_recovery_lost_records", "Records that the start found damaged.", &lost.into());
    let files = recovery["damaged"].as_array().map_or(0, Vec::len);
    out.gauge("tillsync_recovery_damaged_files", "Files that the start set aside as damaged.", &files.into());
    let set_apart = recovery["set_apart"].is_string();
    let help = "1 if the start set the earlier ledger apart and began a new one.";
    out.gauge("tillsync_recovery_set_apart", help, &set_apart.into());
    let remade = recovery["state_remade"].is_string();
    out.gauge("tillsync_recovery_state_remade", "1 if the start made the state anew.", &remade.into());
    let help = "1 if the state was made anew from a journal that does not reach back far enough: count the stock.";
    out.gauge("tillsync_recovery_state_incomplete", help, &recovery["state_incomplete"]);
    let help = "Records that the start folded again.";
    out.gauge("tillsync_recovery_replayed_records", help, &recovery["replayed_records"]);
}

/// Numbers of the front that also fall.
const FRONT_GAUGES: [&str; 6] =
    ["connections", "retained", "retained_bytes", "sessions_kept", "subscriptions", "unread_bytes"];

/// All of the front's counts, by their own names; a new one is shown from the day it is counted.
fn front(front: &Value, out: &mut Exposition) {
    for (key, value) in front.as_object().into_iter().flatten().filter(|(_, value)| value.is_number()) {
        let help = format!("MQTT front: {}.", front_help(key));
        match FRONT_GAUGES.contains(&key.as_str()) {
            true => out.gauge(&format!("tillsync_front_{key}"), &help, value),
            false => {
                let name = key.strip_suffix("_total").unwrap_or(key);
                out.counter(&format!("tillsync_front_{name}_total"), &help, value);
            }
        }
    }
}

fn identity(identity: &Value, out: &mut Exposition) {
    out.gauge("tillsync_accounts", "Accounts, disabled ones included.", &identity["accounts"]);
    out.gauge("tillsync_accounts_disabled", "Accounts that are disabled.", &identity["disabled"]);
    let help = "Passwords that were looked at with argon2id since the start.";
    out.counter("tillsync_passwords_hashed_total", help, &identity["door"]["hashed"]);
    let help = "CONNECTs that were not looked at since the start: too many wrong passwords before.";
    out.counter("tillsync_passwords_throttled_total", help, &identity["door"]["throttled"]);
    let help = "Security events that were journalled since the start.";
    out.counter("tillsync_security_events_total", help, &identity["audit"]["told"]);
    let help = "Security events that were only counted since the start.";
    out.counter("tillsync_security_events_lost_total", help, &identity["audit"]["lost"]);
}

fn mailboxes(mail: &Value, out: &mut Exposition) {
    for (key, help) in [
        ("sessions", "Persistent sessions."),
        ("restored", "Persistent sessions that the start found."),
        ("messages", "Messages that persistent sessions have not acknowledged."),
        ("bytes", "Bytes of them."),
    ] {
        out.gauge(&format!("tillsync_mailbox_{key}"), help, &mail[key]);
    }
    for (key, help) in [
        ("queued", "Messages that were put into mailboxes."),
        ("dropped", "Messages that persistent sessions lost because their mailbox was full."),
        ("redelivered", "Messages that were sent again."),
    ] {
        out.counter(&format!("tillsync_mailbox_{key}_total"), help, &mail[key]);
    }
}

fn front_help(key: &str) -> String {
    let known = match key {
        "connections" => "clients that are connected now",
        "connections_total" => "clients that connected",
        "refused_sockets" => "closed at accept: too many sockets",
        "refused_version" => "CONNECT of an unknown MQTT version",
        "refused_credentials" => "CONNECT with wrong credentials",
        "refused_full" => "CONNECT refused: as many as may be are connected",
        "revoked" => "connections closed because an operator took a right away",
        "slowed" => "times that a socket was left unread because its account was over its rate",
        "subscriptions" => "subscriptions of clients that are connected",
        "denied" => "publishes that may not be made; each is recorded",
        "no_room" => "publishes refused because the ledger is full",
        "acks" => "PUBACK, PUBREC and PUBCOMP written, each after its commit",
        "overflow_lost" => "live messages that slow subscribers lost",
        "stalled" => "subscribers closed because they did not read",
        "replies_dropped" => "own messages dropped because the router's queue was full",
        "router_restarts" => "times the router died and was started anew",
        "router_renewals" => "times the router held too much and was made anew",
        "retained" => "retained topics",
        "retained_bytes" => "bytes of retained topics and payloads",
        "sessions_kept" => "sessions that outlive their connection",
        other => return other.replace('_', " "),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::FrontStats;
    use serde_json::json;

    #[test]
    fn every_number_of_a_status_has_its_line() {
        let front = FrontStats::default().to_json();
        let recovery =
            serde_json::to_value(crate::ledger::Recovery { lost: vec![(3, 5), (9, 9)], ..Default::default() });
        let status = json!({
            "ledger": { "last_seq": 7, "commits": 2, "full": false },
            "disk": { "written_bytes": null, "free_bytes": 1024 },
            "recovery": recovery.unwrap(),
            "front": front,
        });
        let mut out = Exposition::default();
        common(&status, &mut out);
        let text = out.into_text();
        for line in [
            "tillsync_ledger_durable_seq 7",
            "tillsync_ledger_commits_total 2",
            "tillsync_ledger_full 0",
            "tillsync_disk_free_bytes 1024",
            "tillsync_recovery_lost_records 4",
            "tillsync_recovery_state_remade 0",
            "tillsync_front_connections 0",
            "tillsync_front_connections_total 0",
            "# TYPE tillsync_front_acks_total counter",
            "# TYPE tillsync_front_retained_bytes gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
        assert!(!text.contains("written_bytes"), "what is unknown is left out");
        let counts = text.lines().filter(|line| line.starts_with("tillsync_front_")).count();
        assert_eq!(counts, front.as_object().unwrap().len() - 1, "mailboxes apart, one sample for each count");
        let mut names: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "no family twice");
    }
}
