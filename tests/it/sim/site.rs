//! A gateway's process: its writer's rounds, and what its effects do.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker::front::{Identity, Inbound, InboundPublish};
use broker::ledger::Core;
use bytes::Bytes;
use gateway::core::{Effect, Gateway, Input};
use gateway::sync::FromHub;
use gateway::uplink::Command;
use prost::Message;
use proto::wire::record::Of;
use proto::wire::{Event, FeedCursor};

use super::disk::{Disk, Moment};
use super::oracle::{check_writes, rep, visible};
use super::world::{Event as Next, Who, Work, World};

/// The gateway's table of how the sync stands, by its number on disk.
const SYNC: u8 = 6;

impl World {
    /// Wakes a writer.
    pub(super) fn due(&mut self, who: Who) {
        let wait = self.dice.range(0, 4);
        let (due, boot) = match who {
            Who::Hub => (&mut self.hq.round_due, self.hq.boot),
            Who::Site(at) => {
                let site = &mut self.sites[at];
                (&mut site.round_due, site.boot)
            }
        };
        if !std::mem::replace(due, true) {
            self.after(wait, Next::Round(who, boot));
        }
    }

    pub(super) fn site_round(&mut self, at: usize) {
        self.sites[at].round_due = false;
        for _ in 0..self.dice.range(1, 12) {
            let Some(work) = self.sites[at].inbox.pop_front() else { break };
            let full = self.sites[at].node.as_ref().is_some_and(|node| node.disk.full());
            if full && !self.site_commit(at) {
                return;
            }
            match work {
                Work::Request(uid) => self.take_request(at, uid),
                Work::Input(input) => {
                    if Gateway::begins_group(&input) && !self.site_commit(at) {
                        return;
                    }
                    self.take_input(at, input);
                }
            }
        }
        if self.site_commit(at) && !self.sites[at].inbox.is_empty() {
            self.due(Who::Site(at));
        }
    }

