//! How much a ledger may hold, what goes first when it is too much, and when to refuse. Pure.
//!
//! Bytes, age and free disk together: what HQ has applied goes first, oldest first; then, of what it has not, activity,
//! then scans, each leaving a record of what is gone; sales and writes never. Past that publishes are refused, before
//! the disk is full: an error inside a commit would be the end.

use std::collections::HashMap;

use proto::id::Seq;
use proto::wire::LossClass;

use super::log::Sealed;

/// The bounds of a ledger, in the operator's words in `gateway.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the journal's files. A quarter more, and publishes are refused.
    pub journal_bytes_max: u64,
    /// Free space of the file system below which publishes are refused; below twice as much, room is made.
    pub disk_reserve_bytes: u64,
    /// Powered-on seconds after which activity and scans that HQ has not applied are dropped.
    pub backlog_s_max: u64,
    /// Powered-on seconds for which applied records are kept at least, room permitting: a hub that is restored from a
    /// backup gets them again. Past it they go when their turn comes.
    pub retain_s: u64,
    /// Whether anything may be dropped that HQ has not applied.
    pub evict: bool,
}

impl Limits {
    /// Nothing is ever dropped.
    pub const NONE: Limits = Limits {
        journal_bytes_max: u64::MAX / 2,
        disk_reserve_bytes: 0,
        backlog_s_max: u64::MAX,
        retain_s: u64::MAX,
        evict: false,
    };
}

/// What the ledger holds just now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) journal_bytes: u64,
    pub(super) free_bytes: Option<u64>,
    pub(super) powered_on_s: u64,
    pub(super) applied: Seq,
    /// The newest frame that the state on disk holds, and the newest that a snapshot holds.
    pub(super) folded: u64,
    pub(super) snapshot: u64,
    /// Oldest first.
    pub(super) sealed: &'a [Sealed],
}

