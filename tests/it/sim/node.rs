//! One process: a core on its disk, driven as `ledger/writer.rs` drives it. Nothing is told before it is written.

use broker::front::{Inbound, Verdict};
use broker::ledger::{Core, Draft, Now, Placed, Step};
use proto::chunk::Sealer;
use proto::id::WallMs;

use super::disk::{Decided, Disk, Moment};

/// A wall clock before this has never been set, as `ledger/clocks.rs` has it.
const BELIEVABLE_FROM: u64 = 1_760_000_000_000;

/// When a process that is to crash does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fuse {
    /// The group is gone.
    BeforeWrite,
    /// After so many writes of a step that takes several, or of the only one.
    AfterWrites(u32),
    /// Written and acknowledged; so many effects were carried out.
    AfterEffects(usize),
}

pub(super) struct Node<C: Core> {
    pub(super) core: C,
    pub(super) disk: Disk,
    sealer: Sealer,
    started_ms: u64,
    powered_before_s: u64,
    effects: Vec<C::Effect>,
    /// Writes since the last time something was told.
    writes: u32,
    pub(super) fuse: Option<Fuse>,
    dead: bool,
}

impl<C: Core> Node<C> {
    /// Starts a process on what its disk holds. What recovering comes to is told with the first commit.
    pub(super) fn open(core: C, disk: Disk, at_ms: u64, wall_ms: u64) -> Node<C> {
        let (stamp, powered_before_s) = disk.newest();
        let mut node = Node {
            core,
            disk,
            sealer: Sealer::default(),
            started_ms: at_ms,
            powered_before_s,
            effects: Vec::new(),
            writes: 0,
            fuse: None,
            dead: false,
        };
        let now = node.now(at_ms, wall_ms);
        let step = node.core.recovered(stamp, &now, &node.disk).expect("a ledger in memory can be read");
        node.take(step, &now, Moment { wall_ms, ..Moment::default() }, false);
        node
    }

    pub(super) fn now(&self, at_ms: u64, wall_ms: u64) -> Now {
        let up_ms = at_ms - self.started_ms;
        let powered_on_s = self.powered_before_s + up_ms / 1000;
        Now { wall: WallMs(wall_ms), synced: wall_ms >= BELIEVABLE_FROM, mono_ms: up_ms, powered_on_s }
    }

    pub(super) fn inbound(&mut self, inbound: Inbound, now: &Now, moment: Moment) -> Verdict {
        let step = self.core.inbound(inbound, now, &self.disk).expect("a ledger in memory can be read");
        let verdict = step.verdict;
        self.take(step, now, moment, false);
        verdict
    }

    pub(super) fn input(&mut self, input: C::Input, now: &Now, moment: Moment) {
        let whole = C::begins_group(&input);
        if whole {
            self.write(now);
        }
        let step = self.core.input(input, now, &self.disk).expect("a ledger in memory can be read");
        self.take(step, now, moment, whole);
    }

    pub(super) fn tick(&mut self, now: &Now) {
        let step = self.core.tick(now, &self.disk).expect("a ledger in memory can be read");
        self.take(step, now, Moment { wall_ms: now.wall.0, ..Moment::default() }, false);
    }

    /// `whole` if the step is one chunk: it is far below the bounds of a group on a real disk.
    fn take(&mut self, step: Step<C::Effect>, now: &Now, moment: Moment, whole: bool) {
        let alone = step.events.is_empty();
        for draft in step.events {
            if !whole && self.disk.full() {
                self.write(now);
            }
            self.append(draft, now, moment);
        }
        for put in step.puts {
            if alone && self.disk.full() {
                self.write(now);
            }
            self.disk.put(put);
        }
        step.lazy.into_iter().for_each(|put| self.disk.change(put, true));
        self.effects.extend(step.then);
    }

    fn append(&mut self, draft: Draft, now: &Now, moment: Moment) {
        let Draft { stamp, event } = draft;
        assert!(!event.records.is_empty(), "an event without records has no seq");
        let Node { core, disk, .. } = self;
        let (first, replica) = (disk.next_place(), disk.replica.clone());
        let placed = Placed { replica: &replica, first, stamp, event: &event, powered_on_s: now.powered_on_s };
        core.fold(&placed, &mut |put| disk.change(put, false));
        disk.append(Decided { first, stamp, event, moment });
    }

    fn write(&mut self, now: &Now) {
        if self.dead {
            return;
        }
        let Node { core, disk, sealer, .. } = self;
        let first = disk.last().seq.next();
        let mut totals = Vec::new();
        if disk.next_place() > first {
            totals = core.seal(first);
            totals.iter().for_each(|total| core.fold_total(total, first, &mut |put| disk.change(put, false)));
        }
        disk.write(sealer, totals, now.powered_on_s);
        self.writes += 1;
        self.dead = self.fuse == Some(Fuse::AfterWrites(self.writes));
    }

    /// Commits the open group: what is to be told, and after how many of these the process dies. `None` if it dies before;
    /// what it wrote until then is on its disk.
    pub(super) fn commit(&mut self, now: &Now) -> Option<(Vec<C::Effect>, Option<usize>)> {
        let something = !self.disk.nothing_to_write();
        if self.dead || (something && self.fuse == Some(Fuse::BeforeWrite)) {
            return None;
        }
        self.write(now);
        if something && self.dead {
            return None;
        }
        self.dead = false;
        self.writes = 0;
        self.disk.tell();
        let dies = match self.fuse {
            Some(Fuse::AfterEffects(told)) if something => Some(told),
            _ => None,
        };
        Some((std::mem::take(&mut self.effects), dies))
    }

    /// What the core has to say of the group as a whole.
    pub(super) fn look_back(&mut self, now: &Now) -> Vec<C::Effect> {
        self.core.committed(now, &self.disk).expect("a ledger in memory can be read")
    }

    pub(super) fn trim(&mut self) -> bool {
        let applied = self.core.applied();
        self.disk.trim(applied)
    }

    pub(super) fn evict(&mut self, dice: &mut super::dice::Dice) -> bool {
        self.disk.evict(dice, &mut self.sealer)
    }
}
