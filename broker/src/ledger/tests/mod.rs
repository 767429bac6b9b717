//! The ledger with a small core of its own: notes are journalled, and counted by sender in the state.

mod attacks;
mod backup;
mod eviction;
mod faults;
mod fork;
mod groups;
mod older;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::chunk::{ChainHash, Position};
use proto::clock::{Clock, Stamp};
use proto::id::{Epoch, Seq, Units};
use proto::remnant::Standing;
use proto::wire::record::Of;
use proto::wire::{CounterTotal, Event, Movement, Note, Record};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::front::{Batch, Identity, Inbound, InboundPublish, Intake, Outcome, Verdict};

/// topic → payload of its last note.
const LAST: Table = Table(9);
/// One cell for each note, so that checkpoints have something to do.
const ALL: Table = Table(10);

#[derive(Default)]
struct Notes {
    clock: Clock,
    moved: i64,
    /// What the last chunk said of it.
    sealed: i64,
    applied: Seq,
}

enum Ask {
    Applied(Seq),
    Read(oneshot::Sender<BTreeMap<Vec<u8>, Vec<u8>>>),
    /// How many events there are, from the newest back.
    Count(oneshot::Sender<usize>),
}

enum Tell {
    State(oneshot::Sender<BTreeMap<Vec<u8>, Vec<u8>>>, BTreeMap<Vec<u8>, Vec<u8>>),
    Counted(oneshot::Sender<usize>, usize),
}

impl Core for Notes {
    type Input = Ask;
    type Effect = Tell;

    fn inbound(&mut self, inbound: Inbound, now: &Now, _: &dyn Read) -> Result<Step<Tell>, LedgerError> {
        let Inbound::Publish(publish) = inbound else { return Ok(Step::nothing()) };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        // What may go moves nothing: its chunk has no total, and nothing is left of it.
        self.moved += i64::from(!matches!(topic.as_str(), "activity" | "feedback"));
        // A movement is what never goes.
        let record = match topic.as_str() {
            "sale" => Of::Movement(Movement {
                reference: String::from_utf8_lossy(&publish.payload).into_owned(),
                ..Movement::default()
            }),
            _ => Of::Note(Note { kind: topic, payload: publish.payload }),
        };
        let record = Record { of: Some(record) };
        let event = Event { records: vec![record], ..Event::default() };
        Ok(Step { events: vec![Draft { stamp: self.clock.stamp(now.reading()), event }], ..Step::nothing() })
    }

    fn input(&mut self, input: Ask, _: &Now, ledger: &dyn Read) -> Result<Step<Tell>, LedgerError> {
        match input {
            Ask::Applied(seq) => {
                self.applied = seq;
                Ok(Step::nothing())
            }
            Ask::Count(answer) => {
                let (mut count, mut below) = (0, ledger.next_seq());
                ledger.events_back(&mut |seq, _, _| {
                    assert!(seq < below, "from the newest back, each once");
                    (count, below) = (count + 1, seq);
                    ControlFlow::Continue(())
                })?;
                Ok(Step { then: vec![Tell::Counted(answer, count)], ..Step::nothing() })
            }
            Ask::Read(answer) => {
                let mut cells = BTreeMap::new();
                for table in [LAST, ALL] {
                    ledger.scan_prefix(table, &[], &mut |key, value| {
                        cells.insert([&[table.0], key].concat(), value.to_vec());
                        ControlFlow::Continue(())
                    })?;
                }
                Ok(Step { then: vec![Tell::State(answer, cells)], ..Step::nothing() })
            }
        }
    }

    fn tick(&mut self, _: &Now, _: &dyn Read) -> Result<Step<Tell>, LedgerError> {
        Ok(Step::nothing())
    }

    fn fold(&mut self, placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
        for (offset, record) in (0..).zip(&placed.event.records) {
            if let Some(Of::Note(note)) = &record.of {
                put(Put::set(LAST, note.kind.as_str(), note.payload.to_vec()));
                put(Put::set(ALL, placed.first.plus(offset).0.to_be_bytes(), note.payload.to_vec()));
            }
        }
    }

