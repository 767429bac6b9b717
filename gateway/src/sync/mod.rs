//! The gateway's side of the sync protocol, without I/O: what to send next, and what a message of the hub means.
//!
//! Nothing here is remembered over a connection: each begins with `Hello`, and the hub says where to go on. So a lost,
//! doubled or late message can only cost time. `send.rs` says what goes out next.

mod cursors;
mod past;
mod send;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use proto::PROTOCOL;
use proto::chunk::{ChainHash, Head, Position};
use proto::id::{ReplicaId, Seq};
use proto::remnant::Standing;
use proto::wire::down::Of as DownOf;
use proto::wire::up::Of as UpOf;
use proto::wire::{Applied, Down, Feed, Followed, Hello, Past, Present, Turned, Up, Welcome};

pub(crate) use self::cursors::ALWAYS;
pub use self::cursors::{Ack, Cursors, OWN_PAST, REGISTERS, RIGHTS};
pub use self::past::in_common;
pub use self::send::PresentAsk;

/// Nothing heard for this long while something is on its way: send again from what is applied.
const STALLED_MS: u64 = 10_000;
/// The hub repeats what it applied every 5 s. Silent for this long, it has no session of ours any more: say Hello.
const SILENT_MS: u64 = 20_000;
/// No answer to a Hello: say it again.
const GREETING_MS: u64 = 3_000;

/// The journal, as far as the protocol asks for it.
pub trait Chain {
    type Error;
    /// The last durable position.
    fn end(&self) -> Position;
    /// What comes before the oldest stored chunk.
    fn beginning(&self) -> Result<Position, Self::Error>;
    /// How a position stands to it.
    fn standing(&self, at: Position) -> Result<Standing, Self::Error>;
    /// Stored chunks from the one that begins at `first` on: as many as end at or before `last` and fit in `bytes_max`,
    /// but one at least.
    fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, Self::Error>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Said Hello at this moment; nothing else may be sent.
    Greeting {
        since_ms: u64,
    },
    Streaming,
    /// The hub, or our own check of the chain, says that syncing would do harm.
    Turned,
}

/// What the hub tells the store, of this session and of the right incarnation.
#[derive(Debug, Clone, PartialEq)]
pub enum FromHub {
    /// Our journal is applied up to here, after the hub's own commit.
    Applied {
        incarnation: u64,
        position: Position,
        hub_ms: u64,
        /// The hub was restored, and has not heard what this site was granted.
        awaits_rights: bool,
    },
    Feed {
        incarnation: u64,
        feed: Feed,
    },
    /// A part of what the hub holds of this site's journals.
    Past(Past),
    /// The hub has closed the journal of an earlier life of this ledger.
    Followed {
        incarnation: u64,
        followed: Followed,
    },
}

/// What a message of the hub means.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// For the core.
    Said(FromHub),
    Turned {
        code: String,
        advice: String,
    },
    /// Of another session, unreadable or without meaning now: counted, nothing else.
    Ignored,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    replica: ReplicaId,
    nonce: u64,
    /// The nonce with which the connection began, which its will has.
    first: u64,
    phase: Phase,
    incarnation: u64,
    /// What both sides speak.
    protocol: u32,
    applied: Position,
    next: Seq,
    send_up_to: Seq,
    /// Messages that the broker there has not acknowledged.
    in_flight: usize,
    /// The hub was restored and lacks what we no longer have, from where it stands to here.
    bridge: Option<Position>,
    ahead: send::Ahead,
    outbox: VecDeque<Present>,
    /// The hub reads packed parts of it.
    packs_present: bool,
    /// The hub keeps rights.
    keeps_rights: bool,
    /// The hub cannot read what comes next in company: one chunk a message, not packed.
    one_by_one: bool,
    progress_ms: u64,
    /// When the hub last said something of this session.
    heard_ms: u64,
}

impl Session {
    pub fn new(replica: ReplicaId, nonce: u64, now_ms: u64) -> Session {
        Session {
            replica,
            nonce,
            first: nonce,
            phase: Phase::Greeting { since_ms: now_ms },
            incarnation: 0,
            protocol: 1,
            applied: Position::default(),
            next: Seq(1),
            send_up_to: Seq::ZERO,
            in_flight: 0,
            bridge: None,
            ahead: send::Ahead::default(),
            outbox: VecDeque::new(),
            packs_present: false,
            keeps_rights: false,
            one_by_one: false,
            progress_ms: now_ms,
            heard_ms: now_ms,
        }
    }

