//! A front on a port of its own, and an intake that can be told to wait, to refuse and to stop.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::super::shared::Shared;
use super::super::*;
use super::client::{Client, DEADLINE, V311};
use crate::mailbox::{Mail, Mailboxes};

pub(super) struct Rig {
    pub(super) addr: SocketAddr,
    pub(super) intake: Arc<TestIntake>,
    pub(super) stats: Arc<FrontStats>,
    pub(super) publisher: Publisher,
    pub(super) shared: Arc<Shared<TestIntake>>,
    pub(super) disconnector: Disconnector,
    policy: Arc<TestPolicy>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Rig {
    pub(super) async fn start() -> Rig {
        Rig::with(FrontConfig::default()).await
    }

    pub(super) async fn with(config: FrontConfig) -> Rig {
        let config = FrontConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config };
        let intake = Arc::new(TestIntake::new());
        let policy = Arc::new(TestPolicy::default());
        let front = Front::bind(config, policy.clone(), intake.clone()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, stats, publisher, shared) =
            (front.local_addr().unwrap(), front.stats(), front.publisher(), front.shared.clone());
        let disconnector = front.disconnector();
        let task = tokio::spawn(front.run(async move { drop(stopped.await) }));
        Rig { addr, intake, stats, publisher, shared, disconnector, policy, stop: Some(stop), task }
    }

    pub(super) fn certificate_names(&self) -> Vec<String> {
        self.policy.certificates.lock().unwrap().clone()
    }

    /// From now on nobody may subscribe to what begins with this.
    pub(super) fn keep_secret(&self, prefix: &str) {
        *self.policy.secret.lock().unwrap() = prefix.to_owned();
        self.disconnector.rights_changed();
    }

    /// What each identity that connects from now on may take.
    pub(super) fn allow(&self, allowance: Allowance) {
        *self.policy.allowance.lock().unwrap() = Some(allowance);
    }

    /// Tells it to stop; `stopped` waits until it has.
    pub(super) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(super) async fn stopped(&mut self) {
        self.stop();
        tokio::time::timeout(DEADLINE, &mut self.task).await.expect("run() does not end").unwrap();
    }

    /// Whether messages still find their way through the router, and it was never replaced.
    pub(super) async fn assert_router_lives(&self) {
        let mut client = Client::connect(self.addr, V311, "liveness").await;
        assert_eq!(client.subscribe("liveness/x", 0).await, 0);
        client.publish("liveness/x", "ping", 1, 9).await;
        let (mut acked, mut came) = (false, false);
        while !acked || !came {
            match client.recv().await[0] {
                0x40 => acked = true,
                0x30 => came = true,
                other => panic!("{other:x}"),
            }
        }
        client.disconnect().await;
        assert_eq!(self.stats.router_restarts.get(), 0);
    }
}

/// Waits for a condition that must come true.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Users `bad` and `nope` may not connect, nobody may publish below `forbidden/` or read below `secret/`.
#[derive(Default)]
pub(super) struct TestPolicy {
    /// Names in the certificates of those who connected.
    certificates: Mutex<Vec<String>>,
    /// Filters below this may not be subscribed to.
    secret: Mutex<String>,
    allowance: Mutex<Option<Allowance>>,
}

impl Policy for TestPolicy {
    fn connect<'a>(&'a self, offered: Credentials<'a>) -> Admitting<'a> {
        if let Some(shown) = offered.certificate {
            self.certificates.lock().unwrap().push(shown.name.clone());
        }
        let admitted = match offered.username {
            Some("bad") => Err(Refusal::BadCredentials),
            Some("nope") => Err(Refusal::NotAuthorized),
            Some("guesser") => Err(Refusal::Throttled),
            name => Ok(Admission { name: name.map(Arc::from), kind: None }),
        };
        Box::pin(std::future::ready(admitted))
    }

    fn allowance(&self, _: &Identity) -> Allowance {
        self.allowance.lock().unwrap().unwrap_or(Allowance::UNLIMITED)
    }

    fn may_publish(&self, _: &Identity, topic: &str) -> Result<(), Denial> {
        match topic.starts_with("forbidden/") {
            true => Err(Denial { code: "not_authorized", reason: "not yours".into() }),
            false => Ok(()),
        }
    }

