//! The sync protocol spoken by hand to a real hub: what is repeated, out of order, damaged, forked or foreign changes
//! nothing.

use std::path::Path;

use broker::identity::Kind;
use prost::Message;
use proto::PROTOCOL;
use proto::chunk::{Position, Sealer};
use proto::id::{Epoch, ReplicaId};
use proto::wire::down::Of as DownOf;
use proto::wire::record::Of;
use proto::wire::up::Of as UpOf;
use proto::wire::{
    Applied, Batch, Body, Chunks, CounterTotal, Down, Event, Hello, Movement, MovementKind, Record, Up, Welcome,
};
use tokio::process::Command;

use crate::harness::ledgers::{Hq, Row};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{BINARY, Spec, path};
use crate::harness::{GTIN, folder, now_ms};

fn hub(dir: &Path) -> Spec {
    let spec = Spec::hub(dir).closed();
    let spec = spec.account("hand", Kind::Site, "correct horse").account("other", Kind::Site, "battery staple");
    spec.account("monitor", Kind::Monitor, "staple battery")
}

/// A journal that this test keeps as a gateway would.
struct Journal {
    replica: ReplicaId,
    at: Position,
    on_hand: i64,
}

impl Journal {
    fn of(site: &str) -> Journal {
        let replica = ReplicaId { site: site.parse().expect("a name"), epoch: Epoch(0xBEEF) };
        Journal { replica, at: Position::default(), on_hand: 0 }
    }

    /// The next chunk: one movement, and what is on hand after it.
    fn chunk(&mut self, units: i64) -> Vec<u8> {
        let gtin = GTIN.parse().expect("an item number");
        self.on_hand += units;
        let movement = Movement { gtin, units, kind: MovementKind::Receive.into(), ..Movement::default() };
        let event = Event {
            device: "scanner-1".into(),
            records: vec![Record { of: Some(Of::Movement(movement)) }],
            ..Event::default()
        };
        let totals = vec![CounterTotal { gtin, units: self.on_hand, seq_offset: 0 }];
        let body = Body { base_ms: now_ms(), events: vec![event], totals, powered_on_s: 1, ..Body::default() };
        let sealed = Sealer::default().seal(&self.replica, self.at, &body);
        self.at = sealed.after;
        sealed.bytes
    }

    fn fork(&self) -> Journal {
        Journal { replica: self.replica.clone(), at: self.at, on_hand: self.on_hand }
    }
}

/// A gateway's connection, held by hand.
struct Hand {
    link: Link,
    site: &'static str,
    session: u64,
}

impl Hand {
    async fn say(&mut self, session: u64, of: UpOf) {
        let up = Up { session, of: Some(of) }.encode_to_vec();
        self.link.publish(format!("up/{}", self.site).as_bytes(), &up).await;
    }

    async fn batch(&mut self, chunks: &[&[u8]]) {
        self.say(self.session, batch(chunks)).await;
    }

    /// The next message of this session that is not of the feed.
    async fn hear(&mut self) -> DownOf {
        loop {
            let down = self.link.message(&format!("down/{}", self.site)).await;
            let Down { session, of: Some(of), .. } = Down::decode(down).expect("what the hub says can be read") else {
                panic!("the hub says nothing")
            };
            if session == self.session && !matches!(of, DownOf::Feed(_)) {
                return of;
            }
        }
    }

    /// A new session; gives the seq that the hub has applied, or why it will not sync.
    async fn hello(&mut self, journal: &Journal, says_it_is: &str) -> Result<u64, String> {
        self.session += 1;
        let hello = Hello {
            protocol: PROTOCOL,
            site: says_it_is.into(),
            epoch: journal.replica.epoch.0,
            journal_from: 1,
            hash_before: vec![0; 32].into(),
            journal_to: journal.at.seq.0,
            hash_to: journal.at.hash.0.to_vec().into(),
            ..Hello::default()
        };
        self.say(self.session, UpOf::Hello(hello)).await;
        match self.hear().await {
            DownOf::Welcome(Welcome { applied_seq, send_up_to, .. }) => {
                assert!(send_up_to > applied_seq, "the hub lets us send");
                Ok(applied_seq)
            }
            DownOf::Turned(turned) => Err(turned.code),
            other => panic!("Hello is answered with {other:?}"),
        }
    }

