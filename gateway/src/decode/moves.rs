//! Messages that move stock: scans, sales, movements, counts.

use proto::id::{Cents, Units};
use proto::wire::MovementKind;
use serde::Deserialize;
use serde_json::Value;

use super::Limits;
use super::fields::{CENTS_MAX, Fields, gtin, hold_id, op_unknown, reference, site, text, whole};
use crate::request::{Ask, BadLine, Line, Moves, Refused};

const COUNTED_MAX: i64 = 1_000_000;

pub(super) fn scan(fields: Fields, limits: &Limits) -> Result<Ask, Refused> {
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
    Ok(Ask::Move(Moves { kind, lines: vec![line], bad: vec![], reference, peer: None, hold: None }))
}

pub(super) fn sale(fields: Fields, limits: &Limits) -> Result<Ask, Refused> {
    let (lines, bad) = lines(&fields, MovementKind::Sale, limits)?;
    let (reference, hold) = (reference(&fields)?, hold_id(&fields)?);
    Ok(Ask::Move(Moves { kind: MovementKind::Sale, lines, bad, reference, peer: None, hold }))
}

pub(super) fn movement(fields: Fields, limits: &Limits) -> Result<Ask, Refused> {
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
    Ok(Ask::Move(Moves { kind, lines, bad, reference: reference(&fields)?, peer, hold: None }))
}

pub(super) fn count(fields: &Fields) -> Result<Ask, Refused> {
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

#[derive(Deserialize)]
struct RawLine {
    gtin: Option<Value>,
    qty: Option<Value>,
    cents: Option<Value>,
}

fn lines(fields: &Fields, kind: MovementKind, limits: &Limits) -> Result<(Vec<Line>, Vec<BadLine>), Refused> {
    let Some(Value::Array(rows)) = fields.get("lines") else {
        return Err(Refused::new("lines_missing", "the message needs `lines`, a list of { gtin, qty }"));
    };
    if rows.is_empty() {
        return Err(Refused::new("lines_missing", "`lines` is empty"));
    }
    too_many_lines(rows.len(), limits)?;
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

pub(super) fn too_many_lines(lines: usize, limits: &Limits) -> Result<(), Refused> {
    if lines > limits.lines_max {
        let reason = format!("{lines} lines; at most {} are taken at once", limits.lines_max);
        return Err(Refused::new("too_many_lines", reason));
    }
    Ok(())
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
