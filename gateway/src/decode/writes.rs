//! Messages that write registers: items, tasting notes and devices' settings.

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::check_name;
use proto::register::{RegisterKey, VALUE_BYTES_MAX};
use serde_json::Value;

use super::fields::{CENTS_MAX, Fields, bounded_text, gtin, text};
use crate::request::{Ask, Refused};

const FIELDS_MAX: usize = 32;
const TAGS_MAX: usize = 16;

pub(super) fn item(mut fields: Fields) -> Result<Ask, Refused> {
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

pub(super) fn note(mut fields: Fields) -> Result<Ask, Refused> {
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

pub(super) fn setting(mut fields: Fields) -> Result<Ask, Refused> {
    let device = text(fields.get("device").unwrap_or(&Value::Null), "device")?;
    let device = device.parse().map_err(|e| Refused::new("name_invalid", format!("the device's name {e}")))?;
    let Some(Value::Object(settings)) = fields.remove("settings") else {
        return Err(Refused::new("field_missing", "`settings` must be an object of names and values"));
    };
    let mut values = Vec::new();
    for (name, value) in settings {
        check_name(&name).map_err(|e| Refused::new("setting_invalid", format!("the setting's name {name:?} {e}")))?;
        if value.is_object() || value.is_array() {
            return Err(Refused::new("setting_invalid", format!("the setting {name:?} must be a single value")));
        }
        values.push((name, register_value(value)?));
    }
    fits(values.iter().map(|(_, value)| value.as_ref()), "setting in `settings`")?;
    Ok(Ask::Set { device, values })
}

fn written(gtin: Gtin, registers: Vec<(RegisterKey, Option<Bytes>)>, needs: &str) -> Result<Ask, Refused> {
    fits(registers.iter().map(|(_, value)| value.as_ref()), needs)?;
    Ok(Ask::Write { gtin, registers })
}

/// There is something to write, and not too much at once.
fn fits<'a>(values: impl ExactSizeIterator<Item = Option<&'a Bytes>>, needs: &str) -> Result<(), Refused> {
    let fields = values.len();
    if fields == 0 {
        return Err(Refused::new("nothing_to_write", format!("the message needs at least one of {needs}")));
    }
    // Together with the bound on one value this keeps an event far below a chunk's size.
    let bytes: usize = values.flatten().map(Bytes::len).sum();
    if fields > FIELDS_MAX || bytes > 2 * VALUE_BYTES_MAX {
        let reason = format!("at most {FIELDS_MAX} fields and {} bytes are taken at once", 2 * VALUE_BYTES_MAX);
        return Err(Refused::new("too_many_fields", reason));
    }
    Ok(())
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
