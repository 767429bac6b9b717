//! What the feed brings besides registers, what the hub is told ahead of the journal, and the self-check.

use proto::wire::record::Of;
use proto::wire::{KeyRange, MovementKind, StockEntry};

use super::*;

impl Store {
    /// Entries as (site, epoch, units).
    fn feed_stock(&mut self, stream: &str, prev: u64, upto: u64, entries: Vec<(&str, u64, i64)>) -> Vec<Effect> {
        let gtin = GTIN.parse().unwrap();
        let entry = |(site, epoch, units): (&str, u64, i64)| StockEntry {
            gtin,
            site: site.into(),
            epoch,
            units,
            seq: 1,
            by_hub: false,
        };
        let stock = entries.into_iter().map(entry).collect();
        self.hear(Feed { prev, upto, stock, stream: stream.into(), ..Feed::default() })
    }

    pub(super) fn restart(&mut self) -> Vec<Effect> {
        let now = self.now();
        let step = self.gateway.recovered(Stamp(0), &now, &self.ledger).unwrap();
        self.commit(step)
    }
}

#[test]
fn what_an_earlier_life_left_is_on_hand_and_a_count_before_it_was_known_stands() {
    let mut store = Store::open();
    store.feed_stock("own", 0, 3, vec![("harbour", 9, 40), ("harbour", 1, 7)]);
    let sold = store.ask("sale", lines(1));
    assert_eq!(sold["lines"][0]["on_hand"], 39, "the own life's component is not its past: {sold}");
    store.feed_stock("own", 3, 4, vec![("harbour", 9, 41)]);
    assert_eq!(store.ask("sale", lines(1))["lines"][0]["on_hand"], 39);

    // Counted first: all that stood there was counted.
    let mut store = Store::open();
    assert_eq!(store.ask("count", json!({"gtin": GTIN, "qty": 12}))["lines"][0]["on_hand"], 12);
    store.feed_stock("own", 0, 3, vec![("harbour", 9, 40)]);
    assert_eq!(store.ask("sale", lines(1))["lines"][0]["on_hand"], 11);
    let Some(Of::Movement(adjusted)) = &store.ledger.events[1].2.records[0].of else { panic!("no movement") };
    assert_eq!((adjusted.kind(), adjusted.units), (MovementKind::Adjust, -40));
    // The old box sends more of its journal: that moves what is on hand.
    store.feed_stock("own", 3, 4, vec![("harbour", 9, 38)]);
    assert_eq!(store.ask("sale", lines(1))["lines"][0]["on_hand"], 8);
}

#[test]
fn other_sites_stock_is_shown_as_long_as_it_is_followed() {
    let rules = Rules { follow: vec!["site/hill".into()], ..Rules::default() };
    let mut store = Store::with(rules.clone());
    let effects = store.feed_stock("site/hill", 0, 3, vec![("hill", 1, 5), ("hill", 2, 2)]);
    let shown = |effects: &[Effect]| {
        let found = effects.iter().find_map(|effect| match effect {
            Effect::Publish { topic, payload, .. } | Effect::Restore { topic, payload } => {
                topic.starts_with("store/elsewhere/hill/").then(|| serde_json::from_slice::<Value>(payload).unwrap())
            }
            _ => None,
        });
        found.map(|shown| shown["on_hand"].clone())
    };
    assert_eq!(shown(&effects), Some(json!(7)));
    assert_eq!(shown(&store.feed_stock("site/hill", 3, 5, vec![("hill", 2, 1)])), Some(json!(6)));
    assert!(store.feed_stock("sites", 0, 9, vec![("quay", 2, 1)]).is_empty(), "nobody asked for that");

    store.gateway = Gateway::new(rules);
    assert_eq!(shown(&store.restart()), Some(json!(6)));
    store.gateway = Gateway::new(Rules::default());
    assert_eq!(shown(&store.restart()), None);
    assert!(store.ledger.cells.keys().all(|(table, _)| *table != tables::ELSEWHERE.0));
}

