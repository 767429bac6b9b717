//! Version vectors: which writes of a register somebody has seen.

use std::collections::BTreeMap;

use crate::id::{Dot, NameError, ReplicaId, Seq};
use crate::wire;

/// Replica → highest seq seen. A replica's own writes are in order, so seeing one is seeing those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionVector(BTreeMap<ReplicaId, Seq>);

impl VersionVector {
    pub fn covers(&self, dot: &Dot) -> bool {
        self.0.get(&dot.replica).is_some_and(|seen| *seen >= dot.seq)
    }

    pub fn insert(&mut self, dot: &Dot) {
        let seen = self.0.entry(dot.replica.clone()).or_default();
        *seen = dot.seq.max(*seen);
    }

    /// The least upper bound of both.
    pub fn join(&mut self, other: &VersionVector) {
        for (replica, seq) in &other.0 {
            let seen = self.0.entry(replica.clone()).or_default();
            *seen = (*seq).max(*seen);
        }
    }

    /// The greatest lower bound of both: what both have seen.
    pub fn meet(&mut self, other: &VersionVector) {
        self.0.retain(|replica, seq| match other.0.get(replica) {
            Some(seen) => {
                *seq = (*seq).min(*seen);
                true
            }
            None => false,
        });
    }

    /// Keeps the entries of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&ReplicaId, Seq) -> bool) {
        self.0.retain(|replica, seq| keep(replica, *seq));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ReplicaId, Seq)> {
        self.0.iter().map(|(replica, seq)| (replica, *seq))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&VersionVector> for wire::VersionVector {
    fn from(vector: &VersionVector) -> Self {
        let dots = vector.0.iter().map(|(replica, seq)| Dot { replica: replica.clone(), seq: *seq });
        wire::VersionVector { entries: dots.map(|dot| (&dot).into()).collect() }
    }
}

impl TryFrom<&wire::VersionVector> for VersionVector {
    type Error = NameError;
    fn try_from(vector: &wire::VersionVector) -> Result<Self, NameError> {
        let mut seen = VersionVector::default();
        for entry in &vector.entries {
            seen.insert(&Dot::try_from(entry)?);
        }
        Ok(seen)
    }
}
