//! Payloads to requests: the one door. Past it there is no invalid scan, so nobody checks again.

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::{Cents, RequestId, SiteName, Units, check_name};
use proto::register::{RegisterKey, VALUE_BYTES_MAX};
use proto::topic::Kind;
use proto::wire::MovementKind;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::request::{Ask, BadLine, Line, Moves, Refused, Request, Undecodable};

/// What a plain barcode from this device means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScanMode {
    /// Records the scan and moves no stock.
    #[default]
    Lookup,
    Receive,
    Sell,
}

impl std::str::FromStr for ScanMode {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "lookup" => Ok(ScanMode::Lookup),
            "receive" => Ok(ScanMode::Receive),
            "sell" => Ok(ScanMode::Sell),
            _ => Err("not a mode"),
        }
    }
}

/// What a request may hold at most. Past each of them it is refused with a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub payload_bytes_max: usize,
    /// Units of one line.
    pub units_max: i64,
    pub lines_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { payload_bytes_max: 64 << 10, units_max: 9_999, lines_max: 100 }
    }
}

const CENTS_MAX: i64 = 1_000_000_000;
const COUNTED_MAX: i64 = 1_000_000;
const REFERENCE_CHARS_MAX: usize = 64;
const FIELDS_MAX: usize = 32;
const NAME_CHARS_MAX: usize = 200;
const TAGS_MAX: usize = 16;

type Decoded = Result<Request, Undecodable>;

/// Reads one payload. Never panics, whatever the bytes.
pub fn decode(kind: Kind, mode: ScanMode, payload: &Bytes, limits: &Limits) -> Decoded {
    if payload.is_empty() {
        return refuse(None, "payload_empty", "the message is empty");
    }
    if payload.len() > limits.payload_bytes_max {
        let reason = format!("the message has {} bytes; at most {} are taken", payload.len(), limits.payload_bytes_max);
        return refuse(None, "payload_too_large", reason);
    }
    if kind == Kind::Scan && payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return plain_scan(mode, payload);
    }
    let fields = match serde_json::from_slice::<Value>(payload) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return refuse(None, "json_not_object", "the message is JSON but not an object { … }"),
        Err(error) => return refuse(None, "json_invalid", format!("the message is not JSON: {error}")),
    };
    let id = match request_id(&fields) {
        Ok(id) => id,
        Err(why) => return Err(Undecodable { id: None, why }),
    };
    let device_ms = fields.get("at_ms").and_then(Value::as_u64).unwrap_or(0);
    let ask = match kind {
        Kind::Scan => scan(fields, limits),
        Kind::Sale => sale(fields, limits),
        Kind::Move => movement(fields, limits),
        Kind::Count => count(&fields),
        Kind::Item => item(fields),
        Kind::Note => note(fields),
        Kind::Activity | Kind::Feedback => keep(kind, payload),
    };
    match ask {
        Ok(ask) => Ok(Request { id, device_ms, ask }),
        Err(why) => Err(Undecodable { id, why }),
    }
}

fn refuse(id: Option<RequestId>, code: &'static str, reason: impl Into<String>) -> Decoded {
    Err(Undecodable { id, why: Refused::new(code, reason) })
}

fn plain_scan(mode: ScanMode, payload: &[u8]) -> Decoded {
    let Ok(text) = std::str::from_utf8(payload) else {
        return refuse(None, "scan_not_text", "the scan is neither text nor JSON: check the scanner's output format");
    };
    let gtin = match Gtin::from_scan(text) {
        Ok(gtin) => gtin,
        Err(error) => return refuse(None, error.code(), error.to_string()),
    };
    let one = |kind, units| {
        let lines = vec![Line { number: 1, gtin, units: Units(units), cents: Cents(0) }];
        Ask::Move(Moves { kind, lines, bad: vec![], reference: String::new(), peer: None })
    };
    let ask = match mode {
        ScanMode::Lookup => Ask::Lookup(gtin),
        ScanMode::Receive => one(MovementKind::Receive, 1),
        ScanMode::Sell => one(MovementKind::Sale, -1),
    };
    Ok(Request { id: None, device_ms: 0, ask })
}

fn scan(fields: Map<String, Value>, limits: &Limits) -> Result<Ask, Refused> {
    let op = fields.get("op").map_or(Ok("lookup"), |op| text(op, "op"))?;
    let kind = match op {
        "lookup" => return Ok(Ask::Lookup(gtin(fields.get("gtin"))?)),
        "count" => return count(&fields),
        "receive" => MovementKind::Receive,
        "sell" => MovementKind::Sale,
        other => return Err(op_unknown(other, "receive, sell, count, lookup")),
    };
    let qty = fields.get("qty").cloned().unwrap_or(Value::from(1));
    let line = line(1, fields.get("gtin"), Some(&qty), fields.get("cents"), kind, limits)?;
    let reference = reference(&fields)?;
    Ok(Ask::Move(Moves { kind, lines: vec![line], bad: vec![], reference, peer: None }))
}