#[test]
fn the_present_is_what_changed_after_a_seq_in_parts_that_fit() {
    let mut store = Store::open();
    store.ask("sale", lines(1));
    store.ask("item", json!({"gtin": GTIN, "name": "Pear brandy"}));
    let first = present::since(crate::sync::PresentAsk { since: Seq(1), as_of: Seq(2) }, &store.ledger).unwrap();
    assert_eq!((first.0.len(), first.0[0].totals.len(), first.0[0].writes.len()), (1, 0, 1), "{first:?}");
    let all = present::since(crate::sync::PresentAsk { since: Seq(0), as_of: Seq(2) }, &store.ledger).unwrap();
    assert_eq!((all.1, all.0[0].totals[0].units, all.0[0].totals[0].seq, all.0[0].last), (2, -1, 1, true));
    for n in 0..40u64 {
        store.ask("note", json!({"gtin": GTIN, "author": format!("a{n}"), "text": "x".repeat(1_500)}));
    }
    let (parts, _) = present::since(crate::sync::PresentAsk { since: Seq(0), as_of: Seq(42) }, &store.ledger).unwrap();
    assert!(parts.len() > 1 && parts.iter().all(|part| part.encoded_len() < 40 << 10));
    let numbers: Vec<_> = parts.iter().map(|part| (part.part, part.last)).collect();
    assert_eq!((numbers[0], numbers[parts.len() - 1]), ((0, false), (parts.len() as u32 - 1, true)));
}

#[test]
fn registers_that_differ_from_the_hubs_are_repaired_and_named() {
    let mut store = Store::open();
    let key = key();
    store.feed(0, 5, vec![by_another("100", 1, &[])]);
    let bucket = Some(proto::check::register_bucket(&key) as u32);
    let say = |entries| Feed { prev: 5, upto: 5, entries, bucket, ..Feed::default() };
    store.hear(say(vec![by_another("100", 1, &[])]));
    assert!(store.ledger.events.is_empty(), "nothing differs");
    store.hear(say(vec![by_another("200", 1, &[])]));
    let Some(Of::Refusal(refusal)) = &store.ledger.events[0].2.records[0].of else { panic!("nothing is told") };
    assert!(refusal.code == "state_repaired" && refusal.reason.contains(&key), "{refusal:?}");
    assert_eq!(store.price(), 200);
    // A part of the bucket says nothing of what is outside its range of keys.
    for (after, to) in [("", "a"), (&*key, ""), (&*key, "zzz")] {
        let range = KeyRange { after: after.into(), to: to.into() };
        store.hear(Feed { range: Some(range), ..say(vec![]) });
        assert_eq!(store.price(), 200, "{after:?} to {to:?}");
    }
    let range = KeyRange { after: "a".into(), to: key.clone() };
    store.hear(Feed { range: Some(range), ..say(vec![by_another("300", 1, &[])]) });
    assert_eq!(store.price(), 300);
    store.hear(say(vec![]));
    assert_eq!(store.price(), Value::Null);
}

#[test]
fn settings_of_a_device_are_registers_of_its_store() {
    let mut store = Store::open();
    let done = store.ask("setting", json!({ "device": "scanner-1", "settings": { "volume": 3, "beep": true } }));
    assert_eq!(done["status"], "ok", "{done}");
    let written: Vec<_> = store.ledger.events[0]
        .2
        .records
        .iter()
        .filter_map(|record| match &record.of {
            Some(Of::Register(write)) => Some(write.key.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(written, ["setting/harbour/scanner-1/beep", "setting/harbour/scanner-1/volume"]);
    store.ask("setting", json!({ "device": "scanner-1", "settings": { "beep": null } }));
    let shown = store.restart().into_iter().find_map(|effect| match effect {
        Effect::Restore { topic, payload } if topic == "store/setting/scanner-1" => Some(payload),
        _ => None,
    });
    let shown: Value = serde_json::from_slice(&shown.expect("it has a topic")).unwrap();
    assert_eq!(shown, json!({ "device": "scanner-1", "settings": { "volume": 3 } }));
    for (bad, code) in [
        (json!({ "settings": { "a": 1 } }), "field_missing"),
        (json!({ "device": "scanner-1" }), "field_missing"),
        (json!({ "device": "a b", "settings": { "a": 1 } }), "name_invalid"),
        (json!({ "device": "scanner-1", "settings": { "a b": 1 } }), "setting_invalid"),
        (json!({ "device": "scanner-1", "settings": { "a": [1] } }), "setting_invalid"),
        (json!({ "device": "scanner-1", "settings": {} }), "nothing_to_write"),
    ] {
        assert_eq!(store.ask("setting", bad)["code"], code);
    }
}