    fn fold_total(&mut self, total: &CounterTotal, _: Seq, put: &mut dyn FnMut(Put)) {
        put(Put::set(ALL, b"total".to_vec(), total.units.to_be_bytes()));
    }

    fn seal(&mut self, _: Seq) -> Vec<CounterTotal> {
        if std::mem::replace(&mut self.sealed, self.moved) == self.moved {
            return vec![];
        }
        vec![CounterTotal { gtin: 1, units: self.moved, seq_offset: 0 }]
    }

    fn recovered(&mut self, last: Stamp, _: &Now, ledger: &dyn Read) -> Result<Step<Tell>, LedgerError> {
        self.clock = Clock::resume(last);
        let total = ledger.get(ALL, b"total")?.map_or(0, |bytes| i64::from_be_bytes(bytes.try_into().unwrap()));
        (self.moved, self.sealed) = (Units(total).0, Units(total).0);
        Ok(Step::nothing())
    }

    fn committed(&mut self, _: &Now, _: &dyn Read) -> Result<Vec<Tell>, LedgerError> {
        Ok(Vec::new())
    }

    fn applied(&self) -> Seq {
        self.applied
    }
}

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        site: "harbour".parse().unwrap(),
        limits: LIMITS,
        commit_wait: Duration::ZERO,
        begin_anew: false,
        sabotage: None,
    }
}

const LIMITS: Limits = Limits {
    journal_bytes_max: 1 << 30,
    disk_reserve_bytes: 0,
    backlog_s_max: u64::MAX,
    retain_s: u64::MAX,
    evict: true,
};

/// As `bounded`, but nothing goes that is not applied.
fn keeping(dir: &Path, journal_bytes_max: u64) -> Options {
    Options { limits: Limits { journal_bytes_max, evict: false, ..LIMITS }, ..options(dir) }
}

fn bounded(dir: &Path, journal_bytes_max: u64) -> Options {
    Options { limits: Limits { journal_bytes_max, ..LIMITS }, ..options(dir) }
}

struct Running {
    dir: PathBuf,
    handle: Handle<Notes>,
    reader: Reader,
    stopped: Stopped,
}

