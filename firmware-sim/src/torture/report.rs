//! What is said: lines while it runs, on stderr; then the table, and the object for programs.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::count::{Count, Counts};
use super::crew::Progress;
use super::plan::Plan;

/// Cycles that are shown one by one without `--verbose`: those that did not hold, the first few of them.
const SHOWN_MAX: usize = 10;

/// What a run found out.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) peer: &'static str,
    pub(super) plan: Plan,
    pub(super) counts: Counts,
    pub(super) struck: Struck,
    pub(super) took: Duration,
}

/// How the kills met their victims.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Struck {
    /// Processes killed, those in their start included.
    pub(super) kills: u64,
    /// Kills of a process that was starting.
    pub(super) starting: u64,
    /// Cycles whose kill met publishes that waited for their acknowledgement.
    pub(super) busy: u64,
    /// Times that a dead gateway's ledger was read.
    pub(super) readings: u64,
}

#[derive(Serialize)]
struct Figures {
    peer: &'static str,
    seed: u64,
    cycles: usize,
    kills: u64,
    kills_in_start: u64,
    acked: u64,
    found: u64,
    lost: u64,
    doubled: u64,
    seconds: f64,
}

impl Report {
    /// The peer's figures are what they are; ours must hold.
    pub(super) fn table(&self, verbose: bool) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>6}  {:>8}  {:>8}  {:>6}  {:>7}", "cycle", "acked", "found", "lost", "doubled");
        let wrong = |count: &Count| count.lost + count.doubled > 0;
        let cycles = self.counts.cycles.iter().zip(&self.plan.cycles).enumerate();
        let most = if verbose { usize::MAX } else { SHOWN_MAX };
        for (n, (count, cycle)) in cycles.filter(|(_, (count, _))| verbose || wrong(count)).take(most) {
            let _ = writeln!(text, "{}  {cycle}", row(&(n + 1).to_string(), *count));
        }
        let more = self.counts.cycles.iter().filter(|count| wrong(count)).count().saturating_sub(most);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more cycles that did not hold (--verbose shows all)");
        }
        let _ = writeln!(text, "{}  {}", row("all", self.counts.total), self.sentence());
        for fault in &self.counts.faults {
            let _ = writeln!(text, "  - {fault}");
        }
        text
    }

    fn sentence(&self) -> String {
        let Struck { kills, starting, busy, readings } = self.struck;
        let (cycles, seconds) = (self.plan.cycles.len(), self.took.as_secs_f64());
        format!(
            "{} of seed {}: {cycles} cycles, {kills} kills ({starting} in a start), {busy} met open publishes, \
             {readings} looks into a dead gateway, {seconds:.0} s",
            self.peer, self.plan.seed
        )
    }

    pub(super) fn json(&self) -> String {
        let Count { acked, found, lost, doubled } = self.counts.total;
        let figures = Figures {
            peer: self.peer,
            seed: self.plan.seed,
            cycles: self.plan.cycles.len(),
            kills: self.struck.kills,
            kills_in_start: self.struck.starting,
            acked,
            found,
            lost,
            doubled,
            seconds: (self.took.as_secs_f64() * 10.0).round() / 10.0,
        };
        serde_json::to_string(&figures).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// For whoever looks for the fault: the whole plan can be played again.
    pub(super) fn plan(&self) -> String {
        plan(&self.plan)
    }
}

pub(super) fn plan(plan: &Plan) -> String {
    let mut text = format!("the plan of seed {}:\n", plan.seed);
    for (n, cycle) in plan.cycles.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>6}  {cycle}", n + 1);
    }
    text
}

fn row(name: &str, count: Count) -> String {
    let Count { acked, found, lost, doubled } = count;
    format!("  {name:>6}  {acked:>8}  {found:>8}  {lost:>6}  {doubled:>7}")
}

/// Progress on stderr.
pub(super) struct Voice {
    bar: ProgressBar,
    verbose: bool,
    every: usize,
}

impl Voice {
    pub(super) fn new(cycles: usize, verbose: bool) -> Voice {
        let bar = ProgressBar::new(cycles as u64);
        let style = ProgressStyle::with_template("  {bar:40} cycle {pos}/{len}, {msg}, {eta} to go");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Voice { bar, verbose, every: (cycles / 10).max(1) }
    }

    pub(super) fn say(&self, text: &str) {
        // A bar without a terminal says nothing at all.
        if self.bar.is_hidden() { eprintln!("{text}") } else { self.bar.println(text) }
    }

    /// A cycle is over.
    pub(super) fn cycle(&self, n: usize, plan: &Plan, progress: Progress) {
        self.bar.set_position(n as u64 + 1);
        self.bar.set_message(format!("{} acknowledged", progress.acked));
        let (all, acked) = (plan.cycles.len(), progress.acked);
        if self.verbose {
            self.say(&format!("cycle {:>4}/{all}: {}; {acked} acknowledged so far", n + 1, plan.cycles[n]));
        } else if self.bar.is_hidden() && (n + 1).is_multiple_of(self.every) {
            self.say(&format!("cycle {:>4}/{all}: {acked} acknowledged so far", n + 1));
        }
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cycles: u32, total: Count) -> Report {
        let mut rows = vec![Count::default(); cycles as usize];
        rows[0] = total;
        let counts = Counts { cycles: rows, total, faults: Vec::new() };
        let took = Duration::from_millis(1_234);
        Report { peer: "tillsync", plan: Plan::draw(1, cycles), counts, struck: Struck::default(), took }
    }

    #[test]
    fn the_json_line_has_the_agreed_keys() {
        let report = report(3, Count { acked: 9, found: 8, lost: 1, doubled: 0 });
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in "seed cycles kills kills_in_start acked found lost doubled seconds".split(' ') {
            assert!(value[key].is_number(), "{key}");
        }
        assert_eq!((&value["peer"], &value["cycles"], &value["lost"]), (&"tillsync".into(), &3.into(), &1.into()));
    }

    #[test]
    fn cycles_that_did_not_hold_are_shown_with_their_plan() {
        let held = report(3, Count { acked: 9, found: 9, lost: 0, doubled: 0 });
        assert_eq!(held.table(false).lines().count(), 2, "{}", held.table(false));
        assert_eq!(held.table(true).lines().count(), 5);
        let lost = report(3, Count { acked: 9, found: 8, lost: 1, doubled: 0 });
        assert!(lost.table(false).contains(&lost.plan.cycles[0].to_string()));
        assert!(lost.plan().contains("seed 1") && lost.plan().lines().count() == 4);
    }
}