    pub fn streaming(&self) -> bool {
        self.phase == Phase::Streaming
    }

    /// Which life of the hub this session is with; 0 before the welcome.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub fn applied(&self) -> Seq {
        self.applied.seq
    }

    /// What both sides speak; 1 before the welcome.
    pub fn protocol(&self) -> u32 {
        self.protocol
    }

    /// Whether the hub knows what such a message is: an older one would refuse it.
    pub fn may_say(&self, of: &UpOf) -> bool {
        match of {
            // What was meant for another incarnation lacks what that one granted.
            UpOf::RightsHeld(held) => self.keeps_rights && held.incarnation == self.incarnation,
            UpOf::RightsWanted(_) => self.keeps_rights,
            _ => self.protocol > 1,
        }
    }

    pub fn wrap(&self, of: UpOf) -> Up {
        Up { session: self.nonce, of: Some(of) }
    }

    pub fn hello<C: Chain>(&self, chain: &C, cursors: &Cursors, software: &str) -> Result<Up, C::Error> {
        let (beginning, end) = (chain.beginning()?, chain.end());
        Ok(self.wrap(UpOf::Hello(Hello {
            protocol: PROTOCOL,
            site: self.replica.site.as_str().into(),
            epoch: self.replica.epoch.0,
            journal_from: beginning.seq.next().0,
            hash_before: beginning.hash.0.to_vec().into(),
            journal_to: end.seq.0,
            hash_to: end.hash.0.to_vec().into(),
            feed_cursor: cursors.registers().position,
            feed_incarnation: cursors.registers().incarnation,
            software: software.into(),
            streams: cursors.streams(),
            snapshot_to: cursors.snapshot_to(),
            connection: self.first,
            lineage: cursors.lineage().to_vec(),
        })))
    }

    /// True if it is time to say Hello again.
    pub fn greet_again(&mut self, now_ms: u64) -> bool {
        match &mut self.phase {
            Phase::Greeting { since_ms } if now_ms >= *since_ms + GREETING_MS => {
                *since_ms = now_ms;
                true
            }
            _ => false,
        }
    }

    /// Goes back to what is applied if the hub has been silent about what was sent, and to Hello if it has been silent
    /// about everything: it forgets a gateway that it did not hear for a while, though the connection stands.
    pub fn tick(&mut self, now_ms: u64) {
        if self.streaming() && now_ms >= self.heard_ms + SILENT_MS {
            // What was said in the old session may still be on its way, from another life of the hub even.
            self.nonce = self.nonce.wrapping_add(1);
            self.phase = Phase::Greeting { since_ms: now_ms.saturating_sub(GREETING_MS) };
        }
        let waiting = self.next > self.applied.seq.next();
        if waiting && now_ms >= self.progress_ms + STALLED_MS {
            self.next = self.applied.seq.next();
            self.progress_ms = now_ms;
        }
        self.ahead.tick(now_ms);
    }

    pub fn receive<C: Chain>(&mut self, down: Down, chain: &C, now_ms: u64) -> Result<Heard, C::Error> {
        if down.session != self.nonce || self.phase == Phase::Turned {
            return Ok(Heard::Ignored);
        }
        let ours = self.phase != Phase::Streaming || down.incarnation == self.incarnation;
        if ours {
            self.heard_ms = now_ms;
        }
        match (down.of, &self.phase) {
            (Some(DownOf::Welcome(welcome)), Phase::Greeting { .. }) => {
                self.welcomed(down.incarnation, &welcome, chain, now_ms)
            }
            (Some(DownOf::Turned(Turned { code, advice })), _) => Ok(self.turn(code, advice)),
            _ if down.incarnation != self.incarnation => Ok(Heard::Ignored),
            // Nobody can have applied what is not written: what is applied may be trimmed.
            (Some(DownOf::Applied(applied)), _) if applied.seq > chain.end().seq.0 => Ok(Heard::Ignored),
            (Some(DownOf::Applied(applied)), Phase::Streaming) => Ok(self.applied_to(&applied, now_ms)),
            (Some(DownOf::Feed(feed)), Phase::Streaming) => {
                Ok(Heard::Said(FromHub::Feed { incarnation: self.incarnation, feed }))
            }
            (Some(DownOf::Past(past)), Phase::Streaming) => Ok(Heard::Said(FromHub::Past(past))),
            (Some(DownOf::Followed(followed)), Phase::Streaming) => {
                Ok(Heard::Said(FromHub::Followed { incarnation: self.incarnation, followed }))
            }
            _ => Ok(Heard::Ignored),
        }
    }

    fn welcomed<C: Chain>(
        &mut self,
        incarnation: u64,
        welcome: &Welcome,
        chain: &C,
        now_ms: u64,
    ) -> Result<Heard, C::Error> {
        let Some(position) = position(welcome.applied_seq, &welcome.applied_hash) else { return Ok(Heard::Ignored) };
        self.bridge = match agreement(position, chain)? {
            Agreement::Continues => None,
            Agreement::Trimmed(to) if welcome.protocol > 1 => Some(to),
            Agreement::Trimmed(_) => return Ok(self.turn(HUB_BEHIND.0.into(), HUB_BEHIND.1.into())),
            Agreement::Differs(code, advice) => return Ok(self.turn(code.into(), advice.into())),
        };
        self.phase = Phase::Streaming;
        self.incarnation = incarnation;
        self.protocol = welcome.protocol;
        self.applied = position;
        self.next = position.seq.next();
        self.send_up_to = Seq(welcome.send_up_to);
        self.progress_ms = now_ms;
        self.outbox.clear();
        self.packs_present = welcome.reads_packed_present;
        self.keeps_rights = welcome.rights;
        self.ahead = send::Ahead::from(welcome.present);
        // What is held is said after every welcome.
        let (hub_ms, awaits_rights) = (welcome.hub_ms, false);
        Ok(Heard::Said(FromHub::Applied { incarnation, position, hub_ms, awaits_rights }))
    }

    fn applied_to(&mut self, applied: &Applied, now_ms: u64) -> Heard {
        let Some(position) = position(applied.seq, &applied.hash) else { return Heard::Ignored };
        if position.seq < self.applied.seq {
            return Heard::Ignored;
        }
        if position.seq > self.applied.seq {
            self.progress_ms = now_ms;
            self.bridge = self.bridge.filter(|to| to.seq > position.seq);
        }
        self.ahead.told(applied.present, applied.tell_since);
        self.applied = position;
        self.send_up_to = Seq(applied.send_up_to);
        self.one_by_one = applied.one_by_one;
        if applied.resend {
            self.next = position.seq.next();
        }
        self.next = self.next.max(position.seq.next());
        let (incarnation, hub_ms, awaits_rights) = (self.incarnation, applied.hub_ms, applied.awaits_rights);
        Heard::Said(FromHub::Applied { incarnation, position, hub_ms, awaits_rights })
    }

    fn turn(&mut self, code: String, advice: String) -> Heard {
        self.phase = Phase::Turned;
        Heard::Turned { code, advice }
    }
}