impl Running {
    /// Another test's child process holds our lock for a moment between fork and exec.
    fn open(options: Options) -> Result<Running, LedgerError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            match Running::open_now(options.clone()) {
                Err(error) if error.to_string().contains("locked") && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                opened => return opened,
            }
        }
    }

    fn open_now(options: Options) -> Result<Running, LedgerError> {
        let dir = options.dir.clone();
        let (writer, handle, reader) = Writer::open(options, Epoch(42), Notes::default())?;
        let stopped = writer.spawn(Box::new(|tell| match tell {
            Tell::State(answer, cells) => drop(answer.send(cells)),
            Tell::Counted(answer, count) => drop(answer.send(count)),
        }));
        let stopped = stopped.unwrap();
        Ok(Running { dir, handle, reader, stopped })
    }

    async fn publish(&self, topic: &str, payloads: &[String]) -> Vec<Verdict> {
        self.submit(topic, payloads).await.await.unwrap()
    }

    /// Without waiting for the answer.
    async fn submit(&self, topic: &str, payloads: &[String]) -> oneshot::Receiver<Vec<Verdict>> {
        let who = Arc::new(Identity { client: "c".into(), name: None, kind: None });
        let item = |payload: &String| {
            Inbound::Publish(InboundPublish {
                who: who.clone(),
                topic: Bytes::copy_from_slice(topic.as_bytes()),
                payload: Bytes::copy_from_slice(payload.as_bytes()),
                properties: Bytes::new(),
                exactly_once: None,
                will: false,
                denied: None,
            })
        };
        let (answer, answered) = oneshot::channel();
        self.handle.submit(Batch { items: payloads.iter().map(item).collect(), answer }).await.unwrap();
        answered
    }

    async fn state(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.handle.input(Ask::Read(answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn until(&self, holds: impl Fn(&LedgerStats) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(&self.reader.stats()) {
            assert!(Instant::now() < deadline, "{:?}", self.reader.stats());
            self.state().await;
        }
    }

    async fn stop(self) {
        let dir = self.dir;
        self.handle.stop().await;
        self.stopped.await.unwrap().unwrap();
        drop((self.handle, self.reader));
        // The writer's thread lets go of the folder right after it has said that it left.
        let deadline = Instant::now() + Duration::from_secs(10);
        while super::open::lock(&dir).is_err() {
            assert!(Instant::now() < deadline, "{} stays locked", dir.display());
            tokio::task::yield_now().await;
        }
    }
}

fn payloads(of: &str, n: usize) -> Vec<String> {
    (0..n).map(|k| format!("{of} {k} {}", "x".repeat(k % 90))).collect()
}

/// Payloads that do not pack.
fn noise(n: u64) -> Vec<String> {
    let part = |k: u64, part: u8| blake3::hash(&[&k.to_le_bytes()[..], &[part]].concat()).to_hex().to_string();
    (0..n).map(|k| format!("{k} {}", (0..8).map(|p| part(k, p)).collect::<String>())).collect()
}

/// What a kill leaves: the files as they are, copied from under the running writer.
fn snapshot(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn journalled(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    read_stopped(dir, &mut |chunk| {
        for (_, _, event) in chunk.events() {
            for record in &event.records {
                if let Some(Of::Note(note)) = &record.of {
                    found.push(String::from_utf8(note.payload.to_vec()).unwrap());
                }
            }
        }
    })
    .unwrap();
    found
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_clean_stop_and_replays_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    let sent = payloads("a", 700);
    for part in sent.chunks(64) {
        assert!(ledger.publish("t", part).await.iter().all(|verdict| *verdict == Verdict::ACCEPTED));
    }
    let (state, position) = (ledger.state().await, ledger.reader.stats().durable);
    ledger.stop().await;
    assert_eq!(journalled(dir.path()), sent);

    let ledger = Running::open(options(dir.path())).unwrap();
    let stats = ledger.reader.stats();
    assert_eq!((stats.durable, stats.folded, stats.dirty_cells), (position, Seq(700), 0));
    assert_eq!(ledger.state().await, state);
    ledger.stop().await;
}

#[tokio::test]
async fn a_kill_at_any_commit_keeps_what_was_answered_and_folds_to_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    let sent = payloads("b", 9_000);
    let mut answered = 0;
    for (n, part) in sent.chunks(60).enumerate() {
        ledger.publish(&format!("t{}", n % 5), part).await;
        answered += part.len();
        if n % 25 != 24 {
            continue;
        }
        let state = ledger.state().await;
        let copy = snapshot(dir.path());
        let again = Running::open(options(copy.path())).unwrap();
        assert_eq!(again.reader.stats().durable.seq, Seq(answered as u64), "after {answered}");
        assert_eq!(again.state().await, state, "after {answered}");
        again.stop().await;
        assert_eq!(journalled(copy.path()), sent[..answered]);
    }
    ledger.until(|stats| stats.folded > Seq::ZERO).await;
    ledger.stop().await;
}

#[tokio::test]
async fn only_what_is_applied_is_trimmed_and_the_newest_chunk_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(bounded(dir.path(), 400_000)).unwrap();
    for part in noise(1_600).chunks(40) {
        ledger.publish("t", part).await;
    }
    let before = ledger.reader.stats();
    assert_eq!(before.first, Seq(1), "nothing is applied, so nothing may go");
    ledger.stop().await;

    // Now HQ says that it has most of it.
    let ledger = Running::open(keeping(dir.path(), 1_000)).unwrap();
    ledger.handle.input(Ask::Applied(Seq(1_200))).await.unwrap();
    // It was full; trimming makes room by itself.
    ledger.until(|stats| stats.first > Seq(900)).await;
    let after = ledger.reader.stats();
    assert!(after.first <= Seq(1_201), "{after:?}");
    assert_eq!(ledger.reader.beginning().unwrap().seq.next(), after.first);
    assert!(dir.path().join("state.snapshot").exists(), "what only the state remembers is kept twice");
    ledger.stop().await;
    let ledger = Running::open(options(dir.path())).unwrap();
    assert_eq!(ledger.reader.stats().durable.seq, after.durable.seq);
    ledger.stop().await;
}

#[tokio::test]
async fn without_room_nothing_is_recorded_and_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let ledger =
        Running::open(Options { limits: Limits { disk_reserve_bytes: u64::MAX, ..LIMITS }, ..options(dir.path()) })
            .unwrap();
    let verdicts = ledger.publish("t", &payloads("e", 3)).await;
    assert_eq!(verdicts, vec![Verdict::refused(Outcome::NoRoom); 3]);
    assert_eq!(ledger.reader.stats().durable.seq, Seq::ZERO);
    ledger.stop().await;
}

