//! Sequences of damage and crashes that an attack on the ledger found, frame by frame.

use proto::chunk::{Position, Sealer};
use proto::id::ReplicaId;
use proto::wire::{self, Body};

use super::*;
use crate::ledger::log::{self, Appender, Commit, End, Log, Opening};
use crate::ledger::store::{Store, database_dir};

fn replica() -> ReplicaId {
    ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(42) }
}

/// A log under test, without a writer.
struct Bare {
    dir: TempDir,
    at: Position,
}

struct OpenLog {
    log: Log,
    appender: Appender,
    lost: Vec<(u64, u64)>,
    damaged: usize,
}

impl Bare {
    fn new() -> Bare {
        Bare { dir: tempfile::tempdir().unwrap(), at: Position::default() }
    }

    fn open(&self, clean: bool, end_frame: u64, segment_bytes: u64) -> OpenLog {
        let (journal, aside) = (self.dir.path().join("journal"), self.dir.path().join("damaged"));
        let position = if end_frame > 0 { self.at } else { Position::default() };
        let end = End { frame: end_frame, position };
        let opening = Opening { dir: &journal, aside: &aside, segment_bytes, clean, end };
        let (log, appender, found) = log::open(&opening, &replica()).unwrap();
        let lost = found.lost.iter().map(|lost| (lost.first.0, lost.last.0)).collect();
        OpenLog { log, appender, lost, damaged: found.damaged.len() }
    }

    fn chunk(&mut self, text: &str) -> Commit {
        let note = Note { kind: "t".into(), payload: text.to_owned().into() };
        let event = Event { records: vec![Record { of: Some(Of::Note(note)) }], ..Event::default() };
        let sealed = Sealer::default().seal(&replica(), self.at, &Body { events: vec![event], ..Body::default() });
        let before = std::mem::replace(&mut self.at, sealed.after);
        Commit { chunks: vec![(before, sealed.after, sealed.bytes)], powered_on_s: 1, ..Commit::default() }
    }

