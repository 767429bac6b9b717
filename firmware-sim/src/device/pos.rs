//! POS terminals: baskets as sales.

use serde_json::{Value, json};

use crate::request::Line;

pub(super) fn sale(id: &str, at_ms: Option<u64>, lines: &[Line]) -> Value {
    let lines: Vec<Value> =
        lines.iter().map(|line| json!({"gtin": line.code, "qty": line.qty, "cents": line.cents})).collect();
    super::with_clock(json!({"id": id, "lines": lines}), at_ms)
}
