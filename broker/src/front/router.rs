//! rumqttd's router behind a door: links that cannot leak, ids it can bear, and a new router when one dies.
//!
//! The router is a thread that panics on some inputs, keeps what it was told for ever, and answers a slot that is
//! gone with a panic. So nothing reaches it unchecked, every link ends with a Disconnect, and it can be replaced.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, Publish, PublishProperties, QoS, RetainForwardRule, Subscribe,
};
use rumqttd::{Notification, RouterConfig};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::config::FrontConfig;
use super::held::{Held, HeldMax, SEGMENTS_MAX};
use super::live::LiveFilters;
use super::publish::memory;
use super::topic_rules::RESERVED_PREFIX;

/// Packets that may wait for the router per link. A sender waits at this mark, so memory is bounded by it.
const LINK_BACKLOG_MAX: usize = 1024;
/// Links beyond the clients': the process's own.
const OWN_LINKS: usize = 8;
/// How often a link is tried for while the router is being replaced, should nobody say that it was.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The router is dead or does not answer. A new one is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RouterGone;

type Build = dyn Fn(&str) -> Result<(LinkTx, LinkRx, Notification), RouterGone> + Send + Sync;

pub(super) struct Router {
    config: RouterConfig,
    build: RwLock<Arc<Build>>,
    held_max: HeldMax,
    held: Mutex<Held>,
    /// It may hold too much.
    spent: Notify,
    /// The filters that it has to serve now.
    pub(super) live: Arc<LiveFilters>,
    /// Which router this is; moves when a new one takes over.
    generation: watch::Sender<u64>,
    /// Free numbers for the links of clean sessions. The router remembers every id that it ever saw, so they are
    /// used again.
    numbers: Mutex<Vec<usize>>,
    timeout: Duration,
}

/// What a link is for, which decides under which id the router knows it. The prefixes keep the name spaces apart:
/// no client can take the id of another kind of link.
#[derive(Debug, Clone, Copy)]
pub(super) enum LinkFor<'a> {
    Client,
    Process(&'a str),
}

impl Router {
    pub(super) fn spawn(config: &FrontConfig) -> Router {
        let links = config.connections_max + config.handshakes_max + OWN_LINKS;
        let router = RouterConfig {
            max_connections: links,
            // What a subscriber that does not read holds on to, besides its connection's buffers.
            max_outgoing_packet_count: 50,
            max_segment_count: SEGMENTS_MAX,
            ..RouterConfig::default()
        };
        let (filters, bytes) = (config.filters_max, config.router_bytes_max);
        let held_max = HeldMax { filters, bytes, segment_bytes: config.segment_bytes.max(1024) };
        Router {
            build: RwLock::new(start(&router, held_max.segment_for(0))),
            config: router,
            held_max,
            held: Mutex::new(Held::new(held_max, 0)),
            spent: Notify::new(),
            live: Arc::default(),
            generation: watch::Sender::new(0),
            numbers: Mutex::new((0..links).rev().collect()),
            timeout: config.router_timeout,
        }
    }

