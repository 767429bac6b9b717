//! Signed tokens: what is taken, and each thing that is not.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::super::caller::{Means, Role};
use super::super::key::KEYS_MAX;
use super::signer::{RSA_PEM, token};
use super::*;

fn all() -> [Signer; 3] {
    [Signer::ed(), Signer::ec(), Signer::rsa()]
}

#[tokio::test]
async fn each_algorithm_is_taken_with_its_own_key() {
    let signers = all();
    let bench = Bench::new(&[signers[0].jwk("a"), signers[1].jwk("b"), signers[2].jwk("c")]);
    let anna = Caller { name: "anna".into(), role: Role::Operator, by: Means::Jwt };
    for (signer, kid) in signers.iter().zip(["a", "b", "c"]) {
        assert_eq!(bench.ask(&signer.token(kid, &claims())).await, Ok(anna.clone()), "{}", signer.alg());
        // Of each kind there is one, so it needs no name.
        let unnamed = signer.token_of(&json!({ "alg": signer.alg() }).to_string(), &claims());
        assert_eq!(bench.ask(&unnamed).await, Ok(anna.clone()));
    }
    for good in [
        with("aud", Some(json!(["other", "tillsync"]))),
        with("exp", Some(json!(NOW_S as f64 + 0.5))),
        with("tillsync_role", Some(json!(["till", "viewer", 7, "operator"]))),
    ] {
        assert_eq!(bench.ask(&signers[0].token("a", &good)).await, Ok(anna.clone()), "{good}");
    }
}