    fn take_request(&mut self, at: usize, uid: usize) {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Site(at)));
        let request = &self.oracle.requests[uid];
        let publish = InboundPublish {
            who: Arc::new(Identity { client: request.device.as_str().into(), name: None, kind: None }),
            topic: format!("dev/{}/{}", request.device, request.kind).into(),
            payload: request.payload.clone(),
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let writes = matches!(request.kind, "item" | "note");
        let site = &mut self.sites[at];
        let node = site.node.as_mut().expect("it is up");
        let (now, records) = (node.now(at_ms, wall_ms), node.disk.next_place());
        let shown = writes.then(|| visible(&node.disk));
        let moment = Moment { wall_ms, request: Some(uid), present: false };
        node.inbound(Inbound::Publish(publish), &now, moment);
        let replica = rep(&node.disk.replica);
        if let Some(shown) = shown {
            node.disk.gathered(records).for_each(|decided| check_writes(&shown, decided, &replica));
        }
        site.unanswered.push(uid);
    }

    fn take_input(&mut self, at: usize, input: Input) {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Site(at)));
        let node = self.sites[at].node.as_mut().expect("it is up");
        let now = node.now(at_ms, wall_ms);
        let heard = match &input {
            Input::FromHub(FromHub::Applied { position, .. }) => Some(position.seq),
            _ => None,
        };
        let before = cursors(&node.disk);
        node.input(input, &now, Moment { wall_ms, ..Moment::default() });
        for (stream, after) in cursors(&node.disk) {
            let earlier = before.get(&stream).filter(|earlier| earlier.incarnation == after.incarnation);
            assert!(earlier.is_none_or(|earlier| earlier.position <= after.position), "{at} went back in {stream:?}");
        }
        if let Some(applied) = heard {
            assert_eq!(node.core.applied(), applied, "what the hub said is what may be trimmed");
        }
    }

    /// Commits and speaks. False if the process died of it.
    pub(super) fn site_commit(&mut self, at: usize) -> bool {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Site(at)));
        let site = &mut self.sites[at];
        let Some(node) = site.node.as_mut() else { return false };
        let now = node.now(at_ms, wall_ms);
        let before = node.disk.last();
        let done = node.commit(&now);
        let replica = node.disk.replica.clone();
        let (fresh, last) = (std::mem::take(&mut node.disk.fresh), node.disk.last());
        let life = self.oracle.lives.get_mut(&rep(&replica)).expect("a life that nobody began");
        let fork = site.forks.last().map(|fork| rep(&fork.replica));
        fresh.iter().for_each(|written| life.wrote(written, fork.as_ref(), &self.oracle.requests));
        for decided in fresh.iter().flat_map(|written| &written.events) {
            self.oracle.promises.wrote(&rep(&replica), decided, at_ms);
        }
        if !fresh.is_empty() {
            self.oracle.promises.check(&self.hq.model.rights);
        }
        let repaired = fresh.iter().flat_map(|written| &written.events).any(|decided| is_repair(&decided.event));
        assert!(!repaired || self.oracle.restores > 0, "the self-check found something at {at}");
        if last != before {
            self.note(|| format!("{at} writes {}..{}", before.seq.next(), last.seq));
        }
        let Some((effects, dies)) = done else {
            self.crash_site(at, "in a commit");
            return false;
        };
        for uid in std::mem::take(&mut self.sites[at].unanswered) {
            self.oracle.acknowledged(uid, &replica);
        }
        for (n, effect) in effects.into_iter().enumerate() {
            if dies.is_some_and(|told| n >= told) {
                break;
            }
            self.site_effect(at, effect);
        }
        if dies.is_some() {
            self.crash_site(at, "between commit and effects");
            return false;
        }
        let node = self.sites[at].node.as_mut().expect("it is up");
        for effect in node.look_back(&now) {
            self.site_effect(at, effect);
        }
        self.keep_house(at);
        if last != before {
            self.pump(at);
        }
        true
    }

    /// Drops chunks that the hub has applied, now and then, and what there is no room for.
    fn keep_house(&mut self, at: usize) {
        let (trims, evicts) = (self.dice.percent(self.plan.trims), self.plan.evictions && self.dice.percent(3));
        let Some(node) = self.sites[at].node.as_mut() else { return };
        let of = rep(&node.disk.replica);
        let ever = self.oracle.ever_applied.get(&of).copied().unwrap_or(0);
        assert!(node.core.applied().0 <= ever, "{of:?} may trim up to {}, no hub ever had {ever}", node.core.applied());
        let mut trimmed = false;
        while trims && node.trim() {
            trimmed = true;
        }
        let evicted = evicts && !self.calm && node.evict(&mut self.dice);
        let oldest = node.disk.oldest().seq;
        if trimmed || evicted {
            self.note(|| format!("{at} keeps what is after {oldest}{}", if evicted { ", evicted" } else { "" }));
        }
    }

    fn site_effect(&mut self, at: usize, effect: Effect) {
        let command = match effect {
            Effect::Publish { topic, payload, retain } if retain => {
                self.sites[at].shown.insert(topic, payload);
                return;
            }
            Effect::Restore { topic, payload } => {
                self.sites[at].shown.insert(topic, payload);
                return;
            }
            Effect::Publish { topic, payload, .. } => return self.replied(at, &topic, &payload),
            Effect::ReadFork { after } => {
                let (boot, wait) = (self.sites[at].boot, self.dice.range(1, 40));
                return self.after(wait, Next::ReadFork(at, boot, after));
            }
            Effect::ForkDone => return self.fork_done(at),
            Effect::Answer(..) => return,
            Effect::FeedAck(ack) => Command::FeedAck(ack),
            Effect::Present { parts, looked } => Command::Present { parts, looked },
            Effect::Lineage(lineage) => Command::Lineage(lineage),
            Effect::Say(of) => Command::Say(of),
            Effect::Beat(beat) => Command::Beat(beat),
        };
        let boot = self.sites[at].boot;
        self.after(1, Next::Told(at, boot, Box::new(command)));
    }

    fn replied(&mut self, at: usize, topic: &str, payload: &Bytes) {
        assert!(topic.ends_with("/reply"), "an unknown message on {topic}");
        let reply: serde_json::Value = serde_json::from_slice(payload).expect("replies are JSON");
        self.note(|| format!("{at} {topic} {reply}"));
        self.sold(at, &reply);
    }
}

/// How far each stream of the feed was taken over.
fn cursors(disk: &Disk) -> BTreeMap<Vec<u8>, FeedCursor> {
    let cells = disk.table(SYNC).filter(|(key, _)| key.starts_with(b"cursor"));
    cells.map(|(key, value)| (key.to_vec(), FeedCursor::decode(value).expect("a cell of a gateway"))).collect()
}

fn is_repair(event: &Event) -> bool {
    event
        .records
        .iter()
        .any(|record| matches!(&record.of, Some(Of::Refusal(refusal)) if refusal.code == "state_repaired"))
}
