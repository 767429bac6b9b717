//! What a bad disk or a bad moment does to the files, and what the next start makes of it.

use super::*;

/// A ledger of 1,600 notes over several segments, stopped or killed, and what it held.
pub(super) struct Made {
    pub(super) dir: TempDir,
    sent: Vec<String>,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(super) async fn made(clean: bool) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(bounded(dir.path(), 1 << 20)).unwrap();
    let sent = noise(1_600);
    for part in sent.chunks(40) {
        ledger.publish("t", part).await;
    }
    let state = ledger.state().await;
    let copy = snapshot(dir.path());
    ledger.stop().await;
    Made { dir: if clean { dir } else { copy }, sent, state }
}

pub(super) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

pub(super) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Opens it, and checks that all that is left is what was sent, in order, but for the spans that it names as lost.
async fn goes_on(made: &Made) -> Vec<(u64, u64)> {
    let ledger = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
    let lost = ledger.reader.recovery().lost.clone();
    assert_eq!(ledger.reader.stats().durable.seq, Seq(made.sent.len() as u64), "no seq is given twice");
    ledger.publish("t", &["afterwards".to_owned()]).await;
    ledger.stop().await;
    let gone = |n: usize| lost.iter().any(|(first, last)| (*first..=*last).contains(&(n as u64 + 1)));
    let mut left: Vec<String> =
        made.sent.iter().enumerate().filter(|(n, _)| !gone(*n)).map(|(_, s)| s.clone()).collect();
    left.push("afterwards".into());
    assert_eq!(journalled(made.dir.path()), left);
    let again = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
    assert_eq!(again.reader.recovery().lost, [], "mended once is mended");
    again.stop().await;
    lost
}

#[tokio::test]
async fn a_flipped_bit_anywhere_costs_the_records_it_hit_and_names_them() {
    for clean in [true, false] {
        let made = made(clean).await;
        let files = segments(made.dir.path());
        assert!(files.len() > 4, "{files:?}");
        flip(&files[1], 30_000);
        flip(&files[3], 50);
        flip(&files[3], 40_000);
        let lost = goes_on(&made).await;
        assert!(lost.len() == 2 && lost.iter().all(|(first, last)| last - first < 80), "clean {clean}: {lost:?}");
        let kept = made.dir.path().join("damaged").join(files[1].file_name().unwrap());
        assert!(kept.exists(), "the damaged copy is kept");
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_or_cut_is_named_too() {
    let made = made(true).await;
    let files = segments(made.dir.path());
    fs::remove_file(&files[2]).unwrap();
    let cut = fs::read(&files[4]).unwrap();
    fs::write(&files[4], &cut[..cut.len() / 2]).unwrap();
    let lost = goes_on(&made).await;
    assert_eq!(lost.len(), 2, "{lost:?}");
}

#[tokio::test]
async fn the_end_that_is_gone_after_a_clean_stop_is_a_loss_and_not_a_torn_commit() {
    let made = made(true).await;
    let newest = segments(made.dir.path()).pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 10]).unwrap();
    let lost = goes_on(&made).await;
    assert_eq!(lost.last().map(|(_, last)| *last), Some(1_600), "{lost:?}");
}

#[tokio::test]
async fn a_commit_that_was_under_way_is_cut_off_at_any_byte() {
    let made = made(false).await;
    let newest = segments(made.dir.path()).pop().unwrap();
    let sound = fs::read(&newest).unwrap();
    let ledger = Running::open(options(made.dir.path())).unwrap();
    ledger.publish("t", &["never acknowledged".to_owned()]).await;
    let torn = fs::read(&newest).unwrap();
    ledger.stop().await;
    assert!(torn.starts_with(&sound));
    for cut in (sound.len()..torn.len()).step_by(7) {
        let copy = snapshot(made.dir.path());
        fs::remove_file(copy.path().join("ledger.closed")).unwrap();
        // The state must not know more than the journal either.
        fs::remove_dir_all(copy.path().join("ledger")).unwrap();
        fs::write(copy.path().join("journal").join(newest.file_name().unwrap()), &torn[..cut]).unwrap();
        let again = Running::open(options(copy.path())).unwrap();
        let (stats, recovery) = (again.reader.stats(), again.reader.recovery().clone());
        assert_eq!((stats.durable.seq, recovery.torn_bytes), (Seq(1_600), (cut - sound.len()) as u64), "cut at {cut}");
        assert!(recovery.damaged.is_empty() && recovery.lost.is_empty(), "{recovery:?}");
        assert_eq!(again.state().await, made.state);
        again.stop().await;
    }
}