    /// Puts a fresh router in the place of a dead or hanging one. All links of the old one fail.
    pub(super) fn restart(&self) {
        let live = self.live.count();
        let fresh = start(&self.config, self.held_max.segment_for(live));
        let mut build = self.build.write().unwrap_or_else(PoisonError::into_inner);
        *build = fresh;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Held::new(self.held_max, live);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// A link, also if the router has just died and a new one must be waited for.
    pub(super) async fn link_soon(self: &Arc<Self>, purpose: LinkFor<'_>) -> Result<Link, RouterGone> {
        let deadline = Instant::now() + self.timeout;
        let mut replaced = self.generation.subscribe();
        loop {
            match self.link(purpose).await {
                Err(RouterGone) if Instant::now() < deadline => {
                    // Late or early: it is tried again.
                    let _ = tokio::time::timeout(TRY_AGAIN, replaced.changed()).await;
                }
                linked => return linked,
            }
        }
    }

    /// The old link of a client must have been dropped before: two at once corrupt the router.
    pub(super) async fn link(self: &Arc<Self>, purpose: LinkFor<'_>) -> Result<Link, RouterGone> {
        let (number, id) = match purpose {
            LinkFor::Client => {
                let number = self.numbers.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or(RouterGone)?;
                let number = Number { number, router: self.clone() };
                let id = format!("c.{}", number.number);
                (Some(number), id)
            }
            LinkFor::Process(name) => (None, format!("{RESERVED_PREFIX}{name}")),
        };
        let (build, replaced) = {
            let build = self.build.read().unwrap_or_else(PoisonError::into_inner);
            (build.clone(), self.generation.subscribe())
        };
        // Building waits for the router's answer on the thread that asks, and for ever if the router dies before it
        // gives one: so on a thread that nobody waits for, not even the end of the process. Should we stop waiting,
        // the link is dropped, and so disconnected, where it arrives.
        let (give, built) = oneshot::channel();
        let mut overtaken = replaced.clone();
        let wait = move || {
            let built = build(&id).map(|(tx, rx, said)| (Link { tx, rx, replaced, _number: number }, said));
            // Whoever asked may have given up.
            let _ = give.send(built);
        };
        std::thread::Builder::new().name("link".into()).spawn(wait).map_err(|_| RouterGone)?;
        let (link, notification) = tokio::select! {
            built = tokio::time::timeout(self.timeout, built) => {
                built.map_err(|_| RouterGone)?.map_err(|_| RouterGone)??
            }
            _ = overtaken.changed() => return Err(RouterGone),
        };
        let Some(Packet::ConnAck(..)) = Option::<Packet>::from(notification) else { return Err(RouterGone) };
        Ok(link)
    }

    /// Whether one more distinct filter is affordable; counts it.
    pub(super) fn admit(&self, filter: &str) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = held.filter(filter);
        self.look_at(&held);
        admitted
    }

    /// Counts a filter that was granted in a router before this one.
    pub(super) fn admit_again(&self, filter: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.filter_again(filter);
        self.look_at(&held);
    }

    /// Counts what is about to be sent to it.
    pub(super) fn charge(&self, packets: &[Packet]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in packets {
            if let Packet::Publish(publish, properties) = packet {
                let topic = std::str::from_utf8(&publish.topic).unwrap_or_default();
                let besides = properties.as_ref().map_or(0, memory);
                held.message(topic, publish.topic.len() + publish.payload.len(), besides);
            }
        }
        self.look_at(&held);
    }

    fn look_at(&self, held: &Held) {
        if held.is_spent(self.live.count()) {
            self.spent.notify_one();
        }
    }

    /// Waits until it holds too much. What was told of the one before does not count.
    pub(super) async fn spent(&self) {
        while !self.held.lock().unwrap_or_else(PoisonError::into_inner).is_spent(self.live.count()) {
            self.spent.notified().await;
        }
    }

    /// Ends the router's thread, which frees what it holds. It listens to nothing that says so: it keeps a sender to itself,
    /// and its loop ends by a panic only, such as this topic's once anybody subscribed.
    pub(super) async fn end(self: &Arc<Self>) {
        let Ok(mut link) = self.link(LinkFor::Process("end")).await else { return };
        let filter = Filter {
            path: "end".into(),
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let subscribe = Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter] }, None);
        let last = Packet::Publish(Publish::new("é", "", false), None);
        hush();
        ENDING.fetch_add(1, Ordering::AcqRel);
        // Fails only if it is gone already.
        let _ = link.send(&mut vec![subscribe, last]);
        while link.next().await.is_ok() {}
        ENDING.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(super) fn knows(&self, filter: &str) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).knows(filter)
    }
}

/// Routers that are being ended. A timeout may leave it counted, which hides no more than the message of one that hung.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// A panic that was asked for is not printed: a backtrace of it alone can take hundreds of MiB.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let router = std::thread::current().name().is_some_and(|name| name.starts_with("router-"));
            if !router || ENDING.load(Ordering::Acquire) == 0 {
                before(panic);
            }
        }));
    });
}

