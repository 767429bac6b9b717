//! What a remnant remembers of the chunks that it stands for: where each of them ended. Whoever is at one of these places
//! (a hub that has part of the span) is known by it, and whoever is anywhere else inside is of another journal.
//!
//! Damage leaves nothing to remember, and remnants of earlier software remember nothing; neither is joined to one that
//! does, so that what is known stays known.

use crate::chunk::{self, Chunk, ChunkError, Head, Position};
use crate::loss;
use crate::wire::Body;

/// Adjacent remnants with nothing left become one, up to so many records.
const RECORDS_MAX: u64 = 1 << 20;
/// And up to so many chunks, so that a remnant stays a small message.
const ENDS_MAX: usize = 2_048;
/// Of each hash that is remembered: enough that two journals which part do not agree by chance.
const HASH_BYTES: usize = 8;

/// How a position stands to a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The journal stood there, with this hash.
    Ours,
    /// As far as it is still here, it never did.
    Other,
    /// It lies in a span of which only the ends are known.
    Untold,
}

/// A remnant that takes the place of this one whole chunk.
pub fn of_whole(body: &mut Body) {
    body.ends_kept = true;
}

/// Nothing is left but the count of what is gone.
pub fn is_bare(chunk: &Chunk) -> bool {
    chunk.body.events.is_empty() && chunk.body.totals.is_empty()
}

/// Lengthens a bare remnant, or what is to become one, by the bare one that follows it. Gives that back if the two must
/// stay apart.
pub fn join(held: &mut Chunk, next: Chunk) -> Result<(), Box<Chunk>> {
    let ends = held.body.ends.len() + 1 + next.body.ends.len();
    let fits = held.head.records() + next.head.records() <= RECORDS_MAX && ends <= ENDS_MAX;
    if held.body.ends_kept != next.body.ends_kept || !fits {
        return Err(Box::new(next));
    }
    if held.body.ends_kept {
        // Each end counts from the one before it, the first from where the remnant begins.
        let told = held.body.ends.iter().fold(0, |sum: u64, records| sum.saturating_add(*records));
        held.body.ends.push(held.head.records().saturating_sub(told));
        held.body.ends.extend(&next.body.ends);
        let short = [&held.body.end_hashes[..], &held.head.hash.0[..HASH_BYTES], &next.body.end_hashes[..]].concat();
        held.body.end_hashes = short.into();
    }
    held.body.skipped_at_end += next.body.skipped_at_end;
    next.body.losses.iter().for_each(|lost| loss::lose(&mut held.body, lost.class(), lost.records));
    held.body.powered_on_s = next.body.powered_on_s;
    (held.head.last, held.head.hash) = (next.head.last, next.head.hash);
    Ok(())
}

/// How `at` stands to a journal of which `stored` is the first chunk that ends there or later, if there is one.
///
/// # Errors
/// The position lies inside a remnant, and that cannot be read.
pub fn standing(at: Position, stored: Option<(&Head, &[u8])>) -> Result<Standing, ChunkError> {
    if at.seq == Position::default().seq {
        return Ok(if at == Position::default() { Standing::Ours } else { Standing::Other });
    }
    let Some((head, bytes)) = stored else { return Ok(Standing::Other) };
    // The oldest chunk also tells where the journal stood before it; it is found when nothing holds the seq.
    let end = [head.after(), head.before()].into_iter().find(|end| end.seq == at.seq);
    Ok(match end {
        Some(end) if end == at => Standing::Ours,
        None if head.remnant && head.first <= at.seq => inside(at, &chunk::open(bytes)?),
        _ => Standing::Other,
    })
}