#[tokio::test]
async fn a_state_that_is_gone_damaged_or_different_is_made_anew() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("gone", |ledger| fs::remove_dir_all(ledger).unwrap()),
        ("cut", |ledger| fs::write(ledger.join("db"), b"").unwrap()),
        ("conf", |ledger| fs::write(ledger.join("conf"), b"nonsense").unwrap()),
        ("flipped", |ledger| {
            let len = fs::metadata(ledger.join("db")).unwrap().len() as usize;
            (1_000..len).step_by(3_001).for_each(|at| flip(&ledger.join("db"), at));
        }),
    ];
    for (how, spoil) in spoil {
        let made = made(false).await;
        spoil(&made.dir.path().join("ledger"));
        let ledger = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
        assert_eq!(ledger.state().await, made.state, "{how}");
        let recovery = ledger.reader.recovery();
        assert!(recovery.lost.is_empty() && !recovery.state_incomplete, "{how}: {recovery:?}");
        ledger.stop().await;
        assert_eq!(journalled(made.dir.path()), made.sent, "{how}");
    }
}

#[tokio::test]
async fn a_state_whose_journal_was_trimmed_comes_back_from_its_snapshot() {
    let made = made(true).await;
    let small = || keeping(made.dir.path(), 100_000);
    let ledger = Running::open(small()).unwrap();
    ledger.handle.input(Ask::Applied(Seq(1_600))).await.unwrap();
    ledger.until(|stats| stats.first > Seq(1_000)).await;
    ledger.publish("t", &["newer than the snapshot".to_owned()]).await;
    let state = ledger.state().await;
    ledger.stop().await;
    fs::write(made.dir.path().join("ledger/db"), b"").unwrap();
    let ledger = Running::open(small()).unwrap();
    assert_eq!(ledger.state().await, state);
    assert!(!ledger.reader.recovery().state_incomplete);
    ledger.stop().await;

    // Without the snapshot it says that it does not know everything.
    fs::write(made.dir.path().join("ledger/db"), b"").unwrap();
    fs::write(made.dir.path().join("state.snapshot"), b"not one").unwrap();
    let ledger = Running::open(small()).unwrap();
    assert!(ledger.reader.recovery().state_incomplete);
    ledger.stop().await;
}

#[tokio::test]
async fn damage_that_comes_while_it_runs_stops_a_reader_and_is_mended_at_the_next_start() {
    let made = made(true).await;
    let ledger = Running::open(bounded(made.dir.path(), 1 << 20)).unwrap();
    flip(&segments(made.dir.path())[1], 20_000);
    let mut next = Seq(1);
    let error = loop {
        match ledger.reader.chunks(next, Seq(1_600), 10_000) {
            Ok(chunks) => next = chunks.last().expect("the journal goes on").0.last.next(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    ledger.stop().await;
    assert_eq!(goes_on(&made).await.len(), 1);
}

#[tokio::test]
async fn files_of_another_ledger_are_refused() {
    let (made, other) = (made(true).await, tempfile::tempdir().unwrap());
    let (writer, ..) = Writer::open(options(other.path()), Epoch(7), Notes::default()).unwrap();
    drop(writer);
    let strange = segments(other.path()).pop().unwrap();
    fs::copy(strange, made.dir.path().join("journal/00000000000000999999.log")).unwrap();
    let error = Running::open(options(made.dir.path())).err().unwrap();
    assert!(matches!(error, LedgerError::Stranger { .. }), "{error}");
}
