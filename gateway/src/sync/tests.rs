//! The gateway's side against a hub of a few lines.

use prost::Message;
use proto::id::Epoch;
use proto::wire::Chunks;

use super::send::batch;
use super::*;

struct Fixed(Vec<Position>);

impl Chain for Fixed {
    type Error = std::convert::Infallible;
    fn end(&self) -> Position {
        *self.0.last().unwrap()
    }
    fn beginning(&self) -> Result<Position, Self::Error> {
        Ok(self.0[0])
    }
    fn standing(&self, at: Position) -> Result<Standing, Self::Error> {
        let ours = at == Position::default() || self.0.contains(&at);
        Ok(if ours { Standing::Ours } else { Standing::Other })
    }
    fn chunks(&self, _: Seq, _: Seq, _: usize) -> Result<Vec<(Head, Bytes)>, Self::Error> {
        Ok(vec![])
    }
}

/// The same, of which nobody knows where chunks ended from 3 to 5.
struct Damaged(Fixed);

impl Chain for Damaged {
    type Error = std::convert::Infallible;
    fn end(&self) -> Position {
        self.0.end()
    }
    fn beginning(&self) -> Result<Position, Self::Error> {
        self.0.beginning()
    }
    fn standing(&self, at: Position) -> Result<Standing, Self::Error> {
        if (3..=5).contains(&at.seq.0) { Ok(Standing::Untold) } else { self.0.standing(at) }
    }
    fn chunks(&self, _: Seq, _: Seq, _: usize) -> Result<Vec<(Head, Bytes)>, Self::Error> {
        Ok(vec![])
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
        present: 0,
        reads_packed_present: false,
        rights: false,
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
        present: 0,
        tell_since: None,
        awaits_rights: false,
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
fn a_hub_within_damage_is_believed_since_nobody_can_know_better() {
    let damaged = Damaged(chain());
    for (held, streams) in [(at(4), true), (at(9), true), (at(7), false)] {
        let mut session = session();
        session.receive(welcome(held), &damaged, 1).unwrap();
        assert_eq!(session.streaming(), streams, "{held:?}");
    }
}

#[test]
fn a_hub_that_lacks_what_was_let_go_is_told_so_however_little_it_has() {
    for held in [at(0), at(1)] {
        let mut session = session();
        let mut down = welcome(held);
        let Some(DownOf::Welcome(welcome)) = &mut down.of else { panic!("{down:?}") };
        welcome.protocol = 2;
        session.receive(down, &chain(), 1).unwrap();
        let Some(Up { of: Some(UpOf::Batch(batch)), .. }) = session.next(&chain(), 2).unwrap() else {
            panic!("{held:?}: {session:?}")
        };
        assert_eq!((batch.first_seq, batch.last_seq), (held.seq.0 + 1, 2));
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
        assert_eq!(session.one_by_one, wanted);
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
    let late = session.receive(welcome(at(5)), &chain(), 27_000).unwrap();
    assert_eq!(late, Heard::Ignored, "an answer to the first Hello");
    let answer = Down { session: 78, ..welcome(at(5)) };
    session.receive(answer, &chain(), 27_000).unwrap();
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

#[test]
fn a_batch_says_where_it_ends_and_is_packed_unless_it_must_not_be() {
    let after = Position { seq: Seq(9), hash: ChainHash([7; 32]) };
    let chunk = || bytes::Bytes::from(vec![1; 4_000]);
    let packed = batch(Seq(3), after, vec![chunk(), chunk()], true);
    assert!(packed.body.len() < 4_000 && packed.chunks_bytes > 8_000);
    let plain = batch(Seq(3), after, vec![chunk()], false);
    assert_eq!((plain.first_seq, plain.last_seq, plain.chunks, plain.chunks_bytes), (3, 9, 1, 0));
    assert_eq!((&plain.last_hash[..], Chunks::decode(plain.body).unwrap().chunk.len()), (&[7; 32][..], 1));
}

#[test]
fn the_first_hello_names_every_stream_also_before_the_core_said_a_word() {
    let hello = session().hello(&chain(), &Cursors::following(&["site/hill".into()]), "test").unwrap();
    let Some(UpOf::Hello(hello)) = hello.of else { panic!("{hello:?}") };
    let named: Vec<_> = hello.streams.iter().map(|cursor| (cursor.stream.as_str(), cursor.position)).collect();
    assert_eq!(named, [("own", 0), ("rights", 0), ("site/hill", 0)]);
}

/// An older hub would refuse such a message, and count it as the site's fault.
#[test]
fn of_rights_only_a_hub_that_keeps_them_hears() {
    use proto::wire::{Recall, RightsHeld, RightsWanted};
    for (protocol, rights) in [(1, false), (2, false), (2, true)] {
        let mut session = session();
        let mut down = welcome(at(5));
        let Some(DownOf::Welcome(welcome)) = &mut down.of else { panic!("{down:?}") };
        (welcome.protocol, welcome.rights) = (protocol, rights);
        session.receive(down, &chain(), 1).unwrap();
        let held = |incarnation| UpOf::RightsHeld(RightsHeld { incarnation, ..RightsHeld::default() });
        let said = [held(session.incarnation()), UpOf::RightsWanted(RightsWanted::default())];
        assert_eq!(said.map(|of| session.may_say(&of)), [rights; 2]);
        assert!(!session.may_say(&held(session.incarnation() + 1)), "what was meant for another hub");
        assert_eq!(session.may_say(&UpOf::Recall(Recall::default())), protocol > 1);
    }
}

#[test]
fn the_present_is_packed_for_a_hub_that_reads_that() {
    for reads in [true, false] {
        let mut session = session();
        let mut down = welcome(at(5));
        let Some(DownOf::Welcome(welcome)) = &mut down.of else { panic!("{down:?}") };
        (welcome.protocol, welcome.reads_packed_present) = (2, reads);
        session.receive(down, &Fixed(vec![at(2), at(5), Position { seq: Seq(9_999), ..at(9) }]), 1).unwrap();
        let chain = Fixed(vec![at(2), at(5), Position { seq: Seq(9_999), ..at(9) }]);
        let ask = session.present_due(&chain, 2).expect("far behind");
        let total = |n: u64| proto::wire::PresentTotal { gtin: n, units: 1, seq: n };
        let part =
            Present { as_of: ask.as_of.0, last: true, totals: (1..99).map(total).collect(), ..Present::default() };
        session.ahead(vec![part.clone()], 98, 3);
        let Some(Up { of: Some(UpOf::Present(said)), .. }) = session.next(&chain, 4).unwrap() else {
            panic!("{session:?}")
        };
        assert_eq!(said == part, !reads);
        assert_eq!(proto::present::unpacked(said, 32 << 10), Some(part));
    }
}
