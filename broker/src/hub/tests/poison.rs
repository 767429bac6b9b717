//! What cannot be read is asked for again, then set aside, and what follows is applied.

use proto::wire::{Movement, SetAside};

use super::*;

fn activity(text: &str) -> Of {
    Of::Note(Note { kind: "activity".into(), payload: Bytes::copy_from_slice(text.as_bytes()) })
}

fn set_aside(records: &[Of]) -> Vec<&SetAside> {
    records.iter().filter_map(|of| if let Of::SetAside(aside) = of { Some(aside) } else { None }).collect()
}

fn one_batch(chunks: &[&[u8]]) -> Chunked {
    let chunk = chunks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
    Chunked { body: Chunks { chunk }.encode_to_vec().into(), ..Chunked::default() }
}

type Spoil = fn(&mut Vec<u8>);

/// Ways to spoil a chunk whose head stays readable, and the code that it is kept under.
const SPOILT: [(&str, Spoil); 2] = [
    ("chunk_checksum", |bytes| {
        let middle = bytes.len() - 40;
        bytes[middle] ^= 1;
    }),
    // The body says that it is packed.
    ("chunk_unpack", |bytes| bytes[3] |= 1),
];

#[tokio::test]
async fn a_poison_chunk_is_set_aside_and_what_follows_is_applied() {
    for (code, spoil) in SPOILT {
        let hub = Running::open().await;
        let mut site = Site::hello(&hub, "hill").await;
        let one = site.seal(vec![activity("one")]);
        let poison = site.seal_spoilt(vec![activity("two"), activity("three")], spoil);
        let four = site.seal(vec![activity("four")]);
        let batch = || UpOf::Batch(one_batch(&[&one, &poison, &four]));
        for tries in 1..=2 {
            hub.up("hill", batch()).await;
            assert_eq!(hub.applied("hill").await, 1, "{code}, asked for again {tries}");
        }
        hub.up("hill", batch()).await;
        assert_eq!(hub.applied("hill").await, 4, "{code}");
        let status = hub.status().await;
        assert_eq!((&status["sites"]["hill"]["set_aside"], &status["sync"]["set_aside"]), (&json!(1), &json!(1)));
        // All of it again changes nothing.
        let before = hub.reader.stats().durable;
        hub.up("hill", batch()).await;
        assert_eq!(hub.reader.stats().durable, before, "{code}");

        let dir = hub.stop().await;
        let records = Running::records(&dir).await;
        let [aside] = set_aside(&records)[..] else { panic!("{code}: {records:?}") };
        assert_eq!((aside.site.as_str(), aside.code.as_str()), ("hill", code));
        assert_eq!((aside.first, aside.last), (2, 3));
        assert_eq!((&aside.bytes[..], aside.full_bytes), (&poison[..], poison.len() as u64), "byte for byte");
        // A restart keeps the count and goes on behind it.
        let hub = Running::open_in(dir).await;
        let mut again = Site::hello(&hub, "hill").await;
        again.at = site.at;
        again.send(&hub, vec![activity("five")]).await;
        let status = hub.status().await;
        assert_eq!(
            (&status["sites"]["hill"]["set_aside"], &status["sites"]["hill"]["applied_seq"]),
            (&json!(1), &json!(5))
        );
    }
}

#[tokio::test]
async fn a_chunk_that_arrives_whole_in_the_end_is_applied() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let good = site.seal(vec![activity("one")]);
    for bit in [1, 2, 4, 8] {
        // Never the same bytes twice: the way is bad, not the chunk.
        let mut flipped = good.clone();
        let middle = flipped.len() - 40;
        flipped[middle] ^= bit;
        site.send_bytes(&hub, flipped).await;
    }
    assert_eq!(hub.applied("hill").await, 0);
    site.send_bytes(&hub, good).await;
    assert_eq!(hub.applied("hill").await, 1);
    assert_eq!(hub.status().await["sites"]["hill"]["set_aside"], 0);
}

