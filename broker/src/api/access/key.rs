//! Public keys as a JWKS lists them (RFC 7517; their members: RFC 7518 section 6, RFC 8037 section 2).
//!
//! A key is good for one algorithm, which its own type says. What a token's header says only chooses among the keys that
//! fit, so a key can never be used in another way than it was made for.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

/// A list with more keys is not believed at all.
pub(super) const KEYS_MAX: usize = 100;
/// Of an RSA modulus: 2,048 to 8,192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// How a token may be signed. Nothing with a shared secret, and nothing unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alg {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
}

impl Alg {
    /// As in a token's header, to the letter.
    pub(super) fn of_name(name: &str) -> Option<Alg> {
        match name {
            "EdDSA" => Some(Alg::EdDsa),
            "ES256" => Some(Alg::Es256),
            "RS256" => Some(Alg::Rs256),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Public {
    Ed25519(Vec<u8>),
    /// The point, uncompressed.
    P256(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    public: Public,
}

impl Key {
    pub(super) fn alg(&self) -> Alg {
        match self.public {
            Public::Ed25519(_) => Alg::EdDsa,
            Public::P256(_) => Alg::Es256,
            Public::Rsa { .. } => Alg::Rs256,
        }
    }

    /// Whether this key signed the message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Public::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
            Public::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        verified.is_ok()
    }
}

/// Why a text is no list of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("not a JWKS: {0}")]
    Form(#[from] serde_json::Error),
    #[error("{0} keys; at most {KEYS_MAX} are believed")]
    Many(usize),
}

/// The keys that an issuer signs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

/// What a list holds for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Key(&'a Key),
    /// No key has this id: the issuer may have a new one.
    Unknown,
    /// There is none of that kind, or more than one.
    Unfit,
}

impl KeySet {
    /// Reads a list. Keys that cannot be used to verify what is taken here are left out, as RFC 7517 section 5 wants it.
    ///
    /// # Errors
    /// It is not a list, or too long a one.
    pub(super) fn parse(text: &str) -> Result<KeySet, KeySetError> {
        let listed: Listed = serde_json::from_str(text)?;
        if listed.keys.len() > KEYS_MAX {
            return Err(KeySetError::Many(listed.keys.len()));
        }
        let usable = |value| serde_json::from_value::<Jwk>(value).ok().and_then(Jwk::key);
        Ok(KeySet { keys: listed.keys.into_iter().filter_map(usable).collect() })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The one key that may verify such a token; without an id only if there is exactly one of the kind.
    pub(super) fn find(&self, alg: Alg, kid: Option<&str>) -> Found<'_> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        if kid.is_some() && !self.keys.iter().any(|key| named(&key)) {
            return Found::Unknown;
        }
        let mut fit = self.keys.iter().filter(named).filter(|key| key.alg() == alg);
        match (fit.next(), fit.next()) {
            (Some(key), None) => Found::Key(key),
            _ => Found::Unfit,
        }
    }
}

#[derive(Deserialize)]
struct Listed {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    fn key(self) -> Option<Key> {
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let key = Key { public: self.public()?, kid: self.kid };
        let fits = self.alg.is_none_or(|alg| Alg::of_name(&alg) == Some(key.alg()));
        (signs && verifies && fits).then_some(key)
    }

    fn public(&self) -> Option<Public> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let key = bytes(&self.x)?;
                (key.len() == 32).then_some(Public::Ed25519(key))
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                (x.len() == 32 && y.len() == 32).then(|| Public::P256([&[4], x.as_slice(), &y].concat()))
            }
            ("RSA", None) => {
                // A zero in front is wrong, and common.
                let unsigned = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
                let (n, e) = (unsigned(bytes(&self.n)?), unsigned(bytes(&self.e)?));
                MODULUS_BYTES.contains(&n.len()).then_some(Public::Rsa { n, e })
            }
            _ => None,
        }
    }
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}
