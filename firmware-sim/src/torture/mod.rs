//! A gateway and a hub, killed at seeded instants behind an uplink that is cut and slow, while devices publish. Then
//! what the devices were told is looked for in the stopped ledgers.

mod count;
mod crew;
mod message;
mod ours;
mod pair;
mod plan;
mod report;
mod rival;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::{sleep, sleep_until};

use crate::demo::interrupted;
use crate::folder::Folder;
use crate::proxy::Weather;
use crate::seam::Fault;
use crew::Crew;
use message::Dialect;
use ours::Ours;
use pair::Pair;
use plan::{Cycle, Plan, Span, Trouble};
use report::{Report, Struck, Voice};
use rival::Rival;

/// Devices must be acknowledged again so soon after a start; it includes the recovery of a grown ledger.
const WORK_WAIT: Duration = Duration::from_secs(60);
/// Acknowledgements before a cycle starts: there is work to lose.
const WORK: u64 = 4;
/// A kill of the hub waits so long for it to apply something; a hub that is cut off is killed all the same.
const HUB_WORK_WAIT: Duration = Duration::from_secs(3);
/// Devices' last acknowledgements, and the hub's catch-up, each.
const END_WAIT: Duration = Duration::from_secs(120);
/// A dead gateway's ledger is read at every kill of it up to so many cycles, then ever more seldom, since the ledger
/// grows: about fifty times for each time that the count of cycles grows by e. The end reads all of it anyhow, and
/// gives each cycle its row.
const READ_EVERY_UP_TO: u32 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// A mosquitto bridge pair, which must be installed
    Mosquitto,
}

#[derive(Debug)]
pub struct Options {
    pub cycles: u32,
    pub seed: u64,
    pub json: bool,
    pub verbose: bool,
    pub peer: Option<Peer>,
    pub keep: Option<PathBuf>,
    pub fault: Option<Fault>,
}

/// Runs it. `true` if everything held, or if a peer's run came to its end.
pub fn main(options: Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting tokio")?.block_on(async {
        let folder = Folder::make(options.keep.as_deref())?;
        let plan = Plan::draw(options.seed, options.cycles);
        let done = tokio::select! {
            done = run(&folder, plan.clone(), &options) => done,
            () = interrupted() => bail!("interrupted; all nodes were killed"),
        };
        let report = done.inspect_err(|_| eprintln!("{}", report::plan(&plan)))?;
        let held = report.counts.held();
        println!("{}", report.table(options.verbose));
        if options.peer.is_none() {
            println!("{}", if held { "everything held" } else { "NOT EVERYTHING HELD" });
            if !held {
                eprintln!("{}", report.plan());
            }
        }
        if options.json {
            println!("{}", report.json());
        }
        Ok(held || options.peer.is_some())
    })
}

async fn run(folder: &Folder, plan: Plan, options: &Options) -> Result<Report> {
    match options.peer {
        None => {
            let pair = Ours::start(folder.path(), options.fault).await?;
            torture(pair, "tillsync", Dialect::All, plan, options).await
        }
        Some(Peer::Mosquitto) => {
            let pair = Rival::start(folder.path(), options.seed).await?;
            torture(pair, "mosquitto", Dialect::Ids, plan, options).await
        }
    }
}

async fn torture(
    mut pair: impl Pair,
    peer: &'static str,
    dialect: Dialect,
    plan: Plan,
    options: &Options,
) -> Result<Report> {
    let started = Instant::now();
    let mut crew = Crew::connect(pair.door(), dialect, options.seed);
    let voice = Voice::new(plan.cycles.len(), options.verbose);
    let (mut struck, mut faults, mut read_at) = (Struck::default(), Vec::new(), 0);
    for (n, cycle) in (0..).zip(&plan.cycles) {
        let outcome = strike(&mut pair, &mut crew, n, cycle, &mut struck).await;
        outcome.with_context(|| format!("cycle {} ({cycle}) of seed {}", n + 1, plan.seed))?;
        if cycle.victim.is_gateway() && n >= read_at {
            read_at = n + 1 + n / READ_EVERY_UP_TO;
            if let Some(fault) = look(&pair, &mut crew, dialect, &mut struck)? {
                let fault = format!("after cycle {}: {fault}", n + 1);
                voice.say(&fault);
                faults.push(fault);
            }
        }
        pair.restart(cycle.victim).await.with_context(|| format!("starting again after cycle {}", n + 1))?;
        voice.cycle(n as usize, &plan, crew.progress());
    }
    voice.say("all is connected, the devices finish, the hub catches up");
    let log = crew.go_home(END_WAIT).await?;
    let (places, wrong) = pair.end(&log, END_WAIT).await?;
    voice.done();
    let mut counts = count::judge(dialect, &log, plan.cycles.len(), &places);
    counts.faults.extend(faults.into_iter().chain(wrong));
    Ok(Report { peer, plan, counts, struck, took: started.elapsed() })
}

/// One cycle up to the moment at which its victim is dead for the last time and the network is whole.
async fn strike(pair: &mut impl Pair, crew: &mut Crew, n: u32, cycle: &Cycle, struck: &mut Struck) -> Result<()> {
    crew.begin(n, cycle.in_flight);
    crew.next_acks(WORK, WORK_WAIT).await?;
    if cycle.victim.is_hub() {
        pair.await_hub_work(HUB_WORK_WAIT).await?;
    }
    let start = tokio::time::Instant::now();
    let troubles = tokio::spawn(play(cycle.spans.clone(), pair.uplink().weather().clone(), start));
    sleep_until(start + cycle.kill_at - cycle.rush).await;
    crew.rush(true);
    sleep_until(start + cycle.kill_at).await;
    struck.busy += u64::from(crew.progress().in_flight() > 0);
    pair.kill(cycle.victim).await?;
    crew.rush(false);
    struck.kills += cycle.victim.nodes();
    if let Some(after) = cycle.again_after {
        pair.start_and_kill(cycle.victim, after).await?;
        struck.kills += cycle.victim.nodes();
        struck.starting += cycle.victim.nodes();
    }
    troubles.await.context("the network's troubles")
}

/// Plays the uplink's troubles, and leaves it whole.
async fn play(spans: Vec<Span>, uplink: Weather, start: tokio::time::Instant) {
    for Span { from, lasts, what } in spans {
        sleep_until(start + from).await;
        match what {
            Trouble::Cut => uplink.cut(),
            Trouble::Delay(by) => uplink.delay(by),
        }
        sleep(lasts).await;
        uplink.restore();
        uplink.delay(Duration::ZERO);
    }
}

/// Reads the dead gateway's ledger: all that was acknowledged so far must be in it, once.
fn look(pair: &impl Pair, crew: &mut Crew, dialect: Dialect, struck: &mut Struck) -> Result<Option<String>> {
    let Some(held) = pair.look()? else { return Ok(None) };
    struck.readings += 1;
    // What was trimmed is at the hub, which runs: the end tells.
    if held.is_trimmed() {
        return Ok(None);
    }
    let missing = crew.log().iter().filter(|ack| !dialect.is_bare(ack.name) && !held.has(ack.name)).count();
    let fault = format!("{missing} acknowledged messages are not in the gateway's ledger");
    Ok((missing > 0).then_some(fault))
}
