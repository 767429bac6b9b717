//! One schedule: virtual time, a queue of what happens next, and everybody it happens to. No thread, socket or clock.

use std::collections::{BTreeMap, VecDeque};

use broker::hub::Hub;
use bytes::Bytes;
use gateway::core::{Gateway, Input, Rules};
use gateway::uplink::Command;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};

use super::dice::Dice;
use super::disk::Disk;
use super::launch::Launch;
use super::net::{DownWire, Link};
use super::node::Node;
use super::oracle::{HubModel, Life, Oracle, rep};
use super::plan::{Plan, site_name};
use super::sales::Sales;
use super::uplink::Live;

/// Virtual time begins here, on clocks that are right.
pub(super) const BEGINNING_MS: u64 = 1_790_000_000_000;
/// Deletions that everybody knows go soon, so that a schedule sees it.
const FORGET_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
const TICK_MS: u64 = 500;
/// A schedule that takes more than this is one that never comes to rest.
const EVENTS_MAX: u64 = 400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Hub,
    Site(usize),
}

/// What happens next, and to which life of a process it matters.
#[derive(Debug)]
pub(super) enum Event {
    /// A fault or a device's request.
    Act,
    Tick(Who, u64),
    /// The writer takes what waits.
    Round(Who, u64),
    Start(Who, u64),
    Connect(usize, u64),
    Opened(usize, u64),
    Closed(usize, u64),
    Up(usize, u64, Bytes),
    Down(usize, u64, DownWire),
    Told(usize, u64, Box<Command>),
    /// What was asked for of the ledger of the life before is read.
    ReadFork(usize, u64, Seq),
    /// Somebody acts on a gateway that was turned away.
    Rejoin(usize, u64),
    /// Something more goes wrong while a site takes over an earlier ledger.
    Disturb(usize),
    /// A site's wires are whole again.
    Mend(usize),
    /// Somebody declares a site lost.
    WriteOff(usize),
    /// A buyer of the launch does the next thing.
    Buyer(usize),
}

/// What waits for the hub's writer.
#[derive(Debug)]
pub(super) enum HubWork {
    /// Of a site, over a connection.
    Up(usize, u64, Bytes),
    Input(Box<broker::hub::Input>),
}

/// What waits for a gateway's writer.
#[derive(Debug)]
pub(super) enum Work {
    Request(usize),
    Input(Input),
}

pub(super) struct Site {
    pub(super) name: SiteName,
    pub(super) node: Option<Node<Gateway>>,
    /// While the process is down.
    pub(super) disk: Option<Disk>,
    /// Which start of its process this is.
    pub(super) boot: u64,
    /// Milliseconds that its clock is off.
    pub(super) clock_off_ms: i64,
    pub(super) inbox: VecDeque<Work>,
    pub(super) round_due: bool,
    /// Requests of the open group.
    pub(super) unanswered: Vec<usize>,
    pub(super) cursors: gateway::sync::Cursors,
    pub(super) live: Option<Live>,
    pub(super) link: Link,
    pub(super) follow: Vec<String>,
    /// Ledgers of lives before that are not taken over: the last one is, now, and the others wait behind it.
    pub(super) forks: Vec<Disk>,
    /// It is taken over, and goes at the next start at the latest.
    pub(super) done: bool,
    /// Of all of them.
    pub(super) copy: Option<(Disk, Vec<Disk>)>,
    pub(super) turned: bool,
    /// What the hub said last, for the trace.
    pub(super) heard: String,
    /// Requests of this ledger's time.
    pub(super) asked: Vec<usize>,
    /// What `store/…` shows.
    pub(super) shown: BTreeMap<String, Bytes>,
}

