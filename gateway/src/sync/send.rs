//! What goes out next: after an outage the present first, then the journal as it was stored.

use bytes::Bytes;
use proto::chunk::{Head, Position, Sealer};
use proto::id::Seq;
use proto::wire::up::Of as UpOf;
use proto::wire::{Batch, Body, Chunks, LossClass, Present, Up};
use proto::{lean, loss, present};

use super::{Chain, Session};

/// Publishes that the hub has not acknowledged; far below what the wire queues.
const IN_FLIGHT_MAX: usize = 8;
/// Chunks are gathered into one message up to this; one chunk always fits. Small enough for one commit of the hub.
const BATCH_BYTES_MAX: usize = 32 << 10;
/// Smaller messages are not worth packing.
const PACK_FROM_BYTES: usize = 512;
/// Behind by more than this, the present goes ahead of the journal.
const BEHIND_RECORDS: u64 = 2_048;
/// While behind, it is said anew this often, and more rarely if there are many keys to look through.
const AGAIN_MS: u64 = 1_000;
const KEYS_PER_MS: u64 = 10;
/// The core did not answer for this long: the journal goes on without.
const ANSWER_MS: u64 = 2_000;

/// What the core is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentAsk {
    /// The latest value of each key that changed after this.
    pub since: Seq,
    /// The last durable record.
    pub as_of: Seq,
}

/// How what is said ahead of the journal stands.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Up to here the hub knows all keys.
    known: Seq,
    /// The hub wants to be told from here.
    wanted_since: Option<Seq>,
    /// The core is asked, since this moment.
    asked_ms: Option<u64>,
    again_ms: u64,
}

impl Ahead {
    pub(super) fn from(known: u64) -> Ahead {
        Ahead { known: Seq(known), ..Ahead::default() }
    }

    pub(super) fn told(&mut self, known: u64, tell_since: Option<u64>) {
        self.known = self.known.max(Seq(known));
        self.wanted_since = tell_since.map(Seq).or(self.wanted_since);
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        self.asked_ms = self.asked_ms.filter(|since| now_ms < since + ANSWER_MS);
    }
}

impl Session {
    /// The core must be asked for the present: call with the answer, [`Session::ahead`].
    pub fn present_due<C: Chain>(&mut self, chain: &C, now_ms: u64) -> Option<PresentAsk> {
        if !self.streaming() || self.protocol < 2 || self.ahead.asked_ms.is_some() || !self.outbox.is_empty() {
            return None;
        }
        let as_of = chain.end().seq;
        let known = self.applied.seq.max(self.ahead.known);
        let behind = as_of.0 - self.applied.seq.0.min(as_of.0) > BEHIND_RECORDS;
        let since = match self.ahead.wanted_since.take() {
            Some(since) => since,
            None if behind && as_of > known && now_ms >= self.ahead.again_ms => known,
            None => return None,
        };
        self.ahead.asked_ms = Some(now_ms);
        Some(PresentAsk { since, as_of })
    }

    /// What the core answered, and how many keys it had to look through.
    pub fn ahead(&mut self, parts: Vec<Present>, looked: u64, now_ms: u64) {
        // Of another session, or too late: the hub asks again for what it needs.
        if self.ahead.asked_ms.take().is_none() {
            return;
        }
        self.ahead.again_ms = now_ms + AGAIN_MS.max(looked / KEYS_PER_MS);
        self.outbox.extend(parts);
    }

    /// The next message, as far as the hub and the window allow.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next<C: Chain>(&mut self, chain: &C, now_ms: u64) -> Result<Option<Up>, C::Error> {
        if !self.streaming() || self.in_flight >= IN_FLIGHT_MAX {
            return Ok(None);
        }
        if let Some(part) = self.outbox.pop_front() {
            self.in_flight += 1;
            let part = if self.packs_present { present::packed(part) } else { part };
            return Ok(Some(self.wrap(UpOf::Present(part))));
        }
        // The present is worth waiting for.
        let Some((first, last)) = self.sendable(chain.end().seq).filter(|_| self.ahead.asked_ms.is_none()) else {
            return Ok(None);
        };
        let bridge = self.bridge.filter(|to| first <= to.seq);
        let (after, batch) = match bridge {
            Some(to) => (to, batch(first, to, vec![self.bridge_chunk(to).into()], !self.one_by_one)),
            None => {
                // One always fits.
                let bytes_max = if self.one_by_one { 0 } else { BATCH_BYTES_MAX };
                let chunks = match chain.chunks(first, last, bytes_max) {
                    // What comes before it arrives first.
                    Err(_) if self.in_flight > 0 => return Ok(None),
                    read => read?,
                };
                let Some((head, _)) = chunks.last() else { return Ok(None) };
                (head.after(), self.batch(first, head.after(), chunks))
            }
        };
        self.sent(after.seq, now_ms);
        self.in_flight += 1;
        Ok(Some(self.wrap(UpOf::Batch(batch))))
    }

    /// Lean if the hub can read that and the chunks can be made again from it, else as they were stored.
    fn batch(&self, first: Seq, after: Position, chunks: Vec<(Head, Bytes)>) -> Batch {
        let may_pack = !self.one_by_one;
        let lean = if may_pack && self.protocol > 1 { lean::pack(&chunks) } else { None };
        lean.filter(|batch| batch.first_seq == first.0).unwrap_or_else(|| {
            let stored = chunks.into_iter().map(|(_, bytes)| bytes).collect();
            batch(first, after, stored, may_pack)
        })
    }

    /// The span that may be sent now: from here, up to here.
    pub(super) fn sendable(&self, durable: Seq) -> Option<(Seq, Seq)> {
        let last = durable.min(self.send_up_to);
        (self.streaming() && self.next <= last).then_some((self.next, last))
    }

    pub(super) fn sent(&mut self, last: Seq, now_ms: u64) {
        if self.next == self.applied.seq.next() {
            self.progress_ms = now_ms;
        }
        self.next = last.next();
    }

    /// Something was said besides what [`Session::next`] gave.
    pub fn said(&mut self) {
        self.in_flight += 1;
    }

    /// The broker there took one message.
    pub fn acked(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Stands for what a restored hub lacks and we no longer have.
    fn bridge_chunk(&self, to: Position) -> Vec<u8> {
        let records = to.seq.0 - self.applied.seq.0;
        let mut body = Body { skipped_at_end: records, ..Body::default() };
        loss::lose(&mut body, LossClass::Trimmed, records);
        Sealer::default().remnant(&self.replica, self.applied, to, &body)
    }
}

pub(super) fn batch(first: Seq, after: Position, chunk: Vec<Bytes>, may_pack: bool) -> Batch {
    use prost::Message;
    let chunks = chunk.len() as u32;
    let plain = Chunks { chunk }.encode_to_vec();
    let packed = if may_pack && plain.len() >= PACK_FROM_BYTES { proto::pack::pack(&plain) } else { None };
    let (body, chunks_bytes) = match packed {
        Some(packed) => (packed, plain.len() as u32),
        None => (plain, 0),
    };
    Batch {
        first_seq: first.0,
        last_seq: after.seq.0,
        body: body.into(),
        chunks_bytes,
        last_hash: after.hash.0.to_vec().into(),
        chunks,
        lean: false,
    }
}
