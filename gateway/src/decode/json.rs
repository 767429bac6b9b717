//! JSON, and the plain text of scanners.

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::{Cents, Units};
use proto::wire::MovementKind;
use serde_json::Value;

use super::fields::Fields;
use super::{Decoded, ScanMode, refuse};
use crate::request::{Ask, Line, Moves, Refused, Request};

/// What a message says.
pub(super) fn fields(payload: &Bytes) -> Result<Fields, Refused> {
    match serde_json::from_slice::<Value>(payload) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refused::new("json_not_object", "the message is JSON but not an object { … }")),
        Err(error) => Err(Refused::new("json_invalid", format!("the message is not JSON: {error}"))),
    }
}

/// A scanner sends digits if it is not told otherwise.
pub(super) fn is_plain(payload: &[u8]) -> bool {
    payload.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{')
}

pub(super) fn plain_scan(mode: ScanMode, payload: &[u8]) -> Decoded {
    let Ok(text) = std::str::from_utf8(payload) else {
        return refuse(None, "scan_not_text", "the scan is neither text nor JSON: check the scanner's output format");
    };
    let gtin = match Gtin::from_scan(text) {
        Ok(gtin) => gtin,
        Err(error) => return refuse(None, error.code(), error.to_string()),
    };
    let one = |kind, units| {
        let lines = vec![Line { number: 1, gtin, units: Units(units), cents: Cents(0) }];
        Ask::Move(Moves { kind, lines, bad: vec![], reference: String::new(), peer: None, hold: None })
    };
    let ask = match mode {
        ScanMode::Lookup => Ask::Lookup(gtin),
        ScanMode::Receive => one(MovementKind::Receive, 1),
        ScanMode::Sell => one(MovementKind::Sale, -1),
    };
    Ok(Request { id: None, device_ms: 0, ask })
}
