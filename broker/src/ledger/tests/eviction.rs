//! A journal that HQ does not take and that is full: what goes, and what it leaves behind.

use proto::wire::LossClass;

use super::*;

/// The notes' kind is their topic, so "activity" and "feedback" are of the two classes that may go.
///
/// Two parts of one class follow each other. With it, where the journal stood after each part.
async fn filled(dir: &Path, journal_bytes_max: u64, parts: usize, part_notes: usize) -> (Running, Vec<Position>) {
    let ledger = Running::open(bounded(dir, journal_bytes_max)).unwrap();
    let mut ends = Vec::new();
    for (n, part) in noise((parts * part_notes) as u64).chunks(part_notes).enumerate() {
        ledger.publish(["activity", "feedback"][n / 2 % 2], part).await;
        ends.push(ledger.reader.stats().durable);
    }
    (ledger, ends)
}

#[tokio::test]
async fn activity_goes_before_scans_and_the_chain_stays_whole() {
    assert!(thinned_out(60, 20).await > 0, "no end of a chunk came to lie inside a remnant");
    thinned_out(8, 150).await;
}

/// How many ends of parts lie inside a remnant.
async fn thinned_out(parts: usize, part_notes: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, ends) = filled(dir.path(), 250_000, parts, part_notes).await;
    ledger.until(|stats| stats.evicted.records > 0 && stats.journal_bytes <= 250_000).await;
    let (end, reader) = (ledger.reader.stats().durable, ledger.reader.clone());
    assert_eq!(end.seq, Seq(1_200));

    // What an uplink would send: from the start to the end, remnants included.
    let (mut next, mut hash, mut gone, mut kinds) = (Seq(1), Default::default(), [0u64; 2], BTreeMap::new());
    while next <= end.seq {
        for (head, bytes) in reader.chunks(next, end.seq, 100_000).unwrap() {
            assert_eq!((head.first, head.previous), (next, hash));
            let chunk = proto::chunk::open(&bytes).unwrap();
            for loss in &chunk.body.losses {
                gone[usize::from(loss.class() == LossClass::Scans)] += loss.records;
            }
            for (_, _, event) in chunk.events() {
                let Some(Of::Note(note)) = &event.records[0].of else { panic!("only notes") };
                *kinds.entry(note.kind.clone()).or_insert(0u64) += 1;
            }
            (next, hash) = (head.last.next(), head.hash);
        }
    }
    assert_eq!(hash, end.hash);
    let left: u64 = kinds.values().sum();
    assert_eq!(left + gone[0] + gone[1], 1_200, "every record is there or accounted for");
    ledger.until(|stats| stats.evicted.records == gone[0] + gone[1]).await;
    assert!(gone[0] > 0 && gone[1] <= gone[0], "{gone:?} {kinds:?}");

    // A hub that had part of a remnant's span is known by it, one that had part of another journal's is not.
    let mut inside = Vec::new();
    for end in &ends {
        assert_eq!(reader.standing(*end).unwrap(), Standing::Ours, "{end:?}");
        for other in [Position { hash: ChainHash([9; 32]), ..*end }, Position { seq: end.seq.next(), ..*end }] {
            assert_eq!(reader.standing(other).unwrap(), Standing::Other, "{other:?}");
        }
        let holder = reader.chunks(end.seq, end.seq, 1).unwrap();
        inside.extend(holder.iter().any(|(head, _)| head.last > end.seq).then_some(end.seq));
    }
    // However little the hub allows: a remnant counts as one.
    for inside in &inside {
        let (head, _) = reader.chunks(inside.next(), inside.next(), 1).unwrap().remove(0);
        assert!(head.remnant && head.first <= *inside && *inside < head.last);
    }
    drop(reader);
    ledger.stop().await;
    let again = Running::open(options(dir.path())).unwrap();
    assert_eq!((again.reader.stats().durable, again.reader.recovery().lost.len()), (end, 0));
    again.stop().await;
    inside.len()
}

#[tokio::test]
async fn when_nothing_is_left_to_go_publishes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Running::open(bounded(dir.path(), 200_000)).unwrap();
    let mut refused = 0;
    for part in noise(4_000).chunks(20) {
        let verdicts = ledger.publish("sale", part).await;
        refused += verdicts.iter().filter(|verdict| verdict.outcome == Outcome::NoRoom).count();
        if refused > 0 {
            break;
        }
    }
    let stats = ledger.reader.stats();
    assert!(refused > 0 && stats.full, "{stats:?}");
    assert!(stats.journal_bytes < 400_000, "{stats:?}");
    // Reads go on, and with HQ's word there is room again.
    ledger.state().await;
    ledger.handle.input(Ask::Applied(stats.durable.seq)).await.unwrap();
    ledger.until(|stats| !stats.full).await;
    assert!(ledger.publish("sale", &payloads("z", 1)).await.iter().all(|v| *v == Verdict::ACCEPTED));
    ledger.stop().await;
}