fn sale(fields: Map<String, Value>, limits: &Limits) -> Result<Ask, Refused> {
    let (lines, bad) = lines(&fields, MovementKind::Sale, limits)?;
    let reference = reference(&fields)?;
    Ok(Ask::Move(Moves { kind: MovementKind::Sale, lines, bad, reference, peer: None }))
}

fn movement(fields: Map<String, Value>, limits: &Limits) -> Result<Ask, Refused> {
    let op = text(fields.get("op").unwrap_or(&Value::Null), "op")?;
    let kind = match op {
        "receive" => MovementKind::Receive,
        "refund" => MovementKind::Refund,
        "adjust" => MovementKind::Adjust,
        "transfer" => MovementKind::Transfer,
        other => return Err(op_unknown(other, "receive, refund, adjust, transfer")),
    };
    let peer = match (kind, fields.get("to")) {
        (MovementKind::Transfer, Some(to)) => Some(site(to)?),
        (MovementKind::Transfer, None) => {
            return Err(Refused::new("to_missing", "a transfer needs `to`, the other site"));
        }
        _ => None,
    };
    let (lines, bad) = lines(&fields, kind, limits)?;
    Ok(Ask::Move(Moves { kind, lines, bad, reference: reference(&fields)?, peer }))
}

fn count(fields: &Map<String, Value>) -> Result<Ask, Refused> {
    let gtin = gtin(fields.get("gtin"))?;
    let counted = whole(fields.get("qty"), "qty")?;
    if !(0..=COUNTED_MAX).contains(&counted) {
        return Err(Refused::new("qty_absurd", format!("a count is from 0 to {COUNTED_MAX}, not {counted}")));
    }
    let began_ms = match fields.get("began_ms").or(fields.get("at_ms")) {
        None => None,
        Some(ms) => Some(ms.as_u64().ok_or_else(|| {
            Refused::new("began_invalid", "`began_ms` must be milliseconds since 1970, when the count began")
        })?),
    };
    Ok(Ask::Count { gtin, counted: Units(counted), began_ms })
}

fn item(mut fields: Map<String, Value>) -> Result<Ask, Refused> {
    let gtin = gtin(fields.get("gtin"))?;
    let mut registers = Vec::new();
    let mut write = |field: String, value: Value| -> Result<(), Refused> {
        registers.push((RegisterKey::Item { gtin, field }, register_value(value)?));
        Ok(())
    };
    if let Some(name) = fields.remove("name") {
        write("name".into(), bounded_text(name, "name")?)?;
    }
    if let Some(price) = fields.remove("price_cents") {
        if !price.is_null() && !price.as_i64().is_some_and(|cents| (0..=CENTS_MAX).contains(&cents)) {
            let reason = format!("`price_cents` must be a whole number from 0 to {CENTS_MAX}, or null");
            return Err(Refused::new("price_invalid", reason));
        }
        write("price_cents".into(), price)?;
    }
    match fields.remove("attrs") {
        None => {}
        Some(Value::Object(attrs)) => {
            for (name, value) in attrs {
                let field = format!("attr:{name}");
                // The field is the register's: a longer one would be no key at the hub.
                check_name(&field)
                    .map_err(|e| Refused::new("attr_invalid", format!("the attribute's name {name:?} {e}")))?;
                if value.is_object() || value.is_array() {
                    return Err(Refused::new("attr_invalid", format!("the attribute {name:?} must be a single value")));
                }
                write(field, value)?;
            }
        }
        Some(_) => return Err(Refused::new("attr_invalid", "`attrs` must be an object of names and values")),
    }
    written(gtin, registers, "`name`, `price_cents` or `attrs`")
}