#[tokio::test]
async fn what_has_no_readable_head_goes_by_what_its_batch_says() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    site.send(&hub, vec![activity("one")]).await;
    let _ = site.seal(vec![activity("two"), activity("three")]);
    let after = site.at;
    let four = site.seal(vec![activity("four")]);
    // In company nobody can tell where it ends.
    let junk = b"no chunk at all".as_slice();
    for _ in 0..5 {
        hub.up("hill", UpOf::Batch(Chunked { first_seq: 2, last_seq: 4, chunks: 2, ..one_batch(&[junk, &four]) }))
            .await;
    }
    assert_eq!(hub.applied("hill").await, 1);
    let last_hash = Bytes::copy_from_slice(&after.hash.0);
    let alone = Chunked { first_seq: 2, last_seq: 3, chunks: 1, last_hash, ..one_batch(&[junk]) };
    hub.up("hill", UpOf::Batch(alone)).await;
    assert_eq!(hub.applied("hill").await, 3);
    site.send_bytes(&hub, four).await;
    assert_eq!(hub.applied("hill").await, 4);

    // A message that cannot be unpacked at all.
    site.seal(vec![activity("five")]);
    let alone = Chunked {
        first_seq: 5,
        last_seq: 5,
        chunks: 1,
        body: "no".into(),
        chunks_bytes: 9,
        last_hash: Bytes::copy_from_slice(&site.at.hash.0),
        lean: false,
    };
    for _ in 0..3 {
        hub.up("hill", UpOf::Batch(alone.clone())).await;
    }
    site.send(&hub, vec![activity("six")]).await;
    assert_eq!(hub.applied("hill").await, 6);
    let records = Running::records(&hub.stop().await).await;
    let kept: Vec<_> = set_aside(&records).iter().map(|aside| (aside.code.as_str(), &aside.bytes[..])).collect();
    assert_eq!(kept, [("chunk_short", junk), ("batch_unreadable", &b"no"[..])]);
}

#[tokio::test]
async fn a_gateway_that_cannot_say_where_to_go_on_is_turned_away_in_the_end() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    site.seal(vec![activity("one")]);
    for _ in 0..10 {
        assert_eq!(hub.status().await["sites"]["hill"]["online"], true);
        hub.up("hill", UpOf::Batch(one_batch(&[b"junk"]))).await;
    }
    assert_eq!(hub.status().await["sites"]["hill"]["online"], false);
}

#[tokio::test]
async fn a_chunk_of_newer_software_is_never_set_aside() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let newer = site.seal_spoilt(vec![activity("one")], |bytes| bytes[2] = 2);
    for _ in 0..3 {
        site.send_bytes(&hub, newer.clone()).await;
    }
    let status = hub.status().await;
    assert_eq!((&status["sites"]["hill"]["online"], &status["sites"]["hill"]["set_aside"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn writes_that_break_the_rules_are_kept_once_and_the_rest_of_their_chunk_is_applied() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    let bad = RegisterWrite { key: "nonsense".into(), value: "1".into(), stamp: 1, ..RegisterWrite::default() };
    let movement = Movement { gtin: 4006381333931, units: 2, ..Movement::default() };
    let records = vec![Of::Register(bad.clone()), write(0, "good", 1_000, vec![]), Of::Movement(movement)];
    let chunk = site.seal(records);
    site.send_bytes(&hub, chunk.clone()).await;
    site.send_bytes(&hub, chunk).await;
    assert_eq!(hub.applied("hill").await, 3);
    assert_eq!(hub.status().await["sites"]["hill"]["set_aside"], 1);
    let records = Running::records(&hub.stop().await).await;
    let [aside] = set_aside(&records)[..] else { panic!("{records:?}") };
    assert_eq!((aside.first, aside.last, aside.code.as_str()), (1, 1, "write_key"));
    assert_eq!(aside.bytes, bad.encode_to_vec());
    assert!(aside.hash.is_empty(), "the chunk moves the watermark, not this");
    assert!(records.iter().any(|of| matches!(of, Of::Merged(_))));
}

#[tokio::test]
async fn a_damaged_head_that_pretends_to_be_old_does_not_hold_its_site_up() {
    let hub = Running::open().await;
    let mut site = Site::hello(&hub, "hill").await;
    site.send(&hub, vec![activity("one")]).await;
    let lying = site.seal_spoilt(vec![activity("two")], |bytes| {
        for at in [4, 12] {
            bytes[at] = 1;
        }
    });
    let last_hash = Bytes::copy_from_slice(&site.at.hash.0);
    let batch = Chunked { first_seq: 2, last_seq: 2, chunks: 1, last_hash, ..one_batch(&[&lying]) };
    for _ in 0..3 {
        assert_eq!(hub.applied("hill").await, 1);
        hub.up("hill", UpOf::Batch(batch.clone())).await;
    }
    assert_eq!(hub.applied("hill").await, 2);
    // Inside what was applied it is a repeat like any other.
    let before = hub.reader.stats().durable;
    hub.up("hill", UpOf::Batch(batch)).await;
    assert_eq!(hub.reader.stats().durable, before);
}
