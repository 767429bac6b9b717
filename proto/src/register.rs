//! Registers: a value that the latest write wins, with a version vector that says what the write had seen.
//!
//! A register is a set of writes (dots) whose value is the greatest of them by (stamp, replica, seq), so merging is
//! commutative, associative and idempotent. A write's stamp is above the stamp of what it replaced, so a write that
//! had seen another always beats it; the vectors only tell whether the loser had been seen or is a conflict.

use std::fmt;
use std::str::FromStr;

use crate::clock::Stamp;
use crate::gtin::Gtin;
use crate::id::{DeviceName, Dot, NameError, SiteName, check_name};
use crate::version::VersionVector;
use crate::wire;

/// The longest value of one register, in bytes of its JSON text.
pub const VALUE_BYTES_MAX: usize = 4096;

/// Which register: what it is about, and the field. Its text form is its key in the journal and on the wire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegisterKey {
    /// `item/{gtin}/{field}`
    Item { gtin: Gtin, field: String },
    /// `note/{gtin}/{author}/{field}`
    Note { gtin: Gtin, author: String, field: String },
    /// `setting/{site}/{device}/{field}`: devices are named by store.
    Setting { site: SiteName, device: DeviceName, field: String },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a register's key")]
pub struct KeyError(String);

impl RegisterKey {
    /// What all fields of one item start with.
    pub fn item_prefix(gtin: Gtin) -> String {
        format!("item/{gtin}/")
    }

    /// What all tasting notes of one item start with.
    pub fn note_prefix(gtin: Gtin) -> String {
        format!("note/{gtin}/")
    }

    /// What all settings of one device start with.
    pub fn setting_prefix(site: &SiteName, device: &DeviceName) -> String {
        format!("setting/{site}/{device}/")
    }

    pub fn field(&self) -> &str {
        match self {
            RegisterKey::Item { field, .. } | RegisterKey::Note { field, .. } | RegisterKey::Setting { field, .. } => {
                field
            }
        }
    }

    /// The item that this register belongs to, if it is about one.
    pub fn gtin(&self) -> Option<Gtin> {
        match self {
            RegisterKey::Item { gtin, .. } | RegisterKey::Note { gtin, .. } => Some(*gtin),
            RegisterKey::Setting { .. } => None,
        }
    }
}

impl fmt::Display for RegisterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterKey::Item { gtin, field } => write!(f, "item/{gtin}/{field}"),
            RegisterKey::Note { gtin, author, field } => write!(f, "note/{gtin}/{author}/{field}"),
            RegisterKey::Setting { site, device, field } => write!(f, "setting/{site}/{device}/{field}"),
        }
    }
}

impl FromStr for RegisterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError(text.chars().take(80).collect());
        let name = |part: &str| check_name(part).map(|()| part.to_owned()).map_err(|_| bad());
        let gtin = |part: &str| part.parse::<Gtin>().ok().filter(|g| g.to_string() == part).ok_or_else(bad);
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["item", item, field] => Ok(RegisterKey::Item { gtin: gtin(item)?, field: name(field)? }),
            ["note", item, author, field] => {
                Ok(RegisterKey::Note { gtin: gtin(item)?, author: name(author)?, field: name(field)? })
            }
            ["setting", site, device, field] => {
                let (site, device) = (site.parse().map_err(|_| bad())?, device.parse().map_err(|_| bad())?);
                Ok(RegisterKey::Setting { site, device, field: name(field)? })
            }
            _ => Err(bad()),
        }
    }
}

/// One register as its reader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// JSON text; `None` is a tombstone.
    pub value: Option<bytes::Bytes>,
    pub stamp: Stamp,
    /// The write whose value this is.
    pub dot: Dot,
    /// Every write that went into this, `dot` included.
    pub seen: VersionVector,
    /// The device that wrote it; empty for the hub itself.
    pub writer: String,
}

/// What merging two states of one register came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    pub register: Register,
    /// The losing side, if neither had seen the other.
    pub conflict: Option<Register>,
}

impl Register {
    pub fn merge(self, other: Register) -> Merged {
        if self.dot == other.dot {
            let mut register = self;
            register.seen.join(&other.seen);
            return Merged { register, conflict: None };
        }
        let unseen = !self.seen.covers(&other.dot) && !other.seen.covers(&self.dot);
        let (mut winner, loser) =
            if (self.stamp, &self.dot) > (other.stamp, &other.dot) { (self, other) } else { (other, self) };
        winner.seen.join(&loser.seen);
        Merged { register: winner, conflict: unseen.then_some(loser) }
    }
}

impl From<&Register> for wire::RegisterState {
    fn from(register: &Register) -> Self {
        wire::RegisterState {
            value: register.value.clone().unwrap_or_default(),
            deleted: register.value.is_none(),
            stamp: register.stamp.0,
            dot: Some((&register.dot).into()),
            seen: Some((&register.seen).into()),
            writer: register.writer.clone(),
            replaces_value: false,
        }
    }
}

/// Why a register that came from a disk or a wire is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("the register has no dot")]
    NoDot,
    #[error("the register's replica name {0}")]
    Name(#[from] NameError),
    #[error("the register's value has {0} bytes, the bound is {VALUE_BYTES_MAX}")]
    TooLarge(usize),
}

