//! Single fields of a message, checked.

use proto::gtin::Gtin;
use proto::id::{HoldId, RequestId, SiteName};
use serde_json::{Map, Value};

use crate::request::Refused;

/// What a message says, by the names that JSON gives them. Protobuf is brought into this form, so that one set of rules
/// decides both.
pub(super) type Fields = Map<String, Value>;

pub(super) const CENTS_MAX: i64 = 1_000_000_000;
const REFERENCE_CHARS_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 200;

pub(super) fn request_id(fields: &Fields) -> Result<Option<RequestId>, Refused> {
    match fields.get("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => {
            id.parse().map(Some).map_err(|e| Refused::new("id_invalid", format!("the request's id {e}")))
        }
        Some(_) => Err(Refused::new("id_invalid", "the request's id must be text")),
    }
}

pub(super) fn hold_id(fields: &Fields) -> Result<Option<HoldId>, Refused> {
    match fields.get("hold") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(hold)) => {
            hold.parse().map(Some).map_err(|e| Refused::new("hold_invalid", format!("the hold's name {e}")))
        }
        Some(_) => Err(Refused::new("hold_invalid", "`hold`, the hold's name, must be text")),
    }
}

pub(super) fn gtin(value: Option<&Value>) -> Result<Gtin, Refused> {
    let parsed = match value {
        Some(Value::String(digits)) => Gtin::from_scan(digits),
        Some(Value::Number(number)) if number.is_u64() => number.to_string().parse(),
        None | Some(Value::Null) => return Err(Refused::new("gtin_missing", "the message names no `gtin`")),
        Some(_) => return Err(Refused::new("gtin_not_digits", "`gtin` must be the barcode's digits")),
    };
    parsed.map_err(|error| Refused::new(error.code(), error.to_string()))
}

pub(super) fn whole(value: Option<&Value>, what: &str) -> Result<i64, Refused> {
    let code = if what == "qty" { "qty_invalid" } else { "cents_invalid" };
    match value {
        None => Err(Refused::new(code, format!("`{what}` is missing"))),
        Some(value) => value.as_i64().ok_or_else(|| Refused::new(code, format!("`{what}` must be a whole number"))),
    }
}

pub(super) fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, Refused> {
    value.as_str().ok_or_else(|| Refused::new("field_missing", format!("`{what}` must be given, as text")))
}

pub(super) fn bounded_text(value: Value, what: &str) -> Result<Value, Refused> {
    let good = value.is_null() || value.as_str().is_some_and(|s| s.chars().count() <= NAME_CHARS_MAX);
    let reason = || format!("`{what}` must be text of at most {NAME_CHARS_MAX} characters, or null to delete it");
    if good { Ok(value) } else { Err(Refused::new("text_invalid", reason())) }
}

pub(super) fn reference(fields: &Fields) -> Result<String, Refused> {
    match fields.get("reference") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if text.chars().count() <= REFERENCE_CHARS_MAX => Ok(text.clone()),
        Some(_) => {
            let reason = format!("`reference` must be text of at most {REFERENCE_CHARS_MAX} characters");
            Err(Refused::new("reference_invalid", reason))
        }
    }
}

pub(super) fn site(value: &Value) -> Result<SiteName, Refused> {
    text(value, "to")?.parse().map_err(|e| Refused::new("to_invalid", format!("the other site's name {e}")))
}

pub(super) fn op_unknown(found: &str, known: &str) -> Refused {
    let found: String = found.chars().take(40).collect();
    Refused::new("op_unknown", format!("the operation {found:?} is not one of {known}"))
}
