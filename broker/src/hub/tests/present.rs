//! What a site says ahead of its journal, what others follow of its stock, and what a restored hub lacks.

use proto::chunk::ChainHash;
use proto::loss;
use proto::wire::down::Of as DownOf;
use proto::wire::{
    Check, CounterTotal, FeedAck, LossClass, Movement, MovementKind, Present, PresentTotal, PresentWrite, StreamCursor,
};

use super::*;

const GTIN: u64 = 4_006_381_333_931;

impl Site {
    pub(super) async fn hello_2(hub: &Running, name: &str, epoch: u64, streams: &[&str]) -> Site {
        let replica = ReplicaId { site: name.parse().unwrap(), epoch: Epoch(epoch) };
        let streams = streams.iter().map(|stream| StreamCursor { stream: (*stream).into(), position: 0 }).collect();
        let hello = Hello {
            protocol: 2,
            site: name.into(),
            epoch,
            journal_from: 1,
            journal_to: 1 << 40,
            streams,
            ..Hello::default()
        };
        hub.up(name, UpOf::Hello(hello)).await;
        Site { replica, at: Position::default() }
    }

    fn sale(&mut self, total: i64) -> Vec<u8> {
        let movement = Movement { gtin: GTIN, units: -1, kind: MovementKind::Sale.into(), ..Movement::default() };
        let event = Event { records: vec![Record { of: Some(Of::Movement(movement)) }], ..Event::default() };
        let totals = vec![CounterTotal { gtin: GTIN, units: total, seq_offset: 0 }];
        let body = Body { base_ms: 1_700_000_000_000, events: vec![event], totals, ..Body::default() };
        let sealed = Sealer::default().seal(&self.replica, self.at, &body);
        self.at = sealed.after;
        sealed.bytes
    }

    async fn present(&self, hub: &Running, as_of: u64, units: i64, writes: Vec<PresentWrite>) {
        let totals = vec![PresentTotal { gtin: GTIN, units, seq: as_of }];
        let present = Present { as_of, last: true, totals, writes, ..Present::default() };
        hub.up(self.replica.site.as_str(), UpOf::Present(present)).await;
    }
}

impl Running {
    /// What HQ was last told of the item.
    fn stock(&self) -> i64 {
        let said = self.told.lock().unwrap();
        let told = said.iter().rev().find(|(topic, _)| topic.starts_with("hq/stock/")).expect("HQ was told");
        serde_json::from_slice::<Value>(&told.1).unwrap()["on_hand"].as_i64().unwrap()
    }

    /// What was said to a site.
    pub(super) fn heard(&self, site: &str) -> Vec<DownOf> {
        let (said, topic) = (self.told.lock().unwrap(), format!("down/{site}"));
        let heard = said.iter().filter(|(to, _)| *to == topic);
        heard.filter_map(|(_, payload)| Down::decode(payload.clone()).unwrap().of).collect()
    }

    pub(super) fn feeds(&self, site: &str, stream: &str) -> Vec<proto::wire::Feed> {
        let feeds = self.heard(site).into_iter().filter_map(|of| match of {
            DownOf::Feed(feed) if feed.stream == stream => Some(feed),
            _ => None,
        });
        feeds.collect()
    }

    pub(super) fn last_applied(&self, site: &str) -> proto::wire::Applied {
        let applied = self.heard(site).into_iter().filter_map(|of| match of {
            DownOf::Applied(applied) => Some(applied),
            _ => None,
        });
        applied.last().expect("the hub said what it applied")
    }
}

#[tokio::test]
async fn the_present_is_known_ahead_of_the_journal_and_history_does_not_undo_it() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let chunks: Vec<Vec<u8>> = (1..=10).map(|n| site.sale(-n)).collect();
    let Of::Register(write) = write(0, "late", 2_000, vec![]) else { unreachable!() };
    site.present(&hub, 8, -8, vec![PresentWrite { write: Some(write), seq: 7, device: "tablet-1".into() }]).await;
    let status = hub.status().await;
    assert_eq!(
        (&status["sites"]["hill"]["present_seq"], &status["sites"]["hill"]["applied_seq"]),
        (&8.into(), &0.into())
    );
    assert_eq!(hub.last_applied("hill").present, 8);
    for chunk in &chunks[..5] {
        site.send_bytes(&hub, chunk.clone()).await;
    }
    hub.status().await;
    assert_eq!(hub.stock(), -8, "history does not undo the present");
    let dir = hub.stop().await;

    // The hub remembers over a restart, and what is newer than the present counts.
    let hub = Running::open_in(dir).await;
    let site = Site::hello_2(&hub, "hill", 5, &[]).await;
    for chunk in &chunks[5..8] {
        site.send_bytes(&hub, chunk.clone()).await;
    }
    assert_eq!(hub.applied("hill").await, 8);
    assert_eq!(hub.stock(), -8);
    let dir = hub.stop().await;
    let hub = Running::open_in(dir).await;
    let site = Site::hello_2(&hub, "hill", 5, &[]).await;
    for chunk in &chunks[8..] {
        site.send_bytes(&hub, chunk.clone()).await;
    }
    hub.status().await;
    assert_eq!(hub.stock(), -10);
}

