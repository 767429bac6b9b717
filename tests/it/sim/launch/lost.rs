//! Sites that are cut off for long are declared lost, and what they had is taken back, mostly. Then they come back, and rejoin.

use broker::hub::{Input, Lost};
use tokio::sync::oneshot;

use super::super::world::{Event, HubWork, Who, World};

/// The hub takes a site for online as long as this after it heard the last of it.
const OFFLINE_MS: u64 = 15_000;

impl World {
    /// A site where buyers come is cut off, and somebody thinks that its box is gone.
    pub(super) fn goes_dark(&mut self) {
        let at = self.dice.below(self.launch.hot);
        (self.sites[at].link.up_cut, self.sites[at].link.down_cut) = (true, true);
        let (link, notices) = (self.sites[at].link.at_hub, self.dice.range(1, 10_000));
        self.after(notices, Event::Closed(at, link));
        let said_ms = self.dice.range(OFFLINE_MS + 2_000, 40_000);
        let back_ms = self.dice.range(said_ms + 1, 60_000);
        self.after(said_ms, Event::WriteOff(at));
        self.after(back_ms, Event::Mend(at));
        self.note(|| format!("{at} goes dark"));
    }

    /// Refused if it is connected again, or nobody can be asked.
    pub(in super::super) fn write_off(&mut self, at: usize) {
        if self.hq.node.is_none() {
            return;
        }
        let reclaim = self.dice.percent(70);
        let site = self.sites[at].name.clone();
        self.note(|| format!("{site} is said to be lost, its rights taken back: {reclaim}"));
        let lost =
            Lost { site, by: "anna".into(), why: "it is dark".into(), reference: format!("claim {at}"), reclaim };
        let (answer, _) = oneshot::channel();
        self.hq.inbox.push_back(HubWork::Input(Box::new(Input::Lost(lost, answer))));
        self.due(Who::Hub);
    }
}