/// `at` lies inside the remnant's span.
fn inside(at: Position, remnant: &Chunk) -> Standing {
    let body = &remnant.body;
    // Hashes that do not match the ends were written by no software that is known: they tell nothing.
    if !body.ends_kept || body.end_hashes.len() != body.ends.len() * HASH_BYTES {
        return Standing::Untold;
    }
    let mut seq = remnant.head.before().seq.0;
    for (records, hash) in body.ends.iter().zip(body.end_hashes.chunks_exact(HASH_BYTES)) {
        seq = seq.saturating_add(*records);
        if seq == at.seq.0 {
            return if at.hash.0.starts_with(hash) { Standing::Ours } else { Standing::Other };
        }
    }
    Standing::Other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChainHash, Sealer};
    use crate::id::{Epoch, ReplicaId, Seq};
    use crate::wire::record::Of;
    use crate::wire::{Event, LossClass, Note, Record};

    fn replica() -> ReplicaId {
        ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(7) }
    }

    fn notes(records: usize) -> Body {
        let note = Record { of: Some(Of::Note(Note { kind: "activity".into(), ..Note::default() })) };
        let event = Event { records: vec![note; records], ..Event::default() };
        Body { events: vec![event], ..Body::default() }
    }

    /// Chunks of so many records each, whole, and the position after each.
    fn journal(chunks: &[usize]) -> Vec<(Vec<u8>, Position)> {
        let (mut sealer, mut at) = (Sealer::default(), Position::default());
        let mut seal = |records: &usize| {
            let sealed = sealer.seal(&replica(), at, &notes(*records));
            at = sealed.after;
            (sealed.bytes, sealed.after)
        };
        chunks.iter().map(&mut seal).collect()
    }

    /// As an eviction leaves it. `kept` if it is this software's.
    fn bare(whole: &[u8], kept: bool) -> Chunk {
        let mut chunk = chunk::open(whole).unwrap();
        assert!(loss::strip(&mut chunk.body, LossClass::Activity) && is_bare(&chunk));
        if kept {
            of_whole(&mut chunk.body);
        }
        chunk
    }

    /// Stored and read again.
    fn sealed(chunk: &Chunk) -> (Head, Vec<u8>) {
        let Head { replica, .. } = &chunk.head;
        let bytes = Sealer::default().remnant(replica, chunk.head.before(), chunk.head.after(), &chunk.body);
        (chunk::head(&bytes).unwrap(), bytes)
    }

    fn stands(at: Position, (head, bytes): &(Head, Vec<u8>)) -> Standing {
        standing(at, Some((head, bytes))).unwrap()
    }

    #[test]
    fn each_end_inside_is_known_and_nothing_else_is_ours() {
        let journal = journal(&[3, 1, 4, 1, 5]);
        // Joined in two steps, as two evictions would.
        let mut left = bare(&journal[0].0, true);
        join(&mut left, bare(&journal[1].0, true)).unwrap();
        let mut right = bare(&journal[2].0, true);
        for (bytes, _) in &journal[3..] {
            join(&mut right, bare(bytes, true)).unwrap();
        }
        join(&mut left, right).unwrap();
        let stored = sealed(&left);
        assert_eq!(stored.0.after(), journal[4].1);
        for (_, end) in &journal {
            assert_eq!(stands(*end, &stored), Standing::Ours, "{end:?}");
            let forged = Position { hash: ChainHash([9; 32]), ..*end };
            assert_eq!(stands(forged, &stored), Standing::Other);
        }
        let ends: Vec<u64> = journal.iter().map(|(_, end)| end.seq.0).collect();
        for seq in (1..=14).filter(|seq| !ends.contains(seq)) {
            let at = Position { seq: Seq(seq), hash: ChainHash([1; 32]) };
            assert_eq!(stands(at, &stored), Standing::Other, "no chunk ended at {seq}");
        }
    }

    #[test]
    fn what_is_not_known_stays_apart_from_what_is() {
        let journal = journal(&[2, 2, 2]);
        let mut old = bare(&journal[0].0, false);
        let back = join(&mut old, bare(&journal[1].0, true)).unwrap_err();
        assert_eq!(back.head.after(), journal[1].1, "as it was");
        let mut new = *back;
        join(&mut new, bare(&journal[2].0, false)).unwrap_err();
        // Two of earlier software become one, as they always did.
        join(&mut old, bare(&journal[1].0, false)).unwrap();
        let stored = sealed(&old);
        for hash in [journal[0].1.hash, ChainHash([9; 32])] {
            assert_eq!(stands(Position { seq: Seq(2), hash }, &stored), Standing::Untold);
        }
        assert_eq!(stands(journal[1].1, &stored), Standing::Ours);
    }

    #[test]
    fn a_remnant_stays_a_small_message() {
        let journal = journal(&vec![1; ENDS_MAX + 3]);
        let mut held = bare(&journal[0].0, true);
        let mut taken = 1;
        for (bytes, _) in &journal[1..] {
            let Ok(()) = join(&mut held, bare(bytes, true)) else { break };
            taken += 1;
        }
        assert_eq!(taken, ENDS_MAX + 1, "the last of them ends where the remnant does");
        let stored = sealed(&held);
        assert!(stored.1.len() < 24 << 10, "{} bytes", stored.1.len());
        assert!(journal[..taken].iter().all(|(_, end)| stands(*end, &stored) == Standing::Ours));
    }

    #[test]
    fn ends_that_do_not_add_up_tell_nothing_and_break_nothing() {
        let journal = journal(&[2, 2]);
        let mut held = bare(&journal[0].0, true);
        join(&mut held, bare(&journal[1].0, true)).unwrap();
        for (ends, hashes) in [(vec![u64::MAX, 5], vec![0; 16]), (vec![2], vec![0; 7]), (vec![], vec![1; 8])] {
            (held.body.ends, held.body.end_hashes) = (ends.clone(), hashes.into());
            assert_ne!(stands(journal[0].1, &sealed(&held)), Standing::Ours, "{ends:?}");
        }
    }
}
