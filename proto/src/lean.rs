//! Batches of chunks without what their reader can work out: heads and hashes, which are most of a quiet store's bytes
//! on the wire and do not pack, follow from the bodies and from where the journal stood before; of the totals, which are
//! half of a busy store's, the movements say all but the units.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{self, DecodeContext};

use crate::chunk::{self, Chunk, Head, Position, Sealer};
use crate::id::ReplicaId;
use crate::pack;
use crate::wire::record::Of;
use crate::wire::{Batch, Body, CounterTotal, LeanChunk, LeanChunks};

/// How much of the last hash goes along. The chain is checked against it, so that a flipped bit is noticed.
const CHECK_BYTES: usize = 8;
/// Chunks of one batch: a gateway gathers 32 KiB of them.
const CHUNKS_MAX: usize = 2_048;
/// The number of `Body.totals`.
const TOTALS: u32 = 3;
/// Smaller messages are not worth packing.
const PACK_FROM_BYTES: usize = 128;
/// Packed harder than in the journal: a store's network is slower than its processor.
const LEVEL: i32 = 3;

/// A batch of these chunks, in order. `None` if one of them cannot be made again by its reader, or they are too long
/// to be unpacked at once: then they go as they were stored.
pub fn pack(chunks: &[(Head, Bytes)]) -> Option<Batch> {
    let ((first, _), (last, _)) = chunks.first().zip(chunks.last())?;
    let chunk: Option<Vec<LeanChunk>> = chunks.iter().map(|(head, bytes)| strip(chunk::bare(head, bytes)?)).collect();
    let plain = LeanChunks { chunk: chunk? }.encode_to_vec();
    if plain.len() > pack::UNPACKED_BYTES_MAX {
        return None;
    }
    let packed = if plain.len() >= PACK_FROM_BYTES { pack::pack_hard(&plain, LEVEL) } else { None };
    let (body, chunks_bytes) = match packed {
        Some(packed) => (packed, plain.len() as u32),
        None => (plain, 0),
    };
    Some(Batch {
        first_seq: first.first.0,
        last_seq: last.last.0,
        body: body.into(),
        chunks_bytes,
        last_hash: last.hash.0[..CHECK_BYTES].to_vec().into(),
        chunks: chunks.len() as u32,
        lean: true,
    })
}

/// The chunks of a lean batch that comes right after `before`. `None` unless they come to the hash that it names.
pub fn unpack(
    batch: &Batch,
    replica: &ReplicaId,
    before: Position,
    sealer: &mut Sealer,
) -> Option<Vec<(Chunk, Bytes)>> {
    let lean = match batch.chunks_bytes {
        0 => LeanChunks::decode(batch.body.clone()),
        bytes => LeanChunks::decode(Bytes::from(pack::unpack(&batch.body, bytes as usize)?)),
    };
    let lean = lean.ok()?;
    // Each costs its receiver more than it costs the sender: no more than were named, and than fit into a batch.
    if lean.chunk.len() > CHUNKS_MAX || lean.chunk.len() != batch.chunks as usize {
        return None;
    }
    let (mut chunks, mut at) = (Vec::new(), before);
    for lean in lean.chunk {
        let (chunk, bytes) = sealer.restore(replica, at, &fill(lean)?).ok()?;
        at = chunk.head.after();
        chunks.push((chunk, bytes.into()));
    }
    let checked = batch.last_hash.len() >= CHECK_BYTES && at.hash.0.starts_with(&batch.last_hash);
    (checked && at.seq.0 == batch.last_seq).then_some(chunks)
}

/// Leaves the totals out if they follow from the movements. The rest stays as it is, byte for byte: it may be of other
/// software, with fields that this one does not know.
fn strip(plain: Vec<u8>) -> Option<LeanChunk> {
    let body = Body::decode(&plain[..]).ok()?;
    let span = totals_in(&plain)?;
    let told = body.totals.iter().map(|total| (total.gtin, total.seq_offset));
    if body.totals.is_empty() || !told.eq(moved(&body)) || encoded(&body.totals) != plain[span.clone()] {
        return Some(LeanChunk { body: plain.into(), units: Vec::new() });
    }
    let units = body.totals.iter().map(|total| total.units).collect();
    let body = [&plain[..span.start], &plain[span.end..]].concat();
    Some(LeanChunk { body: body.into(), units })
}

/// The body as it was sealed. `None` if the units are not those of its movements.
fn fill(lean: LeanChunk) -> Option<Bytes> {
    if lean.units.is_empty() {
        return Some(lean.body);
    }
    let moved = moved(&Body::decode(lean.body.clone()).ok()?);
    let span = totals_in(&lean.body)?;
    if !span.is_empty() || moved.len() != lean.units.len() {
        return None;
    }
    let total = |((gtin, seq_offset), units)| CounterTotal { gtin, units, seq_offset };
    let totals: Vec<_> = moved.into_iter().zip(lean.units).map(total).collect();
    Some([&lean.body[..span.start], &encoded(&totals), &lean.body[span.start..]].concat().into())
}

fn encoded(totals: &[CounterTotal]) -> Vec<u8> {
    let mut out = Vec::new();
    totals.iter().for_each(|total| encoding::message::encode(TOTALS, total, &mut out));
    out
}

/// Where the totals stand in an encoded body, or would stand: before the first field of a higher number. `None` if they
/// stand in several places.
fn totals_in(plain: &[u8]) -> Option<Range<usize>> {
    let (mut rest, mut span) = (plain, None);
    while !rest.is_empty() {
        let at = plain.len() - rest.len();
        let (tag, wire_type) = encoding::decode_key(&mut rest).ok()?;
        encoding::skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
        let end = plain.len() - rest.len();
        span = match (span, tag) {
            (None, TOTALS) => Some(at..end),
            (None, TOTALS..) => Some(at..at),
            (Some(Range { start, end: before }), TOTALS) if before == at => Some(start..end),
            (Some(_), TOTALS) => return None,
            (span, _) => span,
        };
    }
    Some(span.unwrap_or(plain.len()..plain.len()))
}

