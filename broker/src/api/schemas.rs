//! The shapes of what goes over the wire, as the document names them.

use serde_json::{Map, Value, json};

use super::read::{LINES_MAX, REFERENCE_CHARS_MAX, UNITS_MAX};

pub(super) fn all() -> Map<String, Value> {
    let named = small().into_iter().chain(lines()).chain(shown());
    named.map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// `required` and `optional`: names and schemas of the members.
fn object(required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let members: Map<String, Value> =
        required.iter().chain(optional).map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "properties": members, "required": names })
}

/// What a caller writes: members that are not named are refused.
fn strict(mut object: Value) -> Value {
    object["additionalProperties"] = false.into();
    object
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn whole() -> Value {
    json!({ "type": "integer" })
}

fn whole_or_null() -> Value {
    json!({ "type": ["integer", "null"] })
}

fn gtin() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]{8}([0-9]{4,6})?$" })
}

fn units() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": UNITS_MAX })
}

fn list_of(schema: &str) -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": LINES_MAX, "items": { "$ref": format!("#/components/schemas/{schema}") } })
}

fn small() -> Vec<(&'static str, Value)> {
    let anything = || json!({ "type": "object" });
    let problem = object(
        &[("type", text()), ("title", text()), ("status", whole()), ("code", text()), ("detail", text())],
        &[
            ("left", whole()),
            ("short", json!({ "type": "array", "items": anything() })),
            ("version", json!({ "type": ["string", "null"] })),
        ],
    );
    vec![
        ("Document", object(&[("openapi", text()), ("info", anything()), ("paths", anything())], &[])),
        ("Health", object(&[("status", text())], &[])),
        ("Problem", problem),
        ("Nothing", strict(object(&[], &[]))),
        ("Caller", object(&[("name", text()), ("role", text()), ("by", text())], &[])),
        ("Status", object(&[("sites", anything()), ("conflicts", anything())], &[])),
        ("JoinRequest", object(&[("secret", text()), ("request", text())], &[("site", text())])),
        ("RenewRequest", object(&[("certificate", text()), ("request", text()), ("signature", text())], &[])),
        ("Granted", anything()),
        ("Restore", strict(object(&[], &[("why", text())]))),
        ("Restored", object(&[("id", whole()), ("key", text()), ("restored", anything()), ("now", anything())], &[])),
    ]
}

fn lines() -> Vec<(&'static str, Value)> {
    let reference = || json!({ "type": ["string", "null"], "maxLength": REFERENCE_CHARS_MAX });
    let maybe = || json!({ "type": ["string", "null"] });
    let told = [("gtin", gtin()), ("units", whole()), ("record", whole())];
    let reservation = object(
        &[
            ("id", text()),
            ("gtin", gtin()),
            ("units", whole()),
            ("state", json!({ "enum": ["open", "committed", "released", "expired"] })),
            ("seconds_left", whole_or_null()),
            ("deadline_ms", whole_or_null()),
            ("reference", text()),
        ],
        &[],
    );
    let seconds = json!({ "type": ["integer", "null"], "minimum": 1 });
    let decrement = [("site", maybe()), ("reference", reference()), ("channel", maybe())];
    let reserve = [("seconds", seconds), ("reference", reference()), ("channel", maybe())];
    let asked = [("gtin", gtin()), ("units", units())];
    vec![
        ("Decrement", strict(object(&asked, &decrement))),
        ("DecrementBulk", strict(object(&[("lines", list_of("Decrement"))], &[]))),
        ("Decremented", object(&told, &[("left", whole()), ("site", text()), ("on_hand", whole())])),
        ("DecrementedBulk", object(&[("lines", list_of("Decremented"))], &[])),
        ("Reserve", strict(object(&asked, &reserve))),
        ("ReserveBulk", strict(object(&[("lines", list_of("Reserve"))], &[]))),
        ("Reservation", reservation),
        ("ReservationBulk", object(&[("lines", list_of("Reservation"))], &[])),
    ]
}

fn shown() -> Vec<(&'static str, Value)> {
    let counts = |members: &[&'static str]| {
        let members: Vec<_> = members.iter().map(|name| (*name, whole())).collect();
        object(&members, &[])
    };
    let of_site = counts(&["granted", "returned", "promised", "held", "available"]);
    let mut pool = counts(&["units", "free", "granted", "returned", "promised", "held", "refunded"]);
    pool["type"] = json!(["object", "null"]);
    pool["properties"]["hub"] = counts(&["promised", "held"]);
    pool["properties"]["sites"] = json!({ "type": "object", "additionalProperties": of_site });
    pool["properties"]["waits_for"] = json!({ "type": ["string", "null"] });
    let by_site = json!({ "type": "object", "additionalProperties": whole() });
    let attrs =
        json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } });
    let name = json!({ "type": ["string", "null"] });
    let item = [("name", name), ("price_cents", json!({ "type": ["integer", "null"], "minimum": 0 }))];
    let written = [item[0].clone(), item[1].clone(), ("attrs", attrs.clone())];
    vec![
        ("Stock", object(&[("gtin", gtin()), ("on_hand", whole()), ("sites", by_site), ("pool", pool)], &[])),
        ("Item", object(&[("gtin", gtin()), ("attrs", attrs)], &item)),
        ("ItemWrite", strict(object(&[], &written))),
    ]
}
