//! Protobuf, as `pos.proto` says it: brought into the fields that JSON would have. No rule is decided here, so that none
//! can be another one than JSON's.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use proto::pos::{self, HoldOp, MoveOp, ScanOp, value};
use proto::topic::Kind;
use serde_json::Value;

use super::Limits;
use super::fields::Fields;
use super::moves::too_many_lines;
use crate::request::Refused;

/// What a message says. What it does not say is absent.
pub(super) fn fields(kind: Kind, payload: &Bytes, limits: &Limits) -> Result<Fields, Refused> {
    match kind {
        Kind::Scan => scan(read(payload)?),
        Kind::Sale => sale(read(payload)?, limits),
        Kind::Move => movement(read(payload)?, limits),
        Kind::Count => count(read(payload)?),
        Kind::Hold => hold(read(payload)?),
        Kind::Item => item(read(payload)?),
        Kind::Note => note(read(payload)?),
        Kind::Setting => setting(read(payload)?),
        Kind::Activity | Kind::Feedback => remark(read(payload)?),
    }
}

fn read<M: Message + Default>(payload: &Bytes) -> Result<M, Refused> {
    let invalid = |error| Refused::new("pb_invalid", format!("the message is not the protobuf of its topic: {error}"));
    M::decode(payload.clone()).map_err(invalid)
}

fn scan(scan: pos::Scan) -> Result<Fields, Refused> {
    let op = match scan.op() {
        ScanOp::Lookup if scan.op != 0 => scan.op.to_string(),
        ScanOp::Lookup => "lookup".into(),
        ScanOp::Receive => "receive".into(),
        ScanOp::Sell => "sell".into(),
        ScanOp::Count => "count".into(),
    };
    let mut fields = begin(scan.id, scan.at_ms);
    text(&mut fields, "gtin", scan.gtin);
    text(&mut fields, "op", op);
    text(&mut fields, "reference", scan.reference);
    maybe(&mut fields, "qty", scan.qty);
    maybe(&mut fields, "cents", scan.cents);
    maybe(&mut fields, "began_ms", scan.began_ms);
    Ok(fields)
}

fn sale(sale: pos::Sale, limits: &Limits) -> Result<Fields, Refused> {
    let mut fields = begin(sale.id, sale.at_ms);
    text(&mut fields, "reference", sale.reference);
    text(&mut fields, "hold", sale.hold);
    fields.insert("lines".into(), lines(sale.lines, limits));
    Ok(fields)
}

fn movement(movement: pos::Move, limits: &Limits) -> Result<Fields, Refused> {
    let op = match movement.op() {
        MoveOp::Unspecified if movement.op != 0 => movement.op.to_string(),
        MoveOp::Unspecified => String::new(),
        MoveOp::Receive => "receive".into(),
        MoveOp::Refund => "refund".into(),
        MoveOp::Adjust => "adjust".into(),
        MoveOp::Transfer => "transfer".into(),
    };
    let mut fields = begin(movement.id, movement.at_ms);
    text(&mut fields, "op", op);
    text(&mut fields, "to", movement.to);
    text(&mut fields, "reference", movement.reference);
    fields.insert("lines".into(), lines(movement.lines, limits));
    Ok(fields)
}

/// Too many of them are not worth bringing anywhere: their number is all that counts.
fn lines(lines: Vec<pos::Line>, limits: &Limits) -> Value {
    if too_many_lines(lines.len(), limits).is_err() {
        return vec![Value::Null; lines.len()].into();
    }
    let line = |line: pos::Line| {
        let mut fields = Fields::new();
        text(&mut fields, "gtin", line.gtin);
        maybe(&mut fields, "qty", line.qty);
        maybe(&mut fields, "cents", line.cents);
        Value::Object(fields)
    };
    lines.into_iter().map(line).collect()
}

fn count(count: pos::Count) -> Result<Fields, Refused> {
    let mut fields = begin(count.id, count.at_ms);
    text(&mut fields, "gtin", count.gtin);
    maybe(&mut fields, "qty", count.qty);
    maybe(&mut fields, "began_ms", count.began_ms);
    Ok(fields)
}

