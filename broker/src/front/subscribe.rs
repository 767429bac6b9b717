//! SUBSCRIBE and UNSUBSCRIBE, and the retained messages that a subscription begins with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::{Filter, Packet, QoS, RetainForwardRule, Subscribe, SubscribeProperties, Unsubscribe, qos};
use tokio::io::{AsyncRead, AsyncWrite};

use super::codec::{Fault, Version};
use super::connection::{Connection, End};
use super::encode;
use super::intake::Intake;
use super::sessions::Subscription;
use super::topic_rules;
use crate::mailbox::Change;

/// What the router must be told, step by step, before the client gets its answer. Every step has one SUBSCRIBE, and
/// the next step waits for its SUBACK: the router resurrects a subscription if it finds a PUBLISH to it and its
/// UNSUBSCRIBE in one swoop, so a SUBACK must come between the two.
#[derive(Default)]
pub(super) struct Pending {
    steps: VecDeque<Vec<Packet>>,
    /// Sent after the last SUBACK.
    last: Option<Packet>,
    reply: Bytes,
    replays: Vec<Replay>,
}

/// The retained messages of one filter, on their way to a subscriber.
pub(super) struct Replay {
    filter: String,
    subscription: Option<usize>,
    after: Option<Arc<str>>,
}

impl<S, I> Connection<S, I> {
    /// Sends the retained messages of all filters of a clean session again; a mailbox loses none.
    pub(super) fn replay_all(&mut self) {
        if self.mail.is_some() {
            return;
        }
        self.replays.clear();
        let filters = self.claim.filters.iter();
        self.replays.extend(filters.map(|(filter, asked)| Replay {
            filter: filter.clone(),
            subscription: asked.id,
            after: None,
        }));
    }
}

/// The packet id of what we ask in our own name; no client can use it.
const OWN_PKID: u16 = 0;

/// The v5 codes of SUBACK for refused filters; v3.1.1 has only 0x80.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    NotAuthorized = 0x87,
    FilterInvalid = 0x8f,
    QuotaExceeded = 0x97,
    /// rumqttd 0.20 keys shared groups by name alone, cannot unsubscribe from them, spins while a member lags, and
    /// panics when one leaves a kept session.
    SharedNotSupported = 0x9e,
}

