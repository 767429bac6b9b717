//! Chunks: one commit group, encoded once, chained by hash to the one before. The unit of storage, upload,
//! acknowledgement and audit.
//!
//! ```text
//! offset  size  field
//!      0     2  magic "TC"
//!      2     1  format, 1
//!      3     1  bit 0: the body is packed with zstd; bit 1: a remnant
//!      4     8  first seq            (all integers little-endian)
//!     12     8  last seq
//!     20     8  epoch
//!     28    32  hash of the chunk before; zeros for the first
//!     60     4  length of the body, unpacked
//!     64     4  length of the body as it stands here
//!     68     1  length of the site's name
//!     69        site's name, body, then the 32-byte hash
//! ```
//!
//! A *remnant* stands in the place of one or several chunks of which records are gone: evicted for want of room, or
//! damaged. Its hash is that of the last chunk it stands for, so the chain goes on; a 32-byte checksum of its own
//! content follows. Its body says how many records are gone, of which class and where.
//!
//! The hash (blake3, keyed to this format) covers everything but the body's encoding: the unpacked body counts. So
//! it is checksum and link in one, and a body may be packed anew without breaking the chain.

use prost::Message;

use crate::clock::Stamp;
use crate::id::{Epoch, NameError, ReplicaId, Seq, WallMs};
use crate::wire;

pub const FORMAT: u8 = 1;
/// A body's most bytes, unpacked. A writer closes its group far below; a reader refuses to unpack more.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

const MAGIC: [u8; 2] = *b"TC";
const HEAD_BYTES: usize = 69;
const HASH_BYTES: usize = 32;
/// Below this packing costs more than it saves.
const PACK_FROM_BYTES: usize = 160;
const HASH_CONTEXT: &str = "tillsync journal chunk format 1";
const REMNANT_CONTEXT: &str = "tillsync journal remnant format 1";
const PACKED: u8 = 1;
const REMNANT: u8 = 2;

/// Link of the chain: names a journal's whole past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; HASH_BYTES]);

impl ChainHash {
    /// What comes before the first chunk.
    pub const ORIGIN: ChainHash = ChainHash([0; HASH_BYTES]);

    pub fn from_slice(bytes: &[u8]) -> Option<ChainHash> {
        bytes.try_into().ok().map(ChainHash)
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Where a journal stands: its last seq and the hash that names everything up to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub seq: Seq,
    pub hash: ChainHash,
}

/// What a chunk says of itself, before its body is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub replica: ReplicaId,
    pub first: Seq,
    pub last: Seq,
    pub previous: ChainHash,
    pub hash: ChainHash,
    /// Records are gone: the hash names what was here, not what is.
    pub remnant: bool,
    body_bytes: usize,
    packed: bool,
    body_at: (usize, usize),
}

impl Head {
    /// Where the journal stands before this chunk.
    pub fn before(&self) -> Position {
        Position { seq: Seq(self.first.0 - 1), hash: self.previous }
    }

    /// Where the journal stands after this chunk.
    pub fn after(&self) -> Position {
        Position { seq: self.last, hash: self.hash }
    }

    /// Length of the body, unpacked.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    pub fn records(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }
}

/// A chunk whose hash was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub head: Head,
    pub body: wire::Body,
}

/// Why bytes are not a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("the chunk is cut short")]
    Short,
    #[error("the bytes are not a chunk")]
    Magic,
    #[error("chunk format {0} is newer than this software, which reads {FORMAT}: upgrade it")]
    Format(u8),
    #[error("the chunk has an unknown body encoding {0}")]
    Encoding(u8),
    #[error("the chunk's seqs {first} to {last} are not a span")]
    Span { first: u64, last: u64 },
    #[error("the chunk's site name {0}")]
    Name(#[from] NameError),
    #[error("the chunk's body is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the chunk's body cannot be unpacked")]
    Unpack,
    #[error("the chunk's checksum is wrong")]
    Checksum,
    #[error("the chunk's body cannot be decoded: {0}")]
    Body(String),
    #[error("the chunk names {named} records and holds {held}")]
    Records { named: u64, held: u64 },
}