fn hold(hold: pos::Hold) -> Result<Fields, Refused> {
    let op = match hold.op() {
        HoldOp::Unspecified if hold.op != 0 => hold.op.to_string(),
        HoldOp::Unspecified => String::new(),
        HoldOp::Hold => "hold".into(),
        HoldOp::Commit => "commit".into(),
        HoldOp::Release => "release".into(),
    };
    let mut fields = begin(hold.id, hold.at_ms);
    text(&mut fields, "op", op);
    text(&mut fields, "hold", hold.hold);
    text(&mut fields, "gtin", hold.gtin);
    text(&mut fields, "reference", hold.reference);
    maybe(&mut fields, "qty", hold.qty);
    maybe(&mut fields, "seconds", hold.seconds);
    Ok(fields)
}

fn item(item: pos::Item) -> Result<Fields, Refused> {
    let mut fields = begin(item.id, item.at_ms);
    text(&mut fields, "gtin", item.gtin);
    maybe(&mut fields, "name", item.name.map(|name| name.value));
    maybe(&mut fields, "price_cents", item.price_cents.map(|price| price.value));
    if !item.attrs.is_empty() {
        let mut attrs = Fields::new();
        values(&mut attrs, item.attrs)?;
        fields.insert("attrs".into(), attrs.into());
    }
    Ok(fields)
}

fn note(note: pos::Note) -> Result<Fields, Refused> {
    let mut fields = begin(note.id, note.at_ms);
    text(&mut fields, "gtin", note.gtin);
    text(&mut fields, "author", note.author);
    maybe(&mut fields, "text", note.text.map(|text| text.value));
    if let Some(score) = note.score {
        let score = score.value.map(|score| match score {
            // A whole score is written as JSON's devices write it: 92, not 92.0.
            whole if whole.fract() == 0.0 && whole.abs() <= f64::from(1u32 << 24) => Ok(Value::from(whole as i64)),
            other => number(other),
        });
        fields.insert("score".into(), score.transpose()?.into());
    }
    let tags = note.tags.map(|tags| if tags.deleted { Value::Null } else { tags.tag.into() });
    maybe(&mut fields, "tags", tags);
    Ok(fields)
}

fn setting(setting: pos::Setting) -> Result<Fields, Refused> {
    let mut fields = begin(setting.id, setting.at_ms);
    text(&mut fields, "device", setting.device);
    let mut settings = Fields::new();
    values(&mut settings, setting.settings)?;
    fields.insert("settings".into(), settings.into());
    Ok(fields)
}

fn remark(remark: pos::Remark) -> Result<Fields, Refused> {
    let mut fields = Fields::new();
    values(&mut fields, remark.fields)?;
    // What the message says of itself counts, whatever its fields are called.
    ["id", "at_ms"].iter().for_each(|own| drop(fields.remove(*own)));
    fields.extend(begin(remark.id, remark.at_ms));
    Ok(fields)
}

fn begin(id: String, at_ms: Option<u64>) -> Fields {
    let mut fields = Fields::new();
    text(&mut fields, "id", id);
    maybe(&mut fields, "at_ms", at_ms);
    fields
}

/// An empty text says nothing.
fn text(fields: &mut Fields, name: &str, text: String) {
    maybe(fields, name, Some(text).filter(|text| !text.is_empty()));
}

fn maybe(fields: &mut Fields, name: &str, value: Option<impl Into<Value>>) {
    fields.extend(value.map(|value| (name.to_owned(), value.into())));
}

fn values(fields: &mut Fields, values: BTreeMap<String, pos::Value>) -> Result<(), Refused> {
    for (name, value) in values {
        let value = match value.of {
            None => Value::Null,
            Some(value::Of::Text(text)) => text.into(),
            Some(value::Of::Whole(whole)) => whole.into(),
            Some(value::Of::Number(found)) => number(found)?,
            Some(value::Of::Flag(flag)) => flag.into(),
        };
        fields.insert(name, value);
    }
    Ok(())
}

/// JSON has no infinity, and nothing that is no number.
fn number(number: f64) -> Result<Value, Refused> {
    let number = serde_json::Number::from_f64(number).map(Value::Number);
    number.ok_or_else(|| Refused::new("pb_invalid", "a number in the message is infinite or none at all"))
}
