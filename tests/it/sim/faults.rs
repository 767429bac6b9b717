//! What goes wrong: processes that die, disks and hubs that come back from a copy, boxes that are replaced, wires that are cut.

use gateway::core::{ForkSays, Input};
use proto::id::Seq;

use super::node::Fuse;
use super::oracle::{Rep, rep};
use super::world::{Event, Who, Work, World};

/// What the box keeps of them: nine wait behind the one that is taken over.
const FORKS_MAX: usize = 10;
/// Milliseconds to what goes wrong next in a takeover, at most.
const DISTURB_MS: u64 = 5_000;

impl World {
    /// One thing happens: mostly somebody asks for something.
    pub(super) fn act(&mut self) {
        if self.plan.buyers > 0 {
            return self.launch_act();
        }
        let plan = &self.plan;
        let mut faults: Vec<fn(&mut World)> = vec![World::drop_connection];
        let mut add = |on: bool, fault: fn(&mut World)| {
            if on {
                faults.push(fault);
            }
        };
        add(plan.cuts, World::cut_or_mend);
        add(plan.wrong_clocks, World::step_clock);
        add(plan.crashes, World::crash_somebody);
        add(plan.crashes, World::arm_somebody);
        add(plan.copies, World::copy_or_restore);
        add(plan.hub_copies, World::copy_or_restore_hub);
        add(plan.swaps, World::swap_somebody);
        add(plan.rejoins && (plan.old_lives || plan.disturbs), World::rejoin_somebody);
        if self.dice.percent(70) {
            return self.ask();
        }
        let fault = self.dice.below(faults.len());
        faults[fault](self);
    }

    pub(super) fn drop_connection(&mut self) {
        let at = self.dice.below(self.sites.len());
        let link = self.sites[at].link.at_hub;
        self.close(at, link, "cut");
    }

    fn cut_or_mend(&mut self) {
        let (at, up, down) = (self.dice.below(self.sites.len()), self.dice.percent(40), self.dice.percent(40));
        let link = &mut self.sites[at].link;
        (link.up_cut, link.down_cut) = (up, down);
        self.note(|| format!("{at} is cut off: up {up}, down {down}"));
        if up || down {
            // Both ends notice in the end.
            let link = self.sites[at].link.at_hub;
            let wait = self.dice.range(1, 30_000);
            self.after(wait, Event::Closed(at, link));
        }
    }

    pub(super) fn crash_somebody(&mut self) {
        if self.dice.percent(35) {
            self.crash_hub("killed");
        } else {
            let at = self.dice.below(self.sites.len());
            self.crash_site(at, "killed");
        }
    }

    /// Somebody will die at a bad moment.
    pub(super) fn arm_somebody(&mut self) {
        let fuse = match self.dice.below(4) {
            0 => Fuse::BeforeWrite,
            1 | 2 => Fuse::AfterWrites(self.dice.range(1, 3) as u32),
            _ => Fuse::AfterEffects(self.dice.below(3)),
        };
        if self.dice.percent(50) {
            self.hq.node.iter_mut().for_each(|node| node.fuse = Some(fuse));
        } else {
            let at = self.dice.below(self.sites.len());
            self.sites[at].node.iter_mut().for_each(|node| node.fuse = Some(fuse));
        }
    }

    pub(super) fn crash_site(&mut self, at: usize, how: &str) {
        self.hang_up(at, "died");
        let site = &mut self.sites[at];
        let Some(node) = site.node.take() else { return };
        let mut disk = node.disk;
        disk.crash(&mut self.dice);
        let last = disk.last().seq;
        site.disk = Some(disk);
        site.boot += 1;
        (site.round_due, site.live) = (false, None);
        site.inbox.clear();
        site.unanswered.clear();
        let boot = site.boot;
        let wait = self.dice.range(20, 12_000);
        self.note(|| format!("{at} dies at {last}, {how}"));
        self.after(wait, Event::Start(Who::Site(at), boot));
    }