pub(super) struct Hq {
    pub(super) node: Option<Node<Hub>>,
    pub(super) disk: Option<Disk>,
    pub(super) boot: u64,
    pub(super) clock_off_ms: i64,
    pub(super) inbox: VecDeque<HubWork>,
    pub(super) round_due: bool,
    pub(super) model: HubModel,
    pub(super) copy: Option<(Disk, HubModel)>,
    /// Its disk was restored, and it does not know yet that it knows.
    pub(super) restored: bool,
    /// Whom the front has to answer after the commit.
    pub(super) unanswered: Vec<(usize, u64)>,
    /// What `hq/stock/…` shows.
    pub(super) shown: BTreeMap<String, Bytes>,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    events: u64,
    pub(super) hq: Hq,
    pub(super) sites: Vec<Site>,
    pub(super) oracle: Oracle,
    pub(super) acts_left: u64,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    /// The next time that the hub asks for what it lacks, the connection breaks.
    pub(super) spite: bool,
    /// Counts of what went over the wires and was neither a beat nor a repeat of what is applied.
    pub(super) said: u64,
    pub(super) sales: Sales,
    pub(super) launch: Launch,
    trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, trace: bool) -> World {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(&mut dice);
        World::of(dice, plan, trace)
    }

    pub(super) fn of(mut dice: Dice, plan: Plan, trace: bool) -> World {
        let hub = ReplicaId { site: "hub".parse().expect("a name"), epoch: Epoch(dice.bits()) };
        let hq = Hq {
            node: None,
            disk: Some(Disk::new(hub, plan.hub_group)),
            boot: 0,
            clock_off_ms: 0,
            inbox: VecDeque::new(),
            round_due: false,
            model: HubModel::default(),
            copy: None,
            restored: false,
            unanswered: Vec::new(),
            shown: BTreeMap::new(),
        };
        let mut world = World {
            now: 1,
            dice,
            queue: BTreeMap::new(),
            scheduled: 0,
            events: 0,
            hq,
            sites: Vec::new(),
            oracle: Oracle::default(),
            acts_left: plan.acts,
            calm: false,
            spite: false,
            said: 0,
            sales: Sales::default(),
            launch: Launch::default(),
            trace: trace.then(Vec::new),
            plan,
        };
        world.oracle.promises.keeps_history = world.plan.copies || world.plan.disturbs;
        for at in 0..world.plan.sites {
            world.found(at);
        }
        world.after(0, Event::Start(Who::Hub, 0));
        world.after(1, Event::Act);
        world
    }

    /// A site comes into being.
    fn found(&mut self, at: usize) {
        let name = site_name(at);
        let follow = match self.dice.below(4) {
            0 => vec!["sites".to_owned()],
            1 => vec![format!("site/{}", site_name((at + 1) % self.plan.sites))],
            _ => vec![],
        };
        let clock_off_ms = self.plan.clock_off(&mut self.dice);
        let disk = self.new_ledger(at);
        self.sites.push(Site {
            name,
            node: None,
            disk: Some(disk),
            boot: 0,
            clock_off_ms,
            inbox: VecDeque::new(),
            round_due: false,
            unanswered: Vec::new(),
            cursors: Default::default(),
            live: None,
            link: Link::default(),
            follow,
            forks: Vec::new(),
            done: false,
            copy: None,
            turned: false,
            heard: String::new(),
            asked: Vec::new(),
            shown: BTreeMap::new(),
        });
        self.after(1, Event::Start(Who::Site(at), 0));
    }

    /// An empty ledger under a new epoch.
    pub(super) fn new_ledger(&mut self, at: usize) -> Disk {
        let replica = ReplicaId { site: site_name(at), epoch: Epoch(self.dice.bits()) };
        self.oracle.lives.insert(rep(&replica), Life::begin());
        Disk::new(replica, self.plan.group)
    }

    pub(super) fn rules(&self, at: usize) -> Rules {
        Rules { has_hub: true, follow: self.sites[at].follow.clone(), ..Rules::default() }
    }

    /// Which site is called so.
    pub(super) fn site_at(&self, name: &str) -> usize {
        self.sites.iter().position(|site| site.name.as_str() == name).expect("a site")
    }

    /// What this clock shows.
    pub(super) fn wall(&self, who: Who) -> u64 {
        let off = match who {
            Who::Hub => self.hq.clock_off_ms,
            Who::Site(at) => self.sites[at].clock_off_ms,
        };
        (BEGINNING_MS + self.now).saturating_add_signed(off)
    }

    pub(super) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    pub(super) fn at(&mut self, when: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((when.max(self.now), self.scheduled), event);
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>4}.{:03} {}", now / 1000, now % 1000, line()));
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Lets everything happen that is due up to `until`.
    pub(super) fn run_to(&mut self, until: u64) {
        while let Some(next) = self.queue.first_entry() {
            if next.key().0 > until {
                break;
            }
            let ((when, _), event) = next.remove_entry();
            self.now = when;
            self.events += 1;
            assert!(self.events < EVENTS_MAX, "this never comes to rest");
            self.happen(event);
        }
        self.now = self.now.max(until);
    }

    /// Nothing is asked and nothing goes wrong before so many milliseconds have passed.
    pub(super) fn put_off_acts(&mut self, ms: u64) {
        self.queue.retain(|_, event| !matches!(event, Event::Act));
        self.after(ms, Event::Act);
    }

    /// Runs until all that was to go wrong has.
    pub(super) fn run_acts(&mut self) {
        while self.acts_left > 0 {
            let until = self.now + 1_000;
            self.run_to(until);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act if self.calm || self.acts_left == 0 => {}
            Event::Act => {
                self.acts_left -= 1;
                self.act();
                let wait = self.plan.pause(&mut self.dice);
                self.after(wait, Event::Act);
            }
            Event::Start(who, boot) => self.start(who, boot),
            Event::Tick(who, boot) if self.is_up(who, boot) => {
                self.tick(who);
                self.after(TICK_MS, Event::Tick(who, boot));
            }
            Event::Round(Who::Hub, boot) if self.is_up(Who::Hub, boot) => self.hub_round(),
            Event::Round(Who::Site(at), boot) if self.is_up(Who::Site(at), boot) => self.site_round(at),
            Event::Tick(..) | Event::Round(..) => {}
            Event::Connect(at, boot) => self.connect(at, boot),
            Event::Opened(at, link) => self.opened(at, link),
            Event::Closed(at, link) => self.close(at, link, "its time was over"),
            Event::Up(at, link, payload) => self.arrived_up(at, link, payload),
            Event::Down(at, link, what) => self.arrived_down(at, link, what),
            Event::Told(at, boot, command) => self.told(at, boot, *command),
            Event::ReadFork(at, boot, after) => self.read_fork(at, boot, after),
            Event::Rejoin(at, boot) => self.rejoin(at, boot),
            Event::Disturb(at) => self.disturb(at),
            Event::Mend(at) => self.mend(at),
            Event::WriteOff(at) => self.write_off(at),
            Event::Buyer(n) => self.buyer(n),
        }
    }

    pub(super) fn is_up(&self, who: Who, boot: u64) -> bool {
        match who {
            Who::Hub => self.hq.node.is_some() && self.hq.boot == boot,
            Who::Site(at) => self.sites[at].node.is_some() && self.sites[at].boot == boot,
        }
    }

    fn start(&mut self, who: Who, boot: u64) {
        let (now, wall) = (self.now, self.wall(who));
        match who {
            Who::Hub if self.hq.boot == boot && self.hq.node.is_none() => {
                let incarnation = self.dice.bits();
                let hub = if self.hq.restored { Hub::restored(incarnation) } else { Hub::new(incarnation) };
                let Some(disk) = self.hq.disk.take() else { return };
                self.hq.node = Some(Node::open(hub.forgetting_every(FORGET_EVERY), disk, now, wall));
                self.note(|| "the hub starts".into());
                self.hub_commit();
            }
            Who::Site(at) if self.sites[at].boot == boot && self.sites[at].node.is_none() => {
                let rules = self.rules(at);
                let site = &mut self.sites[at];
                let Some(disk) = site.disk.take() else { return };
                let replica = disk.replica.clone();
                site.node = Some(Node::open(Gateway::new(rules), disk, now, wall));
                site.cursors = Default::default();
                site.inbox.clear();
                self.fork_is_here(at);
                self.note(|| format!("{replica} starts"));
                self.site_commit(at);
                self.after(20, Event::Connect(at, boot));
            }
            _ => return,
        }
        let shift = self.dice.range(0, TICK_MS);
        self.after(shift, Event::Tick(who, boot));
    }

    fn tick(&mut self, who: Who) {
        let (at_ms, wall) = (self.now, self.wall(who));
        match who {
            Who::Hub => {
                let Some(node) = &mut self.hq.node else { return };
                let now = node.now(at_ms, wall);
                node.tick(&now);
                self.hub_commit();
            }
            Who::Site(at) => {
                let Some(node) = &mut self.sites[at].node else { return };
                let now = node.now(at_ms, wall);
                node.tick(&now);
                if self.site_commit(at) {
                    self.uplink_tick(at);
                }
            }
        }
    }
}
