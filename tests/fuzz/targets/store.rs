//! A gateway between its devices and a hub, both of which say anything.
#![no_main]

use std::sync::Arc;

use broker::front::{Identity, Inbound, InboundPublish};
use broker::identity::Kind;
use broker::ledger::Core;
use bytes::Bytes;
use gateway::core::{Gateway, Input, Rules};
use gateway::sync::{Chain, Heard, Session};
use prost::Message;
use proto::chunk::{ChainHash, Head, Position};
use proto::id::{Epoch, ReplicaId, Seq};
use proto::remnant::Standing;
use proto::wire::{Down, Welcome, down};
use tillsync_fuzz::{Node, Pieces};

const NONCE: u64 = 7;
const INCARNATION: u64 = 5;
const KINDS: [&str; 12] = [
    "scan", "sale", "move", "count", "item", "note", "setting", "activity", "feedback", "sale/pb", "item/pb", "move/pb",
];

/// A journal of which only the length matters.
struct Written(Seq);

impl Chain for Written {
    type Error = std::convert::Infallible;
    fn end(&self) -> Position {
        Position { seq: self.0, hash: ChainHash([1; 32]) }
    }
    fn beginning(&self) -> Result<Position, Self::Error> {
        Ok(Position::default())
    }
    fn standing(&self, at: Position) -> Result<Standing, Self::Error> {
        let ours = at == Position::default() || (at.seq > Seq::ZERO && at.hash == self.end().hash);
        Ok(if ours { Standing::Ours } else { Standing::Other })
    }
    fn chunks(&self, _: Seq, _: Seq, _: usize) -> Result<Vec<(Head, Bytes)>, Self::Error> {
        Ok(Vec::new())
    }
}

struct Store {
    node: Node<Gateway>,
    session: Session,
}

impl Store {
    fn new() -> Store {
        let replica = ReplicaId { site: "harbour".parse().expect("a name"), epoch: Epoch(1) };
        let rules = Rules { has_hub: true, follow: vec!["sites".into()], ..Rules::default() };
        let session = Session::new(replica.clone(), NONCE, 0);
        let mut store = Store { node: Node::start(Gateway::new(rules), replica), session };
        let welcome = Welcome { protocol: 2, applied_hash: vec![0; 32].into(), send_up_to: 100, ..Welcome::default() };
        store.hear(Down { session: NONCE, incarnation: INCARNATION, of: Some(down::Of::Welcome(welcome)) });
        store
    }

    fn hear(&mut self, down: Down) {
        let chain = Written(Seq(broker::ledger::Read::next_seq(&self.node.ledger).0 - 1));
        let heard = self.session.receive(down, &chain, self.node.now().mono_ms);
        match heard.unwrap_or_else(|never| match never {}) {
            Heard::Said(of) => drop(self.node.act(|core, now, ledger| core.input(Input::FromHub(of), now, ledger))),
            Heard::Turned { .. } | Heard::Ignored => {}
        }
        assert!(self.session.applied() <= chain.end().seq, "applied past the journal's end");
    }

    fn publish(&mut self, kind: &str, payload: &[u8]) {
        let publish = InboundPublish {
            who: Arc::new(Identity { client: "pos-1".into(), name: Some("pos-1".into()), kind: Some(Kind::Pos) }),
            topic: format!("dev/pos-1/{kind}").into(),
            payload: Bytes::copy_from_slice(payload),
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let effects = self.node.act(|core, now, ledger| core.inbound(Inbound::Publish(publish), now, ledger));
        drop(effects);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut store = Store::new();
    for (kind, piece) in Pieces(data) {
        match kind & 0x0f {
            0..=11 => store.publish(KINDS[usize::from(kind & 0x0f)], piece),
            12 | 13 => {
                let Ok(mut down) = Down::decode(piece) else { continue };
                down.session = NONCE;
                if kind & 0x10 == 0 {
                    down.incarnation = INCARNATION;
                }
                store.hear(down);
            }
            14 => {
                let Ok(down) = Down::decode(piece) else { continue };
                store.hear(down);
            }
            _ => {
                store.node.wait(u64::from(kind >> 4) * 1_000);
                drop(store.node.act(|core, now, ledger| core.tick(now, ledger)));
            }
        }
    }
});
