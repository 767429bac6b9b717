//! One number that says what a state holds: the sum of a hash of every cell. Adding and removing a cell changes it by
//! that cell alone, so it is kept along with every checkpoint, and a walk over all cells must come to the same.

use super::core::Table;

/// Wraps around; the order of cells does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest(pub(super) u64);

impl Digest {
    pub(super) fn add(&mut self, full_key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(hash(full_key, value));
    }

    pub(super) fn remove(&mut self, full_key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(full_key, value));
    }
}

/// A cell's key in the tree: its table's number, then its own key.
pub(super) fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table.0);
    full.extend_from_slice(key);
    full
}

fn hash(full_key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(full_key.len() as u32).to_le_bytes()).update(full_key).update(value);
    let mut short = [0; 8];
    hasher.finalize_xof().fill(&mut short);
    u64::from_le_bytes(short)
}
