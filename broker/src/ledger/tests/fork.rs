//! Setting a ledger apart: wherever that is cut off, the next start has the old ledger or a new one with the fork.

use super::faults::{made, segments};
use super::*;
use crate::ledger::{discard_fork, forks_wait, has_fork, next_fork, open_fork, set_apart};

/// What an interrupted move may have come to, in its order.
const STEPS: [fn(&Path); 8] = [
    |_| {},
    |dir| fs::create_dir_all(dir.join("fork")).unwrap(),
    |dir| fs::rename(dir.join("journal"), dir.join("fork/journal")).unwrap(),
    |dir| fs::rename(dir.join("ledger"), dir.join("fork/ledger")).unwrap(),
    |dir| fs::rename(dir.join("ledger.closed"), dir.join("fork/ledger.closed")).unwrap(),
    |dir| fs::remove_file(dir.join("ledger.created")).unwrap(),
    |dir| drop(fs::remove_dir_all(dir.join("ledger.remaking"))),
    |dir| fs::rename(dir.join("fork.begun"), dir.join("fork/why")).unwrap(),
];

fn all_of_fork(dir: &Path) -> Vec<u64> {
    let fork = open_fork(dir).unwrap().expect("there is one");
    assert_eq!(fork.why, "a reason");
    let (mut at, mut seqs) = (Seq::ZERO, Vec::new());
    loop {
        let chunks = fork.reader.chunks_after(at, 10_000).unwrap();
        let Some((last, _)) = chunks.last() else { return seqs };
        at = last.last;
        seqs.extend(chunks.iter().flat_map(|(head, _)| head.first.0..=head.last.0));
    }
}

#[tokio::test]
async fn a_crash_leaves_the_old_ledger_or_a_new_one_with_the_fork() {
    let made = made(true).await;
    for reached in 0..=STEPS.len() {
        let copy = snapshot(made.dir.path());
        let dir = copy.path();
        if reached > 0 {
            fs::write(dir.join("fork.begun"), "a reason").unwrap();
        }
        STEPS[..reached].iter().for_each(|step| step(dir));
        assert_eq!(has_fork(dir), reached > 0);
        let ledger = Running::open(options(dir)).unwrap();
        let durable = ledger.reader.stats().durable.seq;
        ledger.stop().await;
        match reached {
            0 => assert_eq!(durable, Seq(1_600)),
            _ => {
                assert_eq!(durable, Seq::ZERO, "after {reached} steps");
                assert_eq!(all_of_fork(dir), (1..=1_600).collect::<Vec<_>>(), "after {reached} steps");
                discard_fork(dir).unwrap();
                assert!(!has_fork(dir) && open_fork(dir).unwrap().is_none());
                assert!(!segments(dir).is_empty(), "the new one stays as it is");
            }
        }
    }
}

#[tokio::test]
async fn a_ledger_in_use_is_not_set_apart() {
    let made = made(true).await;
    let ledger = Running::open(options(made.dir.path())).unwrap();
    assert!(set_apart(made.dir.path(), "a reason").is_err());
    ledger.stop().await;
    set_apart(made.dir.path(), "a reason").unwrap();
    assert_eq!(all_of_fork(made.dir.path()).len(), 1_600);
}

/// A ledger that was taking over is set apart itself: the newest first, and each once.
#[tokio::test]
async fn a_fork_waits_behind_the_ledger_that_was_taking_it_over() {
    let made = made(true).await;
    let dir = made.dir.path();
    let all: Vec<u64> = (1..=1_600).collect();
    set_apart(dir, "a reason").unwrap();
    let ledger = Running::open(options(dir)).unwrap();
    ledger.publish("t", &payloads("z", 3)).await;
    ledger.stop().await;

    // Cut off in between, that ledger goes on with its fork.
    let copy = snapshot(dir);
    fs::rename(copy.path().join("fork"), copy.path().join("fork.waiting.1")).unwrap();
    next_fork(copy.path()).unwrap();
    assert_eq!(all_of_fork(copy.path()), all);
    let ledger = Running::open(options(copy.path())).unwrap();
    assert_eq!(ledger.reader.stats().durable.seq, Seq(3));
    ledger.stop().await;

    set_apart(dir, "again").unwrap();
    next_fork(dir).unwrap();
    assert!(forks_wait(dir), "one at a time");
    let newest = open_fork(dir).unwrap().expect("there is one");
    assert_eq!((newest.why.as_str(), newest.reader.stats().durable.seq), ("again", Seq(3)));
    drop(newest);
    discard_fork(dir).unwrap();
    next_fork(dir).unwrap();
    assert!(!forks_wait(dir));
    assert_eq!(all_of_fork(dir), all);

    // There is an end to it, and it changes nothing.
    Running::open(options(dir)).unwrap().stop().await;
    fs::create_dir(dir.join("fork.waiting.9")).unwrap();
    assert!(set_apart(dir, "once more").is_err());
    assert_eq!(all_of_fork(dir), all);
}

/// A ledger that was taking over loses its own state: it must not take anything twice.
#[tokio::test]
async fn a_state_that_is_gone_begins_a_new_ledger_and_keeps_what_was_not_taken_over() {
    for (begin_anew, had_fork) in [(true, false), (true, true), (false, true), (false, false)] {
        let made = made(true).await;
        let dir = made.dir.path();
        fs::remove_file(&segments(dir)[0]).unwrap();
        fs::write(dir.join("ledger/db"), b"").unwrap();
        if had_fork {
            fs::create_dir_all(dir.join("fork/journal")).unwrap();
        }
        let ledger = Running::open(Options { begin_anew, ..options(dir) }).unwrap();
        let (recovery, durable) = (ledger.reader.recovery().clone(), ledger.reader.stats().durable.seq);
        ledger.stop().await;
        assert_eq!((recovery.set_apart.is_some(), recovery.state_incomplete), (begin_anew, !begin_anew));
        assert_eq!(durable, if begin_anew { Seq::ZERO } else { Seq(1_600) });
        assert_eq!(dir.join("fork.unfinished.1").exists(), had_fork);
        assert_eq!(has_fork(dir), begin_anew, "the newest one is taken over");
    }
}
