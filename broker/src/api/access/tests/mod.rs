//! Tokens made with keys of the test's own, and what becomes of each that is not as it should be.

mod door;
mod fetching;
mod hostile;
mod local;
mod signed;
mod signer;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::signer::Signer;
use super::issuer::IssuerRules;
use super::jwt::Expected;
use super::refusal::Refusal;
use super::source::Source;
use super::{Access, Caller};

const NOW: u64 = 1_800_000_000_000;
const NOW_S: u64 = NOW / 1_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An access with an issuer whose keys are in a file.
struct Bench {
    dir: TempDir,
    access: Arc<Access>,
    /// Each question comes from somewhere else, so that none is throttled.
    asked: AtomicU32,
}

impl Bench {
    fn new(keys: &[Value]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("jwks.json");
        std::fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
        let expected = Expected {
            issuer: "https://id.example".into(),
            audience: "tillsync".into(),
            role_claim: "tillsync_role".into(),
            leeway_s: 30,
        };
        let rules = IssuerRules { source: Source::File(file), expected };
        let access = Access::open(dir.path(), Some(rules), Box::new(|_| {})).unwrap();
        Bench { dir, access: Arc::new(access), asked: AtomicU32::default() }
    }

    fn jwks(&self) -> PathBuf {
        self.dir.path().join("jwks.json")
    }

    async fn ask(&self, token: &str) -> Result<Caller, Refusal> {
        let from = Ipv4Addr::from(self.asked.fetch_add(1, Ordering::Relaxed)).into();
        self.access.identify(&bearing(token), from, NOW).await
    }

    async fn refuses(&self, token: &str, why: Refusal) {
        assert_eq!(self.ask(token).await, Err(why), "{token}");
    }
}

fn bearing(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    headers
}

/// Claims that are good at [`NOW`].
fn claims() -> Value {
    json!({
        "iss": "https://id.example",
        "aud": "tillsync",
        "exp": NOW_S + 60,
        "nbf": NOW_S - 60,
        "sub": "anna",
        "tillsync_role": "operator",
    })
}

/// The same with one of them changed, or left out.
fn with(claim: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    match value {
        Some(value) => claims[claim] = value,
        None => drop(claims.as_object_mut().unwrap().remove(claim)),
    }
    claims
}
