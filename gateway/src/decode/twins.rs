//! A message in JSON and the same in protobuf come to the same request, or to the same refusal. The twin in JSON is
//! written here by hand, not by the code that is tested.

use std::collections::BTreeMap;

use proptest::option::of;
use proptest::prelude::*;
use prost::Message;
use proto::pos;
use serde_json::{Map, Value, json};

use super::*;

fn same(kind: Kind, message: &impl Message, twin: Value) -> Result<(), TestCaseError> {
    let limits = Limits { payload_bytes_max: 8 << 10, units_max: 99, lines_max: 4, hold_s_max: 900 };
    let read = |form, payload: Bytes| decode(kind, form, ScanMode::Sell, &payload, &limits);
    let written: Bytes = message.encode_to_vec().into();
    // Nothing at all in protobuf is an empty payload, which JSON cannot be.
    prop_assume!(!written.is_empty());
    let (pb, json) = (read(Form::Protobuf, written), read(Form::Json, twin.to_string().into()));
    prop_assert_eq!(pb, json, "{}", twin);
    Ok(())
}

/// The fields that are there.
fn twin<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect())
}

fn said(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z]{1,4}", Just("a/b".into()), "[a-z]{65}"]
}

fn gtin() -> impl Strategy<Value = String> {
    const GOOD: [&str; 4] = ["4006381333931", "04006381333931", "]E04006381333931", "96385074"];
    const BAD: [&str; 5] = ["", "4006381333932", "12", "4006x", "00000000"];
    prop_oneof![4 => prop::sample::select(&GOOD[..]), 1 => prop::sample::select(&BAD[..])].prop_map(str::to_owned)
}

fn amount() -> impl Strategy<Value = Option<i64>> {
    of(prop_oneof![4 => -5i64..50, 1 => any::<i64>()])
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,12}", "y{190,210}"]
}

fn value() -> impl Strategy<Value = (pos::Value, Value)> {
    use pos::value::Of;
    let of = |of| pos::Value { of: Some(of) };
    prop_oneof![
        Just((pos::Value { of: None }, Value::Null)),
        words().prop_map(move |text| (of(Of::Text(text.clone())), text.into())),
        any::<i64>().prop_map(move |whole| (of(Of::Whole(whole)), whole.into())),
        // Quarters are the same in both, whoever reads them.
        (-999i32..999).prop_map(move |n| (of(Of::Number(f64::from(n) / 4.0)), (f64::from(n) / 4.0).into())),
        any::<bool>().prop_map(move |flag| (of(Of::Flag(flag)), flag.into())),
    ]
}

fn values() -> impl Strategy<Value = (BTreeMap<String, pos::Value>, Map<String, Value>)> {
    let name = prop_oneof![4 => "[a-z]{1,6}", 1 => ".{0,3}", 1 => "n{58,61}"];
    prop::collection::btree_map(name, value(), 0..5).prop_map(|all| {
        let pb = all.iter().map(|(name, (pb, _))| (name.clone(), pb.clone())).collect();
        (pb, all.into_iter().map(|(name, (_, json))| (name, json)).collect())
    })
}

fn lines() -> impl Strategy<Value = (Vec<pos::Line>, Value)> {
    prop::collection::vec((gtin(), amount(), amount()), 0..6).prop_map(|lines| {
        let json = |(gtin, qty, cents): &(String, Option<i64>, Option<i64>)| {
            twin([("gtin", said(gtin)), ("qty", qty.map(Value::from)), ("cents", cents.map(Value::from))])
        };
        let twins = lines.iter().map(json).collect();
        (lines.into_iter().map(|(gtin, qty, cents)| pos::Line { gtin, qty, cents }).collect(), twins)
    })
}

