//! One life of a site's ledger: everything that was ever durable in it, also what a restored disk no longer has.

use std::collections::{BTreeMap, BTreeSet};

use proto::chunk::Position;
use proto::id::Seq;
use proto::wire::record::Of;
use proto::wire::{Event, MovementKind, RegisterWrite};

use super::super::disk::{Decided, Written};
use super::{Rep, Request, Seen, seen_of};

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
    /// Where the journal ever stood, with what led there: where it stood before, and the events since.
    positions: BTreeMap<Place, Link>,
    /// By the seq of the first record; more than one only if the disk was restored.
    events: BTreeMap<u64, Vec<Event>>,
    /// Which of them are on the disk, or were until they were trimmed, with the request that each answers.
    current: BTreeMap<u64, Option<usize>>,
    /// Per item the units after each movement, by its seq.
    counters: BTreeMap<u64, BTreeMap<u64, i64>>,
    /// The same of what a restored disk lost.
    abandoned: BTreeSet<(u64, u64, i64)>,
    /// The earlier life that it goes on from.
    pub(in super::super) fork: Option<Fork>,
    /// Seqs of forks that are journalled again on its disk, and where.
    again: BTreeMap<(Rep, u64), u64>,
    /// Items that were counted in this life.
    pub(in super::super) counted: BTreeSet<u64>,
    ids: BTreeMap<(String, String), (usize, u64)>,
    pub(in super::super) writes: BTreeMap<String, Vec<Write>>,
    pub(in super::super) end: u64,
    /// The disk was restored from a copy at least once: from here on seqs may have been given twice.
    pub(in super::super) rolled_back_to: Option<u64>,
    /// Another ledger took its place.
    pub(in super::super) over: bool,
}

/// A place in the chain.
type Place = (u64, [u8; 32]);

#[derive(Debug, Clone, Default)]
struct Link {
    before: Place,
    /// First seq of each event, and the request that it answers.
    events: Vec<(u64, Option<usize>)>,
}

/// A ledger that was set apart: what was on its disk then.
#[derive(Debug, Clone)]
pub(in super::super) struct Fork {
    pub(in super::super) of: Rep,
    /// By first seq; trimmed ones too.
    pub(in super::super) events: BTreeMap<u64, (Option<usize>, Event)>,
    /// What the life before took over.
    pub(in super::super) earlier: Option<Box<Fork>>,
}

fn place(position: Position) -> Place {
    (position.seq.0, position.hash.0)
}

impl Life {
    pub(in super::super) fn begin() -> Life {
        Life { positions: [((0, [0; 32]), Link::default())].into(), ..Life::default() }
    }

    /// Its disk becomes a fork.
    pub(in super::super) fn set_apart(&self, of: Rep) -> Fork {
        let events = self.current().map(|(first, uid, event)| (first, (uid, event.clone()))).collect();
        Fork { of, events, earlier: self.fork.clone().map(Box::new) }
    }

    /// The events between two places of one chain, with the request that each answers; `None` if they are not on one.
    pub(in super::super) fn between(&self, before: Position, after: Position) -> Option<BTreeMap<u64, Option<usize>>> {
        let (mut at, mut found) = (place(after), BTreeMap::new());
        while at.0 > before.seq.0 {
            let link = self.positions.get(&at)?;
            found.extend(link.events.iter().copied());
            at = link.before;
        }
        // A remnant may begin inside a span that was one before.
        (at == place(before) || at.0 < before.seq.0).then_some(found)
    }

    /// A commit became durable, while the ledger of this life was taken over.
    pub(in super::super) fn wrote(&mut self, written: &Written, fork: Option<&Rep>, requests: &[Request]) {
        assert_eq!(written.before.seq.0, self.end, "a commit does not follow the one before");
        let mut events = Vec::new();
        for decided in &written.events {
            events.push((decided.first.0, self.decided(decided, fork, requests)));
        }
        self.end = written.after.seq.0;
        self.positions.insert(place(written.after), Link { before: place(written.before), events });
    }