    pub(super) fn crash_hub(&mut self, how: &str) {
        let Some(node) = self.hq.node.take() else { return };
        let mut disk = node.disk;
        disk.crash(&mut self.dice);
        let last = disk.last().seq;
        self.hq.model.check(&disk);
        self.hq.disk = Some(disk);
        self.hq.boot += 1;
        self.hq.round_due = false;
        self.hq.inbox.clear();
        self.hq.unanswered.clear();
        self.note(|| format!("the hub dies at {last}, {how}"));
        for at in 0..self.sites.len() {
            let link = std::mem::take(&mut self.sites[at].link.at_hub);
            let wait = self.dice.range(1, 8_000);
            self.after(wait, Event::Closed(at, link));
        }
        let (boot, wait) = (self.hq.boot, self.dice.range(20, 9_000));
        self.after(wait, Event::Start(Who::Hub, boot));
    }

    fn copy_or_restore(&mut self) {
        let at = self.dice.below(self.sites.len());
        self.copy_or_restore_at(at);
    }

    fn copy_or_restore_at(&mut self, at: usize) {
        let site = &mut self.sites[at];
        if site.copy.is_none() || self.dice.percent(50) {
            let Some(node) = &site.node else { return };
            let mut copy = node.disk.clone();
            copy.crash(&mut self.dice);
            self.note(|| format!("{at} is copied at {}", copy.last().seq));
            let forks = self.sites[at].forks.clone();
            self.sites[at].copy = Some((copy, forks));
            return;
        }
        self.crash_site(at, "to be restored");
        let (site, old_lives) = (&mut self.sites[at], self.plan.rejoins && self.plan.old_lives);
        let now = site.disk.as_ref().map(|disk| disk.replica.clone()).expect("it is down");
        let Some((copy, forks)) = site.copy.clone().filter(|(copy, _)| copy.replica == now || old_lives) else {
            return;
        };
        let (replica, seq) = (copy.replica.clone(), copy.last().seq);
        (site.disk, site.forks, site.done) = (Some(copy), forks, false);
        if replica != now {
            self.oracle.lives.get_mut(&rep(&now)).expect("its life").over = true;
        }
        let life = self.oracle.lives.get_mut(&rep(&replica)).expect("its life");
        self.oracle.promises.rolled_back(&rep(&replica), seq.0, life.over);
        life.rolled_back(seq.0);
        life.over = false;
        self.note(|| format!("{at} is restored to {seq} of {replica}"));
    }

    fn copy_or_restore_hub(&mut self) {
        if self.hq.copy.is_none() || self.dice.percent(50) {
            let Some(node) = &self.hq.node else { return };
            let mut copy = node.disk.clone();
            copy.crash(&mut self.dice);
            self.note(|| format!("the hub is copied at {}", copy.last().seq));
            self.hq.copy = Some((copy, self.hq.model.clone()));
            return;
        }
        // What was told already, the one before told.
        self.hear_answers();
        self.crash_hub("to be restored");
        let Some((disk, model)) = self.hq.copy.clone() else { return };
        self.note(|| format!("the hub is restored to {}", disk.last().seq));
        let lost = std::mem::replace(&mut self.hq.model, model);
        (self.hq.disk, self.hq.restored) = (Some(disk), true);
        // A life that is over will not say what it was granted.
        let lives = &self.oracle.lives;
        let silent = |of: &Rep| lives.get(of).is_none_or(|life| life.over);
        self.hq.model.rights.forgets(&lost.rights, &mut self.oracle.promises, silent);
        self.hq.shown.clear();
        self.oracle.restores += 1;
    }

    fn swap_somebody(&mut self) {
        // Rare enough that some get far.
        if self.dice.percent(30) {
            let at = self.dice.below(self.sites.len());
            self.swap(at);
        }
    }

    /// A new box with an empty ledger takes a site's place.
    fn swap(&mut self, at: usize) {
        self.crash_site(at, "to be replaced");
        let old = self.sites[at].disk.take().expect("it is down");
        self.oracle.lives.get_mut(&rep(&old.replica)).expect("its life").over = true;
        for gone in self.sites[at].forks.iter().chain([&old]) {
            self.hq.model.rights.box_gone(&rep(&gone.replica), &mut self.oracle.promises);
        }
        let disk = self.new_ledger(at);
        self.note(|| format!("{at} gets a new box: {}", disk.replica));
        let site = &mut self.sites[at];
        (site.disk, site.copy, site.forks, site.turned) = (Some(disk), None, Vec::new(), false);
        site.asked.clear();
        site.shown.clear();
    }