proptest! {
    #[test]
    fn scans(id in id(), at_ms in of(0u64..9), gtin in gtin(), op in 0usize..6, qty in amount(), cents in amount(),
             reference in words(), began_ms in of(0u64..9)) {
        // Two of the operations are of newer firmware.
        let name = ["lookup", "receive", "sell", "count", "4", "5"][op];
        let json = twin([
            ("id", said(&id)), ("at_ms", at_ms.map(Value::from)), ("gtin", said(&gtin)), ("op", Some(name.into())),
            ("qty", qty.map(Value::from)), ("cents", cents.map(Value::from)), ("reference", said(&reference)),
            ("began_ms", began_ms.map(Value::from)),
        ]);
        same(Kind::Scan, &pos::Scan { id, at_ms, gtin, op: op as i32, qty, cents, reference, began_ms, ..Default::default() }, json)?;
    }

    #[test]
    fn sales((lines, twins) in lines(), id in id(), at_ms in of(any::<u64>()), reference in words(), hold in id()) {
        let json = twin([
            ("id", said(&id)), ("at_ms", at_ms.map(Value::from)), ("lines", Some(twins)), ("reference", said(&reference)),
            ("hold", said(&hold)),
        ]);
        same(Kind::Sale, &pos::Sale { id, at_ms, lines, reference, hold, ..Default::default() }, json)?;
    }

    #[test]
    fn holds(id in id(), op in 0usize..6, hold in id(), gtin in gtin(), qty in amount(), seconds in of(0u64..1_000),
             reference in words()) {
        let name = [None, Some("hold"), Some("commit"), Some("release"), Some("4"), Some("5")][op];
        let json = twin([
            ("id", said(&id)), ("op", name.map(Value::from)), ("hold", said(&hold)), ("gtin", said(&gtin)),
            ("qty", qty.map(Value::from)), ("seconds", seconds.map(Value::from)), ("reference", said(&reference)),
        ]);
        let message = pos::Hold { id, op: op as i32, hold, gtin, qty, seconds, reference, ..Default::default() };
        same(Kind::Hold, &message, json)?;
    }

    #[test]
    fn moves((lines, twins) in lines(), id in id(), op in 0usize..6, reference in words(), to in id()) {
        let name = [None, Some("receive"), Some("refund"), Some("adjust"), Some("transfer"), Some("5")][op];
        let json = twin([
            ("id", said(&id)), ("op", name.map(Value::from)), ("lines", Some(twins)), ("reference", said(&reference)),
            ("to", said(&to)),
        ]);
        same(Kind::Move, &pos::Move { id, at_ms: None, op: op as i32, lines, reference, to, ..Default::default() }, json)?;
    }

    #[test]
    fn counts(id in id(), at_ms in of(any::<u64>()), gtin in gtin(), qty in amount(), began_ms in of(any::<u64>())) {
        let json = twin([
            ("id", said(&id)), ("at_ms", at_ms.map(Value::from)), ("gtin", said(&gtin)), ("qty", qty.map(Value::from)),
            ("began_ms", began_ms.map(Value::from)),
        ]);
        same(Kind::Count, &pos::Count { id, at_ms, gtin, qty, began_ms }, json)?;
    }

    #[test]
    fn items(id in id(), gtin in gtin(), name in of(of(words())), price in of(amount()), (attrs, twins) in values()) {
        let json = twin([
            ("id", said(&id)), ("gtin", said(&gtin)), ("name", name.clone().map(Value::from)),
            ("price_cents", price.map(Value::from)), ("attrs", (!twins.is_empty()).then(|| twins.into())),
        ]);
        let (name, price_cents) = (name.map(|value| pos::Text { value }), price.map(|value| pos::Amount { value }));
        same(Kind::Item, &pos::Item { id, at_ms: None, gtin, name, price_cents, attrs }, json)?;
    }

    #[test]
    fn notes(id in id(), gtin in gtin(), author in id(), text in of(of(words())), score in of(of(-10i32..410)),
             tags in of((any::<bool>(), prop::collection::vec("[a-z]{0,3}", 0..18)))) {
        // A quarter of them is whole, and whole ones are written without a point.
        let shown = |quarters: i32| match quarters % 4 {
            0 => json!(quarters / 4),
            _ => json!(f64::from(quarters) / 4.0),
        };
        let json = twin([
            ("id", said(&id)), ("gtin", said(&gtin)), ("author", said(&author)), ("text", text.clone().map(Value::from)),
            ("score", score.map(|score| score.map_or(Value::Null, shown))),
            ("tags", tags.clone().map(|(deleted, tags)| if deleted { Value::Null } else { tags.into() })),
        ]);
        let score = score.map(|score| pos::Score { value: score.map(|quarters| f64::from(quarters) / 4.0) });
        let tags = tags.map(|(deleted, tag)| pos::Tags { tag, deleted });
        let text = text.map(|value| pos::Text { value });
        same(Kind::Note, &pos::Note { id, at_ms: None, gtin, author, text, score, tags }, json)?;
    }

    #[test]
    fn remarks(id in id(), at_ms in of(any::<u64>()), (fields, mut twins) in values(), feedback in any::<bool>()) {
        twins.remove("id");
        twins.extend(said(&id).map(|id| ("id".to_owned(), id)));
        twins.extend(at_ms.map(|at_ms| ("at_ms".to_owned(), at_ms.into())));
        let kind = if feedback { Kind::Feedback } else { Kind::Activity };
        same(kind, &pos::Remark { id, at_ms, fields }, twins.into())?;
    }
}

#[test]
fn what_json_cannot_say_is_refused() {
    let code = |kind, payload: Vec<u8>| {
        decode(kind, Form::Protobuf, ScanMode::Lookup, &payload.into(), &Limits::default()).unwrap_err().why.code
    };
    let score = Some(pos::Score { value: Some(f64::NAN) });
    let note = pos::Note { gtin: "4006381333931".into(), author: "anna".into(), score, ..pos::Note::default() };
    let infinite = pos::Value { of: Some(pos::value::Of::Number(f64::INFINITY)) };
    let remark = pos::Remark { fields: [("x".to_owned(), infinite)].into(), ..pos::Remark::default() };
    let many = pos::Sale { lines: vec![pos::Line::default(); 30_000], ..pos::Sale::default() };
    let long = pos::Value { of: Some(pos::value::Of::Text("y".repeat(5_000))) };
    let long = pos::Remark { fields: [("x".to_owned(), long)].into(), ..pos::Remark::default() };
    for (kind, payload, expected) in [
        (Kind::Note, note.encode_to_vec(), "pb_invalid"),
        (Kind::Activity, remark.encode_to_vec(), "pb_invalid"),
        (Kind::Feedback, long.encode_to_vec(), "payload_too_large"),
        (Kind::Sale, many.encode_to_vec(), "too_many_lines"),
        (Kind::Sale, b"{\"lines\":[]}".to_vec(), "pb_invalid"),
        (Kind::Scan, b"4006381333931".to_vec(), "pb_invalid"),
        (Kind::Scan, vec![], "payload_empty"),
        (Kind::Scan, vec![0; 70_000], "payload_too_large"),
    ] {
        assert_eq!(code(kind, payload), expected, "{kind:?}");
    }
}