/// One step towards more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// The oldest segment is applied, but its records are not in the state on disk yet.
    Checkpoint,
    /// They are, but in no snapshot.
    Snapshot,
    Drop(u64),
    Evict(u64, LossClass),
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) limits: Limits,
    /// Publishes are refused.
    pub(super) full: bool,
    /// They are, because of the journal's size.
    pub(super) journal_full: bool,
    /// What was evicted from which segment already, by number of its first frame.
    thinned: HashMap<u64, LossClass>,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Room {
        Room { limits, full: false, journal_full: false, thinned: HashMap::new() }
    }

    /// Decides whether publishes are taken.
    pub(super) fn admit(&mut self, journal_bytes: u64, free_bytes: Option<u64>) {
        let disk_full = free_bytes.is_some_and(|free| free < self.limits.disk_reserve_bytes);
        let journal_full = journal_bytes / 5 * 4 > self.limits.journal_bytes_max;
        self.journal_full = journal_full;
        let full = disk_full || journal_full;
        if full != self.full {
            tracing::warn!(disk_full, journal_full, "room for publishes: {}", if full { "none" } else { "again" });
        }
        self.full = full;
    }

    /// What to do next. Called again when that is done.
    pub(super) fn next(&self, held: &Held<'_>) -> Step {
        let low = held.free_bytes.is_some_and(|free| free / 2 < self.limits.disk_reserve_bytes);
        let tight = low || held.journal_bytes > self.limits.journal_bytes_max;
        let old = |segment: &Sealed, after_s: u64| {
            segment.powered_on_s.is_some_and(|then| held.powered_on_s.saturating_sub(then) > after_s)
        };
        if let Some(oldest) = held.sealed.first().filter(|oldest| oldest.after.seq <= held.applied)
            && (tight || old(oldest, self.limits.retain_s))
        {
            return match oldest.last {
                last if last > held.folded => Step::Checkpoint,
                last if last > held.snapshot => Step::Snapshot,
                _ => Step::Drop(oldest.first),
            };
        }
        if !self.limits.evict {
            return Step::Nothing;
        }
        let waiting = || held.sealed.iter().filter(|segment| segment.after.seq > held.applied);
        let unthinned = |segment: &&Sealed, class| self.thinned.get(&segment.first).is_none_or(|done| *done < class);
        let mut evict = None;
        if tight {
            let classes = [LossClass::Activity, LossClass::Scans];
            evict = classes.iter().find_map(|class| waiting().find(|s| unthinned(s, *class)).map(|s| (s, *class)));
        }
        let aged = || waiting().find(|s| old(s, self.limits.backlog_s_max) && unthinned(s, LossClass::Scans));
        match evict.or_else(|| aged().map(|segment| (segment, LossClass::Scans))) {
            Some((segment, _)) if segment.last > held.folded => Step::Checkpoint,
            Some((segment, _)) if segment.last > held.snapshot => Step::Snapshot,
            Some((segment, class)) => Step::Evict(segment.first, class),
            None => Step::Nothing,
        }
    }

    pub(super) fn thinned(&mut self, first: u64, class: LossClass) {
        self.thinned.insert(first, class);
    }

    pub(super) fn dropped(&mut self, first: u64) {
        self.thinned.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use proto::chunk::Position;

    use super::*;

    const LIMITS: Limits =
        Limits { journal_bytes_max: 100, disk_reserve_bytes: 10, backlog_s_max: 50, retain_s: 20, evict: true };

    fn segment(n: u64, powered_on_s: u64) -> Sealed {
        let after = Position { seq: Seq(n * 10), ..Position::default() };
        Sealed { first: n * 10, last: n * 10 + 9, after, powered_on_s: Some(powered_on_s) }
    }

    fn held(sealed: &[Sealed]) -> Held<'_> {
        Held {
            journal_bytes: 90,
            free_bytes: Some(1000),
            powered_on_s: 100,
            applied: Seq(0),
            folded: 1000,
            snapshot: 1000,
            sealed,
        }
    }

    #[test]
    fn what_goes_and_in_which_order() {
        let (young, old) = ([segment(1, 99), segment(2, 99)], [segment(1, 10), segment(2, 90)]);
        let room = Room::new(LIMITS);
        let tight = |sealed| Held { journal_bytes: 101, ..held(sealed) };
        assert_eq!(room.next(&held(&young)), Step::Nothing);
        // Applied: goes when it is tight, or past its time; only with what it folds to on disk.
        assert_eq!(room.next(&Held { applied: Seq(10), ..held(&young) }), Step::Nothing);
        assert_eq!(room.next(&Held { applied: Seq(10), ..tight(&young) }), Step::Drop(10));
        assert_eq!(room.next(&Held { applied: Seq(10), free_bytes: Some(19), ..held(&young) }), Step::Drop(10));
        assert_eq!(room.next(&Held { applied: Seq(10), ..held(&old) }), Step::Drop(10));
        assert_eq!(room.next(&Held { applied: Seq(10), folded: 18, ..tight(&young) }), Step::Checkpoint);
        assert_eq!(room.next(&Held { applied: Seq(10), snapshot: 18, ..tight(&young) }), Step::Snapshot);
        // Not applied: activity everywhere before any scan.
        let mut room = Room::new(LIMITS);
        let mut taken = Vec::new();
        while let Step::Evict(first, class) = room.next(&tight(&young)) {
            taken.push((first, class));
            room.thinned(first, class);
        }
        use LossClass::{Activity, Scans};
        assert_eq!(taken, [(10, Activity), (20, Activity), (10, Scans), (20, Scans)]);
        assert_eq!(room.next(&tight(&young)), Step::Nothing, "sales stay, whatever happens");
        // Too old: both classes at once, without being tight.
        assert_eq!(Room::new(LIMITS).next(&held(&old)), Step::Evict(10, Scans));
    }

    #[test]
    fn a_hub_drops_nothing() {
        let sealed = [segment(1, 10)];
        let room = Room::new(Limits { evict: false, ..LIMITS });
        assert_eq!(room.next(&Held { journal_bytes: 1000, free_bytes: Some(0), ..held(&sealed) }), Step::Nothing);
    }

    #[test]
    fn refuses_at_a_quarter_more_and_at_the_reserve() {
        let mut room = Room::new(LIMITS);
        for (bytes, free, full) in [(124, 10, false), (130, 10, true), (10, 9, true), (10, 10, false)] {
            room.admit(bytes, Some(free));
            assert_eq!(room.full, full, "{bytes} {free}");
        }
    }
}
