//! Ledgers of other formats, and databases that were interrupted while they were compacted.

use proto::chunk::{Position, Sealer};
use proto::id::ReplicaId;
use proto::wire::Body;

use super::*;
use crate::ledger::store::{Folded, Pace, Store, database_dir};

/// A ledger as format 1 wrote it: everything in sled, a chunk under its first seq, folded up to a seq.
fn write_format_1(dir: &Path, payloads: &[String], folded: usize) {
    let database = database_dir(dir);
    let db = sled::Config::new().path(&database).segment_size(8 << 20).open().unwrap();
    let (journal, state) = (db.open_tree("journal").unwrap(), db.open_tree("state").unwrap());
    let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(42) };
    let (mut sealer, mut at) = (Sealer::default(), Position::default());
    for (n, payload) in payloads.iter().enumerate() {
        let note = Note { kind: "t".into(), payload: payload.clone().into() };
        let event = Event { records: vec![Record { of: Some(Of::Note(note)) }], ..Event::default() };
        let totals = vec![CounterTotal { gtin: 1, units: n as i64 + 1, seq_offset: 0 }];
        let sealed = sealer.seal(&replica, at, &Body { events: vec![event], totals, ..Body::default() });
        journal.insert((n as u64 + 1).to_be_bytes(), sealed.bytes).unwrap();
        at = sealed.after;
        if n < folded {
            let cell = [&[ALL.0][..], &(n as u64 + 1).to_be_bytes()].concat();
            state.insert(cell, payload.as_bytes()).unwrap();
            state.insert([&[LAST.0][..], b"t"].concat(), payload.as_bytes()).unwrap();
            state.insert([&[ALL.0][..], b"total"].concat(), &(n as i64 + 1).to_be_bytes()).unwrap();
        }
    }
    let own = |key: &str| [&[0][..], key.as_bytes()].concat();
    state.insert(own("site"), "harbour").unwrap();
    state.insert(own("epoch"), &42u64.to_be_bytes()).unwrap();
    state.insert(own("folded"), &(folded as u64).to_be_bytes()).unwrap();
    state.insert(own("format"), &1u64.to_be_bytes()).unwrap();
    db.flush().unwrap();
    fs::write(dir.join("ledger.created"), "harbour#000000000000002a\n").unwrap();
}

#[tokio::test]
async fn format_1_is_migrated_also_when_that_was_interrupted() {
    for interrupted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let sent = payloads("old", 300);
        write_format_1(dir.path(), &sent, 200);
        if interrupted {
            // Half a journal beside: it had not got its name yet.
            fs::create_dir(dir.path().join("journal.migrating")).unwrap();
            fs::write(dir.path().join("journal.migrating/00000000000000000001.log"), b"half").unwrap();
        }
        let ledger = Running::open(options(dir.path())).unwrap();
        assert_eq!(ledger.reader.recovery().migrated_from, Some(1));
        assert_eq!(ledger.reader.recovery().replayed_records, 100, "what was not folded then is folded now");
        assert_eq!(ledger.reader.stats().durable.seq, Seq(300));
        let state = ledger.state().await;
        assert_eq!(state.len(), 302, "each note, the last one, the total");
        ledger.publish("t", &payloads("new", 3)).await;
        ledger.stop().await;
        let all: Vec<String> = sent.into_iter().chain(payloads("new", 3)).collect();
        assert_eq!(journalled(dir.path()), all);
        let again = Running::open(options(dir.path())).unwrap();
        assert_eq!(again.reader.recovery().migrated_from, None);
        again.stop().await;
    }
}

/// Turns a stopped ledger into one that format 2 wrote: it differs in what it says of itself, and never has more than
/// one chunk in a commit.
fn as_format_2_wrote_it(dir: &Path) {
    for path in faults::segments(dir) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 2;
        let sum = *blake3::hash(&bytes[..160]).as_bytes();
        bytes[160..192].copy_from_slice(&sum);
        fs::write(&path, bytes).unwrap();
    }
    let db = sled::Config::new().path(database_dir(dir)).segment_size(8 << 20).open().unwrap();
    db.open_tree("state").unwrap().insert([&[0][..], b"format"].concat(), &2u64.to_be_bytes()).unwrap();
    db.flush().unwrap();
}

