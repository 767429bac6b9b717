//! All registers anew, for a box that was away for so long that the hub forgot what was deleted.

use proto::wire::KeyRange;
use proto::wire::up::Of as UpOf;

use super::*;

impl Store {
    /// A part of a snapshot that leads from 5 to 9; what is said of it.
    fn part(&mut self, after: &str, to: &str, entries: Vec<FeedEntry>) -> Ack {
        let range = Some(KeyRange { after: after.into(), to: to.into() });
        let effects = self.hear(Feed { prev: 5, upto: 9, entries, range, ..Feed::default() });
        let ack =
            effects.into_iter().find_map(|effect| if let Effect::FeedAck(ack) = effect { Some(ack) } else { None });
        ack.expect("every part is answered")
    }

    fn name(&mut self) -> Value {
        self.ask("scan", json!({ "gtin": GTIN }))["item"]["name"].clone()
    }
}

#[test]
fn what_the_hub_does_not_name_is_gone_own_writes_too_and_stays_gone() {
    let mut store = Store::open();
    let name = FeedEntry { key: format!("item/0{GTIN}/name"), ..by_another("\"Pear\"", 1, &[]) };
    store.feed(0, 5, vec![by_another("200", 1, &[]), name.clone()]);
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300, "attrs": { "colour": "red" } }));
    let before = store.ledger.events.len();

    let ack = store.part("", &name.key, vec![name.clone()]);
    assert_eq!((ack.taken.as_deref(), ack.cursor.position, ack.resend), (Some(name.key.as_str()), 5, false));
    assert_eq!(store.price(), 300, "it is not over yet");
    // A restart in the middle: nothing says that it is over.
    store.gateway = Gateway::new(Rules::default());
    store.restart();
    assert_eq!((store.gateway.hub.cursors[""].position, store.price()), (5, json!(300)));

    let last = store.ledger.last;
    let ack = store.part(&name.key, "", vec![]);
    assert_eq!((ack.taken, ack.cursor.position, ack.cursor.snapshot_to), (None, 9, last.0));
    assert_eq!(ack.journal_to, last);
    for _ in 0..2 {
        assert_eq!((store.price(), store.name()), (Value::Null, json!("Pear")));
        store.gateway = Gateway::new(Rules::default());
        store.restart();
    }
    assert!(store.ledger.events[before..].iter().all(|(_, _, event)| {
        event.records.iter().all(|record| !matches!(record.of, Some(proto::wire::record::Of::Refusal(_))))
    }));

    // What is written now is news again; a part that comes late is answered with where we stand.
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 400 }));
    assert_eq!(store.price(), 400);
    let late = store.part("", "", vec![]);
    assert_eq!((late.resend, late.cursor.position, late.cursor.snapshot_to), (true, 9, last.0));
    assert_eq!((store.price(), store.name()), (json!(400), json!("Pear")));
}

#[test]
fn what_is_gone_by_the_thousand_goes_in_parts() {
    let mut store = Store::open();
    let entry = |n: usize| FeedEntry { key: format!("item/0{GTIN}/attr:{n:05}"), ..by_another("1", 1, &[]) };
    store.feed(0, 5, (0..2_500).map(entry).collect());
    let ack = store.part("", "", vec![entry(7), entry(2_400)]);
    assert_eq!((ack.taken.as_deref(), ack.cursor.position), (Some(entry(1_999).key.as_str()), 5));
    let ack = store.part(&entry(1_999).key, "", vec![entry(2_400)]);
    assert_eq!((ack.taken, ack.cursor.position), (None, 9));
    let held = store.ledger.cells.keys().filter(|(table, _)| *table == tables::HUB.0).count();
    assert_eq!(held, 2);
}

#[test]
fn digests_leave_out_what_is_deleted() {
    let mut store = Store::open();
    let mut deleted = by_another("", 1, &[]);
    deleted.state.as_mut().unwrap().deleted = true;
    store.feed(0, 5, vec![deleted]);
    store.gateway.hub.link = LinkState::Connected;
    store.mono = 3_600_000;
    let now = store.now();
    let said = store.gateway.check(&now, &store.ledger).unwrap();
    let Some(Effect::Say(UpOf::Check(check))) = said else { panic!("no check") };
    assert_eq!((check.feed_cursor, check.registers), (5, proto::check::Sums::default().into_vec()));

    // A repair of its bucket finds nothing wrong with that.
    let bucket = Some(proto::check::register_bucket(&key()) as u32);
    store.hear(Feed { prev: 5, upto: 5, bucket, ..Feed::default() });
    assert!(store.ledger.events.is_empty());
}
