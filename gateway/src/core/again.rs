//! A refused request that a person hands in again: decided as if its device had just sent it.

use broker::ledger::{LedgerError, Now, Read, Step};
use broker::node::rejects::Again;
use proto::topic::Inbound;
use serde_json::{Value, json};

use super::replies::Decided;
use super::requests::Asked;
use super::{Effect, Gateway};
use crate::privacy::Guarded;

impl Gateway {
    /// Goes through the same decoder, ids and rules, is journalled and answered on the device's topic; the asker gets that
    /// answer too, when it is on disk.
    pub(super) fn again(&mut self, again: Again, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let Again { of, device: sender, topic, payload, answer } = again;
        let no = |why: String| json!({ "error": why });
        let (device, kind, form) = match topic.parse::<Inbound>() {
            // The record names who proved to be the sender: another name in the topic was a denied one.
            Ok(Inbound::Device { device, kind, form }) if device.as_str() == sender => (device, kind, form),
            Ok(Inbound::Device { device, .. }) => {
                let why = format!("it was refused for want of authorization: {sender} may not speak for {device}");
                return Ok(say(answer, no(why)));
            }
            _ => {
                let why = format!("{topic:?} is no topic of a device's request, so there is nothing to hand in again");
                return Ok(say(answer, no(why)));
            }
        };
        let Guarded { payload, people } = self.rules.personal.guard(Some(kind), form, &payload);
        let asked = Asked { device, kind, form, topic, payload, people, retry_of: Some(of) };
        let Decided { mut step, said } = self.decide(&asked, now, ledger)?;
        step.then.push(Effect::Answer(answer, said));
        Ok(step)
    }
}

fn say(answer: tokio::sync::oneshot::Sender<Value>, value: Value) -> Step<Effect> {
    Step { then: vec![Effect::Answer(answer, value)], ..Step::nothing() }
}
