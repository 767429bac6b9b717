//! The gateway's side of the sync protocol, without I/O: what to send next, and what a message of the hub means.
//!
//! Nothing here is remembered over a connection: each begins with `Hello`, and the hub says where to go on. So a lost,
//! doubled or late message can only cost time.

use broker::ledger::Standing;
use proto::PROTOCOL;
use proto::chunk::{ChainHash, Position};
use proto::id::{ReplicaId, Seq};
use proto::wire::down::Of as DownOf;
use proto::wire::up::Of as UpOf;
use proto::wire::{Applied, Down, Feed, FeedCursor, Hello, Turned, Up, Welcome};

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
    /// How the journal stood at `seq`.
    fn standing_at(&self, seq: Seq) -> Result<Standing, Self::Error>;
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
        position: Position,
        hub_ms: u64,
    },
    Feed {
        incarnation: u64,
        feed: Feed,
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
    phase: Phase,
    incarnation: u64,
    applied: Position,
    next: Seq,
    send_up_to: Seq,
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
            phase: Phase::Greeting { since_ms: now_ms },
            incarnation: 0,
            applied: Position::default(),
            next: Seq(1),
            send_up_to: Seq::ZERO,
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

    pub fn one_by_one(&self) -> bool {
        self.one_by_one
    }

    pub fn wrap(&self, of: UpOf) -> Up {
        Up { session: self.nonce, of: Some(of) }
    }

    pub fn hello<C: Chain>(&self, chain: &C, cursor: FeedCursor, software: &str) -> Result<Up, C::Error> {
        let (beginning, end) = (chain.beginning()?, chain.end());
        Ok(self.wrap(UpOf::Hello(Hello {
            protocol: PROTOCOL,
            site: self.replica.site.as_str().into(),
            epoch: self.replica.epoch.0,
            journal_from: beginning.seq.next().0,
            hash_before: beginning.hash.0.to_vec().into(),
            journal_to: end.seq.0,
            hash_to: end.hash.0.to_vec().into(),
            feed_cursor: cursor.position,
            feed_incarnation: cursor.incarnation,
            software: software.into(),
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

    /// The span that may be sent now: from here, up to here.
    pub fn sendable(&self, durable: Seq) -> Option<(Seq, Seq)> {
        let last = durable.min(self.send_up_to);
        (self.streaming() && self.next <= last).then_some((self.next, last))
    }

    pub fn sent(&mut self, last: Seq, now_ms: u64) {
        if self.next == self.applied.seq.next() {
            self.progress_ms = now_ms;
        }
        self.next = last.next();
    }

    /// Goes back to what is applied if the hub has been silent about what was sent, and to Hello if it has been silent
    /// about everything: it forgets a gateway that it did not hear for a while, though the connection stands.
    pub fn tick(&mut self, now_ms: u64) {
        if self.streaming() && now_ms >= self.heard_ms + SILENT_MS {
            self.phase = Phase::Greeting { since_ms: now_ms.saturating_sub(GREETING_MS) };
        }
        let waiting = self.next > self.applied.seq.next();
        if waiting && now_ms >= self.progress_ms + STALLED_MS {
            self.next = self.applied.seq.next();
            self.progress_ms = now_ms;
        }
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
        if let Some((code, advice)) = disagreement(position, chain)? {
            return Ok(self.turn(code.into(), advice.into()));
        }
        self.phase = Phase::Streaming;
        self.incarnation = incarnation;
        self.applied = position;
        self.next = position.seq.next();
        self.send_up_to = Seq(welcome.send_up_to);
        self.progress_ms = now_ms;
        Ok(Heard::Said(FromHub::Applied { position, hub_ms: welcome.hub_ms }))
    }

    fn applied_to(&mut self, applied: &Applied, now_ms: u64) -> Heard {
        let Some(position) = position(applied.seq, &applied.hash) else { return Heard::Ignored };
        if position.seq < self.applied.seq {
            return Heard::Ignored;
        }
        if position.seq > self.applied.seq {
            self.progress_ms = now_ms;
        }
        self.applied = position;
        self.send_up_to = Seq(applied.send_up_to);
        self.one_by_one = applied.one_by_one;
        if applied.resend {
            self.next = position.seq.next();
        }
        self.next = self.next.max(position.seq.next());
        Heard::Said(FromHub::Applied { position, hub_ms: applied.hub_ms })
    }

    fn turn(&mut self, code: String, advice: String) -> Heard {
        self.phase = Phase::Turned;
        Heard::Turned { code, advice }
    }
}

fn position(seq: u64, hash: &[u8]) -> Option<Position> {
    Some(Position { seq: Seq(seq), hash: ChainHash::from_slice(hash)? })
}

/// What stands between our chain and what the hub holds of it.
fn disagreement<C: Chain>(held: Position, chain: &C) -> Result<Option<(&'static str, &'static str)>, C::Error> {
    if held.seq > chain.end().seq {
        return Ok(Some((
            "ledger_behind",
            "the hub holds more of this site's journal than this box: it was restored from a backup or lost its end. \
             Give the box an empty --data folder to start a new ledger; what was applied is at the hub",
        )));
    }
    Ok(match chain.standing_at(held.seq)? {
        Standing::At(ours) if ours.hash == held.hash => None,
        // Of that span only its ends are known.
        Standing::Bridged => None,
        Standing::Unknown if held.seq < chain.beginning()?.seq => Some((
            "hub_behind",
            "the hub lacks records that this box no longer keeps: the hub was restored from an older backup. \
             Restore a newer one",
        )),
        _ => Some((
            "chain_differs",
            "this box's journal and the hub's copy of it differ: two boxes ran under one site name, or a backup was \
             restored. Stop the wrong box, or give this one an empty --data folder to start a new ledger",
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Epoch;

    struct Fixed(Vec<Position>);

    impl Chain for Fixed {
        type Error = std::convert::Infallible;
        fn end(&self) -> Position {
            *self.0.last().unwrap()
        }
        fn beginning(&self) -> Result<Position, Self::Error> {
            Ok(self.0[0])
        }
        fn standing_at(&self, seq: Seq) -> Result<Standing, Self::Error> {
            Ok(self.0.iter().find(|p| p.seq == seq).map_or(Standing::Unknown, |p| Standing::At(*p)))
        }
    }

    fn at(seq: u64) -> Position {
        let hash = if seq == 0 { ChainHash::ORIGIN } else { ChainHash([seq as u8; 32]) };
        Position { seq: Seq(seq), hash }
    }

    fn chain() -> Fixed {
        Fixed(vec![at(2), at(5), at(9)])
    }

    fn session() -> Session {
        Session::new(ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(1) }, 77, 0)
    }

    fn welcome(position: Position) -> Down {
        let of = DownOf::Welcome(Welcome {
            protocol: 1,
            applied_seq: position.seq.0,
            applied_hash: position.hash.0.to_vec().into(),
            send_up_to: 8,
            hub_ms: 5,
        });
        Down { session: 77, incarnation: 3, of: Some(of) }
    }

    fn applied(position: Position, resend: bool) -> Down {
        let of = DownOf::Applied(Applied {
            seq: position.seq.0,
            hash: position.hash.0.to_vec().into(),
            send_up_to: 100,
            hub_ms: 6,
            resend,
            one_by_one: false,
        });
        Down { session: 77, incarnation: 3, of: Some(of) }
    }

    #[test]
    fn sends_nothing_before_the_welcome_and_no_more_than_it_allows() {
        let mut session = session();
        assert_eq!(session.sendable(Seq(9)), None);
        session.receive(welcome(at(5)), &chain(), 1).unwrap();
        assert_eq!(session.sendable(Seq(9)), Some((Seq(6), Seq(8))));
        session.sent(Seq(8), 2);
        assert_eq!(session.sendable(Seq(9)), None);
        session.receive(applied(at(8), false), &chain(), 3).unwrap();
        assert_eq!(session.sendable(Seq(9)), Some((Seq(9), Seq(9))));
    }

    #[test]
    fn a_chain_that_differs_is_turned_away() {
        let forged = Position { hash: ChainHash([9; 32]), ..at(5) };
        for (held, expected) in
            [(at(10), "ledger_behind"), (forged, "chain_differs"), (at(1), "hub_behind"), (at(4), "chain_differs")]
        {
            let mut session = session();
            match session.receive(welcome(held), &chain(), 1).unwrap() {
                Heard::Turned { code, .. } => assert_eq!(code, expected),
                other => panic!("{held:?}: {other:?}"),
            }
            assert_eq!(session.sendable(Seq(9)), None);
        }
    }

    #[test]
    fn stale_sessions_incarnations_and_steps_back_are_ignored() {
        let mut session = session();
        let mut other = welcome(at(5));
        other.session = 78;
        assert_eq!(session.receive(other, &chain(), 1).unwrap(), Heard::Ignored);
        session.receive(welcome(at(5)), &chain(), 1).unwrap();
        let mut restored = applied(at(9), false);
        restored.incarnation = 4;
        assert_eq!(session.receive(restored, &chain(), 1).unwrap(), Heard::Ignored);
        assert_eq!(session.receive(applied(at(2), true), &chain(), 1).unwrap(), Heard::Ignored);
        assert_eq!(session.applied(), Seq(5));
    }

    #[test]
    fn goes_one_by_one_for_as_long_as_the_hub_asks_for_it() {
        let mut session = session();
        session.receive(welcome(at(5)), &chain(), 1).unwrap();
        for wanted in [false, true, true, false] {
            let mut down = applied(at(5), true);
            let Some(DownOf::Applied(applied)) = &mut down.of else { panic!("{down:?}") };
            applied.one_by_one = wanted;
            session.receive(down, &chain(), 2).unwrap();
            assert_eq!(session.one_by_one(), wanted);
        }
    }

    #[test]
    fn a_hub_that_forgot_us_is_greeted_again() {
        let mut session = session();
        session.receive(welcome(at(5)), &chain(), 1_000).unwrap();
        session.receive(applied(at(5), false), &chain(), 6_000).unwrap();
        session.tick(6_000 + SILENT_MS - 1);
        assert!(session.streaming() && !session.greet_again(6_000 + SILENT_MS - 1));
        session.tick(6_000 + SILENT_MS);
        assert!(session.greet_again(6_000 + SILENT_MS));
        assert_eq!(session.sendable(Seq(9)), None, "nothing is sent before the Welcome");
        session.receive(welcome(at(5)), &chain(), 27_000).unwrap();
        session.tick(27_001);
        assert_eq!(session.sendable(Seq(9)), Some((Seq(6), Seq(8))));
    }

    #[test]
    fn a_gap_or_silence_sends_again_from_what_is_applied() {
        let mut session = session();
        session.receive(welcome(at(5)), &chain(), 0).unwrap();
        session.sent(Seq(8), 0);
        session.receive(applied(at(5), true), &chain(), 1).unwrap();
        assert_eq!(session.sendable(Seq(9)), Some((Seq(6), Seq(9))));
        session.sent(Seq(9), 2);
        session.tick(STALLED_MS);
        assert_eq!(session.sendable(Seq(9)), None);
        session.tick(2 + STALLED_MS);
        assert_eq!(session.sendable(Seq(9)), Some((Seq(6), Seq(9))));
    }
}
