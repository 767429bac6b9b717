//! Whatever stands behind "Bearer": no panic, and nobody is let in by it.

use std::sync::LazyLock;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::signer::b64;
use super::*;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static BENCH: LazyLock<(Bench, String)> = LazyLock::new(|| {
    let signer = Signer::ed();
    (Bench::new(&[signer.jwk("a")]), signer.token("a", &claims()))
});

fn ask(value: &[u8]) -> Option<Result<Caller, Refusal>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(value).ok()?);
    let from = Ipv4Addr::from(BENCH.0.asked.fetch_add(1, Ordering::Relaxed)).into();
    Some(RUNTIME.block_on(BENCH.0.access.identify(&headers, from, NOW)))
}

fn refused(value: &[u8]) {
    assert!(ask(value).is_none_or(|found| found.is_err()), "{}", value.escape_ascii());
}

#[test]
fn any_one_character_changed_or_left_out_ends_it() {
    let token = &BENCH.1;
    assert!(ask(format!("Bearer {token}").as_bytes()).is_some_and(|found| found.is_ok()));
    for at in 0..token.len() {
        refused(format!("Bearer {}{}", &token[..at], &token[at + 1..]).as_bytes());
        for other in ["A", "B", "_", ".", "=", " ", "+"].into_iter().filter(|other| *other != &token[at..=at]) {
            refused(format!("Bearer {}{other}{}", &token[..at], &token[at + 1..]).as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..300)) {
        refused(&value);
        refused(&[b"Bearer ", value.as_slice()].concat());
        refused(&[b"bearer tst_", value.as_slice()].concat());
    }

    #[test]
    fn any_text_in_three_parts(parts in prop::collection::vec(".{0,60}", 0..6)) {
        let parts: Vec<String> = parts.iter().map(|part| b64(part.as_bytes())).collect();
        refused(format!("Bearer {}", parts.join(".")).as_bytes());
    }

    #[test]
    fn any_json_as_header_and_claims(header in json_text(), claims in json_text(), signature in any::<[u8; 64]>()) {
        let value = format!("Bearer {}.{}.{}", b64(header.as_bytes()), b64(claims.as_bytes()), b64(&signature));
        refused(value.as_bytes());
    }

    #[test]
    fn any_signed_claims(text in json_text()) {
        // Signed by the issuer, and still not to be trusted to be claims.
        let signer = Signer::ed();
        let bench = Bench::new(&[signer.jwk("a")]);
        if let Ok(claims) = serde_json::from_str(&text) {
            prop_assert!(RUNTIME.block_on(bench.ask(&signer.token("a", &claims))).is_err());
        }
    }

    #[test]
    fn any_list_of_keys(text in json_text()) {
        let bench = Bench::new(&[]);
        std::fs::write(bench.jwks(), format!("{{\"keys\":[{text}]}}")).unwrap();
        prop_assert!(RUNTIME.block_on(bench.ask(&BENCH.1)).is_err());
    }
}

/// JSON with the members that count, and any values in them.
fn json_text() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
        "[a-zA-Z0-9_-]{0,50}".prop_map(|text| format!("{text:?}")),
        Just("[]".to_owned()),
        Just("{\"a\":[[[[]]]]}".to_owned()),
        prop::sample::select(vec![
            "\"EdDSA\"",
            "\"RS256\"",
            "\"a\"",
            "\"OKP\"",
            "\"RSA\"",
            "\"EC\"",
            "\"P-256\"",
            "\"Ed25519\""
        ])
        .prop_map(str::to_owned),
    ];
    let name = prop::sample::select(vec![
        "alg",
        "kid",
        "crit",
        "typ",
        "iss",
        "aud",
        "exp",
        "nbf",
        "sub",
        "tillsync_role",
        "kty",
        "crv",
        "x",
        "y",
        "n",
        "e",
        "use",
        "key_ops",
    ]);
    prop::collection::vec((name, value), 0..10).prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}