impl ChunkError {
    /// For software.
    pub fn code(&self) -> &'static str {
        match self {
            ChunkError::Short => "chunk_short",
            ChunkError::Magic => "chunk_magic",
            ChunkError::Format(_) => "chunk_format",
            ChunkError::Encoding(_) => "chunk_encoding",
            ChunkError::Span { .. } => "chunk_span",
            ChunkError::Name(_) => "chunk_name",
            ChunkError::TooLarge => "chunk_too_large",
            ChunkError::Unpack => "chunk_unpack",
            ChunkError::Checksum => "chunk_checksum",
            ChunkError::Body(_) => "chunk_body",
            ChunkError::Records { .. } => "chunk_records",
        }
    }
}

/// A chunk ready to store and send.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub after: Position,
}

/// Encodes chunks; keeps its compression context, since making one costs more than most chunks do.
pub struct Sealer {
    packer: Option<zstd::bulk::Compressor<'static>>,
}

impl Default for Sealer {
    fn default() -> Self {
        // Without a context chunks are stored as they are: larger, never wrong.
        Sealer { packer: zstd::bulk::Compressor::new(1).ok() }
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Seals `body`, whose records come right after `before`.
    ///
    /// # Panics
    /// If the body holds no record or is larger than [`BODY_BYTES_MAX`]: the writer closes its groups before that.
    pub fn seal(&mut self, replica: &ReplicaId, before: Position, body: &wire::Body) -> Sealed {
        let records = count_records(body).unwrap_or(0);
        let plain = body.encode_to_vec();
        assert!(records > 0 && plain.len() <= BODY_BYTES_MAX, "{records} records in {} bytes", plain.len());
        let (first, last) = (before.seq.next(), before.seq.plus(records));
        let after = Position { seq: last, hash: hash(HASH_CONTEXT, replica, first, last, &before.hash, &plain) };
        Sealed { bytes: self.lay_out(0, replica, before, after, &plain), after }
    }

    /// What is left of the journal from `before` to `after`.
    ///
    /// # Panics
    /// If the body does not account for every record of the span, or is larger than [`BODY_BYTES_MAX`].
    pub fn remnant(&mut self, replica: &ReplicaId, before: Position, after: Position, body: &wire::Body) -> Vec<u8> {
        let (records, plain) = (count_records(body).unwrap_or(0), body.encode_to_vec());
        assert!(before.seq.plus(records) == after.seq && records > 0, "{records} records from {before:?} to {after:?}");
        assert!(plain.len() <= BODY_BYTES_MAX, "{} bytes", plain.len());
        let mut bytes = self.lay_out(REMNANT, replica, before, after, &plain);
        bytes.extend_from_slice(&remnant_checksum(replica, before, after, &plain));
        bytes
    }

    /// The chunk whose body [`bare`] gave, which comes right after `before`: hash and head are worked out again. Whoever
    /// knows the hash that it must have compares them.
    ///
    /// # Errors
    /// The body is none of a whole chunk.
    pub fn restore(
        &mut self,
        replica: &ReplicaId,
        before: Position,
        plain: &[u8],
    ) -> Result<(Chunk, Vec<u8>), ChunkError> {
        if plain.len() > BODY_BYTES_MAX {
            return Err(ChunkError::TooLarge);
        }
        let body = wire::Body::decode(plain).map_err(|e| ChunkError::Body(e.to_string()))?;
        let held = count_records(&body).filter(|held| *held > 0 && !skips(&body));
        let held = held.ok_or(ChunkError::Records { named: 0, held: 0 })?;
        let (first, last) = (before.seq.next(), before.seq.0.checked_add(held).map(Seq));
        let last = last.filter(|last| last.0 < u64::MAX).ok_or(ChunkError::TooLarge)?;
        let after = Position { seq: last, hash: hash(HASH_CONTEXT, replica, first, last, &before.hash, plain) };
        let bytes = self.lay_out(0, replica, before, after, plain);
        Ok((Chunk { head: head(&bytes)?, body }, bytes))
    }

    fn lay_out(&mut self, kind: u8, replica: &ReplicaId, before: Position, after: Position, plain: &[u8]) -> Vec<u8> {
        let packed = self.pack(plain);
        let stored = packed.as_deref().unwrap_or(plain);
        let site = replica.site.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + site.len() + stored.len() + 2 * HASH_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[FORMAT, kind | if packed.is_some() { PACKED } else { 0 }]);
        bytes.extend_from_slice(&before.seq.next().0.to_le_bytes());
        bytes.extend_from_slice(&after.seq.0.to_le_bytes());
        bytes.extend_from_slice(&replica.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&before.hash.0);
        bytes.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        bytes.push(site.len() as u8);
        bytes.extend_from_slice(site);
        bytes.extend_from_slice(stored);
        bytes.extend_from_slice(&after.hash.0);
        bytes
    }