fn start(config: &RouterConfig, segment_bytes: usize) -> Arc<Build> {
    // The type of what the sender carries cannot be named outside rumqttd, so a closure holds it.
    let config = RouterConfig { max_segment_size: segment_bytes, ..config.clone() };
    let sender = rumqttd::Router::new(0, config).spawn();
    // No topic aliases towards subscribers: the router keys them by filter, not by topic, so that under a wildcard
    // they name the wrong topic.
    Arc::new(move |id| {
        let builder = LinkBuilder::new(id, sender.clone()).clean_session(true).topic_alias_max(0);
        builder.build().map_err(|_| RouterGone)
    })
}

/// One of the numbers that clean links are called by; free again when dropped.
struct Number {
    number: usize,
    router: Arc<Router>,
}

impl Drop for Number {
    fn drop(&mut self) {
        self.router.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

/// One client of the router. Dropping it disconnects it there, also in a panic or an abort: a link that is merely
/// dropped leaks its slot.
pub(super) struct Link {
    tx: LinkTx,
    rx: LinkRx,
    /// Moves when another router took over from the one that this link belongs to.
    replaced: watch::Receiver<u64>,
    /// Dropped after `drop` below has sent the Disconnect, so the next user of the id comes after it.
    _number: Option<Number>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "never stored, and a box for each message would cost more")]
pub(super) enum FromRouter {
    Packet(Packet),
    /// A message, with its place in the log of the filter that it comes from.
    Publish(Publish, Option<PublishProperties>, Option<u64>),
    /// The router stops sending until [`Link::wake`], which must come exactly once.
    Unscheduled,
}

impl Link {
    /// Hands all packets over with one event, or with none if one is still under way: the router takes all there is
    /// when it gets to it. So it has at most one per link, and its queue of 1000 events does not fill up and block.
    pub(super) fn send(&mut self, packets: &mut Vec<Packet>) -> Result<(), RouterGone> {
        let mut waiting = self.tx.buffer();
        if !waiting.is_empty() {
            waiting.extend(packets.drain(..));
            return Ok(());
        }
        let Some(last) = packets.pop() else { return Ok(()) };
        waiting.extend(packets.drain(..));
        drop(waiting);
        now(self.tx.send(last)).and_then(Result::ok).map(drop).ok_or(RouterGone)
    }

    /// Waits until the router has taken enough of what was sent.
    pub(super) async fn room(&mut self) -> Result<(), RouterGone> {
        while self.tx.buffer().len() > LINK_BACKLOG_MAX {
            if self.replaced.has_changed().unwrap_or(true) {
                return Err(RouterGone);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<FromRouter, RouterGone> {
        loop {
            let heard = tokio::select! {
                biased;
                heard = self.rx.next() => heard,
                _ = self.replaced.changed() => return Err(RouterGone),
            };
            match heard {
                Ok(Some(notification)) => return from_router(notification),
                // A trigger whose notifications were already taken with an earlier one.
                Ok(None) => {}
                Err(_) => return Err(RouterGone),
            }
        }
    }

    /// What is there without waiting.
    pub(super) fn try_next(&mut self) -> Result<Option<FromRouter>, RouterGone> {
        now(self.next()).transpose()
    }

    pub(super) async fn wake(&self) -> Result<(), RouterGone> {
        self.rx.wake().await.map_err(|_| RouterGone)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let reason_code = DisconnectReasonCode::NormalDisconnection;
        // Fails only if the router is gone, and the slot with it.
        let _ = self.send(&mut vec![Packet::Disconnect(Disconnect { reason_code }, None)]);
    }
}

fn from_router(notification: Notification) -> Result<FromRouter, RouterGone> {
    match notification {
        Notification::Forward(forward) => {
            let offset = forward.cursor.map(|(_segment, offset)| offset);
            Ok(FromRouter::Publish(forward.publish, forward.properties, offset))
        }
        Notification::Unschedule => Ok(FromRouter::Unscheduled),
        // The router threw this link out. It has no reason to, since all that goes in is checked.
        Notification::Disconnect(..) => Err(RouterGone),
        notification => Option::<Packet>::from(notification).map(FromRouter::Packet).ok_or(RouterGone),
    }
}

/// The future's output if it is ready at once.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
