//! Passwords: drawn here, kept as argon2id hashes (RFC 9106), shown once.

use std::sync::{Mutex, PoisonError};

use argon2::password_hash::{Output, PasswordHash, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher, Version};

/// OWASP's least for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// A hash that somebody put into the book by hand must not cost the box its memory.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 10;
/// A longer one is not looked at.
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;
const SALT_BYTES: usize = 16;
/// What a PHC string can have.
const SALT_BYTES_MAX: usize = 64;
/// Without 0 and o, 1 and l: 32 letters, five bits each.
const LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";
const GROUPS: usize = 4;
const GROUP_LETTERS: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("no random bytes from the operating system: {0}")]
    Random(#[from] getrandom::Error),
    #[error("hash the password: {0}")]
    Hash(String),
}

/// A new password of 80 random bits: four groups of four letters with dashes between them.
///
/// # Errors
/// The operating system gives no random bytes.
pub fn draw() -> Result<String, PasswordError> {
    let mut random = [0; GROUPS * GROUP_LETTERS];
    getrandom::fill(&mut random)?;
    let letters: Vec<u8> = random.iter().map(|byte| LETTERS[usize::from(byte % 32)]).collect();
    let groups: Vec<String> =
        letters.chunks(GROUP_LETTERS).map(|group| group.iter().map(|&letter| char::from(letter)).collect()).collect();
    Ok(groups.join("-"))
}

/// Its argon2id hash with a salt of its own, as a PHC string. Takes some tens of milliseconds and 19 MiB.
///
/// # Errors
/// There are no random bytes, or no memory.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    let failed = |error: argon2::password_hash::Error| PasswordError::Hash(error.to_string());
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|e| PasswordError::Hash(e.to_string()))?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Ok(argon.hash_password(password.as_bytes(), &salt).map_err(failed)?.to_string())
}

/// What hashes are made in. It is kept and used again: given back after each, it would stay behind in the allocator once
/// for every thread that ever hashed, which came to 380 MiB.
#[derive(Default)]
pub(super) struct Scratch {
    /// No more than hash at once.
    free: Mutex<Vec<Vec<Block>>>,
}

impl Scratch {
    /// Whether this is the password. Takes as long as [`hash`]; what is no hash, or one that costs too much, is nobody's.
    pub(super) fn verify(&self, password: &str, phc: &str) -> bool {
        let mut blocks = self.lock().pop().unwrap_or_default();
        let right = is_right(password, phc, &mut blocks);
        self.lock().push(blocks);
        right == Some(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: that is no hash that can be looked at.
fn is_right(password: &str, phc: &str, blocks: &mut Vec<Block>) -> Option<bool> {
    let hash = PasswordHash::new(phc).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let algorithm = Algorithm::try_from(hash.algorithm).ok()?;
    let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).ok()?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX {
        return None;
    }
    let mut salt = [0; SALT_BYTES_MAX];
    let salt = hash.salt?.decode_b64(&mut salt).ok()?;
    let expected = hash.hash?;
    if blocks.len() < params.block_count() {
        blocks.resize(params.block_count(), Block::default());
    }
    let mut made = [0; Output::MAX_LENGTH];
    let made = made.get_mut(..expected.len())?;
    let argon = Argon2::new(algorithm, version, params);
    argon.hash_password_into_with_memory(password.as_bytes(), salt, made, blocks).ok()?;
    // In constant time.
    Some(Output::new(made).ok()? == expected)
}

/// Whether it is a hash that [`verify`] would look at.
pub(super) fn is_hash(phc: &str) -> bool {
    PasswordHash::new(phc).is_ok_and(|hash| hash.algorithm.as_str() == "argon2id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_and_says_how_it_was_made() {
        let scratch = Scratch::default();
        let verify = |password: &str, phc: &str| scratch.verify(password, phc);
        let password = draw().unwrap();
        let phc = hash(&password).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(&password, &phc) && is_hash(&phc));
        assert!(!verify("another", &phc) && !verify(&password, "plain text"));
        assert_ne!(hash(&password).unwrap(), phc, "each has a salt of its own");
        let dear = phc.replace("m=19456", "m=1048576");
        assert!(!verify(&password, &dear), "one that would take a gigabyte is not looked at");
    }

    #[test]
    fn passwords_are_drawn_from_eighty_bits_that_are_easy_to_type() {
        let drawn: std::collections::BTreeSet<String> = (0..1_000).map(|_| draw().unwrap()).collect();
        assert_eq!(drawn.len(), 1_000);
        assert_eq!(LETTERS.iter().collect::<std::collections::BTreeSet<_>>().len(), 32);
        assert!(drawn.iter().all(|p| p.len() == 19 && p.bytes().all(|b| b == b'-' || LETTERS.contains(&b))));
    }
}