    fn pack(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() < PACK_FROM_BYTES {
            return None;
        }
        let packed = self.packer.as_mut()?.compress(plain).ok()?;
        (packed.len() < plain.len()).then_some(packed)
    }
}

/// Reads the head without trusting or unpacking the body.
pub fn head(bytes: &[u8]) -> Result<Head, ChunkError> {
    let fixed = bytes.get(..HEAD_BYTES).ok_or(ChunkError::Short)?;
    if fixed[..2] != MAGIC {
        return Err(ChunkError::Magic);
    }
    if fixed[2] != FORMAT {
        return Err(ChunkError::Format(fixed[2]));
    }
    if fixed[3] > PACKED | REMNANT {
        return Err(ChunkError::Encoding(fixed[3]));
    }
    let (packed, remnant) = (fixed[3] & PACKED != 0, fixed[3] & REMNANT != 0);
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| fixed[at + n]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| fixed[at + n])) as usize;
    let (first, last) = (u64_at(4), u64_at(12));
    if first == 0 || last < first || last == u64::MAX {
        return Err(ChunkError::Span { first, last });
    }
    let (body_bytes, stored_bytes) = (u32_at(60), u32_at(64));
    if body_bytes > BODY_BYTES_MAX || stored_bytes > BODY_BYTES_MAX {
        return Err(ChunkError::TooLarge);
    }
    let body_from = HEAD_BYTES + usize::from(fixed[68]);
    let body_to = body_from + stored_bytes;
    let checksum_bytes = if remnant { HASH_BYTES } else { 0 };
    if bytes.len() != body_to + HASH_BYTES + checksum_bytes {
        return Err(ChunkError::Short);
    }
    let site = std::str::from_utf8(&bytes[HEAD_BYTES..body_from]).map_err(|_| NameError::BadChar('\u{fffd}'))?;
    Ok(Head {
        replica: ReplicaId { site: site.parse()?, epoch: Epoch(u64_at(20)) },
        first: Seq(first),
        last: Seq(last),
        previous: ChainHash(std::array::from_fn(|n| fixed[28 + n])),
        hash: ChainHash(std::array::from_fn(|n| bytes[body_to + n])),
        remnant,
        body_bytes,
        packed,
        body_at: (body_from, body_to),
    })
}

/// Reads a whole chunk and checks everything it says of itself.
pub fn open(bytes: &[u8]) -> Result<Chunk, ChunkError> {
    let head = head(bytes)?;
    let stored = &bytes[head.body_at.0..head.body_at.1];
    let unpacked;
    let plain = if head.packed {
        unpacked = zstd::bulk::decompress(stored, head.body_bytes).map_err(|_| ChunkError::Unpack)?;
        &unpacked[..]
    } else {
        stored
    };
    if plain.len() != head.body_bytes {
        return Err(ChunkError::Unpack);
    }
    let sound = if head.remnant {
        remnant_checksum(&head.replica, head.before(), head.after(), plain) == bytes[head.body_at.1 + HASH_BYTES..]
    } else {
        hash(HASH_CONTEXT, &head.replica, head.first, head.last, &head.previous, plain) == head.hash
    };
    if !sound {
        return Err(ChunkError::Checksum);
    }
    let body = wire::Body::decode(plain).map_err(|e| ChunkError::Body(e.to_string()))?;
    let held = count_records(&body).ok_or(ChunkError::TooLarge)?;
    if held != head.records() || (skips(&body) && !head.remnant) {
        return Err(ChunkError::Records { named: head.records(), held });
    }
    Ok(Chunk { head, body })
}

