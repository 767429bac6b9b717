//! The table, the JSON line, and the sentences under them.

use std::fmt::Write;

use serde::Serialize;

use crate::audit::{Findings, Lost};

/// Everything that the demo found out.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Findings,
    pub(super) conflicts: Vec<Lost>,
    pub(super) wire_bytes: u64,
    pub(super) catch_up_ms: u64,
    pub(super) backlog: u64,
    /// What did not hold, in words. Empty: everything held.
    pub(super) faults: Vec<String>,
}

#[derive(Serialize)]
struct Figures {
    sent: u64,
    acked: u64,
    in_ledgers: u64,
    applied: u64,
    refused: u64,
    lost: u64,
    doubled: u64,
    stock_cells: u64,
    stock_mismatches: u64,
    conflicts: usize,
    wire_bytes_per_record: f64,
    catch_up_ms: u64,
}

impl Report {
    pub(super) fn held(&self) -> bool {
        let found = &self.findings;
        found.lost == 0 && found.doubled == 0 && found.stock_mismatches == 0 && self.faults.is_empty()
    }

    pub(super) fn table(&self) -> String {
        let found = &self.findings;
        let rows = [
            ("movement records sent", found.sent.to_string(), "basket lines and receipts, by the devices' logs"),
            ("acknowledged", found.acked.to_string(), "by the devices' logs"),
            ("in the ledgers", found.in_ledgers.to_string(), "read out of the stopped gateways"),
            ("applied at HQ", found.applied.to_string(), "read out of the stopped hub"),
            ("refused", found.refused.to_string(), "the data is dirty: lines with a reason, kept"),
            ("lost", found.lost.to_string(), "acknowledged and not there"),
            ("applied twice", found.doubled.to_string(), ""),
            ("stock cells compared", found.stock_cells.to_string(), "site and item, against the oracle"),
            ("stock cells that differ", found.stock_mismatches.to_string(), ""),
            ("conflicts resolved", self.conflicts.len().to_string(), "edits that had not seen each other"),
            ("wire bytes per record", format!("{:.1}", self.per(found.records_applied)), "gateway and hub, both ways"),
            ("wire bytes per message", format!("{:.1}", self.per(found.messages)), "a message is one device's publish"),
            ("catch-up time", format!("{} ms", self.catch_up_ms), "from the network's return"),
        ];
        let mut text = String::new();
        for (name, value, note) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:<25}{value:>10}   {note}", name);
        }
        text
    }

    pub(super) fn sentences(&self) -> String {
        let mut text = String::new();
        for conflict in &self.conflicts {
            let Lost { key, winner_site, winner, loser_site, loser } = conflict;
            let _ =
                writeln!(text, "  {key}: {winner_site}'s {winner} won, {loser_site}'s {loser} is in the conflict log");
        }
        let _ = writeln!(text, "  caught up on {} records that waited while the network was cut", self.backlog);
        let _ = writeln!(text);
        match self.held() {
            true => {
                let _ = writeln!(text, "everything held");
            }
            false => {
                let _ = writeln!(text, "NOT EVERYTHING HELD:");
                for fault in &self.faults {
                    let _ = writeln!(text, "  - {fault}");
                }
            }
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let found = &self.findings;
        let figures = Figures {
            sent: found.sent,
            acked: found.acked,
            in_ledgers: found.in_ledgers,
            applied: found.applied,
            refused: found.refused,
            lost: found.lost,
            doubled: found.doubled,
            stock_cells: found.stock_cells,
            stock_mismatches: found.stock_mismatches,
            conflicts: self.conflicts.len(),
            wire_bytes_per_record: (self.per(found.records_applied) * 10.0).round() / 10.0,
            catch_up_ms: self.catch_up_ms,
        };
        serde_json::to_string(&figures).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    fn per(&self, count: u64) -> f64 {
        self.wire_bytes as f64 / count.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_line_has_the_agreed_keys_in_their_order() {
        let report = Report { wire_bytes: 1_005, ..Report::default() };
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let keys = "sent acked in_ledgers applied refused lost doubled stock_cells stock_mismatches conflicts \
                    wire_bytes_per_record catch_up_ms";
        for key in keys.split_ascii_whitespace() {
            assert!(value.get(key).is_some_and(serde_json::Value::is_number), "{key}");
        }
        assert_eq!(value.as_object().unwrap().len(), 12);
    }

    #[test]
    fn whatever_is_wrong_is_not_held() {
        assert!(Report::default().held());
        let lost = Findings { lost: 1, ..Findings::default() };
        let doubled = Findings { doubled: 1, ..Findings::default() };
        let differs = Findings { stock_mismatches: 1, ..Findings::default() };
        for findings in [lost, doubled, differs] {
            assert!(!Report { findings, ..Report::default() }.held());
        }
        let report = Report { faults: vec!["the hub did not stop".into()], ..Report::default() };
        assert!(!report.held() && report.sentences().contains("the hub did not stop"));
    }
}
