//! Request ids: applied once however often they are sent, and never with other content.

use crate::wire::{IdCell, Outcome};

/// What an id that was seen before means for the request that carries it now.
#[derive(Debug, Clone, PartialEq)]
pub enum Repeat {
    /// The same bytes: answer `duplicate` with this first outcome and change nothing.
    Same(Outcome),
    /// Other bytes under a used id: refuse as `id_reused`.
    Reused,
}

/// A digest of a request's kind and bytes. 32 bits are enough: it only has to tell a repeat from a mistake.
pub fn digest(kind: &str, payload: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(&[0]).update(payload);
    let hash = hasher.finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

pub fn compare(first: &IdCell, digest: u32) -> Repeat {
    if first.digest == digest { Repeat::Same(first.outcome.clone().unwrap_or_default()) } else { Repeat::Reused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_repeat_from_a_reused_id() {
        let first = IdCell { digest: digest("sale", b"{}"), ..Default::default() };
        assert_eq!(compare(&first, digest("sale", b"{}")), Repeat::Same(Outcome::default()));
        assert_eq!(compare(&first, digest("sale", b"{ }")), Repeat::Reused);
        assert_eq!(compare(&first, digest("scan", b"{}")), Repeat::Reused);
    }
}
