//! One life of a site's ledger: everything that was ever durable in it, also what a restored disk no longer has.

use std::collections::{BTreeMap, BTreeSet};

use proto::chunk::Position;
use proto::wire::record::Of;
use proto::wire::{Event, MovementKind, RegisterWrite};

use super::super::disk::{Decided, Written};
use super::{Request, Seen, seen_of};

/// A write of a register, as its site stamped it.
#[derive(Debug, Clone)]
pub(in super::super) struct Write {
    pub(in super::super) seq: u64,
    pub(in super::super) stamp: u64,
    pub(in super::super) seen: Seen,
    pub(in super::super) value: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub(in super::super) struct Life {
    /// Where the journal ever stood.
    positions: BTreeSet<(u64, [u8; 32])>,
    /// By the seq of the first record; more than one only if the disk was restored.
    events: BTreeMap<u64, Vec<Event>>,
    /// Which of them are on the disk, or were until they were trimmed, with the request that each answers.
    current: BTreeMap<u64, Option<usize>>,
    /// Per item the units after each movement, by its seq.
    counters: BTreeMap<u64, BTreeMap<u64, i64>>,
    /// The same of what a restored disk lost.
    abandoned: BTreeSet<(u64, u64, i64)>,
    ids: BTreeMap<(String, String), (usize, u64)>,
    pub(in super::super) writes: BTreeMap<String, Vec<Write>>,
    pub(in super::super) end: u64,
    /// The disk was restored from a copy at least once: from here on seqs may have been given twice.
    pub(in super::super) rolled_back_to: Option<u64>,
    /// Another ledger took its place.
    pub(in super::super) over: bool,
}

impl Life {
    pub(in super::super) fn begin() -> Life {
        Life { positions: [(0, [0; 32])].into(), ..Life::default() }
    }

    /// A commit became durable.
    pub(in super::super) fn wrote(&mut self, written: &Written, requests: &[Request]) {
        assert_eq!(written.before.seq.0, self.end, "a commit does not follow the one before");
        for decided in &written.events {
            self.decided(decided, requests);
        }
        self.end = written.after.seq.0;
        self.positions.insert((written.after.seq.0, written.after.hash.0));
    }

    fn decided(&mut self, decided: &Decided, requests: &[Request]) {
        let Decided { first, event, moment, .. } = decided;
        // What a node says by itself with its answer has no device.
        let uid = moment.request.filter(|_| !event.device.is_empty());
        if let Some(uid) = uid {
            self.judge(event, uid, &requests[uid]);
        }
        if !event.request.is_empty() {
            let uid = uid.expect("only a request has an id");
            let known = self.ids.insert((event.device.clone(), event.request.clone()), (uid, first.0));
            assert_eq!(known, None, "applied twice in one ledger: {} of {}", event.request, event.device);
        }
        for (offset, record) in (0..).zip(&event.records) {
            let seq = first.0 + offset;
            match &record.of {
                Some(Of::Movement(movement)) => {
                    let cells = self.counters.entry(movement.gtin).or_default();
                    let before = cells.last_key_value().map_or(0, |(_, units)| *units);
                    cells.insert(seq, before + movement.units);
                }
                Some(Of::Register(write)) => self.wrote_register(seq, write),
                _ => {}
            }
        }
        self.events.entry(first.0).or_default().push(event.clone());
        self.current.insert(first.0, uid);
    }

    fn wrote_register(&mut self, seq: u64, write: &RegisterWrite) {
        let value = (!write.deleted).then(|| write.value.to_vec());
        let write_of = Write { seq, stamp: write.stamp, seen: seen_of(write.seen.as_ref()), value };
        self.writes.entry(write.key.clone()).or_default().push(write_of);
    }

