//! What is deleted is forgotten once every site knows, and nobody who did not know brings it back.

use proto::wire::down::Of as DownOf;
use proto::wire::{Feed, FeedAck, KeyRange, Present, PresentWrite, Welcome};

use super::*;

impl Site {
    /// Says Hello as a box that stands at `cursor` of the feed and has written up to `journal_to`.
    async fn returns(&self, hub: &Running, cursor: u64, journal_to: u64, snapshot_to: u64) {
        let hello = Hello {
            protocol: 2,
            site: self.replica.site.to_string(),
            epoch: self.replica.epoch.0,
            journal_from: 1,
            journal_to,
            feed_cursor: cursor,
            feed_incarnation: 7,
            snapshot_to,
            ..Hello::default()
        };
        hub.up(self.replica.site.as_str(), UpOf::Hello(hello)).await;
    }

    async fn joins(hub: &Running, name: &str, epoch: u64) -> Site {
        let replica = ReplicaId { site: name.parse().unwrap(), epoch: Epoch(epoch) };
        let site = Site { replica, at: Position::default() };
        site.returns(hub, 0, 0, 0).await;
        site
    }

    async fn acks(&self, hub: &Running, ack: FeedAck) {
        hub.up(self.replica.site.as_str(), UpOf::FeedAck(ack)).await;
    }

    /// Has taken over the feed, with all that it wrote before that sent.
    async fn knows(&self, hub: &Running, cursor: u64) {
        let journal_to = Some(self.at.seq.0);
        self.acks(hub, FeedAck { cursor, journal_to, ..FeedAck::default() }).await;
    }

    fn dot(&self) -> Dot {
        Dot { site: self.replica.site.to_string(), epoch: self.replica.epoch.0, seq: self.at.seq.0 }
    }
}

impl Running {
    async fn head(&self) -> u64 {
        self.status().await["sync"]["feed_head"].as_u64().unwrap()
    }

