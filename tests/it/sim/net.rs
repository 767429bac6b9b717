//! Wires: one connection of each site to the hub at a time, each way a queue that may be slow, cut, lossy or disorderly.

use bytes::Bytes;

use super::world::{Event, World};

/// What comes down a connection.
#[derive(Debug)]
pub(super) enum DownWire {
    Message(Bytes),
    /// The hub's front took one message.
    Acked,
}

/// A site's way to the hub.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// The connection that stands, as the hub's front sees it; 0 for none.
    pub(super) at_hub: u64,
    last: u64,
    /// Nothing passes this way.
    pub(super) up_cut: bool,
    pub(super) down_cut: bool,
    /// When the last message of each way arrives: the next one does after it.
    up_free_ms: u64,
    down_free_ms: u64,
}

impl Link {
    /// A new connection's number.
    pub(super) fn dial(&mut self) -> u64 {
        self.last += 1;
        (self.up_free_ms, self.down_free_ms) = (0, 0);
        self.last
    }
}

impl World {
    /// True if a connection can be made.
    pub(super) fn reachable(&self, at: usize) -> bool {
        let link = &self.sites[at].link;
        self.hq.node.is_some() && !link.up_cut && !link.down_cut
    }

    pub(super) fn delay(&mut self) -> u64 {
        let most = if self.calm { 30 } else { self.plan.delay_ms };
        self.dice.range(1, most.max(1))
    }

    fn unlucky(&mut self, percent: u64) -> bool {
        !self.calm && percent > 0 && self.dice.percent(percent)
    }

    /// Puts a publish of a gateway on its way.
    pub(super) fn send_up(&mut self, at: usize, link: u64, payload: Bytes) {
        let lost = self.sites[at].link.up_cut || self.unlucky(self.plan.lost);
        if lost {
            self.note(|| format!("{at} up: lost {} bytes", payload.len()));
            // Either somebody took it and lost it, or nobody ever will answer.
            if !self.sites[at].link.up_cut && self.dice.percent(50) {
                self.send_down(at, link, DownWire::Acked);
            } else {
                self.doom(at, link);
            }
            return;
        }
        for _ in 0..if self.unlucky(self.plan.doubled) { 2 } else { 1 } {
            let mut when = self.now + self.delay();
            if self.calm || !self.plan.disorder {
                when = when.max(self.sites[at].link.up_free_ms);
                self.sites[at].link.up_free_ms = when;
            }
            self.at(when, Event::Up(at, link, payload.clone()));
        }
    }

    pub(super) fn send_down(&mut self, at: usize, link: u64, what: DownWire) {
        let message = matches!(what, DownWire::Message(_));
        if self.sites[at].link.down_cut || (message && self.unlucky(self.plan.lost)) {
            if !message {
                self.doom(at, link);
            }
            self.note(|| format!("{at} down: lost"));
            return;
        }
        let mut when = self.now + self.delay();
        if self.calm || !self.plan.disorder {
            when = when.max(self.sites[at].link.down_free_ms);
            self.sites[at].link.down_free_ms = when;
        }
        if let DownWire::Message(bytes) = &what
            && self.unlucky(self.plan.doubled)
        {
            let again = DownWire::Message(bytes.clone());
            self.at(when + 1, Event::Down(at, link, again));
        }
        self.at(when, Event::Down(at, link, what));
    }

    /// A connection on which an acknowledgement was lost does not live long.
    fn doom(&mut self, at: usize, link: u64) {
        let wait = self.dice.range(1_000, 20_000);
        self.after(wait, Event::Closed(at, link));
    }
}
