//! The uplink's task: connects, drives one [`Session`] for each connection, and waits between two.
//!
//! Nothing is carried from one connection to the next but the feed's cursors. What was sent is sent again from the
//! watermark that the hub names.

use std::time::{Duration, Instant};

use broker::front::Closed;
use broker::ledger::{Handle, LedgerError, Reader};
use broker::node;
use prost::Message;
use proto::backoff::Backoff;
use proto::chunk::Position;
use proto::id::{Epoch, SiteName, WallMs};
use proto::topic::{self, Outbound};
use proto::wire::up::Of as UpOf;
use proto::wire::{Ancestor, Beat, Bye, Down, FeedAck, Past, Present, Up};
use tokio::sync::{mpsc, watch};

use crate::core::{Gateway, Input, LinkState};
use crate::our_chain::OurChain;
use crate::source::HubSource;
use crate::sync::{Ack, Cursors, FromHub, Heard, PresentAsk, Session, in_common};
use crate::wire::{HubAddress, Said, Testament, Wire};

const TICK: Duration = Duration::from_millis(500);
const TURNED_WAIT: Duration = Duration::from_secs(30);

/// What the core wants the hub to hear.
#[derive(Debug)]
pub enum Command {
    FeedAck(Ack),
    Beat(Beat),
    /// Which earlier lives led to this ledger, for every Hello.
    Lineage(Vec<Ancestor>),
    /// The answer to [`Input::Present`].
    Present {
        parts: Vec<Present>,
        looked: u64,
    },
    /// Only makes sense within a session: lost if there is none, and then said again by whoever needs it.
    Say(UpOf),
}

/// The uplink's task.
pub struct Uplink {
    pub(crate) hub: HubSource,
    pub reader: Reader,
    /// The journal of the life before this one, while it is not taken over.
    pub fork: watch::Receiver<Option<Reader>>,
    pub writer: Handle<Gateway>,
    pub commands: mpsc::Receiver<Command>,
    pub stopping: watch::Receiver<bool>,
    /// Streams of the hub's feed besides the registers and what earlier lives left.
    pub follow: Vec<String>,
}

/// Why a connection ended, by what to do next.
enum Ended {
    /// Wait and connect again.
    Lost(String),
    /// Syncing would do harm until a person has acted: ask again in a while whether one has.
    Turned,
    /// The journal cannot be read: the status says so, and it is tried again in a while.
    Unreadable(LedgerError),
    /// The process is stopping, or the ledger is.
    Stop,
}

impl From<Closed> for Ended {
    fn from(_: Closed) -> Ended {
        Ended::Stop
    }
}

impl From<LedgerError> for Ended {
    fn from(error: LedgerError) -> Ended {
        Ended::Unreadable(error)
    }
}

