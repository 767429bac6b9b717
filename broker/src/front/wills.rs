//! Wills: what a client asked us to say when it goes away without a word.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttd::protocol::{LastWill, LastWillProperties, PublishProperties};
use tokio::sync::oneshot;

use super::encode;
use super::intake::{Batch, Identity, Inbound, InboundPublish, Intake, Outcome};
use super::publisher::Message;
use super::shared::Shared;

/// Valid and allowed: both were looked at when its client connected.
#[derive(Debug)]
pub(super) struct Will {
    who: Arc<Identity>,
    topic: Bytes,
    payload: Bytes,
    properties: Option<Box<PublishProperties>>,
    /// How long its client may stay away before it is published (v5).
    pub(super) delay: Duration,
}

impl Will {
    pub(super) fn new(who: Arc<Identity>, will: LastWill, properties: Option<LastWillProperties>) -> Will {
        let delay = properties.as_ref().and_then(|properties| properties.delay_interval).unwrap_or(0);
        // Copies, since it stays for as long as the client does.
        Will {
            who,
            topic: Bytes::copy_from_slice(&will.topic),
            payload: Bytes::copy_from_slice(&will.message),
            properties: properties.and_then(publish_properties),
            delay: Duration::from_secs(delay.into()),
        }
    }

    pub(super) fn who(&self) -> &Identity {
        &self.who
    }

    /// Makes it durable, then fans it out.
    pub(super) async fn publish<I: Intake>(self, shared: &Shared<I>) {
        shared.stats.wills.inc();
        // Rights may have changed since its client connected.
        let denied = topic(&self.topic).and_then(|topic| shared.policy.may_publish(&self.who, topic).err());
        let forward = denied.is_none();
        let publish = InboundPublish {
            who: self.who.clone(),
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            properties: self.properties.as_deref().map(encode::properties).unwrap_or_default(),
            exactly_once: None,
            will: true,
            denied,
        };
        let (answer, heard) = oneshot::channel();
        let batch = Batch { items: vec![Inbound::Publish(publish)], answer };
        let submitted = shared.intake.submit(batch).await.is_ok();
        match heard.await.ok().and_then(|verdicts| verdicts.first().copied()) {
            Some(verdict) if verdict.forward && forward => {
                let message = Message { topic: self.topic, payload: self.payload, properties: self.properties };
                shared.publisher.forward_heard(&mut [Some(message)]).await;
            }
            Some(verdict) if verdict.outcome != Outcome::NoRoom => {}
            _ => tracing::warn!(client = %self.who.client, submitted, "will lost: the writer did not record it"),
        }
    }
}

fn topic(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// `None` if there is nothing in them for a subscriber.
fn publish_properties(will: LastWillProperties) -> Option<Box<PublishProperties>> {
    let properties = PublishProperties {
        payload_format_indicator: will.payload_format_indicator,
        message_expiry_interval: will.message_expiry_interval,
        response_topic: will.response_topic,
        correlation_data: will.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
        user_properties: will.user_properties,
        content_type: will.content_type,
        ..PublishProperties::default()
    };
    (properties != PublishProperties::default()).then(|| Box::new(properties))
}
