//! What happens to who belongs, told to the journal.
//!
//! What a stranger causes is told once and then counted: the same from the same source once a minute, and all of it
//! together no faster than [`STRANGERS_EVERY`] after a burst. What an operator does is told each time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::wire;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Sources that are being counted; past it what comes is counted as lost.
const SOURCES_MAX: usize = 1_024;
/// Events that wait for the writer; past it the newest is counted as lost.
const WAITING_MAX: usize = 256;
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// What strangers cause is told this many times at once, and then so often: a megabyte of journal a day.
const STRANGERS_BURST: u32 = 60;
pub const STRANGERS_EVERY: Duration = Duration::from_secs(10);
/// Bytes of each text of an event; the rest is cut off.
const TEXT_BYTES_MAX: usize = 128;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    ConnectRefused,
    PublishDenied,
    SubscribeDenied,
    AccountAdded,
    AccountChanged,
    AccountDisabled,
    AccountEnabled,
    AccountRemoved,
    PolicyLoaded,
    PolicyRefused,
    Joined,
    JoinRefused,
    Renewed,
    TokenRefused,
    TokenAdded,
    TokenRemoved,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            What::ConnectRefused => "connect_refused",
            What::PublishDenied => "publish_denied",
            What::SubscribeDenied => "subscribe_denied",
            What::AccountAdded => "account_added",
            What::AccountChanged => "account_changed",
            What::AccountDisabled => "account_disabled",
            What::AccountEnabled => "account_enabled",
            What::AccountRemoved => "account_removed",
            What::PolicyLoaded => "policy_loaded",
            What::PolicyRefused => "policy_refused",
            What::Joined => "joined",
            What::JoinRefused => "join_refused",
            What::Renewed => "renewed",
            What::TokenRefused => "token_refused",
            What::TokenAdded => "token_added",
            What::TokenRemoved => "token_removed",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event, as whoever sees it tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityEvent {
    pub what: What,
    /// The account, or what was shown instead of one.
    pub who: String,
    /// Who did it; empty for what anybody who reaches the port can cause.
    pub by: String,
    /// The address it came from, without its port.
    pub peer: String,
    pub detail: String,
}