impl Uplink {
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), self.hub.reconnect_max);
        let mut cursors = Cursors::following(&self.follow);
        loop {
            let hub = match self.hub.now() {
                Ok(Some(hub)) => hub,
                none => {
                    if let Err(why) = none {
                        tracing::error!(%why, "the hub cannot be reached as this site");
                    }
                    // Until it joins, the store works for itself.
                    match self.rest(Duration::MAX, &mut cursors).await {
                        true => continue,
                        false => return,
                    }
                }
            };
            let ended = match self.connection(&hub, &mut cursors, &mut backoff).await {
                Ok(()) => return,
                Err(ended) => ended,
            };
            let wait = match ended {
                Ended::Stop => return,
                Ended::Turned => TURNED_WAIT,
                Ended::Unreadable(error) => {
                    tracing::error!(%error, "the uplink cannot read the ledger");
                    let advice = format!("{error}: nothing more can be sent until the gateway is restarted");
                    let state = LinkState::Turned { code: "ledger_unreadable".into(), advice };
                    if self.writer.input(Input::Link(state)).await.is_err() {
                        return;
                    }
                    TURNED_WAIT
                }
                Ended::Lost(why) => {
                    tracing::info!(hub = %hub.host, port = hub.port, %why, "the hub is away");
                    if self.writer.input(Input::Link(LinkState::Away)).await.is_err() {
                        return;
                    }
                    backoff.next_wait(node::random().unwrap_or(0))
                }
            };
            if !self.rest(wait, &mut cursors).await {
                return;
            }
        }
    }

    /// Waits between two connections, or until the hub may be another; false if the process is stopping.
    async fn rest(&mut self, wait: Duration, cursors: &mut Cursors) -> bool {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return true,
                () = self.hub.changed() => return true,
                _ = self.stopping.changed() => return false,
                command = self.commands.recv() => match command {
                    Some(Command::FeedAck(ack)) => cursors.set(&ack),
                    Some(Command::Lineage(lineage)) => cursors.follows(lineage),
                    Some(Command::Beat(_) | Command::Present { .. } | Command::Say(_)) => {}
                    None => return false,
                },
            }
        }
    }

    async fn connection(
        &mut self,
        hub: &HubAddress,
        cursors: &mut Cursors,
        backoff: &mut Backoff,
    ) -> Result<(), Ended> {
        let nonce = node::random().map_err(|e| Ended::Lost(e.to_string()))?;
        let site = self.reader.replica().site.clone();
        let bye = Up { session: nonce, of: Some(UpOf::Bye(Bye {})) }.encode_to_vec();
        let testament = Testament { topic: topic::up(&site), payload: bye };
        let wire = Wire::open(hub, site.as_str(), testament);
        let mut live = Live {
            session: Session::new(self.reader.replica().clone(), nonce, 0),
            wire,
            site,
            reader: self.reader.clone(),
            started: Instant::now(),
        };
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                said = live.wire.next() => {
                    let said = said.map_err(Ended::Lost)?;
                    self.on_said(said, &mut live, cursors, backoff).await?;
                }
                command = self.commands.recv() => match command {
                    Some(command) => live.on_command(command, cursors)?,
                    None => return Err(Ended::Stop),
                },
                () = self.hub.changed() => {
                    // A renewed certificate is shown at the next connection; only another hub ends this one.
                    if !self.hub.now().ok().flatten().is_some_and(|now| now.is_at(hub)) {
                        return Err(Ended::Lost("this box has joined elsewhere".into()));
                    }
                }
                alive = self.reader.changed() => if !alive { return Err(Ended::Stop) },
                _ = tick.tick() => {
                    let now = live.now_ms();
                    live.session.tick(now);
                    if live.session.greet_again(now) {
                        live.greet(cursors)?;
                    }
                }
                _ = self.stopping.changed() => {
                    live.say(UpOf::Bye(Bye {}))?;
                    live.leave().await;
                    return Ok(());
                }
            }
            live.pump()?;
            if let Some(ask) = live.present_due() {
                self.writer.input(Input::Present(ask)).await?;
            }
        }
    }

    async fn on_said(
        &mut self,
        said: Said,
        live: &mut Live,
        cursors: &Cursors,
        backoff: &mut Backoff,
    ) -> Result<(), Ended> {
        match said {
            Said::Accepted => live.wire.subscribe(live.inbox()).map_err(Ended::Lost),
            Said::Subscribed => live.greet(cursors),
            Said::SubscriptionRefused => {
                let topic = live.inbox();
                Err(Ended::Lost(format!("the hub does not let us read {topic}: check the site's name there")))
            }
            Said::Acked => {
                live.session.acked();
                Ok(())
            }
            Said::Message(payload) => {
                let was_streaming = live.session.streaming();
                let heard = live.hear(&payload)?;
                if live.session.streaming() && !was_streaming {
                    tracing::info!(applied = live.session.applied().0, "the hub welcomed us");
                    backoff.reset();
                    self.writer.input(Input::Link(LinkState::Connected)).await?;
                }
                let turned = matches!(heard, Heard::Turned { .. });
                self.pass_on(heard).await?;
                if turned { Err(Ended::Turned) } else { Ok(()) }
            }
        }
    }

    async fn pass_on(&self, heard: Heard) -> Result<(), Closed> {
        let input = match heard {
            Heard::Said(FromHub::Past(past)) => match self.in_common(&past) {
                Ok((fork, common)) => Input::Past { past, common, fork },
                Err(error) => {
                    // Without it the answer is worth nothing; it is asked for again.
                    tracing::error!(%error, "the journal of the ledger before this one cannot be read");
                    return Ok(());
                }
            },
            Heard::Said(message) => Input::FromHub(message),
            Heard::Turned { code, advice } => {
                tracing::error!(%code, "the hub will not sync with this ledger: {advice}");
                Input::Link(LinkState::Turned { code, advice })
            }
            Heard::Ignored => return Ok(()),
        };
        self.writer.input(input).await
    }
}

impl Uplink {
    /// The life before whose journal is at hand, and the newest position in this part of the hub's copy that it has too.
    fn in_common(&self, past: &Past) -> Result<(Option<Epoch>, Option<Position>), LedgerError> {
        let Some(fork) = self.fork.borrow().clone() else { return Ok((None, None)) };
        Ok((Some(fork.replica().epoch), in_common(past, fork.replica(), &OurChain(&fork))?))
    }
}

