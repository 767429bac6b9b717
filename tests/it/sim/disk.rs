//! A ledger in memory: what `broker::ledger`'s writer, log and state keep, by the same rules of order and of what a crash
//! leaves. One open group; a commit is a chunk and puts; lazy puts may be lost, each cell for itself.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use broker::ledger::{EachCell, EachEvent, LedgerError, Put, Read, Table};
use bytes::Bytes;
use gateway::sync::Chain;
use prost::Message;
use proto::chunk::{self, Head, Position, Sealer};
use proto::clock::Stamp;
use proto::id::{ReplicaId, Seq};
use proto::loss;
use proto::remnant::{self, Standing};
use proto::wire::{Ancestor, Body, CounterTotal, Event, LossClass};

use super::dice::Dice;

type Key = (u8, Vec<u8>);
type Cells = BTreeMap<Key, Vec<u8>>;

/// What the simulation knows of an event besides the event: for whoever judges it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    /// The node's wall clock when it decided.
    pub(super) wall_ms: u64,
    /// The device's request that it answers.
    pub(super) request: Option<usize>,
    /// It came of something said ahead of a journal.
    pub(super) present: bool,
}

/// An event with its place and moment.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    pub(super) first: Seq,
    pub(super) stamp: Stamp,
    pub(super) event: Event,
    pub(super) moment: Moment,
}

/// One commit that has become durable.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) before: Position,
    pub(super) after: Position,
    pub(super) events: Vec<Decided>,
}

/// The open group.
#[derive(Debug, Clone, Default)]
struct Group {
    events: Vec<Decided>,
    records: u64,
    bytes: usize,
    /// Changes in their order; the lazy ones marked.
    changes: Vec<(Put, bool)>,
    puts: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) replica: ReplicaId,
    /// The file beside a gateway's ledger that says which lives led to it.
    pub(super) lineage: Vec<Ancestor>,
    records_max: u64,
    chunks: VecDeque<(Head, Bytes)>,
    beginning: Position,
    last: Position,
    /// What readers were told: grows after the whole commit.
    told: Position,
    durable: Cells,
    /// Values that were put lazily and may be on disk or not, oldest first.
    lazy: BTreeMap<Key, Vec<Option<Vec<u8>>>>,
    /// All of it, with the open group: what the core sees.
    live: Cells,
    open: Group,
    /// Durable commits that nobody has judged yet.
    pub(super) fresh: Vec<Written>,
}

impl Disk {
    pub(super) fn new(replica: ReplicaId, records_max: u64) -> Disk {
        Disk {
            replica,
            lineage: Vec::new(),
            records_max,
            chunks: VecDeque::new(),
            beginning: Position::default(),
            last: Position::default(),
            told: Position::default(),
            durable: Cells::new(),
            lazy: BTreeMap::new(),
            live: Cells::new(),
            open: Group::default(),
            fresh: Vec::new(),
        }
    }

    pub(super) fn last(&self) -> Position {
        self.last
    }

    pub(super) fn oldest(&self) -> Position {
        self.beginning
    }

    /// The open group takes no more.
    pub(super) fn full(&self) -> bool {
        self.open.records >= self.records_max || self.open.bytes >= 64 << 10
    }

    pub(super) fn nothing_to_write(&self) -> bool {
        self.open.events.is_empty() && !self.open.puts
    }

    pub(super) fn next_place(&self) -> Seq {
        self.last.seq.plus(self.open.records).next()
    }

    pub(super) fn append(&mut self, decided: Decided) {
        self.open.records += decided.event.records.len() as u64;
        self.open.bytes += decided.event.encoded_len();
        self.open.events.push(decided);
    }

    /// A change that is made with the open group: folded or put, or lazily.
    pub(super) fn change(&mut self, put: Put, lazy: bool) {
        set(&mut self.live, key_of(&put), put.value.as_ref().map(|value| value.to_vec()));
        self.open.changes.push((put, lazy));
    }

    pub(super) fn put(&mut self, put: Put) {
        self.open.puts = true;
        self.change(put, false);
    }

