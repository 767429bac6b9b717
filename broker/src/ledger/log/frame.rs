//! Frames: one commit each, as it stands in a segment of the log. Pure.
//!
//! ```text
//! offset  size  field
//!      0     2  magic "TF"
//!      2     2  zero
//!      4     4  length of the body        (all integers little-endian)
//!      8     8  number: grows from frame to frame over the life of a ledger
//!     16    16  checksum: blake3, keyed to the ledger, over the 16 bytes before and the body
//!     32        body: a Frame message
//! ```

use bytes::Bytes;
use prost::Message;
use proto::id::ReplicaId;
use proto::wire;

use crate::ledger::core::{Put, Table};

pub(super) const HEAD_BYTES: usize = 32;
/// The longest body that is believed. A commit is closed far below.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;

const MAGIC: [u8; 4] = *b"TF\0\0";
const CONTEXT: &str = "tillsync log frame format 2";

/// Whose frames they are. What a device sends stands in a frame as it came: without a key it could hold something that
/// looks like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(replica: &ReplicaId) -> Key {
        let named = format!("{}#{}", replica.site, replica.epoch);
        Key(blake3::derive_key(CONTEXT, named.as_bytes()))
    }
}

/// What a frame says of itself before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) body_bytes: usize,
    checksum: [u8; 16],
}

impl Head {
    pub(super) fn bytes(&self) -> usize {
        HEAD_BYTES + self.body_bytes
    }

    /// `None` if no frame begins here.
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let fixed: &[u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
        let body_bytes = u32::from_le_bytes(fixed[4..8].try_into().ok()?) as usize;
        let number = u64::from_le_bytes(fixed[8..16].try_into().ok()?);
        let checksum = fixed[16..].try_into().ok()?;
        (fixed[..4] == MAGIC && body_bytes <= BODY_BYTES_MAX && number > 0).then_some(Head {
            number,
            body_bytes,
            checksum,
        })
    }

    /// Whether the body is what was written.
    pub(super) fn covers(&self, key: Key, head: &[u8], body: &[u8]) -> bool {
        body.len() == self.body_bytes && checksum(key, &head[..16], body) == self.checksum
    }
}

/// The frame that begins at the start of `bytes`, if it is whole and sound.
pub(super) fn whole(key: Key, bytes: &[u8]) -> Option<(Head, &[u8])> {
    let head = Head::read(bytes)?;
    let body = bytes.get(HEAD_BYTES..head.bytes())?;
    head.covers(key, bytes, body).then_some((head, body))
}

/// The bytes of a commit.
pub(super) fn encode(key: Key, number: u64, frame: &wire::Frame, out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEAD_BYTES, 0);
    frame.encode(out).unwrap_or_else(|_| unreachable!("a Vec grows"));
    finish(key, number, out);
}

/// The bytes of a frame whose body is encoded already.
pub(super) fn assemble(key: Key, number: u64, body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEAD_BYTES, 0);
    out.extend_from_slice(body);
    finish(key, number, out);
}

fn finish(key: Key, number: u64, out: &mut [u8]) {
    let body_bytes = (out.len() - HEAD_BYTES) as u32;
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    let sum = checksum(key, &out[..16], &out[HEAD_BYTES..]);
    out[16..HEAD_BYTES].copy_from_slice(&sum);
}

fn checksum(key: Key, head: &[u8], body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(head).update(body);
    let mut short = [0; 16];
    hasher.finalize_xof().fill(&mut short);
    short
}

pub(super) fn cell(put: Put) -> wire::Cell {
    wire::Cell { table: put.table.0.into(), key: put.key.into(), value: put.value }
}

/// `None` for a table that cannot be.
pub(super) fn put(cell: wire::Cell) -> Option<Put> {
    let table = Table(u8::try_from(cell.table).ok()?);
    // A copy: the frame would stay as long as the cell is dirty.
    let value = cell.value.map(|value| Bytes::copy_from_slice(&value));
    Some(Put { table, key: cell.key.to_vec(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let frame = wire::Frame {
            chunks: vec![vec![7u8; 300].into(), vec![8u8; 30].into()],
            puts: vec![cell(Put::set(Table(3), "k", "v")), cell(Put::delete(Table(4), "gone"))],
        };
        let mut bytes = Vec::new();
        let replica = |epoch| ReplicaId { site: "harbour".parse().unwrap(), epoch: proto::id::Epoch(epoch) };
        let key = Key::of(&replica(1));
        encode(key, 9, &frame, &mut bytes);
        let (head, body) = whole(key, &bytes).unwrap();
        assert!(whole(Key::of(&replica(2)), &bytes).is_none(), "another ledger's");
        assert_eq!((head.number, wire::Frame::decode(body).unwrap()), (9, frame));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(whole(key, &flipped).is_none(), "byte {at}");
            assert!(whole(key, &bytes[..at]).is_none());
        }
    }
}