#[tokio::test]
async fn a_write_from_the_future_counts_as_of_now_and_is_told() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    site.send(&hub, vec![write(0, "a", 4_000_000_000_000, vec![])]).await;
    hub.status().await;
    let said = hub.told.lock().unwrap();
    assert!(said.iter().any(|(topic, _)| topic == "hq/alerts/hill:clock_ahead"));
}

#[tokio::test]
async fn a_present_of_which_a_part_is_missing_is_not_complete() {
    let hub = Running::open().await;
    let site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let part = |part, last| Present { as_of: 8, part, last, ..Present::default() };
    for (part, complete) in [(part(1, true), 0), (part(0, false), 0), (part(2, true), 0), (part(0, true), 8)] {
        hub.up(site.replica.site.as_str(), UpOf::Present(part)).await;
        assert_eq!(hub.status().await["sites"]["hill"]["present_seq"], complete);
    }
    // What changed before it began is not known.
    let later = Present { since: 9, as_of: 12, last: true, ..Present::default() };
    hub.up("hill", UpOf::Present(later)).await;
    assert_eq!(hub.status().await["sites"]["hill"]["present_seq"], 8);
}

#[tokio::test]
async fn others_follow_a_sites_stock_and_a_new_life_what_earlier_ones_left() {
    let hub = Running::open().await;
    let mut hill = Site::hello_2(&hub, "hill", 5, &["own", "sites"]).await;
    let _harbour = Site::hello_2(&hub, "harbour", 5, &["site/hill", "site/hill", "nonsense", "own"]).await;
    let _quay = Site::hello_2(&hub, "quay", 5, &["own"]).await;
    let chunk = hill.sale(-1);
    hill.send_bytes(&hub, chunk).await;
    hub.status().await;
    let feeds = hub.feeds("harbour", "site/hill");
    let entries: Vec<_> = feeds[0].stock.iter().map(|e| (e.gtin, e.site.as_str(), e.epoch, e.units, e.seq)).collect();
    assert_eq!((feeds.len(), entries), (1, vec![(GTIN, "hill", 5, -1, 1)]));
    for (site, stream) in [("hill", "own"), ("hill", "sites"), ("quay", "own"), ("quay", "sites"), ("harbour", "own")] {
        assert!(hub.feeds(site, stream).is_empty(), "{site} {stream}");
    }
    // Until it is acknowledged nothing more is said, then only the latest.
    for total in [-2, -3] {
        let chunk = hill.sale(total);
        hill.send_bytes(&hub, chunk).await;
    }
    hub.status().await;
    assert_eq!(hub.feeds("harbour", "site/hill").len(), 1);
    let ack = FeedAck { cursor: feeds[0].upto, stream: "site/hill".into(), ..FeedAck::default() };
    hub.up("harbour", UpOf::FeedAck(ack)).await;
    hub.status().await;
    let second = hub.feeds("harbour", "site/hill").pop().unwrap();
    assert_eq!((second.prev, second.stock.len(), second.stock[0].units), (feeds[0].upto, 1, -3));

    // A new box: what the old one left is its own past.
    let _hill = Site::hello_2(&hub, "hill", 6, &["own"]).await;
    hub.status().await;
    let past = hub.feeds("hill", "own").pop().unwrap();
    assert_eq!((past.stock[0].epoch, past.stock[0].units), (5, -3));
}

