//! The code that lets one gateway join: a secret that the hub knows by its hash, and a pin of the hub's CA.
//!
//! 35 characters of Crockford's base 32, in groups of five: 17 of the secret (85 bits), 17 of the pin (85 bits), and a check
//! character. Case does not count, O is read as 0, I and L as 1. The check character is a weighted sum over GF(32), so that
//! any one wrong character and any two exchanged neighbours are noticed before anything is sent.

use std::fmt;
use std::str::FromStr;

use crate::identity::Fingerprint;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of the secret, and of the pin: 85 bits each.
const PART: usize = 17;
const GROUP: usize = 5;
const LENGTH: usize = 2 * PART + 1;

/// What proves that its holder was invited: five bits in each place.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; PART]);

/// The first 85 bits of the fingerprint of the hub's CA.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; PART]);

/// Both, as a person carries them to the box.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    pub secret: Secret,
    pub pin: Pin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("{0:?} is in no code: they are made of digits and letters without I, L, O and U")]
    Character(char),
    #[error("a code has {LENGTH} characters, this has {0}")]
    Length(usize),
    #[error("the code is mistyped: look at it again")]
    Check,
}

impl Secret {
    /// A new one from the system's random numbers.
    ///
    /// # Errors
    /// The system has none.
    pub fn draw() -> std::io::Result<Secret> {
        let mut places = [0; PART];
        getrandom::fill(&mut places).map_err(std::io::Error::from)?;
        Ok(Secret(places.map(|byte| byte & 31)))
    }

    /// What the hub keeps of it.
    pub(crate) fn hash(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(blake3::derive_key("tillsync 2026 join secret", &self.0))
    }
}

impl Pin {
    pub fn of(key: &Fingerprint) -> Pin {
        let bit = |at: usize| key.0[at / 8] >> (7 - at % 8) & 1;
        Pin(std::array::from_fn(|place| (0..5).fold(0, |value, n| value << 1 | bit(place * 5 + n))))
    }
}

impl Code {
    fn places(&self) -> [u8; 2 * PART] {
        let mut places = [0; 2 * PART];
        places[..PART].copy_from_slice(&self.secret.0);
        places[PART..].copy_from_slice(&self.pin.0);
        places
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places();
        let shown: Vec<u8> =
            places.iter().chain([&check(&places)]).map(|place| ALPHABET[usize::from(*place)]).collect();
        for (n, group) in shown.chunks(GROUP).enumerate() {
            f.write_str(if n == 0 { "" } else { "-" })?;
            // The alphabet is ASCII.
            f.write_str(&String::from_utf8_lossy(group))?;
        }
        Ok(())
    }
}

impl FromStr for Code {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Code, CodeError> {
        let places = read(text)?;
        let given = <[u8; LENGTH]>::try_from(places.as_slice()).map_err(|_| CodeError::Length(places.len()))?;
        let (body, last) = given.split_at(2 * PART);
        if [check(body)] != *last {
            return Err(CodeError::Check);
        }
        let part = |from: usize| std::array::from_fn(|place| given[from + place]);
        Ok(Code { secret: Secret(part(0)), pin: Pin(part(PART)) })
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.map(|place| ALPHABET[usize::from(place)])))
    }
}

impl FromStr for Secret {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Secret, CodeError> {
        let places = read(text)?;
        places.as_slice().try_into().map(Secret).map_err(|_| CodeError::Length(places.len()))
    }
}

/// Not for logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.map(|place| ALPHABET[usize::from(place)])))
    }
}

fn read(text: &str) -> Result<Vec<u8>, CodeError> {
    let place = |c: char| {
        let c = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        let known = u8::try_from(c).ok().and_then(|c| ALPHABET.iter().position(|known| *known == c));
        known.map(|place| place as u8).ok_or(CodeError::Character(c))
    };
    let characters = text.chars().filter(|c| *c != '-' && !c.is_whitespace());
    // Long enough to say that it is too long.
    characters.take(LENGTH + 1).map(place).collect()
}

/// Σ αⁿ·placeₙ over GF(32) with x⁵ + x² + 1. The weights are never 0 and differ between neighbours.
fn check(places: &[u8]) -> u8 {
    let double = |value: u8| value << 1 & 31 ^ if value & 16 == 0 { 0 } else { 0b00101 };
    // Horner: the last place has the weight α.
    places.iter().fold(0, |sum, place| double(sum ^ place))
}
