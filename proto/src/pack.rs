//! zstd, once for both ends: what is packed says how long it was, and nothing is unpacked past a bound.

/// The longest text that is unpacked.
pub const UNPACKED_BYTES_MAX: usize = 1 << 20;

/// Packs `plain`; `None` if that would not make it smaller.
pub fn pack(plain: &[u8]) -> Option<Vec<u8>> {
    pack_hard(plain, 1)
}

/// The same, with more work for fewer bytes: `level` is zstd's.
pub fn pack_hard(plain: &[u8], level: i32) -> Option<Vec<u8>> {
    let packed = zstd::bulk::compress(plain, level).ok()?;
    (packed.len() < plain.len()).then_some(packed)
}

/// Unpacks what [`pack`] made of `plain_bytes` bytes. `None` if it is not that, or longer than the bound.
pub fn unpack(packed: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    if plain_bytes > UNPACKED_BYTES_MAX {
        return None;
    }
    let plain = zstd::bulk::decompress(packed, plain_bytes).ok()?;
    (plain.len() == plain_bytes).then_some(plain)
}