#[tokio::test]
async fn what_nobody_has_any_more_is_counted_and_the_latest_values_are_asked_for() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let to = Position { seq: Seq(40), hash: ChainHash([4; 32]) };
    let mut body = Body { skipped_at_end: 40, ..Body::default() };
    loss::lose(&mut body, LossClass::Trimmed, 40);
    let bridge = Sealer::default().remnant(&site.replica, Position::default(), to, &body);
    site.send_bytes(&hub, bridge).await;
    assert_eq!(hub.status().await["sites"]["hill"]["lost"]["trimmed"], 40);
    assert_eq!(hub.last_applied("hill").tell_since, Some(0));
    site.at = to;
    let chunk = site.sale(-41);
    site.send_bytes(&hub, chunk).await;
    assert_eq!((hub.applied("hill").await, hub.last_applied("hill").tell_since), (41, Some(0)), "until it is told");
    site.present(&hub, 41, -41, vec![]).await;
    hub.status().await;
    assert_eq!(hub.last_applied("hill").tell_since, None);
}

#[tokio::test]
async fn a_difference_is_found_named_and_set_to_what_the_owner_says() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let chunk = site.sale(-1);
    site.send_bytes(&hub, chunk).await;
    let check = |units| {
        let mut sums = proto::check::Sums::default();
        sums.add_stock(GTIN, units, 1);
        UpOf::Check(Check { as_of: 1, stock: sums.into_vec(), ..Check::default() })
    };
    hub.up("hill", check(-1)).await;
    let status = hub.status().await;
    assert_eq!(
        (&status["sites"]["hill"]["check"]["keys"], &status["sites"]["hill"]["check"]["differed"]),
        (&1.into(), &0.into())
    );
    assert_eq!(hub.last_applied("hill").tell_since, None);

    // The site holds something else at the same place: it is asked for all it has.
    hub.up("hill", check(-5)).await;
    hub.status().await;
    assert_eq!(hub.last_applied("hill").tell_since, Some(0));
    site.present(&hub, 1, -5, vec![]).await;
    let status = hub.status().await;
    assert_eq!(status["sites"]["hill"]["check"]["differed"], 1, "{status}");
    assert_eq!(hub.stock(), -5);

    // An operator asks; the site names another item and not this one.
    let (answer, answered) = oneshot::channel();
    hub.handle.input(Input::Verify("hill".parse().unwrap(), answer)).await.unwrap();
    let totals = vec![PresentTotal { gtin: 96_385_074, units: 3, seq: 1 }];
    hub.up("hill", UpOf::Present(Present { as_of: 1, last: true, totals, ..Present::default() })).await;
    let outcome = answered.await.unwrap();
    assert_eq!((&outcome["keys"], &outcome["differed"]), (&1.into(), &2.into()), "{outcome}");
    assert_eq!(outcome["items"][0]["gtin"], "00000096385074", "{outcome}");
    hub.status().await;
    assert!([0, 3].contains(&hub.stock()));

    let (answer, answered) = oneshot::channel();
    hub.handle.input(Input::Verify("nobody".parse().unwrap(), answer)).await.unwrap();
    assert!(answered.await.unwrap()["error"].as_str().is_some_and(|why| why.contains("not known")));
}

#[tokio::test]
async fn registers_that_differ_are_said_again_by_bucket() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    site.send(&hub, vec![write(0, "a", 1_000, vec![]), write(1, "b", 1_000, vec![])]).await;
    hub.status().await;
    let feed = hub.feeds("hill", "").pop().unwrap();
    let mut sums = proto::check::Sums::default();
    for entry in &feed.entries {
        sums.add_register(&entry.key, &entry.state.as_ref().unwrap().encode_to_vec());
    }
    let check =
        |sums: proto::check::Sums| Check { feed_cursor: feed.upto, registers: sums.into_vec(), ..Check::default() };
    hub.up("hill", UpOf::Check(check(sums.clone()))).await;
    hub.status().await;
    assert_eq!(hub.feeds("hill", "").len(), 1, "nothing differs");
    sums.add_register(&feed.entries[0].key, b"something else");
    hub.up("hill", UpOf::Check(check(sums))).await;
    hub.status().await;
    let repair = hub.feeds("hill", "").pop().unwrap();
    assert!(repair.bucket.is_some() && repair.entries.contains(&feed.entries[0]), "{repair:?}");
    assert_eq!((repair.prev, repair.upto), (feed.upto, feed.upto));
}