/// The unpacked body of a whole chunk, from which [`Sealer::restore`] makes the chunk again. `None` for a remnant, whose
/// hash names what is no longer there, and for what cannot be unpacked.
pub fn bare(head: &Head, bytes: &[u8]) -> Option<Vec<u8>> {
    let stored = bytes.get(head.body_at.0..head.body_at.1).filter(|_| !head.remnant)?;
    let plain = match head.packed {
        true => zstd::bulk::decompress(stored, head.body_bytes).ok()?,
        false => stored.to_vec(),
    };
    (plain.len() == head.body_bytes).then_some(plain)
}

impl Chunk {
    /// Every event with its stamp and the seq of its first record.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = (Seq, Stamp, &wire::Event)> {
        let base = self.body.base_ms;
        let mut placed = Vec::with_capacity(self.body.events.len());
        let mut seq = self.head.first;
        for event in &self.body.events {
            seq = seq.plus(event.skipped);
            placed.push((seq, stamp_of(base, event), event));
            seq = seq.plus(event.records.len() as u64);
        }
        placed.into_iter()
    }
}

/// An event's stamp, from the base of its chunk.
pub fn stamp_of(base_ms: u64, event: &wire::Event) -> Stamp {
    Stamp::from_parts(WallMs(base_ms.saturating_add(event.ms)), event.tick.min(u16::MAX.into()) as u16)
}

/// True if records are missing from it.
fn skips(body: &wire::Body) -> bool {
    body.skipped_at_end > 0 || body.events.iter().any(|event| event.skipped > 0)
}

/// `None` if there are more than can be counted.
fn count_records(body: &wire::Body) -> Option<u64> {
    let mut counts = body.events.iter().map(|event| event.skipped.checked_add(event.records.len() as u64));
    counts.try_fold(body.skipped_at_end, |sum, count| sum.checked_add(count?))
}

fn remnant_checksum(replica: &ReplicaId, before: Position, after: Position, plain: &[u8]) -> [u8; HASH_BYTES] {
    let content = hash(REMNANT_CONTEXT, replica, before.seq.next(), after.seq, &before.hash, plain);
    *blake3::keyed_hash(&content.0, &after.hash.0).as_bytes()
}

