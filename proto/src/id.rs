//! Names and amounts as types, so that no two bare integers or strings ever stand side by side.

use std::fmt;
use std::ops::{Add, AddAssign, Neg};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire;

/// The longest name or request id, in characters.
pub const NAME_LEN_MAX: usize = 64;

/// Why a text is not a name. The message is fit for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {NAME_LEN_MAX} characters")]
    TooLong,
    #[error("has the character {0:?}; allowed are A-Z a-z 0-9 _ : -")]
    BadChar(char),
}

/// Checks the grammar of one topic level: 1 to 64 of `[A-Za-z0-9_:-]`.
pub fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong);
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))) {
        Some(bad) => Err(NameError::BadChar(bad)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A store, a tasting room, or the hub itself.
    SiteName
}
name_type! {
    /// A scanner, a POS terminal, a tablet.
    DeviceName
}
name_type! {
    /// What a device calls one of its requests. Unique per device; a repeat is answered with the first outcome.
    RequestId
}
name_type! {
    /// Units set aside for a buyer. Unique in the replica's site.
    HoldId
}

/// 64 random bits drawn when a ledger is created: which life of the site's ledger this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One life of a ledger. Only this replica ever writes its own records and components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    pub site: SiteName,
    pub epoch: Epoch,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.site, self.epoch)
    }
}

/// A record's number within its replica, from 1; 0 stands for "before the first".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub const ZERO: Seq = Seq(0);

    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// The seq `records` further on.
    pub fn plus(self, records: u64) -> Seq {
        Seq(self.0 + records)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's name, for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    pub replica: ReplicaId,
    pub seq: Seq,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.replica, self.seq)
    }
}

impl From<&Dot> for wire::Dot {
    fn from(dot: &Dot) -> Self {
        wire::Dot { site: dot.replica.site.as_str().into(), epoch: dot.replica.epoch.0, seq: dot.seq.0 }
    }
}

impl TryFrom<&wire::Dot> for Dot {
    type Error = NameError;
    fn try_from(dot: &wire::Dot) -> Result<Self, NameError> {
        let replica = ReplicaId { site: dot.site.parse()?, epoch: Epoch(dot.epoch) };
        Ok(Dot { replica, seq: Seq(dot.seq) })
    }
}

/// A number of pieces; negative ones left the shelf. Sums saturate: nothing a device sends can wrap them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Units(pub i64);

impl Add for Units {
    type Output = Units;
    fn add(self, other: Units) -> Units {
        Units(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Units {
    fn add_assign(&mut self, other: Units) {
        *self = *self + other;
    }
}

impl Neg for Units {
    type Output = Units;
    fn neg(self) -> Units {
        Units(self.0.saturating_neg())
    }
}

impl std::iter::Sum for Units {
    fn sum<I: Iterator<Item = Units>>(iter: I) -> Units {
        iter.fold(Units(0), Add::add)
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hundredths of the store's currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Cents(pub i64);

/// Milliseconds since 1970 by a wall clock that may be wrong or jump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMs(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_of_a_topic_level() {
        for good in ["a", "harbour", "pos-1", "A_b:C-9", &"x".repeat(64)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let bad = [
            ("", NameError::Empty),
            (&"x".repeat(65), NameError::TooLong),
            ("a/b", NameError::BadChar('/')),
            ("a+b", NameError::BadChar('+')),
            ("süd", NameError::BadChar('ü')),
            ("a b", NameError::BadChar(' ')),
            ("a\0", NameError::BadChar('\0')),
        ];
        for (text, why) in bad {
            assert_eq!(check_name(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_dot_survives_the_wire() {
        let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(u64::MAX) };
        let dot = Dot { replica, seq: Seq(7) };
        assert_eq!(Dot::try_from(&wire::Dot::from(&dot)), Ok(dot));
    }
}
