//! The document is true: every path with every method answers as it says.

use super::*;
use serde_json::json;

const GTIN: &str = "04006381333931";
/// An item that no test pools.
const SHELF: &str = "00000000000772";
const METHODS: [&str; 6] = ["get", "put", "post", "patch", "delete", "options"];

/// A body that is good for a schema's name.
fn sample(schema: &str) -> Value {
    let line = json!({ "gtin": GTIN, "units": 1, "reference": "web-1", "channel": "web" });
    match schema {
        "Decrement" | "Reserve" => line,
        "DecrementBulk" | "ReserveBulk" => json!({ "lines": [line, line] }),
        "ItemWrite" => json!({ "name": "Pear", "price_cents": 1000, "attrs": { "region": "Alsace" } }),
        "Nothing" => json!({}),
        "JoinRequest" => json!({ "secret": "WRONG", "request": "x" }),
        "RenewRequest" => json!({ "certificate": "x", "request": "y", "signature": "z" }),
        "Restore" => json!({ "why": "x" }),
        other => panic!("a schema that no sample is of: {other}"),
    }
}

/// What is wrong with a value, by the few words of JSON Schema that the document uses.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return faults(document, schema, value, at, found);
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is no type"),
    };
    let allowed = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
        _ => schema["enum"].as_array().is_none_or(|all| all.contains(value)),
    };
    if !allowed {
        found.push(format!("{at}: {value} is not of {}", schema["type"]));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter(|_| value.is_object()) {
        if value.get(name.as_str().unwrap()).is_none() {
            found.push(format!("{at} lacks {name}"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let of = match &schema["properties"][name] {
            Value::Null => &schema["additionalProperties"],
            of => of,
        };
        match of {
            Value::Bool(false) => found.push(format!("{at} has {name}")),
            Value::Object(_) => faults(document, of, member, &format!("{at}.{name}"), found),
            _ => {}
        }
    }
    for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        faults(document, &schema["items"], item, &format!("{at}[]"), found);
    }
}

/// Whether the answer is one that the operation names; gives back its status.
fn judge(document: &Value, operation: &Value, (status, head, body): &(u16, String, Value), what: &str) -> u16 {
    let said = &operation["responses"][status.to_string()];
    assert!(said.is_object(), "{what}: {status} is not documented: {body}");
    let Some(content) = said["content"].as_object() else {
        assert!(body.is_null(), "{what}: {status} has a body");
        return *status;
    };
    let (kind, of) = content.iter().next().expect("one content type");
    assert!(head.contains(&format!("content-type: {kind}")), "{what}: {status} is no {kind}: {head}");
    let mut found = Vec::new();
    faults(document, &of["schema"], body, "body", &mut found);
    assert!(found.is_empty(), "{what}: {status}: {found:?}");
    if said["headers"]["Retry-After"].is_object() {
        assert!(head.contains("retry-after: "), "{what}: {status}: {head}");
    }
    *status
}

#[tokio::test]
async fn every_path_answers_as_the_document_says() {
    let rig = Rig::start().await;
    rig.pool(GTIN, 1_000).await;
    let (status, head, document) = rig.say(b"GET /api/openapi.json HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!((status, document["openapi"].as_str()), (200, Some("3.1.0")), "{head}");
    let mut walked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let (_, _, reserved) = rig.ask("POST", "/api/reservations", &[], &sample("Reserve").to_string()).await;
        let id = reserved["id"].as_str().unwrap();
        let real = path.replace("{gtin}", GTIN).replace("{id}", if path.contains("conflicts") { "7" } else { id });
        for method in METHODS {
            let what = format!("{method} {path}");
            let method_name = method.to_uppercase();
            let Some(operation) = operations.get(method) else {
                let (status, head, body) = rig.ask(&method_name, &real, &[], "").await;
                assert_eq!((status, body["code"].as_str()), (405, Some("method_not_allowed")), "{what}");
                assert!(head.contains("application/problem+json"), "{what}: {head}");
                continue;
            };
            walk(&rig, &document, operation, (&method_name, &real), &what).await;
            walked += 1;
        }
    }
    assert_eq!(walked, 18);
    let (status, _, body) = rig.ask("GET", "/api/secrets", &[], "").await;
    assert_eq!((status, body["code"].as_str()), (404, Some("not_found")));
}

/// A good request, one without a token, one of too low a role, and bodies that are none.
async fn walk(rig: &Rig, document: &Value, operation: &Value, (method, path): (&str, &str), what: &str) {
    let schema = operation.pointer("/requestBody/content/application~1json/schema/$ref");
    let schema = schema.and_then(Value::as_str).and_then(|name| name.rsplit('/').next());
    let body = schema.map(|schema| sample(schema).to_string()).unwrap_or_default();
    let takes = |name: &str| operation["parameters"].as_array().into_iter().flatten().any(|one| one["name"] == name);
    let mut heads = vec![];
    if takes("If-Match") {
        assert_eq!(judge(document, operation, &rig.ask(method, path, &heads, &body).await, what), 428);
        heads.push(if method == "PUT" { "if-none-match: *" } else { "if-match: *" });
    }
    let good = rig.ask(method, path, &heads, &body).await;
    let status = judge(document, operation, &good, what);
    // Nobody answers questions here, codes are made up, and there are no conflicts.
    let reached = [200, 201, 400, 403, 404, 503].contains(&status);
    assert!(reached, "{what}: {status} {}", good.2);
    let secured = operation["security"].is_array();
    let bare =
        format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n");
    let bare = judge(document, operation, &rig.say(bare.as_bytes()).await, what);
    assert_eq!(bare == 401, secured, "{what}: without a token {bare}");
    let viewer = judge(document, operation, &rig.ask_as(Role::Viewer, method, path, &heads, &body).await, what);
    let low = operation["x-least-role"] != "viewer" && secured;
    assert_eq!(viewer == 403 && secured, low, "{what}: as a viewer {viewer}");
    if schema.is_some() {
        for (wrong, wanted) in [("{", 400), ("7", 422), (&*format!("{{\"x\":\"{}\"}}", "x".repeat(40_000)), 413)] {
            let status = judge(document, operation, &rig.ask(method, path, &heads, wrong).await, what);
            assert_eq!(status, wanted, "{what}: {}", wrong.chars().take(20).collect::<String>());
        }
        let text = [&heads[..], &["content-type: text/plain"]].concat();
        assert_eq!(judge(document, operation, &rig.ask(method, path, &text, "x").await, what), 415);
    }
    if takes("Idempotency-Key") {
        let long = format!("idempotency-key: {}", "x".repeat(65));
        let keyed = [&heads[..], &[&long]].concat();
        assert_eq!(judge(document, operation, &rig.ask(method, path, &keyed, &body).await, what), 400);
        assert!(document["components"]["schemas"]["Problem"].is_object());
    }
}

#[tokio::test]
async fn its_problems_are_answered_as_it_says() {
    let rig = Rig::start().await;
    rig.pool(GTIN, 3).await;
    let (_, _, document) = rig.say(b"GET /api/openapi.json HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let of = |method: &str, path: &str| document["paths"][path][method].clone();
    let line = |gtin: &str, units: u64, site: Option<&str>| match site {
        Some(site) => json!({ "gtin": gtin, "units": units, "site": site }).to_string(),
        None => json!({ "gtin": gtin, "units": units }).to_string(),
    };
    for (path, body, wanted, code) in [
        ("/api/inventory/decrement", line(GTIN, 4, None), 409, "not_enough"),
        ("/api/inventory/decrement", line(GTIN, 1, Some("hill")), 409, "pooled"),
        ("/api/inventory/decrement", line(SHELF, 1, None), 422, "site_missing"),
        ("/api/inventory/decrement", line(SHELF, 1, Some("hill")), 422, "site_unknown"),
        ("/api/reservations", line(SHELF, 1, None), 409, "not_pooled"),
        ("/api/reservations", line(GTIN, 4, None), 409, "not_enough"),
    ] {
        let answer = rig.ask("POST", path, &[], &body).await;
        assert_eq!(judge(&document, &of("post", path), &answer, path), wanted);
        assert_eq!(answer.2["code"], code, "{}", answer.2);
    }
    for end in ["commit", "release"] {
        let operation = of("post", &format!("/api/reservations/{{id}}/{end}"));
        let answer = rig.ask("POST", &format!("/api/reservations/r-0-1/{end}"), &[], "").await;
        assert_eq!(judge(&document, &operation, &answer, end), 404);
    }
    let known = ["if-none-match: *"];
    let made = rig.ask("PUT", &format!("/api/items/{SHELF}"), &known, r#"{"name":"x"}"#).await;
    assert_eq!(judge(&document, &of("put", "/api/items/{gtin}"), &made, "put"), 201);
    let tag = made.1.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let has = format!("if-none-match: {tag}");
    let same = rig.ask("GET", &format!("/api/items/{SHELF}"), &[&has], "").await;
    assert_eq!(judge(&document, &of("get", "/api/items/{gtin}"), &same, "get"), 304);
    let stale = rig.ask("PUT", &format!("/api/items/{SHELF}"), &["if-match: \"0\""], r#"{"name":"y"}"#).await;
    assert_eq!(judge(&document, &of("put", "/api/items/{gtin}"), &stale, "put"), 412);
    assert!(
        stale.1.contains(&format!("etag: {tag}")) && tag.contains(stale.2["version"].as_str().unwrap()),
        "{stale:?}"
    );
}
