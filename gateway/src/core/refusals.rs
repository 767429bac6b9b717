//! Refusals: kept in the journal with what was sent, and answered.

use broker::front::{Denial, InboundPublish, Outcome as Told, Verdict};
use broker::ledger::{Draft, Now, Step};
use bytes::Bytes;
use proto::id::{DeviceName, RequestId, Seq};
use proto::topic;
use proto::wire::record::Of;
use proto::wire::{Event, Record, Refusal};

use super::replies::{self, Decided, answer};
use super::requests::Asked;
use super::{Effect, Gateway};
use crate::reply::{HoldReply, Reply};
use crate::request::Refused;

/// How much of a refused topic is kept.
const KEPT_TOPIC_CHARS_MAX: usize = 256;

impl Gateway {
    /// A request that the front or its policy stopped: recorded under the one who sent it, and answered to them.
    pub(super) fn deny(&mut self, publish: &InboundPublish, denial: &Denial, now: &Now) -> Step<Effect> {
        let topic = String::from_utf8_lossy(&publish.topic);
        let proven = publish.who.name.as_deref().and_then(|name| name.parse().ok());
        let device: Option<DeviceName> = proven.or_else(|| topic::device_of(&topic));
        let sender = device.as_ref().map_or(&*publish.who.client, DeviceName::as_str);
        let why = Refused::new(denial.code, denial.reason.clone());
        let told = match denial.code {
            "topic_invalid" | "topic_unknown" | "name_invalid" => Told::TopicInvalid,
            _ => Told::NotAuthorized,
        };
        let event = self.refusal_event(sender, (&topic, &publish.payload), &why, None, now);
        let mut step = Step { verdict: Verdict::refused(told), ..Step::nothing() };
        if let Some(device) = device {
            let reply = Reply::refused(None, why.code, &why.reason);
            step.then.push(replies::effect(&device, topic::form_of(&topic), &reply));
        }
        step.events.push(event);
        step
    }

    /// A request that is refused as a whole. It changed nothing, so its id may be used again, corrected.
    pub(super) fn refuse(
        &mut self,
        asked: &Asked,
        id: Option<&RequestId>,
        why: Refused,
        hold: Option<HoldReply>,
        now: &Now,
    ) -> Decided {
        let sent = (asked.topic.as_str(), &asked.payload);
        let event = self.refusal_event(asked.device.as_str(), sent, &why, asked.retry_of, now);
        let reply = Reply { hold, ..Reply::refused(id, why.code, &why.reason) };
        let mut decided = answer(asked, &reply, Verdict::refused(Told::PayloadInvalid));
        decided.step.events.push(event);
        decided
    }

    pub(super) fn refusal_event(
        &mut self,
        sender: &str,
        (topic, payload): (&str, &Bytes),
        why: &Refused,
        again: Option<Seq>,
        now: &Now,
    ) -> Draft {
        self.tally.refuse(why.code);
        let refusal = Refusal {
            code: why.code.into(),
            reason: why.reason.clone(),
            line: 0,
            topic: topic.chars().take(KEPT_TOPIC_CHARS_MAX).collect(),
            payload_bytes: payload.len() as u32,
            payload: self.kept(sender, payload, now),
        };
        let event = Event {
            device: sender.to_owned(),
            records: vec![Record { of: Some(Of::Refusal(refusal)) }],
            retry_of: retry_of(again),
            ..Event::default()
        };
        self.draft(event, now)
    }

    pub(super) fn kept(&mut self, sender: &str, payload: &Bytes, now: &Now) -> Bytes {
        self.quota.kept(sender, payload, now)
    }
}

pub(super) fn retry_of(seq: Option<Seq>) -> u64 {
    seq.map_or(0, |seq| seq.0)
}