    fn decided(&mut self, decided: &Decided, fork: Option<&Rep>, requests: &[Request]) -> Option<usize> {
        let Decided { first, event, moment, .. } = decided;
        // What a node says by itself with its answer has no device.
        let mut uid = moment.request.filter(|_| !event.device.is_empty());
        if let Some(uid) = uid {
            self.judge(event, uid, requests);
        }
        if event.rejoined_of > 0 {
            let fork = fork.expect("only who takes over a ledger journals its records again");
            uid = self.journalled_again(*first, event, fork);
        }
        if !event.request.is_empty() {
            let uid = uid.expect("only a request has an id");
            let known = self.ids.insert((event.device.clone(), event.request.clone()), (uid, first.0));
            // Another request under the id of one of the fork, which this life did not know yet, is another request.
            let known = known.filter(|(of, _)| event.rejoined_of == 0 || *of == uid);
            assert_eq!(known, None, "applied twice in one ledger: {} of {}", event.request, event.device);
        }
        for (offset, record) in (0..).zip(&event.records) {
            let seq = first.0 + offset;
            match &record.of {
                Some(Of::Movement(movement)) => {
                    let cells = self.counters.entry(movement.gtin).or_default();
                    let before = cells.last_key_value().map_or(0, |(_, units)| *units);
                    cells.insert(seq, before + movement.units);
                    if movement.kind() == MovementKind::Count {
                        self.counted.insert(movement.gtin);
                    }
                }
                Some(Of::Register(write)) => self.wrote_register(seq, write),
                _ => {}
            }
        }
        self.events.entry(first.0).or_default().push(event.clone());
        self.current.insert(first.0, uid);
        uid
    }

    /// The request that an event of the fork answered. Each is journalled again once, as it was but for what takes back
    /// what counts already.
    fn journalled_again(&mut self, first: Seq, event: &Event, of_life: &Rep) -> Option<usize> {
        let mut forks = std::iter::successors(self.fork.as_ref(), |fork| fork.earlier.as_deref());
        let fork = forks.find(|fork| fork.of == *of_life).expect("it follows that ledger");
        let of = event.rejoined_of;
        let (uid, was) = fork.events.get(&of).unwrap_or_else(|| panic!("{of} of {:?} never was an event", fork.of));
        let earlier = self.again.insert((fork.of.clone(), of), first.0);
        assert_eq!(earlier, None, "{of} of {:?} is journalled again twice, the second time at {first}", fork.of);
        let left_out = event.device.is_empty() && event.request.is_empty();
        if !left_out || was.device.is_empty() {
            let by =
                |uid: usize| self.ids.get(&(was.device.clone(), was.request.clone())).is_some_and(|of| of.0 != uid);
            let id_is_taken = event.request.is_empty() && uid.is_some_and(by);
            assert_eq!(was.device, event.device, "journalled again as another");
            assert!(was.request == event.request || id_is_taken, "journalled again as another: {event:?}");
        }
        uid.filter(|_| !left_out)
    }

    fn wrote_register(&mut self, seq: u64, write: &RegisterWrite) {
        let value = (!write.deleted).then(|| write.value.to_vec());
        let write_of = Write { seq, stamp: write.stamp, seen: seen_of(write.seen.as_ref()), value };
        self.writes.entry(write.key.clone()).or_default().push(write_of);
    }

    /// The records are what the request asks for.
    fn judge(&self, event: &Event, uid: usize, requests: &[Request]) {
        let request = &requests[uid];
        let refused_whole =
            event.records.iter().any(|record| matches!(&record.of, Some(Of::Refusal(refusal)) if refusal.line == 0));
        if refused_whole {
            // By another request of this life or, as it was told, of an earlier one.
            let same_id = |(n, other): (usize, &Request)| {
                n != uid && (&other.device, &other.id) == (&request.device, &request.id)
            };
            let other = request.id.is_some() && requests.iter().enumerate().any(same_id);
            let may = request.bad || request.by_the_clock || request.by_rights || other;
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
        self.again.retain(|_, first| *first <= seq);
        for (gtin, cells) in &mut self.counters {
            let gone = cells.split_off(&(seq + 1));
            self.abandoned.extend(gone.into_iter().map(|(seq, units)| (*gtin, seq, units)));
        }
    }

    pub(in super::super) fn knows(&self, device: &str, id: &str) -> bool {
        self.ids.contains_key(&(device.to_owned(), id.to_owned()))
    }

    /// At any time, also on a disk that was since restored.
    pub(in super::super) fn knew(&self, device: &str, id: &str) -> bool {
        self.events.values().flatten().any(|event| event.device == device && event.request == id)
    }

    pub(in super::super) fn holds(&self, uid: usize) -> bool {
        self.current.values().any(|of| *of == Some(uid))
    }

    pub(in super::super) fn was_at(&self, position: Position) -> bool {
        self.positions.contains_key(&place(position))
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
