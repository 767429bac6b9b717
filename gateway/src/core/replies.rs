//! Replies, as effects: each in the form that was asked in.

use broker::front::Verdict;
use broker::ledger::Step;
use proto::id::DeviceName;
use proto::topic::{Form, Outbound};
use serde_json::Value;

use super::Effect;
use super::requests::Asked;
use crate::reply::Reply;

/// What a request came to.
pub(super) struct Decided {
    pub(super) step: Step<Effect>,
    /// What its device is told, for the person who handed it in again; null if nobody did.
    pub(super) said: Value,
}

pub(super) fn answer(asked: &Asked, reply: &Reply<'_>, verdict: Verdict) -> Decided {
    let said = match asked.retry_of {
        // Plain fields: this cannot fail.
        Some(_) => serde_json::to_value(reply).unwrap_or_default(),
        None => Value::Null,
    };
    let then = vec![effect(&asked.device, asked.form, reply)];
    Decided { step: Step { verdict, then, ..Step::nothing() }, said }
}

pub(super) fn effect(device: &DeviceName, form: Form, reply: &Reply<'_>) -> Effect {
    let payload = match form {
        Form::Json => reply.to_json(),
        Form::Protobuf => reply.to_pb(),
    };
    Effect::Publish { topic: Outbound::Reply(device, form).to_string(), payload, retain: false }
}