/// The items that the body's movements moved, each with the place of its last one among the records.
fn moved(body: &Body) -> BTreeMap<u64, u32> {
    let records = body.events.iter().flat_map(|event| &event.records);
    let movement = |(n, record): (u32, &crate::wire::Record)| match &record.of {
        Some(Of::Movement(movement)) => Some((movement.gtin, n)),
        _ => None,
    };
    (0..).zip(records).filter_map(movement).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Epoch;
    use crate::wire::{Event, LossClass, Movement, Note, Record};

    fn replica() -> ReplicaId {
        ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(7) }
    }

    fn body(moves: &[(u64, i64)], totals: bool) -> Body {
        let movement = |(gtin, units): &(u64, i64)| Movement { gtin: *gtin, units: *units, ..Movement::default() };
        let mut records: Vec<Record> =
            moves.iter().map(|moved| Record { of: Some(Of::Movement(movement(moved))) }).collect();
        records.insert(records.len() / 2, Record { of: Some(Of::Note(Note::default())) });
        let event = Event { device: "pos-1".into(), records, ..Event::default() };
        let mut body = Body { base_ms: 1_700_000_000_000, events: vec![event], ..Body::default() };
        if totals {
            let total = |(gtin, seq_offset)| CounterTotal { gtin, units: gtin as i64 - 50, seq_offset };
            body.totals = moved(&body).into_iter().map(total).collect();
        }
        body
    }

    fn journal(bodies: &[Body]) -> Vec<(Head, Bytes)> {
        let (mut sealer, mut at) = (Sealer::default(), Position::default());
        let seal = |body| {
            let sealed = sealer.seal(&replica(), at, body);
            at = sealed.after;
            (chunk::head(&sealed.bytes).unwrap(), sealed.bytes.into())
        };
        bodies.iter().map(seal).collect()
    }

    fn unpacked(batch: &Batch) -> Option<Vec<Bytes>> {
        let chunks = unpack(batch, &replica(), Position::default(), &mut Sealer::default())?;
        Some(chunks.into_iter().map(|(_, bytes)| bytes).collect())
    }

    #[test]
    fn is_a_third_of_what_is_stored() {
        let journal = journal(&vec![body(&[(4_006_381_333_931, -1), (4_006_381_333_948, -2)], true); 50]);
        let batch = pack(&journal).unwrap();
        let stored: usize = journal.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(batch.body.len() * 3 < stored, "{} of {stored}", batch.body.len());
    }

    #[test]
    fn what_is_no_longer_whole_goes_as_it_is_stored() {
        let mut journal = journal(&[body(&[(1, 1)], true)]);
        let head = journal[0].0.clone();
        let mut left = Body { skipped_at_end: head.records(), ..Body::default() };
        crate::loss::lose(&mut left, LossClass::Trimmed, head.records());
        let remnant = Sealer::default().remnant(&replica(), head.before(), head.after(), &left);
        journal[0] = (chunk::head(&remnant).unwrap(), remnant.into());
        assert_eq!(pack(&journal), None);
    }

    proptest! {
        #[test]
        fn chunks_come_out_bit_for_bit(
            moves in prop::collection::vec(prop::collection::vec((0u64..100, -9i64..9), 0..40), 1..8),
            totals: bool,
        ) {
            let journal = journal(&moves.iter().map(|moves| body(moves, totals)).collect::<Vec<_>>());
            let stored: Vec<Bytes> = journal.iter().map(|(_, bytes)| bytes.clone()).collect();
            prop_assert_eq!(unpacked(&pack(&journal).unwrap()), Some(stored));
        }

        #[test]
        fn fields_of_newer_software_are_kept(
            moves in prop::collection::vec((0u64..100, -9i64..9), 1..40),
            totals: bool,
            at_end: bool,
        ) {
            let plain = body(&moves, totals).encode_to_vec();
            // Field 200, of two bytes, in the body itself or in its first event.
            let unknown = [0xc2, 0x0c, 2, 7, 7];
            let plain = if at_end {
                [&plain[..], &unknown].concat()
            } else {
                let mut body = Body::decode(&plain[..]).unwrap();
                let event = [&body.events.remove(0).encode_to_vec()[..], &unknown].concat();
                let mut with = Body { base_ms: body.base_ms, ..Body::default() }.encode_to_vec();
                encoding::bytes::encode(2, &event, &mut with);
                with.extend(encoded(&body.totals));
                with
            };
            let (chunk, stored) = Sealer::default().restore(&replica(), Position::default(), &plain).unwrap();
            let batch = pack(&[(chunk.head, stored.clone().into())]).unwrap();
            prop_assert_eq!(unpacked(&batch), Some(vec![stored.into()]));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            moves in prop::collection::vec((0u64..100, -9i64..9), 1..40),
            at: prop::sample::Index,
            bit in 0u32..8,
        ) {
            let mut batch = pack(&journal(&[body(&moves, true)])).unwrap();
            let sound = unpacked(&batch);
            let mut body = batch.body.to_vec();
            body[at.index(batch.body.len())] ^= 1u8 << bit;
            batch.body = body.into();
            // What a reader does not look at may differ; what it makes of it may not.
            let found = unpacked(&batch);
            prop_assert!(found.is_none() || found == sound);
        }
    }
}