impl TryFrom<&wire::RegisterState> for Register {
    type Error = RegisterError;
    fn try_from(state: &wire::RegisterState) -> Result<Self, RegisterError> {
        if state.value.len() > VALUE_BYTES_MAX {
            return Err(RegisterError::TooLarge(state.value.len()));
        }
        let dot = Dot::try_from(state.dot.as_ref().ok_or(RegisterError::NoDot)?)?;
        let mut seen = state.seen.as_ref().map(VersionVector::try_from).transpose()?.unwrap_or_default();
        seen.insert(&dot);
        Ok(Register {
            value: (!state.deleted).then(|| state.value.clone()),
            stamp: Stamp(state.stamp),
            dot,
            seen,
            writer: state.writer.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, ReplicaId, Seq};
    use proptest::prelude::*;

    #[test]
    fn keys_have_one_text_form() {
        for text in
            ["item/04006381333931/price_cents", "note/04006381333931/anna/text", "setting/harbour/scanner-1/mode"]
        {
            assert_eq!(text.parse::<RegisterKey>().unwrap().to_string(), text);
        }
        for text in
            ["", "item", "item/4006381333931/name", "item/04006381333932/name", "note/04006381333931/a", "x/y/z"]
        {
            assert!(text.parse::<RegisterKey>().is_err(), "{text}");
        }
    }

    /// How one write of a generated history came about.
    #[derive(Debug, Clone)]
    struct Write {
        replica: u8,
        /// Which earlier writes its writer had merged, as bits over the history.
        saw: u32,
        /// How far above the causal minimum its stamp is; 0 and equal ones are the hard cases.
        above: u8,
    }

    fn history() -> impl Strategy<Value = Vec<Write>> {
        let write = (0u8..4, any::<u32>(), 0u8..3).prop_map(|(replica, saw, above)| Write { replica, saw, above });
        prop::collection::vec(write, 1..9)
    }

    /// Turns a history into registers whose stamps are as adversarial as the rules allow: a write is a tick or a few
    /// above what it replaces and otherwise unordered, so stamps of writes that did not see each other collide.
    fn registers(history: &[Write]) -> Vec<Register> {
        let mut made: Vec<Register> = Vec::new();
        for (n, write) in history.iter().enumerate() {
            let replica = ReplicaId { site: format!("s{}", write.replica).parse().unwrap(), epoch: Epoch(1) };
            // A replica has always seen its own writes.
            let seen_writes = made
                .iter()
                .enumerate()
                .filter(|(at, old)| write.saw >> at & 1 == 1 || old.dot.replica == replica)
                .map(|(_, old)| old.clone());
            let replaced = seen_writes.reduce(|a, b| a.merge(b).register);
            let dot = Dot { replica, seq: Seq(n as u64 + 1) };
            let mut seen = replaced.as_ref().map(|r| r.seen.clone()).unwrap_or_default();
            seen.insert(&dot);
            let floor = replaced.map_or(0, |r| r.stamp.0);
            made.push(Register {
                value: Some(format!("{n}").into()),
                stamp: Stamp(floor + 1 + u64::from(write.above)),
                dot,
                seen,
                writer: String::new(),
            });
        }
        made
    }

    fn merge_all(writes: impl IntoIterator<Item = Register>) -> Register {
        writes.into_iter().reduce(|a, b| a.merge(b).register).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn merge_is_commutative_associative_idempotent(history in history(), picks in any::<[u32; 3]>()) {
            let writes = registers(&history);
            // Three states that nodes may hold: each the merge of some of the writes.
            let state = |bits: u32| {
                let some: Vec<_> = writes.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, w)| w.clone()).collect();
                if some.is_empty() { writes[0].clone() } else { merge_all(some) }
            };
            let [a, b, c] = picks.map(state);
            let m = |x: &Register, y: &Register| x.clone().merge(y.clone()).register;
            prop_assert_eq!(m(&a, &b), m(&b, &a));
            prop_assert_eq!(m(&m(&a, &b), &c), m(&a, &m(&b, &c)));
            prop_assert_eq!(m(&a, &a), a);
        }

        #[test]
        fn any_order_and_repetition_ends_the_same(history in history(), order in Just(()).prop_perturb(|_, mut rng| rng.next_u64())) {
            let writes = registers(&history);
            let straight = merge_all(writes.clone());
            let mut shuffled = writes.clone();
            shuffled.extend(writes.clone());
            let len = shuffled.len();
            for at in 0..len {
                shuffled.swap(at, (order as usize).wrapping_mul(at + 13) % len);
            }
            prop_assert_eq!(merge_all(shuffled), straight);
        }

        #[test]
        fn a_write_that_saw_another_beats_it_in_silence(history in history()) {
            let writes = registers(&history);
            for later in &writes {
                for earlier in &writes {
                    if later.dot != earlier.dot && later.seen.covers(&earlier.dot) {
                        let merged = earlier.clone().merge(later.clone());
                        prop_assert_eq!(&merged.register.dot, &later.dot);
                        prop_assert_eq!(merged.conflict, None);
                    }
                }
            }
        }

        #[test]
        fn writes_that_did_not_see_each_other_leave_a_conflict(history in history()) {
            let writes = registers(&history);
            for a in &writes {
                for b in &writes {
                    let apart = a.dot != b.dot && !a.seen.covers(&b.dot) && !b.seen.covers(&a.dot);
                    let merged = a.clone().merge(b.clone());
                    prop_assert_eq!(merged.conflict.is_some(), apart);
                    if let Some(loser) = merged.conflict {
                        prop_assert!(loser.dot != merged.register.dot);
                    }
                }
            }
        }

        #[test]
        fn a_register_survives_the_wire(history in history()) {
            for register in registers(&history) {
                prop_assert_eq!(Register::try_from(&wire::RegisterState::from(&register)), Ok(register));
            }
        }
    }
}
