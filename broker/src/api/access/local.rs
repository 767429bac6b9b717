//! Tokens that the hub gives out itself, for those who have no issuer: `DIR/tokens.json`, readable by its owner only.
//!
//! A token is 256 random bits, of which the file holds the BLAKE3 hash. A slow hash is for what people choose and others
//! guess; of 2²⁵⁶ nobody finds one by trying, however fast.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proto::id::NameError;
use serde::{Deserialize, Serialize};

use super::caller::{Caller, Means, Role};
use super::refusal::Refusal;
use crate::pki::{self, PkiError};

/// What every local token begins with; no JWT does.
pub(super) const PREFIX: &str = "tst_";
/// More are refused: this is for the few, an issuer for the many.
pub(crate) const TOKENS_MAX: usize = 1_000;
const FILE: &str = "tokens.json";
const FORMAT: u32 = 1;
const SECRET_BYTES: usize = 32;
const HASH_CONTEXT: &str = "tillsync 2026 local token";

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    File(#[from] PkiError),
    #[error("the name {name:?} {why}")]
    Name { name: String, why: NameError },
    #[error("there is a token {0} already; `token remove {0}` first")]
    Taken(String),
    #[error("no token {0}; `token list` shows those that there are")]
    Unknown(String),
    #[error("there are {TOKENS_MAX} tokens already; remove one first")]
    Full,
    #[error("the system gives no random numbers: {0}")]
    Random(std::io::Error),
}

/// What is printed once and never kept.
pub(crate) struct Secret([u8; SECRET_BYTES]);

impl Secret {
    fn draw() -> Result<Secret, TokenError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|why| TokenError::Random(why.into()))?;
        Ok(Secret(bytes))
    }

    fn read(text: &str) -> Option<Secret> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        bytes.try_into().ok().map(Secret)
    }

    fn hash(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(blake3::derive_key(HASH_CONTEXT, &self.0))
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Not for logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A token as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// 1 to 64 of `A-Z a-z 0-9 _ : -`.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// BLAKE3 of the secret, 64 hex digits.
    #[serde(with = "hash_as_hex")]
    hash: blake3::Hash,
    /// Milliseconds since 1970.
    pub(crate) since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
}

impl Token {
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

/// All local tokens of a hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tokens {
    format: u32,
    tokens: Vec<Token>,
}

impl Tokens {
    /// Reads the tokens of a data folder; none if there is no file.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of a newer format.
    pub(crate) fn load(dir: &Path) -> Result<Tokens, TokenError> {
        let path = path(dir);
        let Some(text) = pki::read_bounded(&path)? else { return Ok(Tokens::default()) };
        // The format first: what else there is depends on it.
        let format = serde_json::from_str::<Format>(&text).map_err(|why| PkiError::content(&path, why))?.format;
        if format > FORMAT {
            let why = format!("format {format}; this version reads up to {FORMAT}: use the newer program");
            return Err(PkiError::content(&path, why).into());
        }
        let tokens: Tokens = serde_json::from_str(&text).map_err(|why| PkiError::content(&path, why))?;
        if tokens.tokens.len() > TOKENS_MAX {
            return Err(PkiError::content(&path, format!("more than {TOKENS_MAX} tokens")).into());
        }
        Ok(tokens)
    }

    /// Reads, changes and writes, alone among all processes that do so through this. It is durable when this returns;
    /// nothing is written if `change` fails.
    ///
    /// # Errors
    /// Those of the file and of `change`.
    pub(crate) fn edit<T>(
        dir: &Path,
        change: impl FnOnce(&mut Tokens) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let _alone = pki::lock(&dir.join("tokens.lock"))?;
        let mut tokens = Tokens::load(dir)?;
        let outcome = change(&mut tokens)?;
        tokens.format = FORMAT;
        let path = path(dir);
        let text = serde_json::to_string_pretty(&tokens).map_err(|why| PkiError::content(&path, why))?;
        pki::write_private(&path, &text)?;
        Ok(outcome)
    }

    /// Gives out a new one.
    ///
    /// # Errors
    /// The name is not one or is taken, or there is no room.
    pub(crate) fn add(
        &mut self,
        name: &str,
        role: Role,
        now_ms: u64,
        expires_ms: Option<u64>,
    ) -> Result<Secret, TokenError> {
        proto::id::check_name(name).map_err(|why| TokenError::Name { name: name.into(), why })?;
        if self.tokens.iter().any(|token| token.name == name) {
            return Err(TokenError::Taken(name.into()));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(TokenError::Full);
        }
        let secret = Secret::draw()?;
        self.tokens.push(Token { name: name.into(), role, hash: secret.hash(), since_ms: now_ms, expires_ms });
        Ok(secret)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<(), TokenError> {
        let at = self.tokens.iter().position(|token| token.name == name);
        self.tokens.remove(at.ok_or_else(|| TokenError::Unknown(name.into()))?);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    /// Whether it is the same in all it says.
    pub(super) fn has(&self, token: &Token) -> bool {
        self.tokens.contains(token)
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whose token it is. All are compared, each in constant time.
    pub(super) fn caller(&self, text: &str, now_ms: u64) -> Result<Caller, Refusal> {
        let hash = Secret::read(text).ok_or(Refusal::Form)?.hash();
        let mut found = None;
        for token in &self.tokens {
            // blake3 hashes compare in constant time.
            if token.hash == hash {
                found = Some(token);
            }
        }
        let token = found.ok_or(Refusal::Unknown)?;
        if token.is_over(now_ms) {
            return Err(Refusal::Expired);
        }
        Ok(Caller { name: token.name.clone(), role: token.role, by: Means::LocalToken })
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

mod hash_as_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(hash.to_hex().as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<blake3::Hash, D::Error> {
        let text = String::deserialize(from)?;
        blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)
    }
}