#[tokio::test]
async fn every_claim_is_required_and_checked() {
    let signer = Signer::ed();
    let bench = Bench::new(&[signer.jwk("a")]);
    let text = |seconds: u64| Some(json!(seconds.to_string()));
    let long = Some(json!("x".repeat(257)));
    for (claim, value, why) in [
        ("iss", None, Refusal::Claim("iss")),
        ("iss", Some(json!(7)), Refusal::Claim("iss")),
        ("iss", Some(json!(["https://id.example"])), Refusal::Claim("iss")),
        ("iss", Some(json!("https://id.example/")), Refusal::Issuer),
        ("aud", None, Refusal::Claim("aud")),
        ("aud", Some(json!("tillsync2")), Refusal::Audience),
        ("aud", Some(json!([])), Refusal::Audience),
        ("aud", Some(json!([["tillsync"]])), Refusal::Audience),
        ("aud", Some(Value::Null), Refusal::Audience),
        ("exp", None, Refusal::Claim("exp")),
        ("exp", text(NOW_S + 60), Refusal::Claim("exp")),
        ("exp", Some(Value::Null), Refusal::Claim("exp")),
        ("exp", Some(json!(NOW_S - 31)), Refusal::Expired),
        ("exp", Some(json!(-1)), Refusal::Expired),
        ("nbf", None, Refusal::Claim("nbf")),
        ("nbf", text(NOW_S - 60), Refusal::Claim("nbf")),
        ("nbf", Some(json!(NOW_S + 31)), Refusal::Early),
        ("nbf", Some(json!(1e300)), Refusal::Early),
        ("sub", None, Refusal::Claim("sub")),
        ("sub", Some(json!("")), Refusal::Claim("sub")),
        ("sub", Some(json!("anna\nroot")), Refusal::Claim("sub")),
        ("sub", long, Refusal::Claim("sub")),
        ("tillsync_role", None, Refusal::Role),
        ("tillsync_role", Some(json!("owner")), Refusal::Role),
        ("tillsync_role", Some(json!("Admin")), Refusal::Role),
        ("tillsync_role", Some(json!("viewer admin")), Refusal::Role),
        ("tillsync_role", Some(json!([["admin"], {}, 3])), Refusal::Role),
    ] {
        bench.refuses(&signer.token("a", &with(claim, value)), why).await;
    }
    bench.refuses(&signer.token("a", &json!("no claims")), Refusal::Form).await;
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway_and_no_more() {
    let signer = Signer::ec();
    let bench = Bench::new(&[signer.jwk("a")]);
    for (claim, at, why) in [
        ("exp", NOW_S - 29, None),
        ("exp", NOW_S - 30, Some(Refusal::Expired)),
        ("nbf", NOW_S + 30, None),
        ("nbf", NOW_S + 31, Some(Refusal::Early)),
    ] {
        let found = bench.ask(&signer.token("a", &with(claim, Some(json!(at))))).await;
        assert_eq!(found.err(), why, "{claim} {at}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    let rsa = Signer::rsa();
    let jwk = rsa.jwk("c");
    let bench = Bench::new(std::slice::from_ref(&jwk));
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    let secrets =
        [RSA_PEM.as_bytes().to_vec(), modulus, jwk["n"].to_string().into_bytes(), jwk.to_string().into_bytes()];
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        for alg in ["HS256", "RS256"] {
            let forged = token(&json!({ "alg": alg, "kid": "c" }).to_string(), &claims(), |message| {
                hmac::sign(&key, message).as_ref().to_vec()
            });
            bench.refuses(&forged, if alg == "HS256" { Refusal::Algorithm } else { Refusal::Signature }).await;
        }
    }
}

#[tokio::test]
async fn what_is_not_signed_or_otherwise_is_refused() {
    let signer = Signer::rsa();
    let bench = Bench::new(&[signer.jwk("c")]);
    for alg in ["none", "None", "NONE", "", "HS256", "HS512", "RS384", "RS512", "PS256", "ES384", "ES256K", "eddsa"] {
        let header = json!({ "alg": alg, "kid": "c" }).to_string();
        bench.refuses(&token(&header, &claims(), |_| Vec::new()), Refusal::Algorithm).await;
        bench.refuses(&signer.token_of(&header, &claims()), Refusal::Algorithm).await;
    }
    bench.refuses(&token(r#"{"alg":"RS256","kid":"c"}"#, &claims(), |_| Vec::new()), Refusal::Signature).await;
    for header in [r#"{"kid":"c"}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":"none","alg":"RS256"}"#, "[]", "", "null"] {
        bench.refuses(&signer.token_of(header, &claims()), Refusal::Form).await;
    }
}

#[tokio::test]
async fn a_header_cannot_make_a_key_into_another() {
    let signers = all();
    let kids = ["a", "b", "c"];
    let jwks: Vec<Value> = signers.iter().zip(kids).map(|(signer, kid)| signer.jwk(kid)).collect();
    for (one, (jwk, kid)) in signers.iter().zip(jwks.iter().zip(kids)) {
        // Each key alone, and all together: neither may the header name another way for it.
        for bench in [Bench::new(std::slice::from_ref(jwk)), Bench::new(&jwks)] {
            for other in signers.iter().filter(|other| other.alg() != one.alg()) {
                let header = json!({ "alg": other.alg(), "kid": kid }).to_string();
                bench.refuses(&one.token_of(&header, &claims()), Refusal::Key).await;
                bench.refuses(&other.token_of(&header, &claims()), Refusal::Key).await;
            }
        }
    }
}

#[tokio::test]
async fn a_key_is_used_only_for_what_its_list_says() {
    let signer = Signer::rsa();
    for (member, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("PS256")),
        ("alg", json!("HS256")),
        ("kty", json!("oct")),
        ("kty", json!("EC")),
        ("n", json!("AQAB")),
        ("n", json!("not base64")),
    ] {
        let mut jwk = signer.jwk("c");
        jwk[member] = value.clone();
        let bench = Bench::new(&[jwk]);
        bench.refuses(&signer.token("c", &claims()), Refusal::Key).await;
    }
    let mut jwk = signer.jwk("c");
    (jwk["use"], jwk["key_ops"], jwk["alg"]) = (json!("sig"), json!(["verify"]), json!("RS256"));
    assert!(Bench::new(&[jwk]).ask(&signer.token("c", &claims())).await.is_ok());
}

#[tokio::test]
async fn which_key_must_be_beyond_doubt() {
    let (one, two) = (Signer::ed(), Signer::ed());
    let unnamed = |signer: &Signer| signer.token_of(r#"{"alg":"EdDSA"}"#, &claims());
    let bench = Bench::new(&[one.jwk("1"), two.jwk("2"), Signer::ec().jwk("3")]);
    bench.refuses(&unnamed(&one), Refusal::Key).await;
    bench.refuses(&one.token("4", &claims()), Refusal::Key).await;
    bench.refuses(&one.token("2", &claims()), Refusal::Signature).await;
    assert!(bench.ask(&two.token("2", &claims())).await.is_ok());
    let twice = Bench::new(&[one.jwk("1"), two.jwk("1")]);
    twice.refuses(&one.token("1", &claims()), Refusal::Key).await;
}

#[tokio::test]
async fn headers_that_must_be_understood_or_bring_a_key_are_of_no_use() {
    let (issuer, thief) = (Signer::ec(), Signer::ec());
    let bench = Bench::new(&[issuer.jwk("a")]);
    for crit in [json!(["b64"]), json!([]), Value::Null, json!("exp")] {
        let header = json!({ "alg": "ES256", "kid": "a", "crit": crit, "b64": false }).to_string();
        bench.refuses(&issuer.token_of(&header, &claims()), Refusal::Critical).await;
    }
    let own = json!({ "alg": "ES256", "kid": "a", "jwk": thief.jwk("a"), "jku": "http://127.0.0.1:1/" }).to_string();
    bench.refuses(&thief.token_of(&own, &claims()), Refusal::Signature).await;
}

#[tokio::test]
async fn too_long_a_token_is_not_looked_into() {
    let signer = Signer::ed();
    let bench = Bench::new(&[signer.jwk("a")]);
    let padded = |bytes: usize| signer.token("a", &with("pad", Some(json!("x".repeat(bytes)))));
    assert!(padded(5_500).len() < 8 << 10);
    assert!(bench.ask(&padded(5_500)).await.is_ok());
    bench.refuses(&padded(6_500), Refusal::Long).await;
}

#[tokio::test]
async fn a_list_of_too_many_keys_is_not_believed() {
    let signer = Signer::ed();
    let keys = |n: usize| (0..n).map(|n| signer.jwk(&n.to_string())).collect::<Vec<_>>();
    assert!(Bench::new(&keys(KEYS_MAX)).ask(&signer.token("7", &claims())).await.is_ok());
    Bench::new(&keys(KEYS_MAX + 1)).refuses(&signer.token("7", &claims()), Refusal::NoKeys).await;
}

#[tokio::test]
async fn an_issuers_file_that_changes_is_read_again_and_a_broken_one_changes_nothing() {
    let (old, new) = (Signer::ed(), Signer::ec());
    let bench = Bench::new(&[old.jwk("old")]);
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(bench.access.clone().run(stopping));
    let old = old.token("old", &claims());
    assert!(bench.ask(&old).await.is_ok());
    let put = |text: String| {
        std::fs::write(bench.dir.path().join("new"), text).unwrap();
        std::fs::rename(bench.dir.path().join("new"), bench.jwks()).unwrap();
    };
    let failures = || {
        let mut status = json!({});
        super::super::Beside::status(&*bench.access, &mut status);
        status["access"]["issuer"]["failures"].as_u64()
    };
    put("{ broken".into());
    while failures() == Some(0) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(bench.ask(&old).await.is_ok());
    put(json!({ "keys": [new.jwk("new")] }).to_string());
    while bench.ask(&old).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    bench.refuses(&old, Refusal::Key).await;
    assert!(bench.ask(&new.token("new", &claims())).await.is_ok());
    stop.send_replace(true);
    running.await.unwrap();
}
