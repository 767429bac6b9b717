//! Which cuts of a recording are looked at, and what was found there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::check::{Fault, check};
use super::cuts::{self, MODES, SYNCED, State};
use super::record::{self, Recording, Request};
use super::replay::Replay;

/// Gateways that are started at once.
const AT_ONCE: usize = 3;

pub(super) struct Plan {
    /// Different states that are wanted, and cuts that are tried for each.
    pub(super) states: usize,
    pub(super) tries: usize,
    pub(super) seed: u64,
    /// A disk that does not keep what it says.
    pub(super) lies: bool,
}

/// A moment and what happens in it. Ordered by moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    mark: usize,
    mode: usize,
}

impl Cut {
    fn of(self, replay: &Replay<'_>, seed: u64) -> State {
        let mut chance = SmallRng::seed_from_u64(seed ^ (self.mark as u64) << 16 ^ (self.mode as u64) << 8);
        cuts::cut(&replay.disk, MODES[self.mode], &mut chance)
    }

    fn name(self, recording: &Recording, seed: u64) -> String {
        format!("{} seed={seed} cut={} {:?}", recording.name, self.mark, MODES[self.mode])
    }
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) states: usize,
    /// States by mode.
    modes: BTreeMap<usize, usize>,
    recordings: usize,
    lives: usize,
    calls: usize,
    /// Acknowledged requests that were looked for, in all states.
    acked: usize,
    pub(super) lost: usize,
    pub(super) failures: Vec<String>,
}

impl Found {
    pub(super) fn add(&mut self, other: Found) {
        self.states += other.states;
        for (mode, states) in other.modes {
            *self.modes.entry(mode).or_default() += states;
        }
        self.recordings += other.recordings;
        self.lives += other.lives;
        self.calls += other.calls;
        self.acked += other.acked;
        self.lost += other.lost;
        self.failures.extend(other.failures);
    }

    fn take(&mut self, (name, outcome): (String, Result<(), Fault>)) {
        if let Err(fault) = outcome {
            self.lost += usize::from(matches!(fault, Fault::Lost(_)));
            self.failures.push(format!("{name}: {fault}"));
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { states, recordings, lives, calls, acked, .. } = self;
        write!(f, "states={states} modes={} recordings={recordings} lives={lives} calls={calls}", self.modes.len())?;
        write!(f, " acknowledged={acked} failures={}", self.failures.len())
    }
}

/// Starts a gateway on each of so many different states.
pub(super) async fn explore(recording: &Arc<Recording>, plan: &Plan) -> Found {
    let mut found = Found { recordings: 1, lives: recording.lives(), calls: recording.calls(), ..Found::default() };
    let mut running = JoinSet::new();
    let mut replay = recording.replay();
    replay.disk.lies = plan.lies;
    for cut in choose(recording, plan) {
        wind(&mut replay, cut.mark);
        let (state, acked) = (cut.of(&replay, plan.seed), acked(recording, &replay));
        let name = cut.name(recording, plan.seed);
        found.states += 1;
        found.acked += acked.len();
        *found.modes.entry(cut.mode).or_default() += 1;
        if running.len() == AT_ONCE {
            found.take(running.join_next().await.expect("one is running").expect("the check ends"));
        }
        let (recording, keep) = (recording.clone(), !plan.lies);
        running.spawn(async move {
            let outcome = check(&state, &recording.facts, &acked).await;
            (if keep && outcome.is_err() { kept(&name, &state) } else { name }, outcome)
        });
    }
    while let Some(outcome) = running.join_next().await {
        found.take(outcome.expect("the check ends"));
    }
    found
}

/// Some state of the recording with its name, and what was acknowledged before it.
pub(super) fn one(recording: &Recording, seed: u64) -> (String, State, Vec<Request>) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let points = points(recording, false);
    let stratum = points.choose(&mut chance).expect("a recording has moments");
    let cut = Cut { mark: *stratum.choose(&mut chance).expect("a moment"), mode: chance.random_range(0..MODES.len()) };
    let mut replay = recording.replay();
    wind(&mut replay, cut.mark);
    (cut.name(recording, seed), cut.of(&replay, seed), acked(recording, &replay))
}

fn wind(replay: &mut Replay<'_>, mark: usize) {
    while replay.at < mark && replay.step() {}
}

fn acked(recording: &Recording, replay: &Replay<'_>) -> Vec<Request> {
    let facts = &recording.facts;
    let now = replay.acked.iter().map(|pkid| facts.requests[usize::from(*pkid) - 1].clone());
    facts.before.iter().cloned().chain(now).collect()
}

/// Different states, as many from each part of the recording.
fn choose(recording: &Recording, plan: &Plan) -> Vec<Cut> {
    let mut chance = SmallRng::seed_from_u64(plan.seed);
    let mut points = points(recording, plan.lies);
    points.iter_mut().for_each(|stratum| stratum.shuffle(&mut chance));
    let mut wanted: Vec<Cut> = Vec::new();
    for turn in 0..plan.states * plan.tries {
        let (stratum, round) = (&points[turn % points.len()], turn / points.len());
        // What a liar loses shows best where nothing else is kept.
        let mode = if plan.lies { SYNCED } else { (round + 5 * (turn % points.len())) % MODES.len() };
        wanted.push(Cut { mark: stratum[round % stratum.len()], mode });
    }
    let mut order: BTreeMap<Cut, usize> = BTreeMap::new();
    for (turn, cut) in wanted.into_iter().enumerate() {
        order.entry(cut).or_insert(turn);
    }
    let mut replay = recording.replay();
    replay.disk.lies = plan.lies;
    // Of cuts that leave the same the last is kept: the most had been acknowledged by then.
    let mut different: BTreeMap<u64, Cut> = BTreeMap::new();
    for &cut in order.keys() {
        wind(&mut replay, cut.mark);
        different.insert(cut.of(&replay, plan.seed).fingerprint(), cut);
    }
    let mut chosen: Vec<Cut> = different.into_values().collect();
    chosen.sort_by_key(|cut| order[cut]);
    chosen.truncate(plan.states);
    chosen.sort_unstable();
    chosen
}

/// The moments at which something changed, by parts: each life before its first acknowledgement, and the halves of what
/// comes after. Creation, recovery and trimming are short, and each is a part.
fn points(recording: &Recording, after_acks: bool) -> Vec<Vec<usize>> {
    let mut strata: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    let mut replay = recording.replay();
    let (mut version, mut acked, mut at_start) = (0, 0, (0, 0));
    while replay.step() {
        if replay.disk.version == version {
            continue;
        }
        version = replay.disk.version;
        if at_start.0 != replay.life {
            at_start = (replay.life, replay.acked.len());
        }
        let newly = replay.acked.len() > acked;
        acked = replay.acked.len();
        if newly || !after_acks {
            strata.entry((replay.life, acked > at_start.1)).or_default().push(replay.at);
        }
    }
    let parts = strata.into_iter().flat_map(|((_, working), mut part)| {
        let later = if working { part.split_off(part.len() / 2) } else { Vec::new() };
        [part, later]
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// Leaves the state for whoever looks into it, and says where.
pub(super) fn kept(name: &str, state: &State) -> String {
    let dir = crate::harness::folder().keep();
    record::write(&dir, &state.0);
    format!("{name}, kept in {}", dir.display())
}
