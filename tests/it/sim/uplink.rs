//! A gateway's uplink: drives one `Session` for each connection as `gateway/uplink.rs` does, over the simulated wires.

use std::convert::Infallible;

use bytes::Bytes;
use gateway::core::{Input, LinkState};
use gateway::sync::{FromHub, Heard, PresentAsk, Session, in_common};
use gateway::uplink::Command;
use prost::Message;
use proto::wire::up::Of as UpOf;
use proto::wire::{Bye, Down, FeedAck, Up};

use super::net::DownWire;
use super::oracle::rep;
use super::world::{Event, HubWork, Who, Work, World};

const TURNED_WAIT_MS: u64 = 30_000;

/// One connection, as the gateway sees it.
pub(super) struct Live {
    link: u64,
    nonce: u64,
    pub(super) session: Session,
    started_ms: u64,
    /// The broker there accepted it.
    open: bool,
    /// When the present was last said out of turn.
    present_ms: u64,
}

fn sure<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl World {
    pub(super) fn connect(&mut self, at: usize, boot: u64) {
        if !self.is_up(Who::Site(at), boot) || self.sites[at].live.is_some() {
            return;
        }
        if !self.reachable(at) {
            let wait = self.dice.range(200, if self.calm { 1_000 } else { 8_000 });
            return self.after(wait, Event::Connect(at, boot));
        }
        let (nonce, started_ms) = (self.dice.bits(), self.now);
        let site = &mut self.sites[at];
        let link = site.link.dial();
        let replica = site.node.as_ref().expect("it is up").disk.replica.clone();
        let session = Session::new(replica, nonce, 0);
        site.live = Some(Live { link, nonce, session, started_ms, open: false, present_ms: 0 });
        let wait = self.delay();
        self.after(wait, Event::Opened(at, link));
    }

    /// The hub's front accepted the connection and the subscription.
    pub(super) fn opened(&mut self, at: usize, link: u64) {
        if !self.reachable(at) {
            return self.close(at, link, "nobody answers");
        }
        let Some(live) = self.sites[at].live.as_mut().filter(|live| live.link == link) else { return };
        live.open = true;
        self.sites[at].link.at_hub = link;
        self.note(|| format!("{at} connects as {link}"));
        self.greet(at);
        self.pump(at);
    }

    /// The gateway notices that a connection is over.
    pub(super) fn close(&mut self, at: usize, link: u64, why: &str) {
        if self.sites[at].live.as_ref().is_none_or(|live| live.link != link) {
            return;
        }
        self.hang_up(at, why);
        self.sites[at].inbox.push_back(Work::Input(Input::Link(LinkState::Away)));
        self.due(Who::Site(at));
        let (boot, wait) = (self.sites[at].boot, self.dice.range(200, if self.calm { 500 } else { 3_000 }));
        self.after(wait, Event::Connect(at, boot));
    }

    /// Ends the connection on the gateway's side; the hub's front sends the farewell in its name, sooner or later.
    pub(super) fn hang_up(&mut self, at: usize, why: &str) {
        let Some(live) = self.sites[at].live.take() else { return };
        self.note(|| format!("{at} hangs up: {why}"));
        if live.open && self.dice.percent(70) {
            let bye = Up { session: live.nonce, of: Some(UpOf::Bye(Bye {})) };
            let wait = self.dice.range(1, 3_000);
            self.after(wait, Event::Up(at, live.link, bye.encode_to_vec().into()));
        }
        if self.dice.percent(70) {
            self.sites[at].link.at_hub = 0;
        }
    }

    fn greet(&mut self, at: usize) {
        let site = &self.sites[at];
        let (Some(live), Some(node)) = (&site.live, &site.node) else { return };
        let hello = sure(live.session.hello(&node.disk, &site.cursors, "simulated"));
        self.send(at, &hello);
    }

    fn send(&mut self, at: usize, up: &Up) {
        let Some(live) = &self.sites[at].live else { return };
        let link = live.link;
        if !matches!(up.of, Some(UpOf::Beat(_) | UpOf::Check(_) | UpOf::RightsWanted(_))) {
            self.said += 1;
            self.note(|| format!("{at} up: {}", brief_up(up)));
        }
        self.send_up(at, link, up.encode_to_vec().into());
    }

    fn say(&mut self, at: usize, of: UpOf) {
        let Some(live) = self.sites[at].live.as_mut().filter(|live| live.session.streaming()) else { return };
        let up = live.session.wrap(of);
        live.session.said();
        self.send(at, &up);
    }

    /// What the core wants the hub to hear.
    pub(super) fn told(&mut self, at: usize, boot: u64, command: Command) {
        if !self.is_up(Who::Site(at), boot) {
            return;
        }
        let now = self.now;
        let site = &mut self.sites[at];
        if let Command::FeedAck(ack) = &command {
            site.cursors.set(ack);
        }
        if let Command::Lineage(lineage) = &command {
            site.cursors.follows(lineage.clone());
            let node = site.node.as_mut().expect("it is up");
            node.disk.lineage.clone_from(lineage);
        }
        let Some(live) = site.live.as_mut().filter(|live| live.open) else { return };
        match command {
            Command::Lineage(_) => {}
            Command::FeedAck(ack) if ack.cursor.incarnation == live.session.incarnation() => {
                let of = FeedAck {
                    cursor: ack.cursor.position,
                    resend: ack.resend,
                    stream: ack.stream,
                    journal_to: Some(ack.journal_to.0),
                    snapshot_to: ack.cursor.snapshot_to,
                    taken: ack.taken,
                };
                self.say(at, UpOf::FeedAck(of));
            }
            Command::FeedAck(_) => {}
            Command::Beat(beat) => self.say(at, UpOf::Beat(beat)),
            Command::Present { parts, looked } => live.session.ahead(parts, looked, now - live.started_ms),
            Command::Say(of) if live.session.may_say(&of) => self.say(at, of),
            Command::Say(_) => {}
        }
        self.pump(at);
    }

    pub(super) fn uplink_tick(&mut self, at: usize) {
        let now = self.now;
        let Some(live) = self.sites[at].live.as_mut().filter(|live| live.open) else { return };
        let at_ms = now - live.started_ms;
        live.session.tick(at_ms);
        if live.session.greet_again(at_ms) {
            self.greet(at);
        }
        self.pump(at);
    }

    /// Sends as much as the hub and the window allow, and asks for the present if it is due.
    pub(super) fn pump(&mut self, at: usize) {
        loop {
            let now = self.now;
            let site = &mut self.sites[at];
            let (Some(live), Some(node)) = (site.live.as_mut().filter(|live| live.open), &site.node) else { return };
            let Some(up) = sure(live.session.next(&node.disk, now - live.started_ms)) else { break };
            self.send(at, &up);
        }
        let eager = !self.calm && self.plan.presents && self.dice.percent(20);
        let now = self.now;
        let site = &mut self.sites[at];
        let (Some(live), Some(node)) = (site.live.as_mut(), &site.node) else { return };
        let ask = live.session.present_due(&node.disk, now - live.started_ms);
        let since = live.session.applied();
        let early = eager && live.session.streaming() && live.session.protocol() > 1 && now > live.present_ms + 1_000;
        let due = ask.or_else(|| {
            let as_of = gateway::sync::Chain::end(&node.disk).seq;
            (early && as_of > since).then_some(PresentAsk { since, as_of })
        });
        if let Some(ask) = due {
            live.present_ms = now;
            site.inbox.push_back(Work::Input(Input::Present(ask)));
            self.due(Who::Site(at));
        }
    }

    pub(super) fn arrived_down(&mut self, at: usize, link: u64, what: DownWire) {
        let now = self.now;
        let site = &mut self.sites[at];
        let (Some(live), Some(node)) = (site.live.as_mut().filter(|l| l.link == link && l.open), &site.node) else {
            return;
        };
        match what {
            DownWire::Acked => live.session.acked(),
            DownWire::Message(payload) => {
                let was_streaming = live.session.streaming();
                let down = Down::decode(payload).expect("the hub's messages can be decoded");
                let heard = sure(live.session.receive(down, &node.disk, now - live.started_ms));
                if live.session.streaming() && !was_streaming {
                    site.inbox.push_back(Work::Input(Input::Link(LinkState::Connected)));
                }
                match heard {
                    Heard::Said(FromHub::Past(past)) => {
                        let fork = site.forks.last();
                        let common = fork.and_then(|fork| sure(in_common(&past, &fork.replica, fork)));
                        let fork = fork.map(|fork| fork.replica.epoch);
                        site.inbox.push_back(Work::Input(Input::Past { past, common, fork }));
                    }
                    Heard::Said(message) => site.inbox.push_back(Work::Input(Input::FromHub(message))),
                    Heard::Turned { code, advice } => {
                        return self.turned(at, code, advice);
                    }
                    Heard::Ignored => {}
                }
                self.due(Who::Site(at));
            }
        }
        self.pump(at);
    }

    /// Syncing would do harm until a person has acted: that may only come of a restored disk, or of what a person said.
    fn turned(&mut self, at: usize, code: String, advice: String) {
        let site = &mut self.sites[at];
        let replica = site.node.as_ref().expect("it is up").disk.replica.clone();
        let life = &self.oracle.lives[&rep(&replica)];
        let written_off = code == "site_lost" && self.plan.writes_off;
        let looks_again = code == "follows_unknown" && self.oracle.restores > 0;
        assert!(
            life.rolled_back_to.is_some() || looks_again || written_off,
            "{replica} was turned away as {code}, though its disk was never restored"
        );
        site.turned = !looks_again;
        site.inbox.push_back(Work::Input(Input::Link(LinkState::Turned { code: code.clone(), advice })));
        let boot = site.boot;
        self.note(|| format!("{at} is turned away: {code}"));
        self.hang_up(at, "turned away");
        self.due(Who::Site(at));
        self.after(TURNED_WAIT_MS, Event::Connect(at, boot));
        let wait = self.dice.range(0, 2 * TURNED_WAIT_MS);
        self.after(wait, Event::Rejoin(at, boot));
    }

    /// A message comes to the hub's front. What a closed connection still had on its way may come, too.
    pub(super) fn arrived_up(&mut self, at: usize, link: u64, payload: Bytes) {
        if self.hq.node.is_some() {
            self.hq.inbox.push_back(HubWork::Up(at, link, payload));
            self.due(Who::Hub);
        }
    }
}

fn brief_up(up: &Up) -> String {
    match &up.of {
        Some(UpOf::Hello(hello)) => {
            format!("Hello {}..{} cursor {}", hello.journal_from, hello.journal_to, hello.feed_cursor)
        }
        Some(UpOf::Batch(batch)) => format!("Batch {}..{}", batch.first_seq, batch.last_seq),
        Some(UpOf::Present(present)) => format!("Present {}..{} part {}", present.since, present.as_of, present.part),
        Some(UpOf::FeedAck(ack)) => format!("FeedAck {:?} {} resend {}", ack.stream, ack.cursor, ack.resend),
        other => format!("{other:?}"),
    }
}
