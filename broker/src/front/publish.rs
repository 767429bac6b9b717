//! What clients send: decoded, checked and gathered, for `commit` to make it durable.

use bytes::Bytes;
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, PubRec, PubRecReason, PublishProperties, QoS};
use tokio::io::{AsyncRead, AsyncWrite};

use super::codec::{Decoded, Fault, Incoming, Version};
use super::commit::{Ack, Due};
use super::connection::{Connection, End};
use super::encode;
use super::intake::{Denial, Inbound, InboundPublish, Intake};
use super::publisher::Message;
use super::topic_rules::{self, TopicFault};

/// Inbounds of one batch.
const BATCH_ITEMS_MAX: usize = 64;
/// Bytes of topics and payloads after which a batch is full; the last message may go beyond.
const BATCH_BYTES: usize = 64 * 1024;

/// Inbounds on their way to the intake, and what each is owed when its verdict comes.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) items: Vec<Inbound>,
    pub(super) dues: Vec<Due>,
    bytes: usize,
}

/// Why gathering stopped.
enum Stop {
    NeedBytes,
    Full,
    /// Takes effect after the batch before it.
    Packet(Box<Packet>),
    Fault(Fault),
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    /// Takes in what was read, at most one batch of it. Returns when the batch is durable and its acknowledgements
    /// are in `out`.
    pub(super) async fn take_in(&mut self) -> Result<(), End> {
        if !self.undecoded || self.pending.is_some() || self.paused.is_some() {
            return Ok(());
        }
        let mut gathered = Gathered::default();
        let stop = self.gather(&mut gathered);
        self.undecoded = !matches!(stop, Stop::NeedBytes);
        self.tell_router();
        if !gathered.items.is_empty() {
            self.paused = self.share.spend(gathered.items.len(), gathered.bytes);
            self.commit(gathered).await?;
        }
        match stop {
            Stop::NeedBytes | Stop::Full => Ok(()),
            Stop::Packet(packet) => self.obey(*packet).await,
            Stop::Fault(fault) => {
                self.flush().await?;
                Err(End::Fault(fault))
            }
        }
    }