fn note(mut fields: Map<String, Value>) -> Result<Ask, Refused> {
    let gtin = gtin(fields.get("gtin"))?;
    let author = text(fields.get("author").unwrap_or(&Value::Null), "author")?.to_owned();
    check_name(&author).map_err(|e| Refused::new("author_invalid", format!("the author's name {e}")))?;
    let mut registers = Vec::new();
    let mut write = |field: &str, value: Value| -> Result<(), Refused> {
        let key = RegisterKey::Note { gtin, author: author.clone(), field: field.into() };
        registers.push((key, register_value(value)?));
        Ok(())
    };
    if let Some(words) = fields.remove("text") {
        if !words.is_null() && !words.is_string() {
            return Err(Refused::new("text_invalid", "`text` must be text, or null to delete it"));
        }
        write("text", words)?;
    }
    if let Some(score) = fields.remove("score") {
        if !score.is_null() && !score.as_f64().is_some_and(|s| (0.0..=100.0).contains(&s)) {
            return Err(Refused::new("score_invalid", "`score` must be from 0 to 100, or null"));
        }
        write("score", score)?;
    }
    if let Some(tags) = fields.remove("tags") {
        let good = tags.as_array().is_some_and(|all| all.len() <= TAGS_MAX && all.iter().all(Value::is_string));
        if !tags.is_null() && !good {
            return Err(Refused::new("tags_invalid", format!("`tags` must be at most {TAGS_MAX} texts, or null")));
        }
        write("tags", tags)?;
    }
    written(gtin, registers, "`text`, `score` or `tags`")
}

fn written(gtin: Gtin, registers: Vec<(RegisterKey, Option<Bytes>)>, needs: &str) -> Result<Ask, Refused> {
    if registers.is_empty() {
        return Err(Refused::new("nothing_to_write", format!("the message needs at least one of {needs}")));
    }
    // Together with the bound on one value this keeps an event far below a chunk's size.
    let bytes: usize = registers.iter().filter_map(|(_, value)| value.as_ref().map(Bytes::len)).sum();
    if registers.len() > FIELDS_MAX || bytes > 2 * VALUE_BYTES_MAX {
        let reason = format!("at most {FIELDS_MAX} fields and {} bytes are taken at once", 2 * VALUE_BYTES_MAX);
        return Err(Refused::new("too_many_fields", reason));
    }
    Ok(Ask::Write { gtin, registers })
}

fn keep(kind: Kind, payload: &Bytes) -> Result<Ask, Refused> {
    if payload.len() > VALUE_BYTES_MAX {
        let reason = format!("the message has {} bytes; at most {VALUE_BYTES_MAX} are taken here", payload.len());
        return Err(Refused::new("payload_too_large", reason));
    }
    Ok(Ask::Keep { kind: kind.as_str(), payload: payload.clone() })
}

#[derive(Deserialize)]
struct RawLine {
    gtin: Option<Value>,
    qty: Option<Value>,
    cents: Option<Value>,
}

fn lines(
    fields: &Map<String, Value>,
    kind: MovementKind,
    limits: &Limits,
) -> Result<(Vec<Line>, Vec<BadLine>), Refused> {
    let Some(Value::Array(rows)) = fields.get("lines") else {
        return Err(Refused::new("lines_missing", "the message needs `lines`, a list of { gtin, qty }"));
    };
    if rows.is_empty() {
        return Err(Refused::new("lines_missing", "`lines` is empty"));
    }
    if rows.len() > limits.lines_max {
        let reason = format!("{} lines; at most {} are taken at once", rows.len(), limits.lines_max);
        return Err(Refused::new("too_many_lines", reason));
    }
    let (mut good, mut bad) = (Vec::with_capacity(rows.len()), Vec::new());
    for (number, row) in (1u32..).zip(rows) {
        let read = RawLine::deserialize(row)
            .map_err(|_| Refused::new("line_invalid", "the line must be an object { gtin, qty, cents }"))
            .and_then(|raw| line(number, raw.gtin.as_ref(), raw.qty.as_ref(), raw.cents.as_ref(), kind, limits));
        match read {
            Ok(line) => good.push(line),
            Err(why) => bad.push(BadLine { number, why }),
        }
    }
    Ok((good, bad))
}

/// An adjustment carries its own sign, and a sale may: a negative line is one taken back. All else counts pieces.
fn line(
    number: u32,
    code: Option<&Value>,
    qty: Option<&Value>,
    cents: Option<&Value>,
    kind: MovementKind,
    limits: &Limits,
) -> Result<Line, Refused> {
    let gtin = gtin(code)?;
    let qty = whole(qty, "qty")?;
    if qty == 0 {
        return Err(Refused::new("qty_zero", "the quantity is 0"));
    }
    if qty.unsigned_abs() > limits.units_max.unsigned_abs() {
        let reason = format!("the quantity {qty} is beyond {}: check it", limits.units_max);
        return Err(Refused::new("qty_absurd", reason));
    }
    if qty < 0 && !matches!(kind, MovementKind::Adjust | MovementKind::Sale) {
        return Err(Refused::new("qty_negative", format!("the quantity {qty} is negative: adjust the stock instead")));
    }
    let sign = if matches!(kind, MovementKind::Sale | MovementKind::Transfer) { -1 } else { 1 };
    let cents = match cents {
        None | Some(Value::Null) => 0,
        some => whole(some, "cents")?,
    };
    if !(-CENTS_MAX..=CENTS_MAX).contains(&cents) {
        return Err(Refused::new("cents_absurd", format!("the amount {cents} is beyond {CENTS_MAX}")));
    }
    Ok(Line { number, gtin, units: Units(qty * sign), cents: Cents(cents) })
}

