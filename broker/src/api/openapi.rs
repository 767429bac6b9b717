//! The listener's own description, OpenAPI 3.1: made from the table that the router is made from.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::orders::KEY_CHARS_MAX;
use super::routes::{Behind, Route};
use super::schemas;

const JSON: &str = "application/json";
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
pub(super) const PATH: &str = "/api/openapi.json";

/// What this hub has.
pub(super) fn document(routes: &[Route], behind: &Behind) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes.iter().filter(|route| (route.handler)(behind).is_some()) {
        paths.entry(route.path).or_default().insert(route.method.into(), operation(route));
    }
    paths.entry(PATH).or_default().insert("get".into(), own());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tillsync hub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Stock, promises and items of all stores. Every answer comes after its commit.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn own() -> Value {
    json!({
        "operationId": "openapi",
        "summary": "This document.",
        "responses": { "200": answer("OK", JSON, "Document") },
    })
}

fn operation(route: &Route) -> Value {
    let about = &route.about;
    let mut operation = json!({
        "operationId": about.id,
        "summary": about.summary,
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let Some(schema) = about.body {
        let required = schema != "Nothing";
        operation["requestBody"] =
            json!({ "required": required, "content": { JSON: { "schema": reference(schema) } } });
    }
    if let Some(role) = route.role {
        operation["security"] = json!([{ "bearer": [] }]);
        operation["x-least-role"] = role.to_string().into();
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let of_path = |(name, _): (&str, &str)| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let mut parameters: Vec<Value> = names.map(of_path).collect();
    let mut header = |name: &str, schema: Value| {
        parameters.push(json!({ "name": name, "in": "header", "required": false, "schema": schema }));
    };
    if route.about.once {
        header("Idempotency-Key", json!({ "type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX }));
    }
    route.about.conditions.iter().for_each(|name| header(name, json!({ "type": "string" })));
    parameters
}

fn responses(route: &Route) -> BTreeMap<String, Value> {
    let about = &route.about;
    let mut responses = BTreeMap::new();
    for (status, schema) in about.answers {
        let said = match schema {
            Some(schema) => answer("Done", JSON, schema),
            None => json!({ "description": "What the caller has is the newest" }),
        };
        responses.insert(status.to_string(), with_headers(said, route));
    }
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, of) in about.problems.iter().chain(common(route)) {
        codes.entry(*status).or_default().push(of);
    }
    for (status, codes) in codes {
        let mut said = answer(&codes.join(", "), PROBLEM_JSON, "Problem");
        if status == 429 || status == 503 {
            said["headers"] = json!({ "Retry-After": { "schema": { "type": "integer" } } });
        }
        responses.insert(status.to_string(), said);
    }
    responses
}

/// Problems that every path of a kind may answer with.
fn common(route: &Route) -> impl Iterator<Item = &'static (u16, &'static str)> {
    const TOKEN: &[(u16, &str)] =
        &[(400, "invalid_request, unreadable"), (401, "no_token, invalid_token"), (429, "throttled, too_fast")];
    const ROLE: &[(u16, &str)] = &[(403, "insufficient_scope")];
    const BODY: &[(u16, &str)] = &[(400, "unreadable"), (413, "unreadable"), (415, "unreadable")];
    const SLOW: &[(u16, &str)] = &[(408, "too_slow")];
    const ONCE: &[(u16, &str)] = &[
        (400, "key_invalid"),
        (422, "key_reused"),
        (503, "rights_unsure, too_many_reservations, keys_full, no_room, stopping, busy"),
    ];
    const CONDITION: &[(u16, &str)] = &[(400, "version_invalid")];
    let about = &route.about;
    let kinds = [
        (route.role.is_some(), TOKEN),
        (route.role.is_some_and(|role| role > super::access::Role::Viewer), ROLE),
        (about.body.is_some(), BODY),
        (true, SLOW),
        (about.once, ONCE),
        (!about.conditions.is_empty(), CONDITION),
    ];
    kinds.into_iter().filter(|(is_one, _)| *is_one).flat_map(|(_, problems)| problems)
}

fn with_headers(mut said: Value, route: &Route) -> Value {
    let text = json!({ "schema": { "type": "string" } });
    if !route.about.conditions.is_empty() {
        said["headers"]["ETag"] = text.clone();
    }
    if route.about.once {
        said["headers"]["Idempotency-Replayed"] = text;
    }
    said
}

fn answer(description: &str, kind: &str, schema: &str) -> Value {
    json!({ "description": description, "content": { kind: { "schema": reference(schema) } } })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}
