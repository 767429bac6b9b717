//! Signed tokens (RFC 7519, in the compact form of RFC 7515), taken as RFC 8725 advises: nothing of one is believed before
//! its signature, the key decides about the algorithm, and what is required is required.
//!
//! Written on ring: the checks below need the time as an argument, `crit` and claims by their exact types, which leaves a
//! JWT crate nothing but to hand the signature to ring.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::{Map, Value};

use super::caller::{Caller, Means, Role};
use super::key::{Alg, Key};
use super::refusal::Refusal;

/// A longer token is refused before it is looked into.
pub(super) const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The longest name of a caller: what the journal takes for who did something.
const NAME_BYTES_MAX: usize = crate::node::note::NOTE_BYTES_MAX;

/// A token whose signature nobody looked at yet.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    pub(super) alg: Alg,
    pub(super) kid: Option<String>,
    /// Header and payload, which the signature is over.
    signed: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

/// Of a header what counts here. `jku`, `jwk`, `x5u` and `x5c` do not: a token does not bring its own key.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Whether it is there at all, whatever it holds.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Unverified<'_> {
    pub(super) fn parse(token: &str) -> Result<Unverified<'_>, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Long);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Form)?;
        if payload.contains('.') {
            // Five parts are an encrypted token.
            return Err(Refusal::Form);
        }
        let decode = |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Form);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Refusal::Form)?;
        if header.crit {
            return Err(Refusal::Critical);
        }
        let alg = Alg::of_name(&header.alg).ok_or(Refusal::Algorithm)?;
        Ok(Unverified { alg, kid: header.kid, signed, payload, signature: decode(signature)? })
    }

    /// What it says, if this key signed it.
    pub(super) fn verified_by(&self, key: &Key) -> Result<Claims, Refusal> {
        if key.alg() != self.alg {
            return Err(Refusal::Algorithm);
        }
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| Refusal::Form)?;
        serde_json::from_slice(&payload).map(Claims).map_err(|_| Refusal::Form)
    }
}

/// What a verified token says.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

/// What a token must say to be good here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    /// The claim that holds the role, or a list of roles.
    pub(crate) role_claim: String,
    /// How far the issuer's clock and ours may be apart, seconds.
    pub(crate) leeway_s: u64,
}

impl Expected {
    /// Who the token says its bearer is, if it is for us and good now.
    pub(super) fn caller(&self, claims: &Claims, now_ms: u64) -> Result<Caller, Refusal> {
        let of = |name: &str| claims.0.get(name);
        if of("iss").and_then(Value::as_str).ok_or(Refusal::Claim("iss"))? != self.issuer {
            return Err(Refusal::Issuer);
        }
        match of("aud").ok_or(Refusal::Claim("aud"))? {
            Value::String(one) if *one == self.audience => {}
            Value::Array(all) if all.iter().any(|one| one.as_str() == Some(&self.audience)) => {}
            _ => return Err(Refusal::Audience),
        }
        // Whole or broken seconds since 1970 (RFC 7519 section 2); as text it is no date.
        let date = |name: &'static str| of(name).and_then(Value::as_f64).ok_or(Refusal::Claim(name));
        let (now, leeway) = (now_ms as f64 / 1e3, self.leeway_s as f64);
        if date("exp")? + leeway <= now {
            return Err(Refusal::Expired);
        }
        if date("nbf")? - leeway > now {
            return Err(Refusal::Early);
        }
        let name = of("sub").and_then(Value::as_str).filter(|name| is_name(name)).ok_or(Refusal::Claim("sub"))?;
        let role = of(&self.role_claim).and_then(role).ok_or(Refusal::Role)?;
        Ok(Caller { name: name.into(), role, by: Means::Jwt })
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The highest of those that are known.
fn role(claim: &Value) -> Option<Role> {
    let known = |value: &Value| value.as_str()?.parse::<Role>().ok();
    match claim {
        Value::Array(all) => all.iter().filter_map(known).max(),
        one => known(one),
    }
}