fn request_id(fields: &Map<String, Value>) -> Result<Option<RequestId>, Refused> {
    match fields.get("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => {
            id.parse().map(Some).map_err(|e| Refused::new("id_invalid", format!("the request's id {e}")))
        }
        Some(_) => Err(Refused::new("id_invalid", "the request's id must be text")),
    }
}

fn gtin(value: Option<&Value>) -> Result<Gtin, Refused> {
    let parsed = match value {
        Some(Value::String(digits)) => Gtin::from_scan(digits),
        Some(Value::Number(number)) if number.is_u64() => number.to_string().parse(),
        None | Some(Value::Null) => return Err(Refused::new("gtin_missing", "the message names no `gtin`")),
        Some(_) => return Err(Refused::new("gtin_not_digits", "`gtin` must be the barcode's digits")),
    };
    parsed.map_err(|error| Refused::new(error.code(), error.to_string()))
}

fn whole(value: Option<&Value>, what: &str) -> Result<i64, Refused> {
    let code = if what == "qty" { "qty_invalid" } else { "cents_invalid" };
    match value {
        None => Err(Refused::new(code, format!("`{what}` is missing"))),
        Some(value) => value.as_i64().ok_or_else(|| Refused::new(code, format!("`{what}` must be a whole number"))),
    }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, Refused> {
    value.as_str().ok_or_else(|| Refused::new("field_missing", format!("`{what}` must be given, as text")))
}

fn bounded_text(value: Value, what: &str) -> Result<Value, Refused> {
    let good = value.is_null() || value.as_str().is_some_and(|s| s.chars().count() <= NAME_CHARS_MAX);
    let reason = || format!("`{what}` must be text of at most {NAME_CHARS_MAX} characters, or null to delete it");
    if good { Ok(value) } else { Err(Refused::new("text_invalid", reason())) }
}

fn reference(fields: &Map<String, Value>) -> Result<String, Refused> {
    match fields.get("reference") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if text.chars().count() <= REFERENCE_CHARS_MAX => Ok(text.clone()),
        Some(_) => {
            let reason = format!("`reference` must be text of at most {REFERENCE_CHARS_MAX} characters");
            Err(Refused::new("reference_invalid", reason))
        }
    }
}

fn site(value: &Value) -> Result<SiteName, Refused> {
    text(value, "to")?.parse().map_err(|e| Refused::new("to_invalid", format!("the other site's name {e}")))
}

fn op_unknown(found: &str, known: &str) -> Refused {
    let found: String = found.chars().take(40).collect();
    Refused::new("op_unknown", format!("the operation {found:?} is not one of {known}"))
}

/// `null` deletes; everything else is kept as its JSON text.
fn register_value(value: Value) -> Result<Option<Bytes>, Refused> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.to_string();
    if text.len() > VALUE_BYTES_MAX {
        let reason = format!("a value of {} bytes; at most {VALUE_BYTES_MAX} are kept", text.len());
        return Err(Refused::new("value_too_large", reason));
    }
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GTIN: &str = "4006381333931";

    fn read(kind: Kind, payload: &str) -> Decoded {
        decode(kind, ScanMode::Lookup, &Bytes::copy_from_slice(payload.as_bytes()), &Limits::default())
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
        let scan = |mode| decode(Kind::Scan, mode, &Bytes::from_static(b"4006381333931\r\n"), &Limits::default());
        assert!(matches!(scan(ScanMode::Lookup).unwrap().ask, Ask::Lookup(_)));
        for (mode, kind, units) in
            [(ScanMode::Receive, MovementKind::Receive, 1), (ScanMode::Sell, MovementKind::Sale, -1)]
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
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200), json in ".{0,60}", n in any::<i64>(), kind in 0usize..8) {
            let dressed = format!(r#"{{"id":"x","op":"receive","gtin":"{GTIN}","qty":{n},"cents":{n},"lines":[{{"gtin":{n},"qty":{n}}}],"{json}":1}}"#);
            for bytes in [Bytes::from(payload), Bytes::from(dressed)] {
                for mode in [ScanMode::Lookup, ScanMode::Sell] {
                    let _ = decode(Kind::ALL[kind], mode, &bytes, &Limits::default());
                }
            }
        }
    }
}