/// One connection.
struct Live {
    session: Session,
    wire: Wire,
    site: SiteName,
    reader: Reader,
    started: Instant,
}

impl Live {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Where the hub answers us.
    fn inbox(&self) -> String {
        Outbound::Down(&self.site).to_string()
    }

    fn greet(&mut self, cursors: &Cursors) -> Result<(), Ended> {
        let software = concat!("tillsync-gateway ", env!("CARGO_PKG_VERSION"));
        let hello = self.session.hello(&OurChain(&self.reader), cursors, software)?;
        self.send(&hello)
    }

    fn hear(&mut self, payload: &[u8]) -> Result<Heard, Ended> {
        let Ok(down) = Down::decode(payload) else {
            tracing::warn!(bytes = payload.len(), "a message of the hub cannot be decoded");
            return Ok(Heard::Ignored);
        };
        let now = self.now_ms();
        Ok(self.session.receive(down, &OurChain(&self.reader), now)?)
    }

    fn on_command(&mut self, command: Command, cursors: &mut Cursors) -> Result<(), Ended> {
        match command {
            Command::FeedAck(ack) => {
                cursors.set(&ack);
                if ack.cursor.incarnation != self.session.incarnation() {
                    // A position in the feed of a hub that is no more; the Hello has said so.
                    return Ok(());
                }
                self.say(UpOf::FeedAck(FeedAck {
                    cursor: ack.cursor.position,
                    resend: ack.resend,
                    stream: ack.stream,
                    journal_to: Some(ack.journal_to.0),
                    snapshot_to: ack.cursor.snapshot_to,
                    taken: ack.taken,
                }))
            }
            Command::Lineage(lineage) => {
                cursors.follows(lineage);
                Ok(())
            }
            Command::Beat(beat) => {
                let beat = self.with_backlog(beat)?;
                self.say(UpOf::Beat(beat))
            }
            Command::Present { parts, looked } => {
                let now = self.now_ms();
                self.session.ahead(parts, looked, now);
                Ok(())
            }
            Command::Say(of) if self.session.may_say(&of) => self.say(of),
            Command::Say(_) => Ok(()),
        }
    }

    fn with_backlog(&self, beat: Beat) -> Result<Beat, LedgerError> {
        let (stats, applied) = (self.reader.stats(), self.session.applied());
        let waiting = stats.durable.seq.0.saturating_sub(applied.0);
        let oldest = if waiting > 0 { self.reader.stamped_after(applied)? } else { None };
        Ok(Beat {
            backlog_records: waiting,
            backlog_bytes: if waiting > 0 { stats.backlog_bytes } else { 0 },
            backlog_age_ms: oldest.map_or(0, |WallMs(ms)| beat.wall_ms.saturating_sub(ms)),
            disk_bytes: stats.journal_bytes + stats.state_bytes,
            journal_to: stats.durable.seq.0,
            ..beat
        })
    }

    fn present_due(&mut self) -> Option<PresentAsk> {
        let now = self.now_ms();
        self.session.present_due(&OurChain(&self.reader), now)
    }

    /// Sends as much as the hub and the window allow.
    fn pump(&mut self) -> Result<(), Ended> {
        let now = self.now_ms();
        while let Some(up) = self.session.next(&OurChain(&self.reader), now)? {
            self.send(&up)?;
        }
        Ok(())
    }

    /// Says something that only makes sense once the hub has welcomed us.
    fn say(&mut self, of: UpOf) -> Result<(), Ended> {
        if !self.session.streaming() {
            return Ok(());
        }
        let up = self.session.wrap(of);
        self.session.said();
        self.send(&up)
    }

    fn send(&mut self, up: &Up) -> Result<(), Ended> {
        // What did not fit is said again: batches by the watermark, the rest by the next of its kind.
        self.wire.publish(topic::up(&self.site), up.encode_to_vec()).map_err(Ended::Lost)
    }

    /// Gives the farewell a moment to leave.
    async fn leave(&mut self) {
        let farewell = async {
            while self.session.in_flight() > 0 {
                match self.wire.next().await {
                    Ok(Said::Acked) => self.session.acked(),
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        };
        // Whoever does not take it in time hears it from the broker, as our will.
        let _ = tokio::time::timeout(Duration::from_millis(500), farewell).await;
    }
}