    /// The records are what the request asks for.
    fn judge(&self, event: &Event, uid: usize, request: &Request) {
        let refused_whole =
            event.records.iter().any(|record| matches!(&record.of, Some(Of::Refusal(refusal)) if refusal.line == 0));
        if refused_whole {
            let used = request.id.as_ref().and_then(|id| self.ids.get(&(request.device.clone(), id.clone())));
            let other = used.is_some_and(|(first, _)| *first != uid);
            let may = request.bad || request.by_the_clock || other;
            assert!(may, "refused for no reason: {request:?} as {event:?}");
            return;
        }
        assert!(!request.bad, "taken though it is no request: {request:?}");
        let found: Vec<(u64, i64, MovementKind)> = event
            .records
            .iter()
            .filter_map(|record| match &record.of {
                Some(Of::Movement(movement)) => Some((movement.gtin, movement.units, movement.kind())),
                _ => None,
            })
            .collect();
        match request.count {
            Some((gtin, _)) => {
                assert!(matches!(found[..], [(of, _, MovementKind::Count)] if of == gtin), "{request:?}: {found:?}");
            }
            None => {
                let moved: Vec<(u64, i64)> = found.iter().map(|(gtin, units, _)| (*gtin, *units)).collect();
                assert_eq!(moved, request.moves, "moved something else than was asked: {request:?}");
            }
        }
    }

    /// The disk was replaced by a copy that ends at `seq`.
    pub(in super::super) fn rolled_back(&mut self, seq: u64) {
        let from = self.rolled_back_to.map_or(seq, |earlier| earlier.min(seq));
        self.rolled_back_to = Some(from);
        self.end = seq;
        self.current.retain(|first, _| *first <= seq);
        self.ids.retain(|_, (_, first)| *first <= seq);
        for (gtin, cells) in &mut self.counters {
            let gone = cells.split_off(&(seq + 1));
            self.abandoned.extend(gone.into_iter().map(|(seq, units)| (*gtin, seq, units)));
        }
    }

    pub(in super::super) fn knows(&self, device: &str, id: &str) -> bool {
        self.ids.contains_key(&(device.to_owned(), id.to_owned()))
    }

    pub(in super::super) fn holds(&self, uid: usize) -> bool {
        self.current.values().any(|of| *of == Some(uid))
    }

    pub(in super::super) fn was_at(&self, position: Position) -> bool {
        self.positions.contains(&(position.seq.0, position.hash.0))
    }

    pub(in super::super) fn wrote_event(&self, first: u64, event: &Event) -> bool {
        let same =
            |own: &&Event| own.records == event.records && own.device == event.device && own.request == event.request;
        self.events.get(&first).is_some_and(|all| all.iter().any(|own| same(&own)))
    }

    /// What is on its disk, or was until it was trimmed.
    pub(in super::super) fn current(&self) -> impl Iterator<Item = (u64, Option<usize>, &Event)> {
        self.current.iter().filter_map(|(first, uid)| Some((*first, *uid, self.events.get(first)?.last()?)))
    }

    /// This item stood at so many units after the movement `seq`.
    pub(in super::super) fn stood_at(&self, gtin: u64, seq: u64, units: i64) -> bool {
        let now = self.counters.get(&gtin).and_then(|cells| cells.get(&seq));
        now == Some(&units) || self.abandoned.contains(&(gtin, seq, units))
    }

    /// Units of each item up to `seq`, with the seq of the last movement.
    pub(in super::super) fn counted_to(&self, seq: u64) -> BTreeMap<u64, (u64, i64)> {
        let upto = |(gtin, cells): (&u64, &BTreeMap<u64, i64>)| {
            let (at, units) = cells.range(..=seq).next_back()?;
            Some((*gtin, (*at, *units)))
        };
        self.counters.iter().filter_map(upto).collect()
    }

    /// True if this seq may name two records: one of a disk that was since restored, one of the restored disk.
    pub(in super::super) fn ambiguous(&self, seq: u64) -> bool {
        self.rolled_back_to.is_some_and(|from| seq > from)
    }
}