    async fn until(&self, what: &str, met: impl Fn(&Value) -> bool) {
        for _ in 0..2_000 {
            if met(&self.status().await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {}", self.status().await);
    }

    async fn until_forgotten(&self, upto: u64) {
        self.until("it is forgotten", |status| status["forgetting"]["forgotten_upto"] == upto).await;
    }

    fn last_feed(&self, site: &str) -> Feed {
        self.feeds(site, "").pop().expect("the hub fed it")
    }
}

fn deletion(field: usize, ms: u64, seen: Vec<Dot>) -> Of {
    let Of::Register(write) = write(field, "", ms, seen) else { unreachable!() };
    Of::Register(RegisterWrite { deleted: true, value: Bytes::new(), ..write })
}

fn keys(feed: &Feed) -> Vec<&str> {
    feed.entries.iter().map(|entry| entry.key.as_str()).collect()
}

#[tokio::test]
async fn a_deletion_is_forgotten_when_every_site_knows_and_what_it_wrote_before_is_here() {
    let hub = Running::open().await;
    let (mut hill, mut harbour) = (Site::joins(&hub, "hill", 5).await, Site::joins(&hub, "harbour", 5).await);
    hill.send(&hub, vec![write(0, "a", 1_000, vec![])]).await;
    hill.send(&hub, vec![deletion(0, 2_000, vec![hill.dot()])]).await;
    let head = hub.head().await;
    harbour.knows(&hub, head).await;
    // It knows, but one record that it made before is still to come.
    hill.acks(&hub, FeedAck { cursor: head, journal_to: Some(3), ..FeedAck::default() }).await;
    hub.until("harbour is settled", |status| status["forgetting"]["held_by"] == "hill").await;
    assert_eq!(hub.status().await["forgetting"]["forgotten_upto"], 0);
    hill.send(&hub, vec![Of::Note(Note { kind: "activity".into(), payload: Bytes::new() })]).await;
    hub.until_forgotten(head).await;
    assert_eq!(hub.head().await, head, "nobody's cursor is ahead of the feed");

    // Who knew it writes it anew.
    harbour.send(&hub, vec![write(0, "again", 3_000, vec![hill.dot()])]).await;
    hub.status().await;
    assert_eq!(hub.last_feed("hill").entries[0].state.as_ref().unwrap().value, "\"again\"");
    let dir = hub.stop().await;
    let forgotten = Running::records(&dir).await.iter().filter(|of| matches!(of, Of::Forgotten(_))).count();
    assert_eq!(forgotten, 1);

    // Over a restart; and who begins with nothing now needs no snapshot.
    let hub = Running::open_in(dir).await;
    assert_eq!(hub.status().await["forgetting"]["forgotten_upto"], head);
    let quay = Site::joins(&hub, "quay", 1).await;
    hub.status().await;
    assert_eq!((hub.last_feed("quay").range, hub.last_feed("quay").entries.len()), (None, 1));
    quay.returns(&hub, 1, 0, 0).await;
    hub.status().await;
    assert_eq!(hub.last_feed("quay").range, None, "it never held what was forgotten before it began");
    assert_eq!(hub.status().await["conflicts"]["kept"], 0);
}

/// A hub with 250 notes; the old box of the hill knew them and left; then harbour deleted the first, and it is forgotten.
async fn one_stayed_away() -> (Running, Site, u64) {
    let hub = Running::open().await;
    let (old, mut harbour) = (Site::joins(&hub, "hill", 5).await, Site::joins(&hub, "harbour", 5).await);
    for part in 0..5 {
        harbour.send(&hub, (0..50).map(|n| write(part * 50 + n, "a", 1_000, vec![])).collect()).await;
    }
    let knew = hub.head().await;
    old.knows(&hub, knew).await;
    let new = Site::joins(&hub, "hill", 6).await;
    harbour.send(&hub, vec![deletion(0, 2_000, vec![harbour.dot()])]).await;
    let head = hub.head().await;
    for site in [&new, &harbour] {
        site.knows(&hub, head).await;
    }
    hub.until_forgotten(head).await;
    (hub, old, knew)
}

#[tokio::test]
async fn who_was_away_for_too_long_takes_a_snapshot_first_and_brings_nothing_back() {
    let (hub, mut old, knew) = one_stayed_away().await;
    let ghost = old.seal(vec![write(0, "ghost", 9_000, vec![])]);
    old.returns(&hub, knew, 1, 0).await;
    hub.status().await;
    let welcome = hub.heard("hill").into_iter().rev().find_map(|of| match of {
        DownOf::Welcome(Welcome { send_up_to, .. }) => Some(send_up_to),
        _ => None,
    });
    assert_eq!(welcome, Some(0), "nothing is taken of it until it has the snapshot");
    old.send_bytes(&hub, ghost.clone()).await;
    assert_eq!(hub.applied("hill").await, 0);

    // The second part follows the first one's acknowledgement, not a stray one.
    let first = hub.last_feed("hill");
    let Some(KeyRange { after, to }) = first.range.clone() else { panic!("no snapshot: {first:?}") };
    assert_eq!((after.as_str(), first.entries.len(), &first.entries[199].key), ("", 200, &to));
    assert!(!keys(&first).contains(&"note/04006381333931/anna/f0"));
    let feeds = hub.feeds("hill", "").len();
    old.acks(&hub, FeedAck { cursor: knew, resend: true, ..FeedAck::default() }).await;
    hub.status().await;
    assert_eq!((hub.feeds("hill", "").len(), hub.last_feed("hill")), (feeds + 1, first));
    let taken = |key: &str| FeedAck { cursor: knew, taken: Some(key.into()), ..FeedAck::default() };
    old.acks(&hub, taken(&to)).await;
    hub.status().await;
    let last = hub.last_feed("hill");
    assert_eq!((last.range.as_ref(), last.entries.len()), (Some(&KeyRange { after: to, to: String::new() }), 49));

    // Both die before the last part is taken over: it begins anew.
    let hub = Running::open_in(hub.stop().await).await;
    old.returns(&hub, knew, 1, 0).await;
    hub.status().await;
    let first = hub.last_feed("hill");
    old.acks(&hub, taken(&first.range.unwrap().to)).await;
    let ack = FeedAck { cursor: first.upto, snapshot_to: 1, journal_to: Some(1), ..FeedAck::default() };
    old.acks(&hub, ack).await;
    hub.status().await;
    assert!(hub.last_applied("hill").send_up_to > 1);

    // In another session, ahead of the journal and with it: one conflict, and no register.
    old.returns(&hub, first.upto, 2, 1).await;
    let Of::Register(late) = write(0, "ghost", 9_000, vec![]) else { unreachable!() };
    let writes = vec![PresentWrite { write: Some(late), seq: 1, device: "tablet-1".into() }];
    hub.up("hill", UpOf::Present(Present { as_of: 1, last: true, writes, ..Present::default() })).await;
    old.send_bytes(&hub, ghost).await;
    old.send(&hub, vec![write(300, "made after the snapshot", 9_000, vec![])]).await;
    assert_eq!(hub.applied("hill").await, 2);
    assert_eq!(hub.status().await["conflicts"]["kept"], 1);
    let feed = hub.last_feed("hill");
    assert_eq!((keys(&feed), feed.range.is_none()), (vec!["note/04006381333931/anna/f300"], true));
    let records = Running::records(&hub.stop().await).await;
    let Some(Of::Conflict(conflict)) = records.iter().find(|of| matches!(of, Of::Conflict(_))) else { panic!() };
    let (winner, loser) = (conflict.winner.as_ref().unwrap(), conflict.loser.as_ref().unwrap());
    assert!(winner.deleted && winner.dot.is_none() && loser.value == "\"ghost\"");
}

#[tokio::test]
async fn vectors_lose_what_earlier_lives_wrote() {
    let hub = Running::open().await;
    let (mut old, mut harbour) = (Site::joins(&hub, "hill", 5).await, Site::joins(&hub, "harbour", 5).await);
    let first = old.seal(vec![write(0, "a", 1_000, vec![])]);
    old.send_bytes(&hub, first.clone()).await;
    harbour.send(&hub, vec![write(0, "b", 2_000, vec![old.dot()])]).await;
    let head = hub.head().await;
    harbour.knows(&hub, head).await;
    let new = Site::joins(&hub, "hill", 6).await;
    new.knows(&hub, head).await;
    hub.until("the vector is pruned", |status| status["sync"]["feed_head"].as_u64() > Some(head)).await;
    let pruned = hub.last_feed("harbour").entries[0].state.clone().unwrap();
    assert_eq!((pruned.value.as_ref(), pruned.seen.unwrap().entries), (&b"\"b\""[..], vec![harbour.dot()]));

    // What the earlier life said already is a repeat; what it says now, not having seen the other, is a conflict.
    let again = hub.head().await;
    old.returns(&hub, head, 2, 0).await;
    old.send_bytes(&hub, first).await;
    assert_eq!((hub.head().await, hub.status().await["conflicts"]["kept"].clone()), (again, 0.into()));
    old.send(&hub, vec![write(0, "late", 1_500, vec![])]).await;
    assert_eq!((hub.applied("hill").await, hub.status().await["conflicts"]["kept"].clone()), (2, 1.into()));
    let records = Running::records(&hub.stop().await).await;
    let merged =
        records.iter().rev().find_map(|of| if let Of::Merged(merged) = of { merged.state.clone() } else { None });
    assert_eq!(merged.unwrap().value, "\"b\"");
}
