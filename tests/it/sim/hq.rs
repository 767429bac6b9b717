//! The hub's process: its writer's rounds, and what its effects do.

use std::sync::Arc;

use broker::front::{Identity, Inbound, InboundPublish};
use broker::hub::{Effect, Input, Question};
use broker::recall::look_back;
use bytes::Bytes;
use prost::Message;
use proto::wire::Down;
use proto::wire::down::Of as DownOf;
use proto::wire::{Up, up};

use super::disk::Moment;
use super::net::DownWire;
use super::world::{HubWork, Who, World};

impl World {
    pub(super) fn hub_round(&mut self) {
        self.hq.round_due = false;
        for _ in 0..self.dice.range(1, 8) {
            let Some(work) = self.hq.inbox.pop_front() else { break };
            let full = self.hq.node.as_ref().is_some_and(|node| node.disk.full());
            if full && !self.hub_commit() {
                return;
            }
            match work {
                HubWork::Up(at, link, payload) => self.hear(at, link, payload),
                HubWork::Input(input) => self.hub_input(*input),
            }
        }
        if self.hub_commit() && !self.hq.inbox.is_empty() {
            self.due(Who::Hub);
        }
    }

    fn hub_input(&mut self, input: Input) {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Hub));
        let node = self.hq.node.as_mut().expect("it is up");
        let now = node.now(at_ms, wall_ms);
        node.input(input, &now, Moment { wall_ms, ..Moment::default() });
    }

    fn hear(&mut self, at: usize, link: u64, payload: Bytes) {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Hub));
        let said = Up::decode(payload.clone()).expect("gateways' messages can be decoded");
        let present = matches!(said.of, Some(up::Of::Present(_)));
        let name = self.sites[at].name.as_str();
        let publish = InboundPublish {
            who: Arc::new(Identity { client: name.into(), name: Some(name.into()), kind: None }),
            topic: format!("up/{name}").into(),
            payload,
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let node = self.hq.node.as_mut().expect("it is up");
        let now = node.now(at_ms, wall_ms);
        node.inbound(Inbound::Publish(publish), &now, Moment { wall_ms, request: None, present });
        self.hq.unanswered.push((at, link));
    }

    /// Commits and speaks. False if the process died of it.
    pub(super) fn hub_commit(&mut self) -> bool {
        let (at_ms, wall_ms) = (self.now, self.wall(Who::Hub));
        let Some(node) = self.hq.node.as_mut() else { return false };
        let now = node.now(at_ms, wall_ms);
        let done = node.commit(&now);
        let fresh = std::mem::take(&mut node.disk.fresh);
        fresh.iter().for_each(|written| self.hq.model.wrote(written, &mut self.oracle, at_ms));
        let Some((effects, dies)) = done else {
            self.crash_hub("in a commit");
            return false;
        };
        if let Some(written) = fresh.last() {
            let (from, to) = (fresh[0].before.seq.next(), written.after.seq);
            self.oracle.promises.check(&self.hq.model.rights);
            // What costs as much as there are sites.
            if self.plan.buyers == 0 || to.0.is_multiple_of(16) {
                self.hq.model.check(&node.disk);
            }
            self.note(|| format!("hub writes {from}..{to}"));
        }
        for (at, link) in std::mem::take(&mut self.hq.unanswered) {
            if self.sites[at].link.at_hub == link {
                self.send_down(at, link, DownWire::Acked);
            }
        }
        for (n, effect) in effects.into_iter().enumerate() {
            if dies.is_some_and(|told| n >= told) {
                break;
            }
            self.hub_effect(effect);
        }
        if dies.is_some() {
            self.crash_hub("between commit and effects");
            return false;
        }
        let node = self.hq.node.as_mut().expect("it is up");
        for effect in node.look_back(&now) {
            self.hub_effect(effect);
        }
        self.hear_answers();
        true
    }

    fn hub_effect(&mut self, effect: Effect) {
        let (topic, payload) = match effect {
            Effect::Publish { topic, payload, .. } | Effect::Restore { topic, payload } => (topic, payload),
            Effect::IncarnationKept => {
                self.hq.restored = false;
                return;
            }
            // Who asked may have gone: that is not the hub's trouble.
            Effect::Answer(answer, said) => return drop(answer.send(said)),
            Effect::Reply(answer, reply) => return drop(answer.send(reply)),
            Effect::Recall(question) => return self.recalled(&question),
        };
        let Some(name) = topic.strip_prefix("down/") else {
            self.hq.shown.insert(topic, payload);
            return;
        };
        let at = self.site_at(name);
        let down = Down::decode(payload.clone()).expect("the hub's messages can be decoded");
        let brief = brief_down(&down);
        match &down.of {
            Some(DownOf::Applied(applied)) => {
                let lost = applied.tell_since.is_some();
                assert!(!lost || self.oracle.restores > 0, "the hub lacks something of {name}, and was never restored");
            }
            _ => self.said += 1,
        }
        if self.sites[at].heard != brief {
            self.note(|| format!("{at} down: {brief}"));
            self.sites[at].heard = brief;
        }
        let link = self.sites[at].link.at_hub;
        let asks = matches!(&down.of, Some(DownOf::Applied(applied)) if applied.tell_since.is_some());
        if asks && std::mem::take(&mut self.spite) {
            // The moment at which a connection that breaks does most harm: later movements would hide it.
            return self.close(at, link, "of spite");
        }
        if link != 0 {
            self.send_down(at, link, DownWire::Message(payload));
        }
    }

    /// Of the hub's journal, what `recall.rs` would answer, in parts that are small.
    fn recalled(&mut self, question: &Question) {
        let at = self.site_at(question.site.as_str());
        let node = self.hq.node.as_ref().expect("it is up");
        let (answer_bytes, read_bytes) = self.dice.pick(&[(1, 1), (900, 2_000), (48 << 10, 64 << 20)]);
        let chunks = node.disk.chunks_below(question.from_below());
        let past = look_back(chunks, question, answer_bytes, read_bytes).expect("a journal in memory can be read");
        let Effect::Publish { payload, .. } = question.answer(past) else { panic!("an answer is a message") };
        let link = self.sites[at].link.at_hub;
        if link != 0 {
            self.send_down(at, link, DownWire::Message(payload));
        }
    }

    /// Which life of the hub this is.
    pub(super) fn incarnation(&self) -> Option<u64> {
        let cell = self.hq.node.as_ref()?.disk.cell(8, b"incarnation")?;
        Some(u64::from_be_bytes(cell.try_into().ok()?))
    }
}

fn brief_down(down: &Down) -> String {
    match &down.of {
        Some(DownOf::Welcome(welcome)) => format!("Welcome {} present {}", welcome.applied_seq, welcome.present),
        Some(DownOf::Applied(applied)) => {
            let Some(since) = applied.tell_since else {
                return format!("Applied {} resend {}", applied.seq, applied.resend);
            };
            format!("Applied {} tell since {since}", applied.seq)
        }
        Some(DownOf::Feed(feed)) => {
            format!(
                "Feed {:?} {}..{}, {} + {}",
                feed.stream,
                feed.prev,
                feed.upto,
                feed.entries.len(),
                feed.stock.len()
            )
        }
        other => format!("{other:?}"),
    }
}