    fn spoil(&self, text: &[u8]) {
        let path = segments(self.dir.path()).pop().unwrap();
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
        super::faults::flip(&path, at);
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    super::faults::segments(dir)
}

fn puts(value: &[u8]) -> Commit {
    Commit { puts: vec![Put::set(LAST, "k", value.to_vec())], powered_on_s: 1, ..Commit::default() }
}

fn numbers(log: &Log) -> Vec<u64> {
    let mut numbers = Vec::new();
    log.frames_after(0, &mut |number, _, _| {
        numbers.push(number);
        Ok(())
    })
    .unwrap();
    numbers
}

#[test]
fn a_gap_between_puts_is_mended_once() {
    let mut bare = Bare::new();
    let mut open = bare.open(true, 0, 1 << 20);
    for commit in [bare.chunk("one"), bare.chunk("LOST"), puts(b"p"), bare.chunk("three")] {
        open.appender.append(commit).unwrap();
    }
    bare.spoil(b"LOST");
    assert_eq!(bare.open(true, 4, 1 << 20).lost, [(2, 2)]);
    let again = bare.open(true, 4, 1 << 20);
    assert_eq!((again.lost.len(), again.damaged), (0, 0));
    assert_eq!(numbers(&again.log), [1, 3, 3, 4], "the remnant stands beside the puts whose number it had to take");
}

#[test]
fn no_number_is_given_twice_or_below_a_segments_name() {
    let mut bare = Bare::new();
    let mut open = bare.open(true, 0, 1 << 20);
    open.appender.append(bare.chunk("one")).unwrap();
    open.appender.append(puts(b"PUTS")).unwrap();
    bare.spoil(b"PUTS");
    let mut open = bare.open(true, 2, 1 << 20);
    assert_eq!(open.appender.append(bare.chunk("two")).unwrap(), 3, "the state holds frame 2 already");

    // A segment that was just begun, and the one before it lost its end.
    let mut bare = Bare::new();
    let mut open = bare.open(true, 0, 200);
    for n in 0..5 {
        open.appender.append(bare.chunk(&format!("note {n}"))).unwrap();
    }
    let files = segments(bare.dir.path());
    let header = fs::read(&files[4]).unwrap()[..192].to_vec();
    fs::write(&files[4], header).unwrap();
    let cut = fs::read(&files[3]).unwrap();
    fs::write(&files[3], &cut[..cut.len() - 5]).unwrap();
    let mut open = bare.open(false, 0, 1 << 20);
    assert!(open.appender.append(puts(b"x")).unwrap() >= 5);
    assert_eq!(bare.open(false, 0, 1 << 20).lost, [], "mended once is mended");
}

#[test]
fn what_a_device_sends_is_never_taken_for_a_frame() {
    let body = wire::Frame { chunks: vec![], puts: vec![wire::Cell { table: 9, ..Default::default() }] };
    let other = ReplicaId { epoch: Epoch(41), ..replica() };
    let forged = log::forged_frame(&other, u64::MAX - 1, &body);
    let mut bare = Bare::new();
    bare.open(true, 0, 1 << 20).appender.append(bare.chunk("one")).unwrap();
    let path = segments(bare.dir.path()).pop().unwrap();
    let sound = fs::metadata(&path).unwrap().len() as usize;
    bare.open(true, 0, 1 << 20).appender.append(puts(&forged)).unwrap();
    // A cut in that commit: its first bytes never reached the disk, what follows did.
    let mut bytes = fs::read(&path).unwrap();
    bytes[sound..sound + 32].fill(0);
    fs::write(&path, bytes).unwrap();
    let open = bare.open(false, 0, 1 << 20);
    assert_eq!((numbers(&open.log), open.appender.next()), (vec![1], 2));
}

#[test]
fn a_log_of_puts_alone_knows_where_the_journal_stands() {
    let mut bare = Bare::new();
    let mut open = bare.open(true, 0, 2_000);
    for n in 0..50 {
        open.appender.append(bare.chunk(&format!("note {n}"))).unwrap();
    }
    while open.log.sealed().iter().filter(|segment| segment.after.seq == Seq(50)).count() < 4 {
        open.appender.append(puts(&[7; 500])).unwrap();
    }
    while open.log.sealed().len() > 1 {
        open.log.drop_oldest(open.log.sealed()[0].first).unwrap();
    }
    let end = open.appender.next() - 1;
    drop(open);
    let open = bare.open(true, end, 2_000);
    assert_eq!((open.lost, open.log.ends().0.seq), (vec![], Seq(50)));
}

#[tokio::test]
async fn the_first_record_has_a_name_when_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    for n in 0..20 {
        ledger.publish("t", &[format!("NUMBER{n:02}")]).await;
    }
    ledger.stop().await;
    let path = segments(dir.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"NUMBER00").unwrap();
    super::faults::flip(&path, at);
    let ledger = Running::open(options(dir.path())).unwrap();
    assert_eq!(ledger.reader.recovery().lost, [(1, 1)]);
    assert_eq!(ledger.reader.beginning().unwrap(), Position::default());
    ledger.stop().await;
}

/// A state of which only the snapshot knows the beginning, and the ledger's folder.
async fn trimmed() -> (TempDir, BTreeMap<Vec<u8>, Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(keeping(dir.path(), 100_000)).unwrap();
    for part in noise(1_600).chunks(40) {
        let verdicts = ledger.publish("t", part).await;
        let done = ledger.reader.stats().durable.seq;
        ledger.handle.input(Ask::Applied(done)).await.unwrap();
        assert_eq!(verdicts[0], Verdict::ACCEPTED);
    }
    ledger.until(|stats| stats.first > Seq(1_000)).await;
    let state = ledger.state().await;
    ledger.stop().await;
    (dir, state)
}

#[tokio::test]
async fn a_remake_that_was_interrupted_is_begun_again() {
    for marked in [true, false] {
        let (dir, state) = trimmed().await;
        // Killed when the new database had been made and nothing was in it yet, with and without its mark.
        fs::remove_dir_all(database_dir(dir.path())).unwrap();
        let (place, mark) = match marked {
            true => (dir.path().join("ledger.remaking"), Some(dir.path().join("state.damaged"))),
            false => (database_dir(dir.path()), None),
        };
        drop(Store::create(&place, &replica()).unwrap());
        mark.into_iter().for_each(|mark| fs::write(mark, b"").unwrap());
        let ledger = Running::open(keeping(dir.path(), 100_000)).unwrap();
        assert_eq!(ledger.state().await, state, "marked {marked}");
        assert!(!ledger.reader.recovery().state_incomplete);
        ledger.stop().await;
        assert!(!dir.path().join("state.damaged").exists() && !dir.path().join("ledger.remaking").exists());
    }
}