impl SecurityEvent {
    /// As the journal has it.
    pub fn to_wire(&self, count: u64) -> wire::SecurityEvent {
        wire::SecurityEvent {
            what: self.what.as_str().into(),
            who: cut(&self.who),
            by: cut(&self.by),
            peer: cut(&self.peer),
            detail: cut(&self.detail),
            count,
            at_ms: 0,
            id: String::new(),
        }
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Where events are told. Clone it freely; telling never waits.
#[derive(Clone, Default)]
pub struct AuditSender(Arc<Pot>);

#[derive(Default)]
struct Pot {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    sources: HashMap<Source, Counted>,
    waiting: VecDeque<wire::SecurityEvent>,
    strangers: Option<(f64, Instant)>,
    told: u64,
    lost: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct Source {
    what: What,
    who: String,
    peer: String,
    detail: String,
}

struct Counted {
    since: Instant,
    more: u64,
}

impl AuditSender {
    pub fn tell(&self, event: SecurityEvent) {
        let mut inner = self.lock();
        if event.by.is_empty() {
            inner.of_a_stranger(&event, Instant::now())
        } else {
            inner.put(event.to_wire(1))
        }
        drop(inner);
        self.0.filled.notify_one();
    }

    /// The next event to be journalled. Cancel-safe.
    pub(crate) async fn next(&self) -> wire::SecurityEvent {
        loop {
            let filled = self.0.filled.notified();
            let due = {
                let mut inner = self.lock();
                inner.close(Instant::now(), AGAIN_AFTER);
                if let Some(event) = inner.waiting.pop_front() {
                    inner.told += 1;
                    return event;
                }
                inner.sources.values().map(|counted| counted.since + AGAIN_AFTER).min()
            };
            match due {
                None => filled.await,
                Some(due) => tokio::select! {
                    () = filled => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// All that is left, counts that are not due included; for the end of the process.
    pub(crate) fn rest(&self) -> Vec<wire::SecurityEvent> {
        let mut inner = self.lock();
        inner.close(Instant::now(), Duration::ZERO);
        std::mem::take(&mut inner.waiting).into()
    }

    /// Events that could not be journalled just now, and why does not matter.
    pub(crate) fn lost(&self, events: u64) {
        self.lock().lost += events;
    }

    pub fn to_json(&self) -> Value {
        let inner = self.lock();
        json!({ "told": inner.told, "lost": inner.lost, "waiting": inner.waiting.len(), "sources": inner.sources.len() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, event: wire::SecurityEvent) {
        match self.waiting.len() < WAITING_MAX {
            true => self.waiting.push_back(event),
            false => self.lost += event.count,
        }
    }

    fn of_a_stranger(&mut self, event: &SecurityEvent, now: Instant) {
        let (who, peer, detail) = (cut(&event.who), cut(&event.peer), cut(&event.detail));
        let source = Source { what: event.what, who, peer, detail };
        if let Some(counted) = self.sources.get_mut(&source) {
            counted.more += 1;
            return;
        }
        // Too much of all together, or too many of them: it is counted and no more.
        if self.sources.len() >= SOURCES_MAX || !self.may_tell(now) {
            self.lost += 1;
            return;
        }
        self.sources.insert(source, Counted { since: now, more: 0 });
        self.put(event.to_wire(1));
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        let (level, at) = self.strangers.unwrap_or((0.0, now));
        let level = (level - now.duration_since(at).as_secs_f64() / STRANGERS_EVERY.as_secs_f64()).max(0.0);
        let may = level <= f64::from(STRANGERS_BURST - 1);
        self.strangers = Some((if may { level + 1.0 } else { level }, now));
        may
    }

    /// Puts the counts of sources that are due.
    fn close(&mut self, now: Instant, after: Duration) {
        let over = |counted: &Counted| now.duration_since(counted.since) >= after;
        let done: Vec<(Source, Counted)> = self.sources.extract_if(|_, counted| over(counted)).collect();
        for (source, counted) in done {
            if counted.more == 0 {
                continue;
            }
            let Source { what, who, peer, detail } = source;
            let event = SecurityEvent { what, who, by: String::new(), peer, detail };
            self.put(event.to_wire(counted.more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(who: &str) -> SecurityEvent {
        let (by, peer, detail) = (String::new(), "10.0.0.1".into(), "wrong password".into());
        SecurityEvent { what: What::ConnectRefused, who: who.into(), by, peer, detail }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_from_the_same_source_is_told_once_a_minute() {
        let audit = AuditSender::default();
        (0..500).for_each(|_| audit.tell(refused("pos-1")));
        assert_eq!(audit.next().await.count, 1);
        let began = Instant::now();
        assert_eq!(audit.next().await.count, 499);
        assert_eq!(began.elapsed(), AGAIN_AFTER);
        audit.tell(refused("pos-1"));
        audit.tell(refused("pos-1"));
        assert_eq!(audit.rest().iter().map(|event| event.count).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(audit.to_json()["lost"], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_journal_nor_drown_an_operator() {
        let audit = AuditSender::default();
        for n in 0..3_000 {
            audit.tell(refused(&format!("{n}-{}", "x".repeat(500))));
        }
        audit.tell(SecurityEvent { by: "root".into(), what: What::AccountDisabled, ..refused("pos-1") });
        let told = audit.rest();
        assert_eq!(told.len(), STRANGERS_BURST as usize + 1);
        assert!(told.iter().all(|event| event.who.len() <= TEXT_BYTES_MAX));
        assert_eq!(told.last().map(|event| event.by.as_str()), Some("root"));
        assert_eq!(audit.to_json()["lost"], 3_000 - u64::from(STRANGERS_BURST));
        tokio::time::advance(10 * STRANGERS_EVERY).await;
        (0..100).for_each(|n| audit.tell(refused(&n.to_string())));
        assert_eq!(audit.rest().len(), 10);
    }
}