    /// Writes the open group. `totals` are what the core sealed of it.
    pub(super) fn write(&mut self, sealer: &mut Sealer, totals: Vec<CounterTotal>, powered_on_s: u64) {
        let Group { events, changes, .. } = std::mem::take(&mut self.open);
        for (put, lazy) in changes {
            let (key, value) = (key_of(&put), put.value.map(|value| value.to_vec()));
            if lazy {
                self.lazy.entry(key).or_default().push(value);
            } else {
                self.lazy.remove(&key);
                set(&mut self.durable, key, value);
            }
        }
        if events.is_empty() {
            return;
        }
        let base_ms = events.iter().map(|decided| decided.stamp.ms().0).min().unwrap_or(0);
        let placed =
            |d: &Decided| Event { ms: d.stamp.ms().0 - base_ms, tick: d.stamp.tick().into(), ..d.event.clone() };
        let body =
            Body { base_ms, events: events.iter().map(placed).collect(), totals, powered_on_s, ..Body::default() };
        let sealed = sealer.seal(&self.replica, self.last, &body);
        let head = chunk::head(&sealed.bytes).expect("what was just sealed has a head");
        self.fresh.push(Written { before: self.last, after: sealed.after, events });
        self.chunks.push_back((head, sealed.bytes.into()));
        self.last = sealed.after;
    }

    /// Readers see it.
    pub(super) fn tell(&mut self) {
        self.told = self.last;
    }

    /// The process is gone: the open group with it, and of what was put lazily what had not been written out.
    pub(super) fn crash(&mut self, dice: &mut Dice) {
        self.open = Group::default();
        for (key, values) in std::mem::take(&mut self.lazy) {
            if let Some(kept) = dice.below(values.len() + 1).checked_sub(1) {
                set(&mut self.durable, key, values[kept].clone());
            }
        }
        self.live = self.durable.clone();
        self.told = self.last;
    }

    /// Drops the oldest chunk if it ends at or before `applied`.
    pub(super) fn trim(&mut self, applied: Seq) -> bool {
        // The newest stays: it tells where the journal ends.
        let goes = self.chunks.len() > 1 && self.chunks.front().is_some_and(|(head, _)| head.last <= applied);
        if goes && let Some((head, _)) = self.chunks.pop_front() {
            self.beginning = head.after();
        }
        goes
    }

    /// Takes activity and scans out of a chunk that is not the newest; joins it to the one before if both are bare.
    pub(super) fn evict(&mut self, dice: &mut Dice, sealer: &mut Sealer) -> bool {
        if self.chunks.len() < 2 {
            return false;
        }
        let at = dice.below(self.chunks.len() - 1);
        let mut opened = chunk::open(&self.chunks[at].1).expect("our own chunk");
        let class = dice.pick(&[LossClass::Activity, LossClass::Scans]);
        if !loss::strip(&mut opened.body, class) {
            return false;
        }
        if !opened.head.remnant {
            remnant::of_whole(&mut opened.body);
        }
        let after = opened.head.after();
        if at > 0 && remnant::is_bare(&opened) {
            let mut earlier = chunk::open(&self.chunks[at - 1].1).expect("our own chunk");
            if earlier.head.remnant && remnant::is_bare(&earlier) {
                remnant::join(&mut earlier, opened).expect("both of this software, and short");
                opened = earlier;
                self.chunks.remove(at - 1);
            }
        }
        let bytes = sealer.remnant(&self.replica, opened.head.before(), after, &opened.body);
        let head = chunk::head(&bytes).expect("what was just sealed has a head");
        let at = self.chunks.iter().position(|(head, _)| head.last == after.seq).expect("it was there");
        self.chunks[at] = (head, bytes.into());
        true
    }