    async fn obey(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Subscribe(subscribe, properties) => {
                // Each filter costs what a message does, if not more.
                let bytes = subscribe.filters.iter().map(|filter| filter.path.len()).sum();
                self.paused = self.share.spend(subscribe.filters.len(), bytes).or(self.paused);
                self.subscribe(subscribe, properties).await
            }
            Packet::Unsubscribe(unsubscribe, _) => {
                let bytes = unsubscribe.filters.iter().map(String::len).sum();
                self.paused = self.share.spend(unsubscribe.filters.len(), bytes).or(self.paused);
                self.unsubscribe(unsubscribe).await
            }
            Packet::Disconnect(Disconnect { reason_code }, properties) => {
                self.flush().await?;
                let will = reason_code != DisconnectReasonCode::NormalDisconnection;
                Err(End::Disconnected { will, expiry_s: properties.and_then(|p| p.session_expiry_interval) })
            }
            // A second CONNECT [MQTT-3.1.0-2]; everything else was handled while gathering.
            _ => Err(End::Fault(Fault::Protocol)),
        }
    }

    fn gather(&mut self, gathered: &mut Gathered) -> Stop {
        let mut counts = [0; 3];
        let items_max = self.share.messages(BATCH_ITEMS_MAX);
        let stop = loop {
            if gathered.items.len() >= items_max || gathered.bytes >= BATCH_BYTES {
                break Stop::Full;
            }
            match self.codec.decode(&mut self.inbound) {
                Ok(None) => break Stop::NeedBytes,
                Err(fault) => break Stop::Fault(fault),
                Ok(Some(Decoded::Publish(publish))) => {
                    counts[publish.qos as usize] += 1;
                    if let Err(fault) = self.gather_publish(publish, gathered) {
                        break Stop::Fault(fault);
                    }
                }
                Ok(Some(Decoded::Packet(packet))) => match self.gather_packet(packet, gathered) {
                    Ok(None) => {}
                    Ok(Some(packet)) => break Stop::Packet(Box::new(packet)),
                    Err(fault) => break Stop::Fault(fault),
                },
            }
        };
        let stats = &self.shared.stats;
        for (counter, n) in
            [&stats.publishes_qos0, &stats.publishes_qos1, &stats.publishes_qos2].into_iter().zip(counts)
        {
            counter.add(n);
        }
        stop
    }

    /// What is not a PUBLISH: done at once, gathered, or given back because it must wait for the batch.
    fn gather_packet(&mut self, packet: Packet, gathered: &mut Gathered) -> Result<Option<Packet>, Fault> {
        let packet = match self.gather_letter(packet, gathered) {
            Some(packet) => packet,
            None => return Ok(None),
        };
        let Connection { outbound, out, to_router, .. } = self;
        match packet {
            Packet::PingReq(_) => out.extend_from_slice(&encode::PINGRESP),
            Packet::PubAck(ack, _) => outbound.puback(ack.pkid, out, to_router),
            Packet::PubRec(rec, _) => {
                outbound.pubrec(rec.pkid, is_refusal(&rec), out, to_router);
            }
            Packet::PubComp(comp, _) => outbound.pubcomp(comp.pkid, out, to_router),
            Packet::PubRel(rel, _) if rel.pkid == 0 => return Err(Fault::Malformed),
            Packet::PubRel(rel, _) => {
                gathered.items.push(Inbound::Release { client: self.who.client.clone(), pkid: rel.pkid });
                gathered.dues.push(Due { ack: Ack::Pubcomp(rel.pkid), message: None });
            }
            packet => return Ok(Some(packet)),
        }
        Ok(None)
    }

    /// An ill-formed topic is both recorded and a fault: its client is acknowledged, so that it does not come back
    /// with the same message for ever, and then closed.
    fn gather_publish(&mut self, mut publish: Incoming, gathered: &mut Gathered) -> Result<(), Fault> {
        self.resolve_alias(&mut publish)?;
        let (denied, fault) = match self.judge(&publish)? {
            None => (None, Ok(())),
            Some((denial, fault)) => (Some(denial), fault),
        };
        let ack = match publish.qos {
            QoS::AtMostOnce => Ack::None,
            QoS::AtLeastOnce => Ack::Puback(publish.pkid),
            QoS::ExactlyOnce => Ack::Pubrec(publish.pkid),
        };
        self.exactly_once |= publish.qos == QoS::ExactlyOnce;
        let properties = publish.properties.filter(|p| *p != PublishProperties::default());
        let encoded = properties.as_ref().filter(|_| denied.is_none()).map(encode::properties).unwrap_or_default();
        // Device-sent retain is not obeyed: retained topics are the process's own.
        let message = denied.is_none().then(|| Message {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            properties: properties.map(Box::new),
        });
        if let Some(denial) = &denied {
            self.shared.stats.denied.inc();
            tracing::debug!(client = %self.who.client, code = denial.code, "publish denied");
        }
        tracing::trace!(client = %self.who.client, topic = ?publish.topic, pkid = publish.pkid, "publish");
        gathered.bytes += publish.topic.len() + publish.payload.len();
        gathered.items.push(Inbound::Publish(InboundPublish {
            who: self.who.clone(),
            topic: publish.topic,
            payload: publish.payload,
            properties: encoded,
            exactly_once: (publish.qos == QoS::ExactlyOnce).then_some(publish.pkid),
            will: false,
            denied,
        }));
        gathered.dues.push(Due { ack, message });
        fault
    }

    /// Puts the topic in the place of its alias (OASIS MQTT 5.0, 3.3.2.3.4).
    fn resolve_alias(&mut self, publish: &mut Incoming) -> Result<(), Fault> {
        match publish.properties.as_mut().and_then(|properties| properties.topic_alias.take()) {
            None if publish.topic.is_empty() && self.codec.version == Version::V5 => Err(Fault::Protocol),
            None => Ok(()),
            Some(alias) if alias == 0 || alias > self.shared.config.topic_aliases_max => Err(Fault::TopicAlias),
            Some(alias) if publish.topic.is_empty() => {
                publish.topic = self.aliases.get(&alias).ok_or(Fault::Protocol)?.clone();
                Ok(())
            }
            // No alias for what can never be a valid topic: it may be 64 KiB long.
            Some(_) if publish.topic.len() > topic_rules::TOPIC_BYTES_MAX => Ok(()),
            Some(alias) => {
                self.aliases.insert(alias, Bytes::copy_from_slice(&publish.topic));
                Ok(())
            }
        }
    }

    /// Why the publish is to be refused, if it is, and whether the connection must end with it.
    #[allow(clippy::type_complexity)]
    fn judge(&self, publish: &Incoming) -> Result<Option<(Denial, Result<(), Fault>)>, Fault> {
        let properties = publish.properties.as_ref();
        if properties.is_some_and(|p| {
            !p.subscription_identifiers.is_empty() || p.response_topic.as_deref().is_some_and(has_wildcard)
        }) {
            return Err(Fault::Protocol);
        }
        let topic = match topic_rules::topic(&publish.topic) {
            Ok(topic) => topic,
            Err(fault) => {
                let denial = Denial { code: "topic_invalid", reason: fault.reason().to_owned() };
                let ends = if fault == TopicFault::IllFormed { Err(Fault::Malformed) } else { Ok(()) };
                return Ok(Some((denial, ends)));
            }
        };
        if let Err(denial) = self.shared.policy.may_publish(&self.who, topic) {
            return Ok(Some((denial, Ok(()))));
        }
        let bytes = properties.map_or(0, memory);
        let reason = format_args!("the properties take {bytes} bytes").to_string();
        Ok((bytes > self.shared.config.properties_bytes_max)
            .then_some((Denial { code: "properties_too_large", reason }, Ok(()))))
    }
}

/// Whether a PUBREC ends the exchange (v5).
pub(super) fn is_refusal(rec: &PubRec) -> bool {
    !matches!(rec.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers)
}

fn has_wildcard(topic: &str) -> bool {
    topic.contains(['+', '#'])
}

/// What properties take in memory, roughly: the router's log does not count them.
pub(super) fn memory(properties: &PublishProperties) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let pairs: usize =
        properties.user_properties.iter().map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len()).sum();
    let data = properties.correlation_data.as_ref().map_or(0, Bytes::len);
    pairs + data + text(&properties.content_type) + text(&properties.response_topic)
}
