//! Stock and promises: hostile bodies, keys, and callers who ask too fast.

use super::*;
use serde_json::json;

const GTIN: &str = "04006381333931";

impl Rig {
    async fn promised(&self) -> i64 {
        let (_, _, stock) = self.ask("GET", &format!("/api/stock/{GTIN}"), &[], "").await;
        stock["pool"]["promised"].as_i64().unwrap()
    }
}

#[tokio::test]
async fn nothing_is_promised_by_a_body_that_is_not_what_it_must_be() {
    let rig = Rig::start().await;
    rig.pool(GTIN, 1_000_000).await;
    let with = |units: &str| format!(r#"{{"gtin":"{GTIN}","units":{units}}}"#);
    let deep = format!(r#"{{"gtin":"{GTIN}","units":1,"site":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let bad = [
        with("0"),
        with("-1"),
        with("1.0"),
        with("1e3"),
        with("1.5"),
        with("\"1\""),
        with("null"),
        with("true"),
        with("1000001"),
        with("4294967297"),
        with("18446744073709551617"),
        with(&"9".repeat(400)),
        with("NaN"),
        with("[1]"),
        deep.clone(),
        "[".repeat(20_000),
        format!(r#"{{"gtin":"{GTIN}"}}"#),
        r#"{"units":1}"#.into(),
        r#"{"gtin":4006381333931,"units":1}"#.into(),
        r#"{"gtin":"4006381333932","units":1}"#.into(),
        r#"{"gtin":"","units":1}"#.into(),
        format!(r#"{{"gtin":"{GTIN}","units":1,"unit":1}}"#),
        format!(r#"{{"gtin":"{GTIN}","units":1,"units":2}}"#),
        format!(r#"{{"gtin":"{GTIN}","units":1,"channel":"a b"}}"#),
        format!(r#"{{"gtin":"{GTIN}","units":1,"site":"a/b"}}"#),
        format!(r#"{{"gtin":"{GTIN}","units":1,"reference":"{}"}}"#, "x".repeat(65)),
        format!(r#"{{"gtin":"{GTIN}","units":1,"__proto__":{{}}}}"#),
        format!(r#"{{"gtin":"{GTIN}","units":1}} {{}}"#),
        "\u{feff}{}".into(),
        "null".into(),
        "[]".into(),
        "\"\\ud800\"".into(),
    ];
    for body in &bad {
        for path in ["/api/inventory/decrement", "/api/reservations"] {
            let (status, head, said) = rig.ask("POST", path, &[], body).await;
            let shown: String = body.chars().take(80).collect();
            assert!(status == 400 || status == 422, "{path} {shown}: {status} {said}");
            assert!(head.contains("application/problem+json"), "{path} {shown}: {head}");
        }
        let (status, ..) =
            rig.ask("POST", "/api/inventory/decrement/bulk", &[], &format!(r#"{{"lines":[{body}]}}"#)).await;
        assert!(status == 400 || status == 422);
    }
    let lines = |n: usize| json!({ "lines": vec![json!({ "gtin": GTIN, "units": 1 }); n] }).to_string();
    for (n, wanted) in [(0, 422), (101, 422), (100, 200)] {
        assert_eq!(rig.ask("POST", "/api/inventory/decrement/bulk", &[], &lines(n)).await.0, wanted, "{n} lines");
    }
    for body in
        [r#"{"name":1}"#, r#"{"price_cents":-1}"#, r#"{"price_cents":1.5}"#, r#"{"color":"x"}"#, r#"{"attrs":[]}"#]
    {
        let (status, _, said) = rig.ask("PUT", &format!("/api/items/{GTIN}"), &["if-none-match: *"], body).await;
        assert_eq!((status, said["code"].as_str()), (422, Some("item_invalid")), "{body}");
    }
    for tags in ["if-match: x", "if-match: \"x", "if-none-match: \"x\""] {
        assert_eq!(rig.ask("PUT", &format!("/api/items/{GTIN}"), &[tags], "{}").await.0, 400, "{tags}");
    }
    assert_eq!(rig.promised().await, 100);
}

#[tokio::test]
async fn a_key_is_the_callers_and_its_request() {
    let rig = Rig::start().await;
    rig.pool(GTIN, 100).await;
    let buy = |units: u64| json!({ "gtin": GTIN, "units": units }).to_string();
    let key = ["idempotency-key: order-1"];
    let first = rig.ask("POST", "/api/inventory/decrement", &key, &buy(5)).await;
    let again = rig.ask("POST", "/api/inventory/decrement", &key, &buy(5)).await;
    assert_eq!((first.0, &first.2), (200, &again.2));
    assert!(again.1.contains("idempotency-replayed: true") && !first.1.contains("replayed"), "{}", again.1);
    for (path, body) in [("/api/inventory/decrement", buy(6)), ("/api/reservations", buy(5))] {
        let (status, _, said) = rig.ask("POST", path, &key, &body).await;
        assert_eq!((status, said["code"].as_str()), (422, Some("key_reused")));
    }
    let other = rig.ask_as(Role::Admin, "POST", "/api/inventory/decrement", &key, &buy(5)).await;
    assert!(other.0 == 200 && !other.1.contains("replayed"), "another caller's key is another key");
    let twice = ["idempotency-key: a", "idempotency-key: b"];
    for keys in [&["idempotency-key: "][..], &twice[..]] {
        let (status, _, said) = rig.ask("POST", "/api/inventory/decrement", keys, &buy(1)).await;
        assert_eq!((status, said["code"].as_str()), (400, Some("key_invalid")));
    }
    let made = rig.ask("POST", "/api/reservations", &["idempotency-key: r-1"], &buy(2)).await;
    let again = rig.ask("POST", "/api/reservations", &["idempotency-key: r-1"], &buy(2)).await;
    let at = format!("location: /api/reservations/{}", made.2["id"].as_str().unwrap());
    assert!((made.0, again.0) == (201, 201) && made.1.contains(&at) && again.1.contains(&at), "{made:?} {again:?}");
    assert_eq!(rig.promised().await, 10);
}

#[tokio::test]
async fn one_caller_who_asks_too_fast_waits_and_others_do_not() {
    let rig = Rig::at_rate(1).await;
    let mut answers = Vec::new();
    while answers.last().is_none_or(|(status, ..): &(u16, String, Value)| *status == 200) {
        answers.push(rig.ask("GET", "/api/whoami", &[], "").await);
    }
    assert!(answers.len() > 2, "two at once");
    let slowed = answers.last().unwrap();
    assert_eq!((slowed.0, slowed.2["code"].as_str()), (429, Some("too_fast")));
    assert!(slowed.1.contains("retry-after: 1"), "{}", slowed.1);
    assert_eq!(rig.ask_as(Role::Viewer, "GET", "/api/whoami", &[], "").await.0, 200);
}
