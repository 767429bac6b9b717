//! One client from accept to close: the loop that reads, answers and delivers.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::Packet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::arrivals::Arrival;
use super::attach::next_of;
use super::certified::Certified;
use super::codec::Codec;
use super::deliver::Outbound;
pub(super) use super::end::End;
use super::handshake::{Admitted, shake_hands};
use super::intake::{Identity, Intake};
use super::live::Member;
use super::mail::{MailDrop, mail_of};
use super::overflow::Overflow;
use super::ration::Share;
use super::refused::Refused;
use super::router::Link;
use super::sessions::{Claim, Kick, Kicked};
use super::shared::Shared;
use super::subscribe::{Pending, Replay};
use super::wills::Will;

/// Once this much waits for the socket, nothing is added before it is written.
pub(super) const OUT_BYTES_HIGH: usize = 16 * 1024;
/// What one read asks for: from the first, up to the second for a client that fills it.
const READ_BYTES: std::ops::RangeInclusive<usize> = 2 * 1024..=64 * 1024;
/// A write that takes longer is to a client that does not read: until it does, nothing is fanned out for it alone.
const REST_AFTER: Duration = Duration::from_millis(300);
/// What a DISCONNECT may take to be written. It is a courtesy.
pub(super) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Connection<S, I> {
    pub(super) shared: Arc<Shared<I>>,
    pub(super) stream: S,
    pub(super) codec: Codec,
    pub(super) who: Arc<Identity>,
    pub(super) claim: Claim,
    /// Its part in what its identity may take.
    pub(super) share: Share,
    /// Over its rate: until then nothing is read of it.
    pub(super) paused: Option<Instant>,
    /// Which rights its subscriptions were looked at with.
    rights: u64,
    /// Made with the first subscription of a clean session; others need none.
    pub(super) link: Option<Link>,
    /// The router died with a link of ours.
    pub(super) unlinked: bool,
    /// What the router serves for this connection.
    pub(super) live: Member,
    /// Of a persistent session: its subscriptions and what it did not get yet.
    pub(super) mail: Option<MailDrop>,
    /// What a clean session lost because it did not read.
    pub(super) overflow: Overflow,
    /// Bytes read and not decoded yet: at most one packet and one read.
    pub(super) inbound: BytesMut,
    /// `inbound` may hold a whole packet.
    pub(super) undecoded: bool,
    /// Bytes that wait for the socket.
    pub(super) out: BytesMut,
    pub(super) to_router: Vec<Packet>,
    pub(super) outbound: Outbound,
    /// The router stopped sending and waits for us to say that all was written.
    pub(super) asleep: bool,
    /// A SUBSCRIBE or UNSUBSCRIBE that the router is busy with. Nothing is decoded meanwhile.
    pub(super) pending: Option<Pending>,
    /// Filters whose retained messages are still to be sent.
    pub(super) replays: VecDeque<Replay>,
    /// v5 topic aliases of the client.
    pub(super) aliases: HashMap<u16, Bytes>,
    /// The client used QoS 2, so the intake may keep packet ids of it.
    pub(super) exactly_once: bool,
    heard: Instant,
    /// Since when the client has acknowledged nothing of all it may have.
    full_since: Option<Instant>,
    keepalive: Option<Duration>,
    pub(super) expiry: Duration,
    pub(super) will: Option<Will>,
}

/// Serves one socket, TLS or not, to its end. `certificate` is what TLS verified.
pub(super) async fn serve<S, I>(
    mut stream: S,
    peer: SocketAddr,
    arrival: Arrival,
    certificate: Option<Certified>,
    shared: Arc<Shared<I>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Intake,
{
    // What is needed only at the beginning or the end takes no room in between: most connections are idle.
    let admitted = Box::pin(shake_hands(&mut stream, peer, certificate.as_ref(), &shared)).await;
    drop((arrival, certificate));
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            match refused {
                // Port scans and health checks.
                Refused::Silent(reason) => tracing::debug!(%peer, reason, "closed before CONNACK"),
                refused => tracing::info!(%peer, ?refused, "connection refused"),
            }
            let _ = timeout(GOODBYE_TIMEOUT, stream.shutdown()).await;
            return;
        }
    };
    let stats = shared.stats.clone();
    stats.connections.inc();
    stats.connections_total.inc();
    let gauge = Gauge(stats);
    let who = admitted.who.clone();
    tracing::info!(%peer, client = %who.client, name = who.name.as_deref(), version = ?admitted.codec.version, "connected");
    let mut connection = Connection::new(admitted, stream, shared);
    let end = connection.run().await;
    tracing::info!(%peer, client = %who.client, %end, "disconnected");
    Box::pin(connection.finish(end)).await;
    drop(gauge);
}