#[tokio::test]
async fn a_note_of_the_last_stop_that_was_changed_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    ledger.publish("t", &payloads("n", 20)).await;
    ledger.stop().await;
    let path = dir.path().join("ledger.closed");
    let changed = fs::read_to_string(&path).unwrap().replace("\"seq\":20", "\"seq\":60");
    fs::write(&path, changed).unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    assert_eq!((ledger.reader.recovery().lost.len(), ledger.reader.stats().durable.seq), (0, Seq(20)));
    ledger.stop().await;
}

#[tokio::test]
async fn no_room_for_a_snapshot_is_no_end() {
    let dir = tempfile::tempdir().unwrap();
    // Stands in for a full disk: the file cannot be made.
    fs::create_dir(dir.path().join("state.unfinished")).unwrap();
    let ledger = Running::open(keeping(dir.path(), 100_000)).unwrap();
    for part in noise(600).chunks(40) {
        ledger.publish("t", part).await;
        ledger.handle.input(Ask::Applied(ledger.reader.stats().durable.seq)).await.unwrap();
    }
    ledger.until(|stats| stats.folded > Seq(100) || stats.full).await;
    ledger.state().await;
    assert!(!dir.path().join("state.damaged").exists());
    ledger.stop().await;
}

#[tokio::test]
async fn damage_that_compaction_finds_after_a_clean_stop_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    ledger.publish("t", &payloads("k", 50)).await;
    let state = ledger.state().await;
    ledger.stop().await;
    {
        let db = sled::Config::new().path(database_dir(dir.path())).segment_size(8 << 20).open().unwrap();
        let tree = db.open_tree("state").unwrap();
        for n in 0..20_000u32 {
            tree.insert([&[77][..], &n.to_be_bytes()].concat(), vec![7u8; 2_000]).unwrap();
        }
        db.flush().unwrap();
    }
    let ledger = Running::open(options(dir.path())).unwrap();
    assert_eq!(ledger.state().await, state);
    assert!(ledger.reader.recovery().state_remade.is_some(), "{:?}", ledger.reader.recovery());
    ledger.stop().await;
}

/// A file where the folder for damaged ones goes is as good as a full disk: nothing can be written anew.
#[test]
fn a_segment_that_is_used_as_it_is_reads_as_the_mended_one() {
    let mut bare = Bare::new();
    let mut open = bare.open(true, 0, 1 << 20);
    for (n, text) in noise(300).iter().enumerate() {
        open.appender.append(bare.chunk(text)).unwrap();
        open.appender.append(puts(format!("put {n}").as_bytes())).unwrap();
    }
    drop(open);
    let path = segments(bare.dir.path()).pop().unwrap();
    let bytes = fs::metadata(&path).unwrap().len() as usize;
    for at in [250, bytes / 9, bytes / 9 + 200, bytes / 3, bytes / 3 + 900, bytes / 2, bytes - 300, bytes - 5] {
        super::faults::flip(&path, at);
    }
    let read = |log: &Log| {
        let mut frames = Vec::new();
        log.frames_after(0, &mut |_, chunks, puts| {
            frames.push((chunks.into_iter().map(|stored| (stored.head, stored.bytes)).collect::<Vec<_>>(), puts));
            Ok(())
        })
        .unwrap();
        let of = |stored: Result<log::Stored, LedgerError>| stored.unwrap().head.first;
        let back: Vec<Seq> = log.chunks_back().map(of).collect();
        let from: Vec<Vec<Seq>> = (1..=300).map(|n| log.chunks_from(Seq(n)).map(of).take(3).collect()).collect();
        (frames, back, from, log.ends(), log.extent().chunks)
    };
    for end_frame in [0, 600] {
        let damaged = fs::read(&path).unwrap();
        let aside = bare.dir.path().join("damaged");
        fs::write(&aside, "no folder can be made here").unwrap();
        let as_it_is = bare.open(true, end_frame, 1 << 20);
        let found = read(&as_it_is.log);
        assert_eq!(fs::read(&path).unwrap(), damaged, "not a byte is changed");
        fs::remove_file(&aside).unwrap();
        let mended = bare.open(true, end_frame, 1 << 20);
        assert_eq!(found, read(&mended.log), "end {end_frame}");
        assert_eq!(as_it_is.lost, mended.lost);
        assert_ne!(fs::read(&path).unwrap(), damaged);
        fs::write(&path, damaged).unwrap();
        fs::remove_dir_all(&aside).unwrap();
    }
}