fn hash(context: &str, replica: &ReplicaId, first: Seq, last: Seq, previous: &ChainHash, plain: &[u8]) -> ChainHash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    let site = replica.site.as_str().as_bytes();
    hasher.update(&[site.len() as u8]).update(site).update(&replica.epoch.0.to_le_bytes());
    hasher.update(&first.0.to_le_bytes()).update(&last.0.to_le_bytes()).update(&previous.0).update(plain);
    ChainHash(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::strip;
    use crate::wire::{Event, LossClass, Movement, Record, record::Of};
    use proptest::prelude::*;

    fn replica() -> ReplicaId {
        ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(0xfeed) }
    }

    fn body(events: usize, lines: usize) -> wire::Body {
        let line =
            |n: usize| Record { of: Some(Of::Movement(Movement { gtin: n as u64, units: -1, ..Default::default() })) };
        let event = |n: usize| Event {
            ms: n as u64,
            device: "pos-1".into(),
            records: (0..lines).map(line).collect(),
            ..Default::default()
        };
        wire::Body { base_ms: 1_700_000_000_000, events: (0..events).map(event).collect(), ..Default::default() }
    }

    #[test]
    fn chunks_form_a_chain() {
        let mut sealer = Sealer::default();
        let first = sealer.seal(&replica(), Position::default(), &body(1, 1));
        let second = sealer.seal(&replica(), first.after, &body(40, 5));
        let (a, b) = (open(&first.bytes).unwrap(), open(&second.bytes).unwrap());
        assert_eq!((a.head.first, a.head.last), (Seq(1), Seq(1)));
        assert_eq!((b.head.first, b.head.last), (Seq(2), Seq(201)));
        assert_eq!(b.head.before(), a.head.after());
        assert_eq!(b.body, body(40, 5));
        assert!(second.bytes.len() < body(40, 5).encoded_len(), "a large body is packed");
        let seqs: Vec<_> = b.events().map(|(seq, ..)| seq.0).collect();
        assert_eq!(seqs[..3], [2, 7, 12]);
    }

    #[test]
    fn a_remnant_keeps_the_chain_and_says_what_is_gone() {
        let mut sealer = Sealer::default();
        let mut whole = body(3, 2);
        let note = |kind: &str| Record { of: Some(Of::Note(wire::Note { kind: kind.into(), ..Default::default() })) };
        whole.events.insert(1, Event { records: vec![note("activity"); 4], ..Default::default() });
        whole.events.push(Event { records: vec![note("feedback")], ..Default::default() });
        let chunk = sealer.seal(&replica(), Position::default(), &whole);
        let mut left = whole.clone();
        assert!(strip(&mut left, LossClass::Activity));
        assert!(!strip(&mut left, LossClass::Activity), "twice changes nothing");
        let bytes = sealer.remnant(&replica(), Position::default(), chunk.after, &left);
        let remnant = open(&bytes).unwrap();
        assert_eq!((remnant.head.after(), remnant.head.records()), (chunk.after, 11));
        let seqs: Vec<_> = remnant.events().map(|(seq, ..)| seq.0).collect();
        assert_eq!(seqs, [1, 7, 9, 11], "what is left keeps its seqs");
        let mut bare = open(&bytes).unwrap().body;
        assert!(strip(&mut bare, LossClass::Scans));
        assert_eq!((bare.events.len(), bare.skipped_at_end, bare.losses.len()), (3, 1, 2));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(open(&flipped).is_err() || open(&flipped) == open(&bytes), "byte {at}");
        }
        for count in [u64::MAX, u64::MAX - 1] {
            let mut lying = bare.clone();
            lying.events[0].skipped = count;
            let after = Position { seq: Seq(u64::MAX), ..chunk.after };
            let bytes = sealer.lay_out(REMNANT, &replica(), Position::default(), after, &lying.encode_to_vec());
            assert!(open(&bytes).is_err(), "more than can be counted");
        }
        whole.skipped_at_end = 1;
        let lying = sealer.seal(&replica(), Position::default(), &whole);
        assert!(open(&lying.bytes).is_err(), "only a remnant may have gaps");
    }

    #[test]
    fn a_newer_format_is_refused_with_advice() {
        let mut bytes = Sealer::default().seal(&replica(), Position::default(), &body(1, 1)).bytes;
        bytes[2] = 2;
        assert_eq!(open(&bytes), Err(ChunkError::Format(2)));
        assert!(ChunkError::Format(2).to_string().contains("upgrade"));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_and_every_cut_is_seen(events in 1usize..30, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let good = Sealer::default().seal(&replica(), Position::default(), &body(events, 2)).bytes;
            let mut flipped = good.clone();
            flipped[at.index(good.len())] ^= 1 << bit;
            // A bit that zstd does not look at may flip in silence; what is read is then still what was written.
            prop_assert!(open(&flipped).is_err() || open(&flipped) == open(&good));
            prop_assert!(open(&good[..at.index(good.len())]).is_err());
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), dress in any::<bool>()) {
            if dress && bytes.len() > 4 {
                let encoding = bytes[3] & 1;
                bytes[..4].copy_from_slice(&[b'T', b'C', 1, encoding]);
            }
            let _ = open(&bytes);
        }
    }
}