    fn may_subscribe(&self, _: &Identity, filter: &str) -> bool {
        let secret = self.secret.lock().unwrap();
        !filter.starts_with("secret/") && (secret.is_empty() || !filter.starts_with(&*secret))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Answer,
    Hold,
    /// Takes batches and drops their answers.
    Drop,
    Closed,
}

pub(super) struct TestIntake {
    seen: Mutex<Vec<Inbound>>,
    /// QoS 2 messages that wait for their release.
    open: Mutex<HashSet<(Arc<str>, u16)>>,
    mail: Mutex<Mail>,
    mode: watch::Sender<Mode>,
}

impl TestIntake {
    fn new() -> TestIntake {
        TestIntake {
            seen: Mutex::default(),
            open: Mutex::default(),
            mail: Mutex::default(),
            mode: watch::Sender::new(Mode::Answer),
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(super) fn publishes(&self) -> Vec<InboundPublish> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter_map(|item| if let Inbound::Publish(publish) = item { Some(publish.clone()) } else { None })
            .collect()
    }

    pub(super) fn forgotten(&self, client: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|item| matches!(item, Inbound::Forget { client: c } if **c == *client)).count()
    }

    pub(super) fn open_exchanges(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    pub(super) async fn until_seen(&self, publishes: usize) {
        until("the intake sees the publishes", || self.publishes().len() >= publishes).await;
    }

    /// As the writer does, with a commit that takes no time.
    fn fill(&self, items: &[Inbound], verdicts: &[Verdict]) {
        let mut mail = self.mail.lock().unwrap();
        for (item, verdict) in items.iter().zip(verdicts) {
            match item {
                Inbound::Publish(publish) if verdict.forward => {
                    let topic = std::str::from_utf8(&publish.topic).unwrap();
                    mail.publish(topic, &publish.properties, &publish.payload);
                }
                Inbound::Publish(_) | Inbound::Release { .. } => {}
                Inbound::Session { client, change } => mail.change(client, change.clone()),
                Inbound::Forget { client } => mail.forget(client),
            }
        }
        mail.close_group();
        mail.committed();
    }

    fn judge(&self, item: &Inbound) -> Verdict {
        let mut open = self.open.lock().unwrap();
        let verdict = |outcome, forward| Verdict { outcome, forward, further: 0 };
        match item {
            Inbound::Release { client, pkid } => {
                open.remove(&(client.clone(), *pkid));
                verdict(Outcome::Accepted, false)
            }
            Inbound::Session { .. } => verdict(Outcome::Accepted, false),
            Inbound::Forget { client } => {
                open.retain(|(of, _)| of != client);
                verdict(Outcome::Accepted, false)
            }
            Inbound::Publish(publish) if publish.payload == "no-room" => verdict(Outcome::NoRoom, false),
            Inbound::Publish(publish) => {
                let fresh = publish.exactly_once.is_none_or(|pkid| open.insert((publish.who.client.clone(), pkid)));
                match &publish.denied {
                    Some(Denial { code: "topic_invalid", .. }) => verdict(Outcome::TopicInvalid, false),
                    Some(_) => verdict(Outcome::NotAuthorized, false),
                    None if publish.payload == "garbage" => verdict(Outcome::PayloadInvalid, false),
                    None if publish.payload == "ten lines" => Verdict { further: 9, ..Verdict::ACCEPTED },
                    None => verdict(Outcome::Accepted, fresh),
                }
            }
        }
    }
}

impl Intake for TestIntake {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        let mut mode = self.mode.subscribe();
        let now = *mode.borrow();
        if now == Mode::Closed {
            return Err(Closed);
        }
        let verdicts: Vec<Verdict> = batch.items.iter().map(|item| self.judge(item)).collect();
        self.fill(&batch.items, &verdicts);
        self.seen.lock().unwrap().extend(batch.items);
        match now {
            Mode::Answer => drop(batch.answer.send(verdicts)),
            Mode::Drop | Mode::Closed => {}
            Mode::Hold => drop(tokio::spawn(async move {
                if mode.wait_for(|mode| *mode != Mode::Hold).await.is_ok_and(|mode| *mode == Mode::Answer) {
                    let _ = batch.answer.send(verdicts);
                }
            })),
        }
        Ok(())
    }

    fn mailboxes(&self) -> Arc<Mailboxes> {
        self.mail.lock().unwrap().mailboxes()
    }
}

pub(super) fn payload(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
