//! What is said: lines while it runs, on stderr; then the table, and the object for programs.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::judge::{Place, Verdict};
use super::plan::{Plan, Troubles};
use super::shop::site;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) plan: Plan,
    pub(super) verdict: Verdict,
    /// The most buyers that were served at one moment.
    pub(super) at_once: usize,
    /// From the first buyer to the last one.
    pub(super) took: Duration,
}

#[derive(Serialize)]
struct Figures {
    units: u64,
    promised: u64,
    oversold: u64,
    refused: u64,
    doubled: u64,
    missing: u64,
    left_over: u64,
    refused_while_stranded: u64,
    buyers: usize,
    sold: u64,
    unclear: u64,
    at_once: usize,
    sites: usize,
    seed: u64,
    seconds: f64,
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| where | buyers | got a unit | refused | refused while units were free elsewhere |\n|---|---|---|---|---|\n",
        );
        let mut row = |name: &str, place: &Place| {
            let Place { buyers, sold, refused, stranded } = place;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {buyers} | {sold} | {refused} | {stranded} |");
        };
        for (at, place) in self.verdict.places.iter().enumerate() {
            row(&self.name(at), place);
        }
        let Verdict { buyers, sold, refused, stranded, .. } = self.verdict;
        row("all", &Place { buyers: buyers as u64, sold, refused, stranded });
        text + &self.sentences()
    }

    fn name(&self, at: usize) -> String {
        let Troubles { cut_off, killed, .. } = self.plan.troubles;
        match at.checked_sub(1) {
            None => "online".into(),
            Some(store) if store == killed => format!("{}, killed", site(store)),
            Some(store) if cut_off.contains(&store) => format!("{}, cut off for a while", site(store)),
            Some(store) => site(store),
        }
    }

    fn sentences(&self) -> String {
        let Verdict { units, promised, oversold, left_over, doubled, missing, denied, unclear, held, .. } =
            self.verdict;
        let mut text = format!(
            "\n{promised} of {units} units promised, {oversold} oversold, {left_over} left over, {held} held; {doubled} doubled, \
             {missing} missing, {denied} told no and promised, {unclear} without a clear answer; up to {} at once, {:.1} s, \
             seed {}\n",
            self.at_once,
            self.took.as_secs_f64(),
            self.plan.seed
        );
        for fault in &self.verdict.faults {
            let _ = writeln!(text, "  - {fault}");
        }
        text.push_str(if self.verdict.held() { "everything held" } else { "NOT EVERYTHING HELD" });
        text
    }

    pub(super) fn json(&self) -> String {
        let verdict = &self.verdict;
        let figures = Figures {
            units: verdict.units,
            promised: verdict.promised,
            oversold: verdict.oversold,
            refused: verdict.refused,
            doubled: verdict.doubled,
            missing: verdict.missing,
            left_over: verdict.left_over,
            refused_while_stranded: verdict.stranded,
            buyers: verdict.buyers,
            sold: verdict.sold,
            unclear: verdict.unclear,
            at_once: self.at_once,
            sites: self.plan.stores.len(),
            seed: self.plan.seed,
            seconds: (self.took.as_secs_f64() * 10.0).round() / 10.0,
        };
        serde_json::to_string(&figures).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }
}

/// Progress on stderr.
pub(super) struct Voice {
    bar: ProgressBar,
    since: Instant,
}

impl Voice {
    pub(super) fn new(buyers: usize) -> Voice {
        let bar = ProgressBar::new(buyers as u64);
        let style = ProgressStyle::with_template("  {bar:40} {pos}/{len} buyers served, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Voice { bar, since: Instant::now() }
    }

    pub(super) fn say(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.since.elapsed().as_secs_f64());
        // A bar without a terminal says nothing at all.
        if self.bar.is_hidden() || self.bar.is_finished() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    pub(super) fn stands(&self, served: usize, taken: u64) {
        self.bar.set_position(served as u64);
        self.bar.set_message(format!("{taken} units taken"));
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> Report {
        Report { plan: Plan::draw(1, 400, 40, 5), verdict, at_once: 40, took: Duration::from_millis(1_234) }
    }

    #[test]
    fn the_json_line_has_the_agreed_keys() {
        let value: serde_json::Value = serde_json::from_str(&report(Verdict::default()).json()).unwrap();
        for key in "units promised oversold refused doubled missing refused_while_stranded".split(' ') {
            assert!(value[key].is_u64(), "{key}");
        }
    }

    #[test]
    fn the_table_names_what_befell_whom() {
        let places = vec![Place::default(); 6];
        let table = report(Verdict { places, missing: 1, ..Verdict::default() }).table();
        assert_eq!(table.matches("cut off for a while").count(), 2);
        assert_eq!(table.matches(", killed").count(), 1);
        assert!(table.contains("NOT EVERYTHING HELD"));
    }
}