fn headers(dir: &Path) -> Vec<u8> {
    faults::segments(dir).iter().map(|path| fs::read(path).unwrap()[8]).collect()
}

#[tokio::test]
async fn format_2_goes_on_in_a_segment_that_it_would_not_read() {
    for clean in [true, false] {
        let made = faults::made(clean).await;
        as_format_2_wrote_it(made.dir.path());
        let before = headers(made.dir.path());
        let ledger = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
        assert_eq!(ledger.reader.recovery().migrated_from, Some(2));
        assert_eq!(ledger.reader.stats().durable.seq, Seq(1_600));
        ledger.publish("t", &payloads("new", 3)).await;
        ledger.stop().await;
        let after = headers(made.dir.path());
        assert!(before.iter().all(|format| *format == 2) && after.ends_with(&[3]), "clean {clean}: {after:?}");
        let written: Vec<String> = journalled(made.dir.path());
        assert_eq!(written.len(), 1_603);
        assert!(written.ends_with(&payloads("new", 3)));
        let again = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
        assert_eq!(again.reader.recovery().migrated_from, None);
        again.stop().await;
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    ledger.stop().await;
    let path = dir.path().join("journal/00000000000000000001.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 4;
    let sum = *blake3::hash(&bytes[..160]).as_bytes();
    bytes[160..192].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    let error = Running::open(options(dir.path())).err().unwrap();
    assert!(matches!(error, LedgerError::Format(4)) && error.to_string().contains("newer tillsync"), "{error}");
}

fn cells(n: u64, value: Option<&[u8]>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    (0..n).map(|k| (k.to_be_bytes().to_vec(), value.map(<[u8]>::to_vec))).collect()
}

#[tokio::test]
async fn a_large_mostly_empty_database_is_compacted_whatever_interrupts_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    ledger.publish("t", &payloads("k", 50)).await;
    let state = ledger.state().await;
    ledger.stop().await;
    // Weeks of ids that came and went.
    let store = Store::open(&database_dir(dir.path())).unwrap();
    let folded: Folded = store.folded();
    for value in [Some(&[7u8; 2_000][..]), None] {
        for part in cells(20_000, value).chunks(250) {
            let cells = part.iter().map(|(key, value)| (Table(77), key.as_slice(), value.as_deref()));
            store.checkpoint(cells, folded, Pace::Hurried).unwrap();
        }
    }
    let large = store.disk_bytes();
    assert!(large > 32 << 20, "{large}");
    drop(store);

    // The three moments at which a cut matters: before the new one has its name, after, and between two names.
    let (half, whole, between) = (snapshot(dir.path()), snapshot(dir.path()), snapshot(dir.path()));
    fs::create_dir(half.path().join("ledger.compacting")).unwrap();
    fs::write(half.path().join("ledger.compacting/db"), b"half").unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    let (before, after) = ledger.reader.recovery().compacted.unwrap();
    assert!(after * 3 < before, "{before} {after}");
    assert_eq!(ledger.state().await, state);
    ledger.stop().await;
    copy_dir(&database_dir(dir.path()), &whole.path().join("ledger.compacted"));
    copy_dir(&database_dir(dir.path()), &between.path().join("ledger.compacted"));
    fs::rename(database_dir(between.path()), between.path().join("ledger.old")).unwrap();
    for interrupted in [half, whole, between] {
        let again = Running::open(options(interrupted.path())).unwrap();
        assert_eq!(again.state().await, state);
        assert!(again.reader.stats().state_bytes < large / 3);
        again.stop().await;
        for left in ["ledger.compacting", "ledger.compacted", "ledger.old"] {
            assert!(!interrupted.path().join(left).exists(), "{left}");
        }
    }
}