fn position(seq: u64, hash: &[u8]) -> Option<Position> {
    Some(Position { seq: Seq(seq), hash: ChainHash::from_slice(hash)? })
}

/// How our chain and what the hub holds of it stand to each other.
enum Agreement {
    Continues,
    /// The hub lacks what we no longer have, up to here: it was restored from an older backup.
    Trimmed(Position),
    /// For software, and for people.
    Differs(&'static str, &'static str),
}

const HUB_BEHIND: (&str, &str) = (
    "hub_behind",
    "the hub lacks records that this box no longer keeps, and is too old to be told which: upgrade the hub, or restore \
     a newer backup of it",
);

fn agreement<C: Chain>(held: Position, chain: &C) -> Result<Agreement, C::Error> {
    if held.seq > chain.end().seq {
        return Ok(Agreement::Differs(
            "ledger_behind",
            "the hub holds more of this site's journal than this box: it was restored from a backup or lost its end. \
             Stop it and run `tillsync-gateway rejoin`: it begins a new ledger, with what only this box has",
        ));
    }
    // Asked before how it stands there: at the very beginning every chain stands the same.
    let beginning = chain.beginning()?;
    if held.seq < beginning.seq {
        return Ok(Agreement::Trimmed(beginning));
    }
    Ok(match chain.standing(held)? {
        Standing::Ours => Agreement::Continues,
        // Damage, or evicted by earlier software: to turn away a box whose own journal this is would cost more.
        Standing::Untold => Agreement::Continues,
        Standing::Other => Agreement::Differs(
            "chain_differs",
            "this box's journal and the hub's copy of it differ: two boxes ran under one site name, or a backup was \
             restored. Stop the wrong box; on the right one run `tillsync-gateway rejoin`",
        ),
    })
}
