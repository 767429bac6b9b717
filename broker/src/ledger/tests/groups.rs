//! Commits of several chunks: all of it or nothing, whatever happens to the file.

use super::faults::{flip, segments};
use super::*;

/// A killed ledger of 400 notes and then one commit of about eight chunks.
struct Large {
    dir: TempDir,
    sent: Vec<String>,
    /// Where the commit begins in the only segment.
    from: usize,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

async fn large() -> Large {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(options(dir.path())).unwrap();
    let sent = noise(1_300);
    for part in sent[..400].chunks(40) {
        ledger.publish("t", part).await;
    }
    let state = ledger.state().await;
    let (before, from) = (ledger.reader.stats(), fs::metadata(&segments(dir.path())[0]).unwrap().len() as usize);
    ledger.publish("t", &sent[400..]).await;
    let after = ledger.reader.stats();
    assert_eq!(after.groups - before.groups, 1, "one sync for all that waited");
    assert!((6..=8).contains(&(after.chunks - before.chunks)), "{after:?}");
    let copy = snapshot(dir.path());
    ledger.stop().await;
    // The state must not know more than the journal either.
    fs::remove_dir_all(copy.path().join("ledger")).unwrap();
    Large { dir: copy, sent, from, state }
}

#[tokio::test]
async fn a_commit_of_several_chunks_is_read_back_from_every_seq() {
    let made = large().await;
    let ledger = Running::open(options(made.dir.path())).unwrap();
    let end = ledger.reader.stats().durable;
    assert_eq!((end.seq, ledger.reader.recovery().lost.len()), (Seq(1_300), 0));
    let mut next = Seq(1);
    while next <= end.seq {
        let chunks = ledger.reader.chunks(next, end.seq, 1).unwrap();
        assert_eq!((chunks.len(), chunks[0].0.first), (1, next), "each alone");
        next = chunks[0].0.last.next();
    }
    let state = ledger.state().await;
    ledger.stop().await;
    assert_eq!(journalled(made.dir.path()), made.sent);
    let again = Running::open(options(made.dir.path())).unwrap();
    assert_eq!(again.state().await, state);
    again.stop().await;
}

#[tokio::test]
async fn a_commit_of_several_chunks_that_was_cut_is_gone_as_a_whole() {
    let made = large().await;
    let file = segments(made.dir.path()).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    for cut in (made.from..whole.len()).step_by(40_007).chain([whole.len() - 1]) {
        let copy = snapshot(made.dir.path());
        fs::write(copy.path().join("journal").join(file.file_name().unwrap()), &whole[..cut]).unwrap();
        let ledger = Running::open(options(copy.path())).unwrap();
        let (stats, recovery) = (ledger.reader.stats(), ledger.reader.recovery().clone());
        assert_eq!((stats.durable.seq, recovery.torn_bytes), (Seq(400), (cut - made.from) as u64));
        assert!(recovery.damaged.is_empty() && recovery.lost.is_empty(), "{recovery:?}");
        assert_eq!(ledger.state().await, made.state);
        ledger.stop().await;
    }
}

#[tokio::test]
async fn damage_in_a_commit_of_several_chunks_names_all_of_it() {
    let made = large().await;
    let ledger = Running::open(options(made.dir.path())).unwrap();
    ledger.publish("t", &["later".to_owned()]).await;
    ledger.stop().await;
    flip(&segments(made.dir.path())[0], made.from + 200_000);
    let ledger = Running::open(options(made.dir.path())).unwrap();
    assert_eq!(ledger.reader.recovery().lost, [(401, 1_300)]);
    ledger.stop().await;
    let left: Vec<String> = made.sent[..400].iter().cloned().chain(["later".to_owned()]).collect();
    assert_eq!(journalled(made.dir.path()), left);
}

#[tokio::test]
async fn a_look_back_sees_chunks_that_are_not_written_yet() {
    let dir = tempfile::tempdir().unwrap();
    let wait = Duration::from_millis(300);
    let ledger = Running::open(Options { commit_wait: wait, ..options(dir.path()) }).unwrap();
    ledger.publish("t", &noise(50)).await;
    let before = ledger.reader.stats();
    let answered = ledger.submit("t", &noise(500)).await;
    let (answer, counted) = oneshot::channel();
    ledger.handle.input(Ask::Count(answer)).await.unwrap();
    assert_eq!((counted.await.unwrap(), answered.await.unwrap().len()), (550, 500));
    let after = ledger.reader.stats();
    assert!(after.groups == before.groups + 1 && after.chunks > before.chunks + 3, "{before:?} {after:?}");
    ledger.stop().await;
}