const UNSUBSCRIBED: u8 = 0x00;
const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    pub(super) async fn subscribe(
        &mut self,
        subscribe: Subscribe,
        properties: Option<SubscribeProperties>,
    ) -> Result<(), End> {
        let id = properties.and_then(|properties| properties.id);
        if subscribe.pkid == 0 || id == Some(0) {
            return Err(End::Fault(Fault::Protocol));
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        // By filter: one that is named twice counts as it was named last.
        let (mut wanted, mut changed) = (BTreeMap::new(), BTreeMap::new());
        let mut pending = Pending::default();
        for filter in subscribe.filters {
            if let Err(refused) = self.check_filter(&filter.path) {
                self.shared.stats.subscribes_refused.inc();
                tracing::info!(client = %self.who.client, filter = shown(&filter.path), ?refused, "subscription refused");
                codes.push(if self.codec.version == Version::V5 { refused as u8 } else { 0x80 });
                continue;
            }
            let asked = Subscription { qos: filter.qos as u8, id };
            codes.push(asked.qos);
            let before = self.claim.filters.insert(filter.path.clone(), asked);
            self.share.subscribed(self.claim.filters.len());
            if replays_on(&filter.retain_forward_rule, before.is_none()) {
                pending.replays.push(Replay { filter: filter.path.clone(), subscription: id, after: None });
            }
            if let Some(before) = before.filter(|before| *before != asked) {
                changed.insert(filter.path.clone(), before);
            }
            wanted.insert(filter.path, asked);
        }
        let mut reply = BytesMut::new();
        encode::suback(self.codec.version, subscribe.pkid, &codes, &mut reply);
        pending.reply = reply.freeze();
        if self.mail.is_some() {
            let granted: Vec<_> = wanted.into_iter().map(|(filter, asked)| (filter, asked.into())).collect();
            if !granted.is_empty() {
                self.record(Change::Subscribed(granted)).await?;
            }
            self.answer(pending);
            return Ok(());
        }
        wanted.keys().for_each(|filter| self.live.add(filter));
        // The router does not change a subscription that it has: it is taken away and made anew. What is published
        // between the two is lost to this client, which is the price of another QoS.
        let mut step = Vec::new();
        if !changed.is_empty() {
            pending.steps.extend(subscribes(&changed).map(|packet| vec![packet]));
            step.push(Packet::Unsubscribe(
                Unsubscribe { pkid: OWN_PKID, filters: changed.into_keys().collect() },
                None,
            ));
        }
        if let Some(packet) = subscribes(&wanted).next() {
            step.push(packet);
            pending.steps.push_back(step);
        }
        self.begin(pending).await
    }

    /// UNSUBACK is ours: the router's comes once per filter, and not at all for filters it does not know.
    pub(super) async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        if unsubscribe.pkid == 0 || unsubscribe.filters.is_empty() {
            return Err(End::Fault(Fault::Protocol));
        }
        let mut existed = BTreeMap::new();
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters {
            match self.claim.filters.remove_entry(&filter) {
                Some((filter, subscription)) => {
                    codes.push(UNSUBSCRIBED);
                    self.replays.retain(|replay| replay.filter != filter);
                    self.live.remove(&filter);
                    existed.insert(filter, subscription);
                }
                None => codes.push(NO_SUBSCRIPTION_EXISTED),
            }
        }
        self.share.subscribed(self.claim.filters.len());
        let mut reply = BytesMut::new();
        encode::unsuback(self.codec.version, unsubscribe.pkid, &codes, &mut reply);
        let (reply, replays) = (reply.freeze(), Vec::new());
        if self.mail.is_some() {
            if !existed.is_empty() {
                self.record(Change::Unsubscribed(existed.into_keys().collect())).await?;
            }
            self.answer(Pending { reply, ..Pending::default() });
            return Ok(());
        }
        // The SUBSCRIBE is for its SUBACK, which must come between a PUBLISH and this.
        let steps = subscribes(&existed).map(|packet| vec![packet]).collect();
        let filters: Vec<String> = existed.into_keys().collect();
        let last = (!filters.is_empty()).then_some(Packet::Unsubscribe(Unsubscribe { pkid: OWN_PKID, filters }, None));
        self.begin(Pending { steps, last, reply, replays }).await
    }

    /// Makes all subscriptions again, in a router that is new. An answer that is owed to the client is owed still.
    pub(super) async fn resubscribe(&mut self) -> Result<(), End> {
        let owed = self.pending.take().unwrap_or_default();
        let filters: BTreeMap<String, Subscription> =
            self.claim.filters.iter().map(|(filter, subscription)| (filter.clone(), *subscription)).collect();
        filters.keys().for_each(|filter| self.shared.router.admit_again(filter));
        let steps = subscribes(&filters).map(|packet| vec![packet]).collect();
        self.begin(Pending { steps, last: None, ..owed }).await
    }

    fn check_filter(&self, filter: &str) -> Result<(), Refused> {
        if filter.starts_with("$share/") {
            return Err(Refused::SharedNotSupported);
        }
        if !topic_rules::filter(filter) {
            return Err(Refused::FilterInvalid);
        }
        if !self.shared.policy.may_subscribe(&self.who, filter) {
            return Err(Refused::NotAuthorized);
        }
        let filters = &self.claim.filters;
        let room = filters.len() < self.shared.config.subscriptions_max && self.share.has_room();
        let full = !room && !filters.contains_key(filter);
        if full || !self.shared.router.admit(filter) { Err(Refused::QuotaExceeded) } else { Ok(()) }
    }

    async fn begin(&mut self, pending: Pending) -> Result<(), End> {
        if !pending.steps.is_empty() {
            self.ensure_link().await?;
        }
        self.pending = Some(pending);
        self.router_subscribed();
        Ok(())
    }

    /// The next step, or the answer if there is none.
    pub(super) fn router_subscribed(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        if let Some(step) = pending.steps.pop_front() {
            self.to_router.extend(step);
            return self.tell_router();
        }
        let Some(mut pending) = self.pending.take() else { return };
        self.to_router.extend(pending.last.take());
        self.answer(pending);
        self.tell_router();
    }

    fn answer(&mut self, Pending { reply, replays, .. }: Pending) {
        self.out.extend_from_slice(&reply);
        self.overflow.reset();
        // A filter that is subscribed again starts over.
        self.replays.retain(|old| replays.iter().all(|new| new.filter != old.filter));
        self.replays.extend(replays);
    }

    /// Adds one page of retained messages to `out`. The next one comes when this is written, so a slow reader holds
    /// up only itself. A message that is published meanwhile follows in its own right: the store has it before the
    /// router does, so what a subscriber sees last of a topic is its latest value.
    pub(super) fn replay_page(&mut self) {
        let Some(replay) = self.replays.front_mut() else { return };
        let page = self.shared.retained.page(&replay.filter, replay.after.as_deref());
        let stats = &self.shared.stats;
        for (topic, payload) in &page.messages {
            let start = self.out.len();
            encode::retained(self.codec.version, topic, payload, replay.subscription, &mut self.out);
            if self.outbound.fits(self.out.len() - start) {
                stats.delivered.inc();
            } else {
                self.out.truncate(start);
                stats.oversize_dropped.inc();
            }
        }
        match page.next {
            Some(next) => replay.after = Some(next),
            None => drop(self.replays.pop_front()),
        }
    }
}

/// One SUBSCRIBE for each subscription identifier: a packet has but one.
fn subscribes(filters: &BTreeMap<String, Subscription>) -> impl Iterator<Item = Packet> + use<> {
    let mut by_id: BTreeMap<Option<usize>, Vec<Filter>> = BTreeMap::new();
    for (path, subscription) in filters {
        by_id.entry(subscription.id).or_default().push(Filter {
            path: path.clone(),
            qos: qos(subscription.qos).unwrap_or(QoS::AtMostOnce),
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        });
    }
    by_id.into_iter().map(|(id, filters)| {
        let properties = id.map(|id| SubscribeProperties { id: Some(id), user_properties: Vec::new() });
        Packet::Subscribe(Subscribe { pkid: OWN_PKID, filters }, properties)
    })
}

/// v5 Retain Handling; v3.1.1 always asks for them.
fn replays_on(rule: &RetainForwardRule, new: bool) -> bool {
    match rule {
        RetainForwardRule::OnEverySubscribe => true,
        RetainForwardRule::OnNewSubscribe => new,
        RetainForwardRule::Never => false,
    }
}

/// The beginning of a filter, for the log: its length is the client's choice.
fn shown(filter: &str) -> &str {
    filter.char_indices().nth(64).map_or(filter, |(end, _)| &filter[..end])
}
