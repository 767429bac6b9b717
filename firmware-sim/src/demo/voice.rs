//! What the demo says while it runs, on stderr: a progress bar, and a line for each thing that happens.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use super::crew::Crew;

const TICK: Duration = Duration::from_millis(100);

pub(super) struct Voice {
    bar: ProgressBar,
    messages: u64,
    since: Instant,
}

impl Voice {
    pub(super) fn new(messages: u64) -> Voice {
        let bar = ProgressBar::new(messages);
        let style = ProgressStyle::with_template("  {bar:40} {pos}/{len} messages acknowledged");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Voice { bar, messages, since: Instant::now() }
    }

    pub(super) fn say(&self, text: &str) {
        let line = format!("{:5.1} s  {text}", self.since.elapsed().as_secs_f64());
        // A bar without a terminal says nothing at all.
        if self.bar.is_hidden() || self.bar.is_finished() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Moves the bar on until then. Repeats that devices made on their own do not count beyond its end.
    pub(super) async fn until(&self, moment: Instant, crew: &Crew) {
        while Instant::now() < moment {
            self.bar.set_position(crew.acked().min(self.messages));
            sleep_until(moment.min(Instant::now() + TICK)).await;
        }
        self.bar.set_position(crew.acked().min(self.messages));
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