#[tokio::test]
async fn a_comparison_that_begins_between_two_parts_sets_nothing_to_zero() {
    let hub = Running::open().await;
    let mut site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let chunk = site.sale(-1);
    site.send_bytes(&hub, chunk).await;
    let total = PresentTotal { gtin: GTIN, units: -1, seq: 1 };
    let part = |part, last, totals| UpOf::Present(Present { as_of: 1, part, last, totals, ..Present::default() });
    hub.up("hill", part(0, false, vec![total])).await;
    let (answer, answered) = oneshot::channel();
    hub.handle.input(Input::Verify("hill".parse().unwrap(), answer)).await.unwrap();
    hub.up("hill", part(1, true, vec![])).await;
    hub.status().await;
    assert_eq!((hub.stock(), hub.last_applied("hill").tell_since), (-1, Some(0)), "it needs one of its own");
    hub.up("hill", part(0, false, vec![total])).await;
    hub.up("hill", part(1, true, vec![])).await;
    let outcome = answered.await.unwrap();
    assert_eq!((&outcome["keys"], &outcome["differed"]), (&1.into(), &0.into()), "{outcome}");
    assert_eq!(hub.stock(), -1);
}

/// Seqs that were said ahead would be given to other records.
#[tokio::test]
async fn a_box_that_lost_what_it_had_said_ahead_is_turned_away() {
    let hub = Running::open().await;
    let site = Site::hello_2(&hub, "hill", 5, &[]).await;
    site.present(&hub, 8, -8, vec![]).await;
    let hello =
        Hello { protocol: 2, site: "hill".into(), epoch: 5, journal_from: 1, journal_to: 7, ..Hello::default() };
    let up = Up { session: 2, of: Some(UpOf::Hello(hello)) };
    hub.raw("hill", up.encode_to_vec()).await;
    hub.status().await;
    let turned = hub.heard("hill").into_iter().find_map(|of| match of {
        DownOf::Turned(turned) => Some(turned.code),
        _ => None,
    });
    assert_eq!(turned.as_deref(), Some("ledger_behind"));
}

#[tokio::test]
async fn what_no_gateway_says_does_not_end_the_hub() {
    let hub = Running::open().await;
    let site = Site::hello_2(&hub, "hill", 5, &[]).await;
    let totals = (0..80_000).map(|n| PresentTotal { gtin: n, units: i64::MIN, seq: u64::MAX }).collect();
    hub.up("hill", UpOf::Present(Present { as_of: u64::MAX, last: true, totals, ..Present::default() })).await;
    let hash = Bytes::from(vec![1; 900 << 10]);
    hub.up("hill", UpOf::Follows(proto::wire::Follows { epoch: 4, hash, ..Default::default() })).await;
    let part = Present { as_of: 3, part: u32::MAX, last: true, ..Present::default() };
    for _ in 0..2 {
        hub.up("hill", UpOf::Present(part.clone())).await;
    }
    assert_eq!(hub.status().await["sites"]["hill"]["present_seq"], 0);
    drop(site);
}

#[tokio::test]
async fn the_present_of_every_site_comes_before_the_journal_of_any() {
    let hub = Running::open().await;
    let may_send = |site: &str| hub.last_applied(site).send_up_to;
    // These are far behind by what they say they have.
    let first = Site::hello_2(&hub, "hill", 5, &[]).await;
    hub.status().await;
    let welcome = |site: &str| match hub.heard(site).into_iter().next() {
        Some(DownOf::Welcome(welcome)) => welcome,
        other => panic!("{other:?}"),
    };
    let meanwhile = welcome("hill").send_up_to;
    assert!(welcome("hill").reads_packed_present);
    let second = Site::hello_2(&hub, "quay", 6, &[]).await;
    hub.status().await;
    assert_eq!(welcome("quay").send_up_to, meanwhile);
    first.present(&hub, 1 << 40, -8, vec![]).await;
    hub.status().await;
    assert_eq!((hub.last_applied("hill").present, may_send("hill")), (1 << 40, meanwhile), "quay's is awaited");
    let part = proto::present::packed(Present {
        as_of: 1 << 40,
        last: true,
        totals: (1..99).map(|n| PresentTotal { gtin: n * 8, units: -3, seq: n }).collect(),
        ..Present::default()
    });
    assert!(!part.packed.is_empty());
    hub.up(second.replica.site.as_str(), UpOf::Present(part)).await;
    hub.status().await;
    assert!(may_send("hill") > 10 * meanwhile && may_send("quay") > 10 * meanwhile, "all have been said");
    assert_eq!(hub.last_applied("quay").present, 1 << 40);
    let dir = hub.stop().await;
    let records = Running::records(&dir).await;
    let said = |of: &Of| matches!(of, Of::SitePresent(present) if present.site == "quay" && present.totals.len() == 98);
    assert!(records.iter().any(said));
}
