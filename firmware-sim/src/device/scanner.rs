//! Scanners: JSON where they are told what to do with a barcode, bare text with a line ending where they are not.

use serde_json::{Value, json};

pub(super) fn receive(id: &str, at_ms: Option<u64>, code: &str, qty: i64) -> Value {
    super::with_clock(json!({"id": id, "gtin": code, "op": "receive", "qty": qty}), at_ms)
}

/// As a keyboard-wedge scanner sends it: the digits and whatever suffix it was set to.
pub(super) fn bare(code: &str, ending: &str) -> String {
    format!("{code}{ending}")
}
