//! One name that may connect, what it is, and how it proves it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What stands behind a name. Rights go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Scanner,
    Pos,
    Tablet,
    /// A gateway, at the hub.
    Site,
    /// Reads `hq/…`, at the hub.
    Monitor,
    /// Somebody else's system: has only the rights that the policy file gives it.
    Integrator,
}

impl Kind {
    /// In a store, with rights under `dev/{name}/`.
    pub fn is_device(self) -> bool {
        matches!(self, Kind::Scanner | Kind::Pos | Kind::Tablet)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Scanner => "scanner",
            Kind::Pos => "pos",
            Kind::Tablet => "tablet",
            Kind::Site => "site",
            Kind::Monitor => "monitor",
            Kind::Integrator => "integrator",
        })
    }
}

/// BLAKE3 of a certificate's public key (its SubjectPublicKeyInfo in DER): 32 bytes, 64 hex digits as text. A renewed
/// certificate with the same key has the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of_public_key(spki_der: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::hash(spki_der).as_bytes())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hex digits")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        blake3::Hash::from_hex(text).map(|hash| Fingerprint(*hash.as_bytes())).map_err(|_| FingerprintError)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;
    fn try_from(text: String) -> Result<Fingerprint, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A name that may connect. Without a password and without a certificate it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// As in `dev/{name}/…` or `up/{name}`: 1 to 64 of `A-Z a-z 0-9 _ : -`.
    pub name: String,
    pub kind: Kind,
    /// argon2id, as a PHC string; never the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Keys whose certificates are this account. A rotation may leave two for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Fingerprint>,
    #[serde(default)]
    pub disabled: bool,
    /// When it was made, and last changed, milliseconds since 1970.
    pub since_ms: u64,
    pub changed_ms: u64,
}