/// Writes all, also what TLS has taken and the socket has not: nothing else would bring that on its way.
async fn write_out<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut BytesMut) -> std::io::Result<()> {
    stream.write_all_buf(out).await?;
    stream.flush().await
}

/// Counts bytes that are being written, also when that is interrupted.
struct Unread(Arc<super::stats::FrontStats>, u64);

impl Unread {
    fn new(stats: &Arc<super::stats::FrontStats>, bytes: usize) -> Unread {
        stats.unread_bytes.add(bytes as u64);
        Unread(stats.clone(), bytes as u64)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread_bytes.sub(self.1);
    }
}

/// Counts the connection off also when its task is aborted.
struct Gauge(Arc<super::stats::FrontStats>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    fn new(admitted: Admitted, stream: S, shared: Arc<Shared<I>>) -> Connection<S, I> {
        Connection {
            live: shared.router.live.member(),
            shared,
            stream,
            codec: admitted.codec,
            who: admitted.who,
            claim: admitted.claim,
            share: admitted.share,
            paused: None,
            rights: admitted.rights,
            link: None,
            unlinked: false,
            mail: admitted.mailbox.map(|mailbox| MailDrop::new(mailbox.attach(), admitted.receive_max)),
            overflow: Overflow::default(),
            undecoded: !admitted.inbound.is_empty(),
            inbound: admitted.inbound,
            out: BytesMut::new(),
            to_router: Vec::new(),
            outbound: Outbound::new(admitted.receive_max, admitted.packet_bytes_max),
            asleep: false,
            pending: None,
            replays: VecDeque::new(),
            aliases: HashMap::new(),
            exactly_once: false,
            heard: Instant::now(),
            full_since: None,
            keepalive: admitted.keepalive,
            expiry: admitted.expiry,
            will: admitted.will,
        }
    }

    async fn run(&mut self) -> End {
        let Err(end) = self.turns().await;
        self.count(&end);
        self.say_goodbye(&end).await;
        end
    }

    /// Each turn takes in one batch, hands over what the router has, writes once, and waits for more.
    async fn turns(&mut self) -> Result<Infallible, End> {
        let mut alarm = std::pin::pin!(sleep_until(self.heard + self.keepalive.unwrap_or_default()));
        let mut read_bytes = *READ_BYTES.start();
        loop {
            if std::mem::take(&mut self.unlinked) {
                self.attach_again().await?;
            }
            self.check_rights()?;
            self.take_in().await?;
            let behind = self.hand_over() | self.collect_mail().await?;
            self.replay_page();
            self.flush().await?;
            self.watch_acks();
            if std::mem::take(&mut self.asleep)
                && let Some(link) = &self.link
                && link.wake().await.is_err()
            {
                self.lose_link();
            }
            let ready = self.pending.is_none() && self.paused.is_none();
            let (can_decode, can_read) = (self.undecoded && ready, !self.undecoded && ready);
            let again = can_decode || behind || self.unlinked || !self.replays.is_empty();
            if self.inbound.capacity() - self.inbound.len() < read_bytes / 2 {
                self.inbound.reserve(read_bytes);
            }
            tokio::select! {
                biased;
                kick = self.claim.kicked.wait() => return Err(End::Kicked(kick)),
                read = self.stream.read_buf(&mut self.inbound), if can_read => {
                    let n = read.map_err(End::Io)?;
                    if n == 0 {
                        return Err(End::Closed);
                    }
                    (self.undecoded, self.heard) = (true, Instant::now());
                    let wanted = if n >= read_bytes / 2 { read_bytes * 2 } else { read_bytes / 2 };
                    read_bytes = wanted.clamp(*READ_BYTES.start(), *READ_BYTES.end());
                }
                // After reading: whoever was kept waiting by us must not be taken for silent.
                () = alarm.as_mut(), if can_read && self.keepalive.is_some() => self.check_heard(alarm.as_mut())?,
                () = std::future::ready(()), if again => {}
                () = until(self.paused) => self.resume(),
                () = rest_of(self.full_since.filter(|_| !self.live.resting() && self.paused.is_none())) => {
                    self.live.rest();
                    self.link = None;
                }
                () = mail_of(self.mail.as_ref()) => {}
                from_router = next_of(self.link.as_mut()) => self.deliver_or_lose(from_router),
            }
        }
    }

    /// Nothing is written under rights that do not hold any more. Looked at only when there is something to do: who is
    /// sent nothing reads nothing.
    fn check_rights(&mut self) -> Result<(), End> {
        let now = self.shared.changes.rights();
        if self.rights == now {
            return Ok(());
        }
        self.rights = now;
        let policy = &self.shared.policy;
        match self.claim.filters.keys().all(|filter| policy.may_subscribe(&self.who, filter)) {
            true => Ok(()),
            false => {
                // What waits to be written may be what it must not see.
                self.out.clear();
                Err(End::RightsGone)
            }
        }
    }

    /// What it said meanwhile was not read, so it was not silent, and what it did not acknowledge it perhaps has.
    fn resume(&mut self) {
        self.paused = None;
        self.heard = Instant::now();
        self.full_since = self.full_since.map(|_| Instant::now());
    }

    fn check_heard(&self, alarm: std::pin::Pin<&mut Sleep>) -> Result<(), End> {
        let deadline = self.heard + self.keepalive.unwrap_or_default();
        if deadline <= Instant::now() {
            return Err(End::KeepAlive);
        }
        alarm.reset(deadline);
        Ok(())
    }

    /// A client that has all it may have and acknowledges nothing is one that does not read, too.
    fn watch_acks(&mut self) {
        if self.outbound.full() {
            self.full_since.get_or_insert_with(Instant::now);
        } else if self.full_since.take().is_some() && self.live.resting() {
            self.rise();
        }
    }

    /// Writes all of `out`. A takeover interrupts it, a stop of the process does not.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let _unread = Unread::new(&self.shared.stats, self.out.len());
        let mut resting = false;
        {
            let write = timeout(self.shared.config.write_timeout, write_out(&mut self.stream, &mut self.out));
            let (mut write, mut rests) = (std::pin::pin!(write), std::pin::pin!(sleep(REST_AFTER)));
            loop {
                tokio::select! {
                    biased;
                    written = &mut write => {
                        written.map_err(|_| End::Stalled)?.map_err(End::Io)?;
                        break;
                    }
                    kick = unless_stopping(&mut self.claim.kicked) => return Err(End::Kicked(kick)),
                    () = &mut rests, if !resting => {
                        self.live.rest();
                        self.link = None;
                        resting = true;
                    }
                }
            }
        }
        if resting {
            self.rise();
        }
        // A burst must not stay in memory for as long as the client does.
        if self.out.capacity() > 2 * OUT_BYTES_HIGH {
            self.out = BytesMut::new();
        }
        Ok(())
    }
}

/// Ready at that time, never if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ready when a client that is stuck since then is taken to be one that does not read.
async fn rest_of(stuck_since: Option<Instant>) {
    match stuck_since {
        Some(since) => sleep_until(since + REST_AFTER).await,
        None => std::future::pending().await,
    }
}

/// Ready when kicked, but not when the process stops: what is in flight then is brought to its end.
pub(super) async fn unless_stopping(kicked: &mut Kicked) -> Kick {
    match kicked.wait().await {
        Kick::Shutdown => std::future::pending().await,
        kick => kick,
    }
}