    async fn expect_one_by_one(&mut self, what: &str, wanted: bool) {
        loop {
            match self.hear().await {
                DownOf::Applied(Applied { one_by_one, .. }) if one_by_one == wanted => return,
                DownOf::Applied(_) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    /// Waits until the hub says exactly this; it repeats itself, so other words may come before.
    async fn expect_applied(&mut self, what: &str, seq: u64, resend: bool) {
        loop {
            match self.hear().await {
                DownOf::Applied(Applied { seq: s, resend: r, .. }) if (s, r) == (seq, resend) => return,
                DownOf::Applied(Applied { seq: s, .. }) if s > seq => panic!("{what}: applied up to {s}, not {seq}"),
                DownOf::Applied(_) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    async fn expect_turned(&mut self, what: &str, code: &str) {
        loop {
            match self.hear().await {
                DownOf::Turned(turned) => return assert_eq!(turned.code, code, "{what}: {turned:?}"),
                DownOf::Applied(_) => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

fn batch(chunks: &[&[u8]]) -> UpOf {
    let head = |bytes: &[u8]| proto::chunk::head(bytes).expect("a chunk").first.0;
    let (first_seq, last_seq) = (head(chunks[0]), head(chunks[chunks.len() - 1]));
    let chunk = chunks.iter().map(|bytes| bytes.to_vec().into()).collect();
    UpOf::Batch(Batch { first_seq, last_seq, body: Chunks { chunk }.encode_to_vec().into(), ..Batch::default() })
}

#[tokio::test]
async fn repeats_gaps_damage_and_forks_change_nothing() {
    let dir = folder();
    let mut hub = hub(dir.path()).start().await;
    let monitor = Link::connect(hub.addr, "monitor", true, Some("staple battery")).await;
    let mut hq = Monitor::watch(monitor, "hq/#").await;
    let mut link = Link::connect(hub.addr, "hand", true, Some("correct horse")).await;
    link.subscribe("down/hand").await;
    let mut hand = Hand { link, site: "hand", session: 100 };
    let mut journal = Journal::of("hand");
    let one = journal.chunk(10);
    let two = journal.chunk(-3);
    let before_three = journal.fork();
    let three = journal.chunk(5);
    let stock = format!("hq/stock/{GTIN}");

    assert_eq!(hand.hello(&journal, "hand").await, Ok(0));
    hand.batch(&[&one]).await;
    hand.expect_applied("the first batch", 1, false).await;
    hq.until_json(&stock, |stock| stock["on_hand"] == 10).await;
    hand.batch(&[&one]).await;
    hand.expect_applied("the first batch again", 1, false).await;
    hand.batch(&[&three]).await;
    hand.expect_applied("the third before the second", 1, true).await;
    hand.batch(&[&two]).await;
    hand.expect_applied("the second", 2, false).await;

    let mut flipped = three.clone();
    let middle = flipped.len() - 40;
    flipped[middle] ^= 1;
    hand.batch(&[&flipped]).await;
    hand.expect_applied("a flipped byte", 2, true).await;
    // Of another session: nobody answers. The repeat after it is answered, with what was applied before.
    let stale = hand.session - 1;
    hand.say(stale, batch(&[&three])).await;
    hand.batch(&[&two]).await;
    hand.expect_applied("after a batch of another session", 2, false).await;
    let junk = Batch { first_seq: 3, last_seq: 3, body: "no".into(), chunks_bytes: 9, ..Batch::default() };
    hand.say(hand.session, UpOf::Batch(junk)).await;
    hand.batch(&[&one, &two, &three]).await;
    hand.expect_applied("old and new in one batch, after one that cannot be unpacked", 3, false).await;
    hq.until_json(&stock, |stock| stock["on_hand"] == 12).await;

    // The same seq with another past, from a box whose ledger was copied or restored.
    let mut forked = before_three.fork();
    forked.chunk(1000);
    let forked_four = forked.chunk(1000);
    hand.batch(&[&forked_four]).await;
    hand.expect_turned("a chunk of a fork", "chain_differs").await;
    // It was sent home: nothing is taken from it before the next Hello.
    let four = journal.chunk(1);
    hand.batch(&[&four]).await;
    assert_eq!(hand.hello(&forked, "hand").await, Ok(3), "a fork that is longer is seen by its next chunk");
    hand.batch(&[&forked_four]).await;
    hand.expect_turned("the fork again", "chain_differs").await;
    let mut restored = before_three.fork();
    assert_eq!(hand.hello(&restored, "hand").await, Err("ledger_behind".into()));
    restored.chunk(7);
    assert_eq!(hand.hello(&restored, "hand").await, Err("chain_differs".into()), "as long as what is applied");
    assert_eq!(hand.hello(&journal, "other").await, Err("site_differs".into()));

    // Another site's chunk on our topic, and our words on another site's topic.
    let mut foreign = Journal::of("other");
    let foreign_one = foreign.chunk(500);
    assert_eq!(hand.hello(&journal, "hand").await, Ok(3));
    hand.batch(&[&foreign_one]).await;
    hand.expect_turned("a chunk of another site", "chain_differs").await;
    hand.site = "other";
    hand.say(hand.session, batch(&[&foreign_one])).await;
    hand.site = "hand";

    assert_eq!(hand.hello(&journal, "hand").await, Ok(3));
    hand.batch(&[&four]).await;
    hand.expect_applied("the journal goes on", 4, false).await;
    let shown = hq.until_json(&stock, |stock| stock["on_hand"] == 13).await;
    assert_eq!(shown["sites"], serde_json::json!({"hand": 13}), "{shown}");
    let sync = hub.status().await["sync"].clone();
    for (what, least) in [("repeats", 3), ("gaps", 1), ("undecodable", 2), ("refused", 1)] {
        assert!(sync[what].as_u64() >= Some(least), "{what} are counted: {sync}");
    }

    hub.stop().await;
    let at_hq = Hq::read(hub.dir());
    let units: Vec<_> = at_hq.rows.iter().filter_map(Row::movement).map(|movement| movement.units).collect();
    assert_eq!(units, [10, -3, 5, 1], "each record once, in order");
    assert!(at_hq.rows.iter().all(|row| row.dot.replica == journal.replica));
    assert_eq!(at_hq.refusals.len(), 1, "{:?}", at_hq.refusals);
    assert_eq!((at_hq.refusals[0].code.as_str(), at_hq.refusals[0].topic.as_str()), ("foreign_site", "up/other"));
}

/// A chunk that the gateway can only ever send like this is kept, and what comes after it is applied.
#[tokio::test]
async fn a_poison_chunk_does_not_stop_its_site() {
    let dir = folder();
    let mut hub = hub(dir.path()).start().await;
    let monitor = Link::connect(hub.addr, "monitor", true, Some("staple battery")).await;
    let mut hq = Monitor::watch(monitor, "hq/#").await;
    let mut link = Link::connect(hub.addr, "hand", true, Some("correct horse")).await;
    link.subscribe("down/hand").await;
    let mut hand = Hand { link, site: "hand", session: 100 };
    let mut journal = Journal::of("hand");
    let (one, mut poison) = (journal.chunk(10), journal.chunk(500));
    let three = journal.chunk(-3);
    let middle = poison.len() - 40;
    poison[middle] ^= 1;

    assert_eq!(hand.hello(&journal, "hand").await, Ok(0));
    for tries in 1..=2 {
        hand.batch(&[&one, &poison, &three]).await;
        hand.expect_applied(&format!("asked for again, {tries}"), 1, true).await;
    }
    hand.batch(&[&one, &poison, &three]).await;
    hand.expect_applied("set aside, and on behind it", 3, false).await;
    let alert = hq.until_json("hq/alerts/hand:set_aside", |alert| alert["alert"] == "set_aside").await;
    assert!(alert["say"].as_str().is_some_and(|say| say.contains("chunk_checksum")), "{alert}");
    hq.until_json("hq/sites/hand/status", |site| site["set_aside"] == 1).await;
    // Totals are cumulative: the next movement of an item says what is on hand, whatever was set aside.
    let expected = 10 + 500 - 3;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == expected).await;

    let data = path(hub.dir());
    let ask = async |words: &[&str]| {
        let words = [&["hub", "rejects"], words, &["--data", &data, "--json"]].concat();
        let done = Command::new(BINARY).args(words).kill_on_drop(true).output().await.expect("run the node's binary");
        assert!(done.status.success(), "{done:?}");
        serde_json::from_slice::<serde_json::Value>(&done.stdout).expect("JSON")
    };
    let list = ask(&["list"]).await;
    let reject = &list["rejects"][0];
    assert_eq!((&reject["code"], &reject["device"]), (&"chunk_checksum".into(), &"hand".into()), "{list}");
    assert_eq!(reject["span"], serde_json::json!([2, 2]));
    let hex: String = poison.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ask(&["show", &reject["seq"].to_string()]).await["hex"], hex, "byte for byte");

    // A message that cannot be unpacked is asked for in parts; alone it says where the journal goes on.
    let last_hash = |journal: &Journal| journal.at.hash.0.to_vec().into();
    journal.chunk(1);
    let alone = Batch {
        first_seq: 4,
        last_seq: 4,
        body: "no".into(),
        chunks_bytes: 9,
        chunks: 1,
        last_hash: last_hash(&journal),
        lean: false,
    };
    let five = journal.chunk(1);
    let company = Batch { last_seq: 5, chunks: 2, last_hash: last_hash(&journal), ..alone.clone() };
    for _ in 0..3 {
        hand.say(hand.session, UpOf::Batch(company.clone())).await;
    }
    hand.expect_one_by_one("three times in company", true).await;
    hand.say(hand.session, UpOf::Batch(alone)).await;
    hand.expect_applied("set aside alone", 4, false).await;
    hand.batch(&[&five]).await;
    hand.expect_one_by_one("past what could not be read", false).await;

    hub.end().await;
    hub.restart().await;
    let mut link = Link::connect(hub.addr, "hand", true, Some("correct horse")).await;
    link.subscribe("down/hand").await;
    let mut hand = Hand { link, site: "hand", session: 200 };
    assert_eq!(hand.hello(&journal, "hand").await, Ok(5));
    let six = journal.chunk(1);
    hand.batch(&[&six]).await;
    hand.expect_applied("after a restart", 6, false).await;
    assert_eq!(hub.status().await["sites"]["hand"]["set_aside"], 2);
}
