//! Tablets: item data and tasting notes. Only the fields that change are sent.

use serde_json::{Map, Value, json};

pub(super) fn item(id: &str, code: &str, name: Option<&str>, price_cents: i64) -> Value {
    let mut item = Map::new();
    item.insert("id".into(), id.into());
    item.insert("gtin".into(), code.into());
    if let Some(name) = name {
        item.insert("name".into(), name.into());
    }
    item.insert("price_cents".into(), price_cents.into());
    Value::Object(item)
}

pub(super) fn note(id: &str, code: &str, author: &str, text: &str, score: Option<u32>) -> Value {
    let mut note = json!({"id": id, "gtin": code, "author": author, "text": text});
    if let Some(score) = score {
        note["score"] = score.into();
    }
    note
}
