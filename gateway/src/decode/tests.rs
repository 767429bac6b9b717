//! What is taken from JSON, and what is refused.

use proptest::prelude::*;
use proto::id::{HoldId, Units};
use proto::wire::MovementKind;

use super::*;
use crate::request::HoldAsk;

const GTIN: &str = "4006381333931";

fn read(kind: Kind, payload: &str) -> Decoded {
    decode(kind, Form::Json, ScanMode::Lookup, &Bytes::copy_from_slice(payload.as_bytes()), &Limits::default())
}

fn code(kind: Kind, payload: &str) -> &'static str {
    match read(kind, payload) {
        Ok(request) => panic!("{payload} was taken: {request:?}"),
        Err(undecodable) => undecodable.why.code,
    }
}

fn lines_of(kind: Kind, payload: &str) -> (MovementKind, Vec<i64>, Vec<&'static str>) {
    match read(kind, payload).unwrap().ask {
        Ask::Move(m) => {
            (m.kind, m.lines.iter().map(|l| l.units.0).collect(), m.bad.iter().map(|b| b.why.code).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_scan_does_what_the_device_is_set_to() {
    let scan =
        |mode| decode(Kind::Scan, Form::Json, mode, &Bytes::from_static(b"4006381333931\r\n"), &Limits::default());
    assert!(matches!(scan(ScanMode::Lookup).unwrap().ask, Ask::Lookup(_)));
    for (mode, kind, units) in [(ScanMode::Receive, MovementKind::Receive, 1), (ScanMode::Sell, MovementKind::Sale, -1)]
    {
        match scan(mode).unwrap().ask {
            Ask::Move(m) => assert_eq!((m.kind, m.lines[0].units), (kind, Units(units))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn json_scans_follow_their_op() {
    let with = |rest: &str| format!(r#"{{"id":"r1","gtin":"{GTIN}"{rest}}}"#);
    assert!(matches!(read(Kind::Scan, &with("")).unwrap().ask, Ask::Lookup(_)));
    assert_eq!(lines_of(Kind::Scan, &with(r#","op":"receive","qty":24"#)).1, [24]);
    assert_eq!(lines_of(Kind::Scan, &with(r#","op":"sell""#)).1, [-1]);
    assert!(matches!(
        read(Kind::Scan, &with(r#","op":"count","qty":7,"began_ms":5"#)).unwrap().ask,
        Ask::Count { counted: Units(7), began_ms: Some(5), .. }
    ));
    assert_eq!(code(Kind::Scan, &with(r#","op":"steal""#)), "op_unknown");
}

#[test]
fn a_sale_keeps_its_good_lines_and_names_the_bad_ones() {
    let payload = r#"{"id":"s1","lines":[{"gtin":"4006381333931","qty":2,"cents":1998},{"gtin":"4006381333931","qty":0},
        {"gtin":"4006381333932","qty":1},{"gtin":4006381333931,"qty":1},{"qty":1},7,{"gtin":"4006381333931","qty":40000},
        {"gtin":"4006381333931","qty":1.5},{"gtin":"4006381333931","qty":-1,"cents":-999}]}"#;
    let (kind, good, bad) = lines_of(Kind::Sale, payload);
    assert_eq!((kind, good), (MovementKind::Sale, vec![-2, -1, 1]));
    assert_eq!(bad, ["qty_zero", "gtin_check_digit", "gtin_missing", "line_invalid", "qty_absurd", "qty_invalid"]);
}

#[test]
fn moves_have_the_sign_of_their_op() {
    let with = |op: &str| format!(r#"{{"op":"{op}","to":"hill","lines":[{{"gtin":"{GTIN}","qty":3}}]}}"#);
    for (op, units) in [("receive", 3), ("refund", 3), ("adjust", 3), ("transfer", -3)] {
        assert_eq!(lines_of(Kind::Move, &with(op)).1, [units], "{op}");
    }
    let minus = |op: &str| format!(r#"{{"op":"{op}","to":"hill","lines":[{{"gtin":"{GTIN}","qty":-3}}]}}"#);
    assert_eq!(lines_of(Kind::Move, &minus("adjust")).1, [-3]);
    for op in ["receive", "refund", "transfer"] {
        assert_eq!(lines_of(Kind::Move, &minus(op)).2, ["qty_negative"], "{op}");
    }
    assert_eq!(code(Kind::Scan, &format!(r#"{{"gtin":"{GTIN}","op":"receive","qty":-1}}"#)), "qty_negative");
    assert_eq!(code(Kind::Move, r#"{"op":"transfer","lines":[]}"#), "to_missing");
    assert_eq!(code(Kind::Move, r#"{"op":"adjust"}"#), "lines_missing");
    assert_eq!(code(Kind::Move, r#"{"lines":[]}"#), "field_missing");
}

#[test]
fn holds_say_what_is_set_aside_or_which_one_ends() {
    let begun = |rest: &str| match read(Kind::Hold, &format!(r#"{{"op":"hold","gtin":"{GTIN}"{rest}}}"#)).unwrap().ask {
        Ask::Hold(HoldAsk::Begin(new)) => (new.hold.map(|id| id.to_string()), new.units.0, new.seconds, new.reference),
        other => panic!("{other:?}"),
    };
    assert_eq!(begun(""), (None, 1, 600, String::new()));
    let full = r#","hold":"H-1","qty":3,"seconds":86400,"reference":"web 7""#;
    assert_eq!(begun(full), (Some("H-1".into()), 3, 86_400, "web 7".into()));
    let id: HoldId = "H-1".parse().unwrap();
    let ends = |op: &str| read(Kind::Hold, &format!(r#"{{"id":"r","op":"{op}","hold":"H-1"}}"#)).unwrap().ask;
    assert_eq!(ends("commit"), Ask::Hold(HoldAsk::Commit(id.clone())));
    assert_eq!(ends("release"), Ask::Hold(HoldAsk::Release(id.clone())));
    let sale = format!(r#"{{"hold":"H-1","lines":[{{"gtin":"{GTIN}","qty":1}}]}}"#);
    let Ask::Move(moves) = read(Kind::Sale, &sale).unwrap().ask else { panic!("a sale") };
    assert_eq!(moves.hold, Some(id));
    // A box that lets holds last for a minute takes that for what is not said.
    let limits = Limits { hold_s_max: 60, ..Limits::default() };
    let plain = Bytes::from(format!(r#"{{"op":"hold","gtin":"{GTIN}"}}"#));
    let short = decode(Kind::Hold, Form::Json, ScanMode::Lookup, &plain, &limits).unwrap().ask;
    assert!(matches!(short, Ask::Hold(HoldAsk::Begin(new)) if new.seconds == 60));
    for (rest, expected) in [
        (r#""op":"steal""#, "op_unknown"),
        (r#""qty":1"#, "field_missing"),
        (r#""op":"commit""#, "hold_missing"),
        (r#""op":"release","hold":7"#, "hold_invalid"),
        (r#""op":"hold","hold":"a/b""#, "hold_invalid"),
        (r#""op":"hold","qty":0"#, "qty_zero"),
        (r#""op":"hold","qty":-1"#, "qty_negative"),
        (r#""op":"hold","qty":10000"#, "qty_absurd"),
        (r#""op":"hold","qty":1.5"#, "qty_invalid"),
        (r#""op":"hold","seconds":0"#, "seconds_invalid"),
        (r#""op":"hold","seconds":86401"#, "seconds_invalid"),
        (r#""op":"hold","seconds":"long""#, "seconds_invalid"),
        (r#""op":"hold","reference":1"#, "reference_invalid"),
    ] {
        assert_eq!(code(Kind::Hold, &format!(r#"{{"gtin":"{GTIN}",{rest}}}"#)), expected, "{rest}");
    }
    assert_eq!(code(Kind::Hold, r#"{"op":"hold"}"#), "gtin_missing");
    assert_eq!(code(Kind::Sale, r#"{"hold":1,"lines":[{"qty":1}]}"#), "hold_invalid");
}

#[test]
fn refusals_name_what_is_wrong() {
    let rows = [
        (Kind::Scan, "", "payload_empty"),
        (Kind::Scan, "4006381333932\r\n", "gtin_check_digit"),
        (Kind::Scan, "{", "json_invalid"),
        (Kind::Sale, "[1]", "json_not_object"),
        (Kind::Sale, "7", "json_not_object"),
        (Kind::Sale, "{\"id\":5}", "id_invalid"),
        (Kind::Sale, "{\"id\":\"a/b\",\"lines\":[]}", "id_invalid"),
        (Kind::Sale, "{\"lines\":[]}", "lines_missing"),
        (Kind::Count, r#"{"gtin":"4006381333931"}"#, "qty_invalid"),
        (Kind::Count, r#"{"gtin":"4006381333931","qty":-1}"#, "qty_absurd"),
        (Kind::Item, r#"{"gtin":"4006381333931"}"#, "nothing_to_write"),
        (Kind::Item, r#"{"gtin":"4006381333931","price_cents":-1}"#, "price_invalid"),
        (Kind::Item, r#"{"gtin":"4006381333931","attrs":{"a b":1}}"#, "attr_invalid"),
        (Kind::Item, &format!(r#"{{"gtin":"{GTIN}","attrs":{{"{}":1}}}}"#, "n".repeat(60)), "attr_invalid"),
        (Kind::Note, r#"{"gtin":"4006381333931","text":"x"}"#, "field_missing"),
        (Kind::Note, r#"{"gtin":"4006381333931","author":"anna","score":101}"#, "score_invalid"),
    ];
    for (kind, payload, expected) in rows {
        assert_eq!(code(kind, payload), expected, "{payload}");
    }
    assert_eq!(code(Kind::Sale, &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000))), "payload_too_large");
    assert_eq!(code(Kind::Activity, &format!("{{\"x\":\"{}\"}}", "y".repeat(5_000))), "payload_too_large");
}

#[test]
fn whatever_is_taken_has_a_key_that_the_hub_can_read() {
    let longest = format!(r#"{{"gtin":"{GTIN}","attrs":{{"{}":1}}}}"#, "n".repeat(59));
    let Ask::Write { registers, .. } = read(Kind::Item, &longest).unwrap().ask else { panic!("a write") };
    assert_eq!(registers[0].0.to_string().parse(), Ok(registers[0].0.clone()));
}

/// A reason goes into the journal: one that grew with the payload made a chunk that the hub cannot take.
#[test]
fn a_reason_is_short_whatever_was_sent() {
    let name = "\\u0001".repeat(10_000);
    let refused = read(Kind::Item, &format!(r#"{{"gtin":"{GTIN}","attrs":{{"{name}":1}}}}"#)).unwrap_err();
    assert_eq!(refused.why.code, "attr_invalid");
    assert!(refused.why.reason.len() <= 1_200, "{}", refused.why.reason.len());
}

#[test]
fn a_refusal_carries_the_id_if_it_could_be_read() {
    let refused = read(Kind::Sale, r#"{"id":"s9","lines":3}"#).unwrap_err();
    assert_eq!(refused.id, Some("s9".parse().unwrap()));
}

proptest! {
    #[test]
    fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200), json in ".{0,60}", n in any::<i64>(), kind in 0..Kind::ALL.len()) {
        let dressed = format!(r#"{{"id":"x","op":"receive","gtin":"{GTIN}","qty":{n},"cents":{n},"lines":[{{"gtin":{n},"qty":{n}}}],"{json}":1}}"#);
        for bytes in [Bytes::from(payload), Bytes::from(dressed)] {
            for mode in [ScanMode::Lookup, ScanMode::Sell] {
                for form in [Form::Json, Form::Protobuf] {
                        let _ = decode(Kind::ALL[kind], form, mode, &bytes, &Limits::default());
                    }
            }
        }
    }
}
