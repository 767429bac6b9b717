//! What a gateway may say to the hub: any message, and chunks of any content that continue its journal as they should.
#![no_main]

use std::sync::Arc;

use broker::front::{Identity, Inbound, InboundPublish};
use broker::hub::{Effect, Hub};
use broker::identity::Kind;
use broker::ledger::Core;
use bytes::Bytes;
use prost::Message;
use proto::chunk::{ChainHash, Position, Sealer};
use proto::id::{Epoch, ReplicaId, Seq};
use proto::lean;
use proto::wire::{Applied, Batch, Chunks, Down, Hello, Up, Welcome, down, up};
use tillsync_fuzz::{Node, Pieces};

const SITE: &str = "harbour";
const NONCE: u64 = 7;

struct Site {
    hub: Node<Hub>,
    replica: ReplicaId,
    /// What the hub said that it holds.
    applied: Position,
    sealer: Sealer,
}

impl Site {
    fn new() -> Site {
        let hub = ReplicaId { site: "hub".parse().expect("a name"), epoch: Epoch(9) };
        let replica = ReplicaId { site: SITE.parse().expect("a name"), epoch: Epoch(1) };
        let hub = Node::start(Hub::new(5), hub);
        Site { hub, replica, applied: Position::default(), sealer: Sealer::default() }
    }

    fn say(&mut self, of: up::Of) {
        self.send(Up { session: NONCE, of: Some(of) }.encode_to_vec().into());
    }

    fn send(&mut self, payload: Bytes) {
        let publish = InboundPublish {
            who: Arc::new(Identity { client: SITE.into(), name: Some(SITE.into()), kind: Some(Kind::Site) }),
            topic: format!("up/{SITE}").into(),
            payload,
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let effects = self.hub.act(|hub, now, ledger| hub.inbound(Inbound::Publish(publish), now, ledger));
        self.hear(effects);
    }

    fn hear(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::Publish { topic, payload, .. } = effect else { continue };
            if topic != "down/harbour" {
                continue;
            }
            let said = Down::decode(payload).expect("the hub speaks its own language");
            let (seq, hash) = match said.of {
                Some(down::Of::Applied(Applied { seq, hash, .. })) => (seq, hash),
                Some(down::Of::Welcome(Welcome { applied_seq, applied_hash, .. })) => (applied_seq, applied_hash),
                _ => continue,
            };
            let hash = ChainHash::from_slice(&hash).expect("a hash");
            self.applied = Position { seq: Seq(seq), hash };
        }
    }

    fn hello(&mut self, protocol: u32, streams: Vec<proto::wire::StreamCursor>) {
        let hello = Hello {
            protocol,
            site: SITE.into(),
            epoch: 1,
            journal_from: 1,
            hash_before: ChainHash::ORIGIN.0.to_vec().into(),
            journal_to: self.applied.seq.0 + 1_000,
            hash_to: vec![1; 32].into(),
            streams,
            ..Hello::default()
        };
        self.say(up::Of::Hello(hello));
    }

    /// The next chunk of the journal, with this body.
    fn chunk(&mut self, body: &[u8], lean: bool) {
        let Ok((chunk, stored)) = self.sealer.restore(&self.replica, self.applied, body) else { return };
        let (head, stored) = (chunk.head, Bytes::from(stored));
        let as_stored = Batch {
            first_seq: head.first.0,
            last_seq: head.last.0,
            last_hash: head.hash.0.to_vec().into(),
            chunks: 1,
            body: Chunks { chunk: vec![stored.clone()] }.encode_to_vec().into(),
            ..Batch::default()
        };
        let batch = lean.then(|| lean::pack(&[(head, stored)])).flatten().unwrap_or(as_stored);
        self.say(up::Of::Batch(batch));
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut site = Site::new();
    site.hello(2, Vec::new());
    let mut most = Seq::ZERO;
    for (kind, piece) in Pieces(data) {
        match kind % 8 {
            0 => site.send(Bytes::copy_from_slice(piece)),
            1 | 2 => {
                let Ok(mut up) = Up::decode(piece) else { continue };
                up.session = NONCE;
                site.send(up.encode_to_vec().into());
            }
            3 | 4 => site.chunk(piece, kind & 8 == 0),
            5 => {
                let Ok(hello) = Hello::decode(piece) else { continue };
                site.hello(u32::from(kind >> 3), hello.streams);
            }
            6 => {
                site.hub.wait(u64::from(kind) * 97);
                let effects = site.hub.act(|hub, now, ledger| hub.tick(now, ledger));
                site.hear(effects);
            }
            _ => {
                let other = Bytes::copy_from_slice(piece);
                site.chunk(&other, true);
                site.chunk(&other, false);
            }
        }
        assert!(site.applied.seq >= most, "the watermark went back from {most} to {}", site.applied.seq);
        most = site.applied.seq;
    }
});