    /// What is done about a gateway that was turned away. The command refuses while too many forks are there.
    pub(super) fn rejoin(&mut self, at: usize, boot: u64) {
        if !self.sites[at].turned || !self.is_up(Who::Site(at), boot) {
            return;
        }
        if self.plan.rejoins && self.sites[at].forks.len() < FORKS_MAX {
            self.set_apart(at);
        } else {
            self.swap(at);
        }
    }

    /// Somebody says `rejoin` of a ledger that is as it should be.
    fn rejoin_somebody(&mut self) {
        let at = self.dice.below(self.sites.len());
        if self.dice.percent(20) {
            self.rejoin_at(at);
        }
    }

    fn rejoin_at(&mut self, at: usize) {
        if self.sites[at].node.is_some() && self.sites[at].forks.len() < FORKS_MAX {
            self.set_apart(at);
        }
    }

    /// In the middle of a takeover something more goes wrong, until it is over.
    pub(super) fn disturb(&mut self, at: usize) {
        if self.calm || self.sites[at].forks.is_empty() {
            return;
        }
        match self.dice.below(8) {
            0 => self.crash_site(at, "in a takeover"),
            1 => self.crash_hub("in a takeover"),
            2 => self.rejoin_at(at),
            3..=5 => self.copy_or_restore_at(at),
            _ => self.copy_or_restore_hub(),
        }
        let wait = self.dice.range(20, DISTURB_MS);
        self.after(wait, Event::Disturb(at));
    }

    /// The ledger is set apart as a fork, before those that it was taking over, and the next start begins a new life.
    pub(super) fn set_apart(&mut self, at: usize) {
        self.crash_site(at, "to begin anew");
        let old = self.sites[at].disk.take().expect("it is down");
        let disk = self.new_ledger(at);
        let (of, new) = (rep(&old.replica), rep(&disk.replica));
        let life = self.oracle.lives.get_mut(&of).expect("its life");
        life.over = true;
        let fork = life.set_apart(of);
        self.oracle.lives.get_mut(&new).expect("its life").fork = Some(fork);
        self.note(|| format!("{at} begins {} after {}", disk.replica, old.replica));
        let site = &mut self.sites[at];
        (site.disk, site.turned, site.done) = (Some(disk), false, false);
        site.forks.push(old);
        site.shown.clear();
        if self.plan.disturbs && self.sites[at].forks.len() == 1 {
            let wait = self.dice.range(20, DISTURB_MS);
            self.after(wait, Event::Disturb(at));
        }
    }

    /// Whoever reads the fork says that it is there.
    pub(super) fn fork_is_here(&mut self, at: usize) {
        let site = &mut self.sites[at];
        let Some(fork) = site.forks.last() else { return };
        let (epoch, end) = (fork.replica.epoch, fork.last().seq);
        let (begins_after, lineage) = (fork.oldest().seq, fork.lineage.clone());
        let (why, others) = ("turned away".into(), site.forks.len() > 1);
        let says = ForkSays::Here { epoch, why, begins_after, end, lineage, others };
        site.inbox.push_back(Work::Input(Input::Fork(says)));
        self.due(Who::Site(at));
    }

    /// What the core asked of the fork; a part of it.
    pub(super) fn read_fork(&mut self, at: usize, boot: u64, after: Seq) {
        let chunks_max = self.dice.range(1, 6) as usize;
        let Some(fork) = self.sites[at].forks.last().filter(|_| self.is_up(Who::Site(at), boot)) else { return };
        let chunks = fork.chunks_after(after, chunks_max);
        self.sites[at].inbox.push_back(Work::Input(Input::Fork(ForkSays::Part { after, chunks })));
        self.due(Who::Site(at));
    }

    /// All of it is taken over, and the next one is due. A process that dies before it is removed finds it at its next start.
    pub(super) fn fork_done(&mut self, at: usize) {
        self.sites[at].done = true;
        if self.calm || self.dice.percent(80) {
            let Some(fork) = self.sites[at].forks.pop() else { return };
            self.note(|| format!("{at} has taken over its fork {}", fork.replica));
            self.sites[at].done = self.sites[at].forks.is_empty();
            self.fork_is_here(at);
        }
    }
}
