//! The hub over a real ledger, against gateways that break the rules or go to their limits.

mod bounds;
mod channel;
mod forget;
mod lean;
mod poison;
mod pools;
mod present;
mod rejoin;
mod restores;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::chunk::{Position, Sealer};
use proto::clock::Stamp;
use proto::id::{Epoch, ReplicaId, Seq, WallMs};
use proto::wire::record::Of;
use proto::wire::up::Of as UpOf;
use proto::wire::{Batch as Chunked, Body, Chunks, Dot, Event, Hello, Note, Record, RegisterWrite, Up, VersionVector};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::front::{Batch, Identity, InboundPublish, Intake};
use crate::ledger::{Handle, Limits, Options, Reader, Writer, read_stopped};

struct Running {
    dir: TempDir,
    handle: Handle<Hub>,
    reader: Reader,
    /// What was published since the start, in order.
    told: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Running {
    async fn open() -> Running {
        Running::open_in(tempfile::tempdir().unwrap()).await
    }

    async fn open_in(dir: TempDir) -> Running {
        Running::open_heard(dir, drop).await
    }

    /// `hear` gets what the hub says, but for the answers to this test.
    async fn open_heard(dir: TempDir, hear: impl FnMut(Effect) + Send + 'static) -> Running {
        Running::open_as(dir, || Hub::new(7), hear).await
    }

    async fn open_as(dir: TempDir, hub: impl Fn() -> Hub, mut hear: impl FnMut(Effect) + Send + 'static) -> Running {
        let options = Options {
            dir: dir.path().into(),
            site: "hub".parse().unwrap(),
            limits: Limits::NONE,
            commit_wait: Duration::ZERO,
            begin_anew: false,
            sabotage: None,
        };
        let hub = || hub().forgetting_every(Duration::ZERO);
        let (writer, handle, reader) = until_unlocked(|| Writer::open(options.clone(), Epoch(1), hub())).await;
        let told = Arc::<Mutex<Vec<_>>>::default();
        let tell = told.clone();
        let perform = move |effect| match effect {
            Effect::Answer(answer, value) => drop(answer.send(value)),
            Effect::Reply(answer, reply) => drop(answer.send(reply)),
            other => {
                match &other {
                    Effect::Publish { topic, payload, .. } | Effect::Restore { topic, payload } => {
                        tell.lock().unwrap().push((topic.clone(), payload.clone()));
                    }
                    Effect::IncarnationKept => {
                        tell.lock().unwrap().push(("(incarnation kept)".into(), Bytes::new()));
                    }
                    _ => {}
                }
                hear(other);
            }
        };
        drop(writer.spawn(Box::new(perform)).unwrap());
        Running { dir, handle, reader, told }
    }

    /// The folder, once nobody holds it any more.
    async fn stop(self) -> TempDir {
        let Running { dir, handle, mut reader, .. } = self;
        handle.stop().await;
        while reader.changed().await {}
        drop((handle, reader));
        read_unlocked(&dir, &mut |_| {}).await;
        dir
    }

    /// Every record of the journal.
    async fn records(dir: &TempDir) -> Vec<Of> {
        let mut records = Vec::new();
        read_unlocked(dir, &mut |chunk| {
            let found = chunk.events().flat_map(|(_, _, event)| &event.records);
            records.extend(found.filter_map(|record| record.of.clone()));
        })
        .await;
        records
    }

    async fn up(&self, site: &str, of: UpOf) {
        self.raw(site, Up { session: 1, of: Some(of) }.encode_to_vec()).await;
    }

    /// Panics if the writer died of it.
    async fn raw(&self, site: &str, payload: Vec<u8>) {
        let publish = InboundPublish {
            who: Arc::new(Identity { client: "c".into(), name: None, kind: None }),
            topic: format!("up/{site}").into(),
            payload: payload.into(),
            properties: Bytes::new(),
            exactly_once: None,
            will: false,
            denied: None,
        };
        let (answer, answered) = oneshot::channel();
        self.handle.submit(Batch { items: vec![Inbound::Publish(publish)], answer }).await.unwrap();
        answered.await.expect("the hub's writer must survive whatever a gateway sends");
    }

    async fn status(&self) -> Value {
        let (answer, answered) = oneshot::channel();
        self.handle.input(Input::Status(answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn applied(&self, site: &str) -> u64 {
        self.status().await["sites"][site]["applied_seq"].as_u64().unwrap()
    }
}

/// A process that another test starts holds our locks between its fork and its exec.
async fn until_unlocked<T>(mut take: impl FnMut() -> Result<T, LedgerError>) -> T {
    loop {
        match take() {
            Ok(taken) => return taken,
            Err(error) => assert!(error.to_string().contains("locked"), "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn read_unlocked(dir: &TempDir, each: &mut dyn FnMut(&proto::chunk::Chunk)) {
    until_unlocked(|| read_stopped(dir.path(), each)).await;
}

/// A gateway that chains what it is given.
struct Site {
    replica: ReplicaId,
    at: Position,
}

impl Site {
    async fn hello(hub: &Running, name: &str) -> Site {
        let replica = ReplicaId { site: name.parse().unwrap(), epoch: Epoch(5) };
        let hello = Hello { protocol: 1, site: name.into(), epoch: 5, journal_to: 1 << 40, ..Hello::default() };
        hub.up(name, UpOf::Hello(Hello { journal_from: 1, ..hello })).await;
        Site { replica, at: Position::default() }
    }

    fn seal(&mut self, records: Vec<Of>) -> Vec<u8> {
        let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
        let event = Event { device: "tablet-1".into(), records, ..Event::default() };
        let body = Body { base_ms: 1_700_000_000_000, events: vec![event], ..Body::default() };
        let sealed = Sealer::default().seal(&self.replica, self.at, &body);
        self.at = sealed.after;
        sealed.bytes
    }

    async fn send(&mut self, hub: &Running, records: Vec<Of>) {
        let chunk = self.seal(records);
        self.send_bytes(hub, chunk).await;
    }

    /// Sealed as it should be, then spoilt.
    fn seal_spoilt(&mut self, records: Vec<Of>, spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut chunk = self.seal(records);
        spoil(&mut chunk);
        chunk
    }

    async fn send_bytes(&self, hub: &Running, chunk: Vec<u8>) {
        let body = Chunks { chunk: vec![chunk.into()] }.encode_to_vec().into();
        hub.up(self.replica.site.as_str(), UpOf::Batch(Chunked { body, ..Chunked::default() })).await;
    }
}

fn write(field: usize, text: &str, ms: u64, seen: Vec<Dot>) -> Of {
    Of::Register(RegisterWrite {
        key: format!("note/04006381333931/anna/f{field}"),
        value: format!("{text:?}").into(),
        stamp: Stamp::at(WallMs(ms)).0,
        seen: Some(VersionVector { entries: seen }),
        ..RegisterWrite::default()
    })
}

/// Forty short notes, older than forty long ones: the winners and the conflicts are far larger than the chunk.
#[tokio::test]
async fn a_small_chunk_that_touches_many_large_registers_is_applied() {
    let hub = Running::open().await;
    let (mut hill, mut harbour) = (Site::hello(&hub, "hill").await, Site::hello(&hub, "harbour").await);
    let long = "x".repeat(4_000);
    for part in 0..8 {
        hill.send(&hub, (0..5).map(|n| write(part * 5 + n, &long, 2_000, vec![])).collect()).await;
    }
    harbour.send(&hub, (0..40).map(|n| write(n, "short", 1_000, vec![])).collect()).await;
    assert_eq!(hub.applied("harbour").await, 40);
    assert_eq!(hub.status().await["conflicts"]["kept"], 40);

    // The same again changes nothing.
    let before = hub.reader.stats().durable;
    harbour.at = Position::default();
    harbour.send(&hub, (0..40).map(|n| write(n, "short", 1_000, vec![])).collect()).await;
    assert_eq!(hub.reader.stats().durable, before);
}

/// zstd skips frames that hold nothing, and the chunk's hash is over its text alone.
#[tokio::test]
async fn a_chunk_that_is_blown_up_is_refused() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let note = Note { kind: "activity".into(), payload: Bytes::from("y".repeat(1_000)) };
    let good = site.seal(vec![Of::Note(note)]);
    let (body_at, hash_at) = (69 + "hill".len(), good.len() - 32);
    let filler = 262_000 - (hash_at - body_at);
    let mut blown = good[..hash_at].to_vec();
    blown.extend_from_slice(&0x184D_2A50u32.to_le_bytes());
    blown.extend_from_slice(&(filler as u32).to_le_bytes());
    blown.resize(blown.len() + filler, 0);
    let stored = (blown.len() - body_at) as u32;
    blown[64..68].copy_from_slice(&stored.to_le_bytes());
    blown.extend_from_slice(&good[hash_at..]);
    assert!(proto::chunk::open(&blown).is_ok(), "the case must be one");

    site.send_bytes(&hub, blown).await;
    assert_eq!(hub.applied("hill").await, 0);
    site.send_bytes(&hub, good).await;
    assert_eq!(hub.applied("hill").await, 1);
}

#[tokio::test]
async fn a_write_cannot_claim_to_have_seen_what_the_hub_has_not() {
    let hub = Running::open().await;
    let (mut hill, mut harbour) = (Site::hello(&hub, "hill").await, Site::hello(&hub, "harbour").await);
    // All of harbour's future, and more replicas than fit into a chunk of the hub once they are joined.
    for part in 0..16u64 {
        let mut seen = vec![Dot { site: "harbour".into(), epoch: 5, seq: u64::MAX }];
        seen.extend((0..1_500).map(|n| Dot { site: format!("s{part}-{n}"), epoch: u64::MAX, seq: u64::MAX }));
        hill.send(&hub, vec![write(0, "hill", 1_000, seen)]).await;
    }
    assert_eq!(hub.applied("hill").await, 16);
    harbour.send(&hub, vec![write(0, "harbour", 2_000, vec![])]).await;
    assert_eq!(hub.status().await["conflicts"]["kept"], 1, "harbour's write counts, as one that hill had not seen");
}

/// A request of 48 KiB may come on top of a group of 16 KiB.
#[tokio::test]
async fn the_largest_chunk_of_a_gateway_is_applied() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let note = Note { kind: "activity".into(), payload: Bytes::from("z".repeat(80 << 10)) };
    site.send(&hub, vec![Of::Note(note)]).await;
    assert_eq!(hub.applied("hill").await, 1);
}

/// What a crash between two groups of one chunk leaves: merged, not applied. It comes again as a repeat.
#[tokio::test]
async fn the_watermark_is_journalled_after_what_the_chunk_did() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let long = "x".repeat(4_000);
    site.send(&hub, (0..20).map(|n| write(n, &long, 2_000, vec![])).collect()).await;
    let records = Running::records(&hub.stop().await).await;
    let order: Vec<bool> = records.iter().map(|of| matches!(of, Of::SiteChunk(_))).collect();
    assert_eq!(order.iter().filter(|site_chunk| **site_chunk).count(), 1);
    assert_eq!(order.last(), Some(&true));
    assert_eq!(Seq(order.len() as u64), Seq(1 + 20 + 1));
}