    /// The newest event's stamp, and the powered-on seconds of the newest chunk.
    pub(super) fn newest(&self) -> (Stamp, u64) {
        let mut powered_on_s = 0;
        for (_, bytes) in self.chunks.iter().rev() {
            let opened = chunk::open(bytes).expect("our own chunk");
            powered_on_s = powered_on_s.max(opened.body.powered_on_s);
            let newest = opened.events().next_back().map(|(_, stamp, _)| stamp);
            if let Some(stamp) = newest {
                return (stamp, powered_on_s);
            }
        }
        (Stamp::default(), powered_on_s)
    }

    /// A cell as the core sees it.
    pub(super) fn cell(&self, table: u8, key: &[u8]) -> Option<&[u8]> {
        self.live.get(&(table, key.to_vec())).map(Vec::as_slice)
    }

    /// The cells of a table, in order.
    pub(super) fn table(&self, table: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
        let cells = self.live.range((table, vec![])..).take_while(move |((of, _), _)| *of == table);
        cells.map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }

    /// The events of the open group from this seq on.
    pub(super) fn gathered(&self, from: Seq) -> impl Iterator<Item = &Decided> {
        self.open.events.iter().filter(move |decided| decided.first >= from)
    }

    /// As `broker::ledger::Reader` gives them.
    pub(super) fn chunks_below(&self, below: Seq) -> impl Iterator<Item = Result<(Head, Bytes), LedgerError>> {
        self.chunks.iter().rev().filter(move |(head, _)| head.first < below).map(|stored| Ok(stored.clone()))
    }

    /// As `broker::ledger::Reader` gives them: at least one, and no more than this.
    pub(super) fn chunks_after(&self, seq: Seq, chunks_max: usize) -> Vec<Bytes> {
        self.chunks_from(seq.next()).take(chunks_max).map(|(_, bytes)| bytes.clone()).collect()
    }

    fn chunks_from(&self, seq: Seq) -> impl Iterator<Item = &(Head, Bytes)> {
        self.chunks.iter().skip_while(move |(head, _)| head.last < seq)
    }
}

fn key_of(put: &Put) -> Key {
    (put.table.0, put.key.clone())
}

fn set(cells: &mut Cells, key: Key, value: Option<Vec<u8>>) {
    match value {
        Some(value) => drop(cells.insert(key, value)),
        None => drop(cells.remove(&key)),
    }
}

impl Read for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.live.get(&(table.0, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], each: EachCell<'_>) -> Result<(), LedgerError> {
        let cells = self.live.range((table.0, from.to_vec())..).take_while(|((of, _), _)| *of == table.0);
        for ((_, key), value) in cells {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn next_seq(&self) -> Seq {
        self.next_place()
    }

    fn events_back(&self, each: EachEvent<'_>) -> Result<(), LedgerError> {
        for decided in self.open.events.iter().rev() {
            if each(decided.first, decided.stamp, &decided.event).is_break() {
                return Ok(());
            }
        }
        for (_, bytes) in self.chunks.iter().rev() {
            let opened = chunk::open(bytes).expect("our own chunk");
            if opened.events().rev().try_for_each(|(seq, stamp, event)| each(seq, stamp, event)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// As `broker::ledger::Reader` answers.
impl Chain for Disk {
    type Error = Infallible;

    fn end(&self) -> Position {
        self.told
    }

    fn beginning(&self) -> Result<Position, Infallible> {
        Ok(self.beginning)
    }

    fn standing(&self, at: Position) -> Result<Standing, Infallible> {
        let found = self.chunks_from(at.seq).next().map(|(head, bytes)| (head, &bytes[..]));
        Ok(remnant::standing(at, found).expect("our own chunk"))
    }

    fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, Infallible> {
        let (mut taken, mut bytes, mut next) = (Vec::new(), 0, first);
        for (head, stored) in self.chunks_from(first) {
            let continues = head.first == next || (head.remnant && head.first < next);
            let too_far = head.last > last && !(head.remnant && taken.is_empty());
            if !continues || too_far || (bytes > 0 && bytes + stored.len() > bytes_max) {
                break;
            }
            bytes += stored.len();
            next = head.last.next();
            taken.push((head.clone(), stored.clone()));
        }
        Ok(taken)
    }
}