#[tokio::test]
async fn a_commit_that_waits_takes_along_what_comes_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let wait = Duration::from_millis(300);
    let ledger = Running::open(Options { commit_wait: wait, ..options(dir.path()) }).unwrap();
    let began = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..20 {
        let handle = ledger.handle.clone();
        all.spawn(async move {
            let who = Arc::new(Identity { client: "c".into(), name: None, kind: None });
            let payload = Bytes::from(format!("w{n}"));
            let publish = InboundPublish {
                who,
                topic: Bytes::from("t"),
                payload,
                properties: Bytes::new(),
                exactly_once: None,
                will: false,
                denied: None,
            };
            let (answer, answered) = oneshot::channel();
            handle.submit(Batch { items: vec![Inbound::Publish(publish)], answer }).await.unwrap();
            answered.await.unwrap()
        });
    }
    while let Some(verdicts) = all.join_next().await {
        assert_eq!(verdicts.unwrap(), [Verdict::ACCEPTED]);
    }
    assert!(began.elapsed() >= wait, "the first of them waited for the others");
    assert_eq!((ledger.reader.stats().records, ledger.reader.stats().groups), (20, 1));
    ledger.stop().await;
}

#[tokio::test]
async fn chunks_read_back_as_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    for part in payloads("f", 900).chunks(50) {
        ledger.publish("t", part).await;
    }
    let reader = ledger.reader.clone();
    let end = reader.stats().durable;
    let (mut next, mut hash, mut taken) = (Seq(1), Default::default(), 0);
    while next <= end.seq {
        let chunks = reader.chunks(next, end.seq, 4_000).unwrap();
        assert!(!chunks.is_empty());
        for (head, _) in chunks {
            assert_eq!((head.first, head.previous), (next, hash));
            assert!(head.records() <= 1024 + 64);
            (next, hash, taken) = (head.last.next(), head.hash, taken + 1);
        }
    }
    assert_eq!(hash, end.hash);
    assert!(taken > 1);
    assert_eq!(reader.standing(end).unwrap(), Standing::Ours);
    assert_eq!(reader.standing(Position { seq: end.seq.next(), ..end }).unwrap(), Standing::Other);
    assert!(reader.chunks(Seq(2), end.seq, 4_000).unwrap().is_empty(), "no chunk begins inside another");
    drop(reader);
    ledger.stop().await;
}

#[tokio::test]
async fn refuses_to_open_what_is_not_its_own_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    ledger.publish("t", &payloads("g", 5)).await;
    let busy = Running::open_now(options(dir.path())).err().map(|error| error.to_string()).unwrap();
    assert!(busy.contains("another process has it open"), "{busy}");
    ledger.stop().await;

    let other = Options { site: "hill".parse().unwrap(), ..options(dir.path()) };
    assert!(matches!(Running::open(other), Err(LedgerError::OtherSite { .. })));

    for part in ["ledger", "journal"] {
        fs::remove_dir_all(dir.path().join(part)).unwrap();
    }
    assert!(matches!(Running::open(options(dir.path())), Err(LedgerError::OpenedEmpty(_))));
}

#[tokio::test]
async fn a_journal_past_its_bound_folds_and_trims_without_a_quiet_hour() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(bounded(dir.path(), 400_000)).unwrap();
    let mut sent = 0;
    // Far fewer cells than a checkpoint waits for, and never quiet; HQ keeps up.
    for part in noise(6_000).chunks(30) {
        let verdicts = ledger.publish("t", part).await;
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::ACCEPTED), "after {sent}");
        sent += part.len() as u64;
        ledger.handle.input(Ask::Applied(Seq(sent))).await.unwrap();
    }
    ledger.until(|stats| stats.first > Seq(1) && stats.journal_bytes < 500_000).await;
    ledger.stop().await;
}
