//! No message that goes down to a site is larger than it can read, whatever stands in it.

use proto::check::{Sums, register_bucket};
use proto::wire::down::Of as DownOf;
use proto::wire::{Check, CounterTotal, Feed, FeedAck, Present, PresentTotal};

use super::*;
use crate::hub::feed::{BYTES_MAX, ENTRIES_MAX};
use crate::hub::sync::SITE_CHUNK_TOTALS_MAX;

/// A register's state and key, or a position's stock, may come on top.
const REGISTERS_BYTES: usize = 96 << 10;
const STOCK_BYTES: usize = 480 << 10;

fn ack(feed: &Feed) -> UpOf {
    let (cursor, stream) = (feed.upto, feed.stream.clone());
    UpOf::FeedAck(FeedAck { cursor, stream, journal_to: Some(0), ..FeedAck::default() })
}

/// All parts of a stream, each acknowledged, and none larger than it may be.
async fn all_of(hub: &Running, site: &str, stream: &str, bytes_max: usize) -> Vec<Feed> {
    let mut seen = 0;
    loop {
        hub.status().await;
        let feeds = hub.feeds(site, stream);
        for feed in &feeds[seen..] {
            assert!(feed.encoded_len() <= bytes_max, "{} bytes of {stream:?}", feed.encoded_len());
        }
        if feeds.len() == seen {
            return feeds;
        }
        seen = feeds.len();
        hub.up(site, ack(feeds.last().expect("there is one"))).await;
    }
}

/// GTINs of fourteen digits, and figures that take the most room.
fn gtins(count: usize) -> impl Iterator<Item = u64> {
    (90_000_000_000_000..).filter(|number| proto::gtin::Gtin::from_number(*number).is_ok()).take(count)
}

#[tokio::test]
async fn what_stands_at_one_position_of_the_feed_has_a_bound() {
    let hub = Running::open().await;
    let name = "s".repeat(proto::id::NAME_LEN_MAX);
    let mut site = Site::hello_2(&hub, &name, u64::MAX, &[]).await;
    let stream = format!("site/{name}");
    let quay = Site::hello_2(&hub, "quay", 6, &[&stream]).await;

    // In one chunk: the most that is taken, and one more.
    let chunk = |site: &mut Site, totals: usize| {
        let records = vec![Record { of: write(0, "x", 1_000, vec![]).into() }; 2];
        let event = Event { device: "tablet-1".into(), records, ..Event::default() };
        let total = |gtin| CounterTotal { gtin, units: i64::MIN + 1, seq_offset: 1 };
        let totals = gtins(2_000 + totals).skip(2_000).map(total).collect();
        let body = Body { base_ms: 1_700_000_000_000, events: vec![event], totals, ..Body::default() };
        let sealed = Sealer::default().seal(&site.replica, site.at, &body);
        site.at = sealed.after;
        sealed.bytes
    };
    let most = chunk(&mut site, SITE_CHUNK_TOTALS_MAX);
    site.send_bytes(&hub, most).await;
    assert_eq!(hub.applied(&name).await, 2);
    let feeds = all_of(&hub, "quay", &stream, STOCK_BYTES).await;
    assert_eq!(feeds.iter().map(|feed| feed.stock.len()).sum::<usize>(), SITE_CHUNK_TOTALS_MAX);
    let more = chunk(&mut site, SITE_CHUNK_TOTALS_MAX + 1);
    site.send_bytes(&hub, more).await;
    assert_eq!(hub.applied(&name).await, 2, "it is asked for again, and set aside in the end");

    // Said ahead: the most that a part of a gateway's names.
    let totals = gtins(2_000).map(|gtin| PresentTotal { gtin, units: i64::MIN, seq: 1 << 40 }).collect();
    let part = proto::present::packed(Present { as_of: 1 << 40, last: true, totals, ..Present::default() });
    assert!(!part.packed.is_empty());
    let known = hub.feeds("quay", &stream).len();
    hub.up(&name, UpOf::Present(part)).await;
    let feeds = all_of(&hub, "quay", &stream, STOCK_BYTES).await.split_off(known);
    assert_eq!(feeds.iter().map(|feed| feed.stock.len()).sum::<usize>(), 2_000);
    assert!(feeds.iter().all(|feed| feed.stock.len() <= ENTRIES_MAX), "{} parts", feeds.len());
    drop(quay);
}

#[tokio::test]
async fn large_registers_come_in_parts_in_the_feed_and_in_a_repair() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let key = |field: usize| match write(field, "", 1_000, vec![]) {
        Of::Register(write) => write.key,
        other => panic!("{other:?}"),
    };
    // All in one bucket, as large as they may be.
    let bucket = register_bucket(&key(0));
    let fields: Vec<usize> = (0..).filter(|field| register_bucket(&key(*field)) == bucket).take(60).collect();
    let long = "x".repeat(proto::register::VALUE_BYTES_MAX - 2);
    for fields in fields.chunks(5) {
        site.send(&hub, fields.iter().map(|field| write(*field, &long, 1_000, vec![])).collect()).await;
    }
    let feeds = all_of(&hub, "hill", "", REGISTERS_BYTES).await;
    assert_eq!(feeds.iter().map(|feed| feed.entries.len()).sum::<usize>(), fields.len());
    assert!(feeds.len() >= 60 * long.len() / (BYTES_MAX + long.len()), "{} parts", feeds.len());

    let (cursor, mut sums) = (feeds.last().unwrap().upto, Sums::default());
    for entry in feeds.iter().flat_map(|feed| &feed.entries).skip(1) {
        sums.add_register(&entry.key, &entry.state.as_ref().unwrap().encode_to_vec());
    }
    let check = Check { feed_cursor: cursor, registers: sums.into_vec(), ..Check::default() };
    hub.up("hill", UpOf::Check(check)).await;
    hub.status().await;
    let repairs = hub.feeds("hill", "").split_off(feeds.len());
    assert!(repairs.len() > 3, "{} parts", repairs.len());
    let (mut after, mut keys) = (String::new(), 0);
    for (n, repair) in repairs.iter().enumerate() {
        assert!(repair.encoded_len() <= REGISTERS_BYTES && repair.bucket == Some(bucket as u32));
        let range = repair.range.as_ref().expect("a part of the bucket");
        assert_eq!((&range.after, range.to.is_empty()), (&after, n + 1 == repairs.len()), "no key is in none or two");
        let within = |key: &String| *key > range.after && (range.to.is_empty() || *key <= range.to);
        assert!(repair.entries.iter().all(|entry| within(&entry.key)));
        keys += repair.entries.len();
        after.clone_from(&range.to);
    }
    assert_eq!(keys, fields.len());
    let turned = hub.heard("hill").into_iter().any(|of| matches!(of, DownOf::Turned(_)));
    assert!(!turned);
}
