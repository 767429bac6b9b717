//! The main job on real input, from the first scan to the audit.

mod checks;
mod crew;
mod edits;
mod report;
mod stage;
mod stay;
mod voice;

pub(crate) use stay::interrupted;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::audit;
use crate::folder::Folder;
use crate::log::Log;
use crate::oracle;
use crate::plan::{self, EDITING_SITES, KILLED_SITE, Plan, SITES, Shape};
use crate::request::{Quirk, Request};
use crate::seam::Fault;
use checks::Shown;
use crew::Crew;
use edits::Edits;
use report::Report;
use stage::{Stage, Struck};
use voice::Voice;

/// A kill waits this long for an acknowledgement to come right after; a store at rest is killed at rest.
const KILL_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Options {
    pub pace: Pace,
    pub seed: u64,
    pub json: bool,
    pub stay: bool,
    pub keep: Option<PathBuf>,
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy)]
pub struct Pace {
    lines_max: usize,
    replay: Duration,
    /// The most that any one thing may take: an uplink, a catch-up, a topic.
    patience: Duration,
}

impl Pace {
    pub const QUICK: Pace = Pace { lines_max: 300, replay: Duration::from_secs(8), patience: Duration::from_secs(20) };

    pub fn full(seconds: u64) -> Pace {
        Pace { lines_max: usize::MAX, replay: Duration::from_secs(seconds), patience: Duration::from_secs(45) }
    }

    /// A moment of the replay, in percent of its length.
    fn at(self, percent: u32) -> Duration {
        self.replay * percent / 100
    }
}

const CUT_AT: u32 = 25;
const KILL_AT: u32 = 40;
const EDIT_AT: u32 = 50;
const RESTORE_AT: u32 = 65;

/// Runs the demo. `true` if everything held.
pub fn main(options: Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting tokio")?.block_on(async {
        let folder = Folder::make(options.keep.as_deref())?;
        let (report, struck) = tokio::select! {
            done = run(&folder, &options) => done?,
            () = interrupted() => bail!("interrupted; hub and gateways were killed"),
        };
        println!("{}\n{}", report.table(), report.sentences());
        if options.stay {
            stay::stay(&struck).await?;
        }
        if options.json {
            println!("{}", report.json());
        }
        Ok(report.held())
    })
}

async fn run(folder: &Folder, options: &Options) -> Result<(Report, Struck)> {
    let pace = options.pace;
    let (length, kill_at) = (pace.replay, pace.at(KILL_AT));
    let plan = plan::make(Shape { seed: options.seed, lines_max: pace.lines_max, length, kill_at })?;
    let stage = Stage::set(folder.path(), options.fault).await?;
    let (shown, mut faults, played) = play(stage, plan, options).await?;
    let report = examine(&played, &shown, &mut faults)?;
    Ok((report, played.struck))
}

/// What a run left, to be examined.
struct Played {
    requests: Vec<Request>,
    logs: Vec<Log>,
    edits: Edits,
    agreed: Option<[usize; 2]>,
    struck: Struck,
    wire_bytes: u64,
    catch_up: CatchUp,
}

#[derive(Debug, Clone, Copy, Default)]
struct CatchUp {
    took: Duration,
    backlog: u64,
}

async fn play(mut stage: Stage, plan: Plan, options: &Options) -> Result<(Shown, Vec<String>, Played)> {
    let patience = options.pace.patience;
    let mut faults = Vec::new();
    let mut crew = Crew::connect(&plan, &stage.doors(), options.seed);
    let edits = Edits { wine: plan.wine.clone() };
    let mut requests: Vec<Request> = plan.sites.into_iter().flatten().collect();
    let twice = requests.iter().filter(|request| request.quirk == Quirk::Twice).count();
    let voice = Voice::new((requests.len() + twice) as u64);
    voice.say(&format!(
        "a hub and {} gateways run, one process each: {}; each joined by a one-time code, between them is TLS",
        SITES.len(),
        SITES.join(", ")
    ));
    note(&mut faults, stage.await_uplinks(true, patience).await?);

    requests.extend(type_in(&crew, edits.before()).await?);
    note(&mut faults, edits.await_before(&stage.doors(), patience).await?);
    voice.say(&format!("{} has a price and a tasting note, and every store shows them", edits.wine.name));

    let (catch_up, apart) = replay(&mut stage, &mut crew, &voice, &edits, options.pace, &mut faults).await?;
    requests.extend(apart);
    voice.say("the replay is over, the devices finish");
    let logs = crew.go_home(patience).await?;
    voice.done();

    note(&mut faults, stage.await_applied(None, patience).await?);
    let agreed = edits.await_agreed(&stage.doors(), patience).await?.map_err(|fault| faults.push(fault)).ok();
    let expected = oracle::expect(&requests);
    let (shown, wrong) = checks::monitor_hq(stage.hq()?, &expected, &edits, agreed, patience).await?;
    faults.extend(wrong);
    let carried = stage.carried();
    voice.say("all is stopped, the ledgers are read");
    let (unclean, struck) = stage.strike().await;
    faults.extend(unclean);
    let wire_bytes = carried.up_bytes + carried.down_bytes;
    Ok((shown, faults, Played { requests, logs, edits, agreed, struck, wire_bytes, catch_up }))
}

/// The replay with what befalls it. Gives the catch-up, and the requests that were typed in on the way.
async fn replay(
    stage: &mut Stage,
    crew: &mut Crew,
    voice: &Voice,
    edits: &Edits,
    pace: Pace,
    faults: &mut Vec<String>,
) -> Result<(CatchUp, Vec<Request>)> {
    let start = Instant::now();
    crew.begin(start);
    voice.say("the stores open");

    voice.until(start + pace.at(CUT_AT), crew).await;
    stage.cut();
    voice.say("the network to the hub is CUT; the stores go on selling");
    note(faults, stage.await_uplinks(false, pace.patience).await?);

    voice.until(start + pace.at(KILL_AT), crew).await;
    crew.next_ack(KILLED_SITE, KILL_WAIT).await;
    let gateway = &mut stage.gateways[KILLED_SITE];
    gateway.kill().await?;
    let killed = Instant::now();
    gateway.restart().await?;
    let took = killed.elapsed().as_millis();
    voice.say(&format!(
        "{}'s gateway was KILLED (SIGKILL) at a busy moment; it is back after {took} ms",
        SITES[KILLED_SITE]
    ));

    voice.until(start + pace.at(EDIT_AT), crew).await;
    let apart = type_in(crew, edits.apart()).await?;
    let [one, other] = EDITING_SITES.map(|site| SITES[site]);
    voice.say(&format!("{one} and {other}, cut off, EDIT the same price and the same tasting note"));

    voice.until(start + pace.at(RESTORE_AT), crew).await;
    let catch_up = catch_up(stage, voice, pace.patience, faults).await?;

    voice.until(start + pace.replay, crew).await;
    let deadline = Instant::now() + pace.patience;
    while crew.is_feeding() && Instant::now() < deadline {
        voice.until(Instant::now() + Duration::from_millis(50), crew).await;
    }
    Ok((catch_up, apart))
}

/// Restores the network and measures until HQ has applied everything that waited.
async fn catch_up(stage: &Stage, voice: &Voice, patience: Duration, faults: &mut Vec<String>) -> Result<CatchUp> {
    let waiting = stage.journals().await?;
    let applied = stage.applied().await?;
    let backlog = waiting.iter().zip(&applied).map(|(waiting, applied)| waiting.saturating_sub(*applied)).sum();
    let restored = Instant::now();
    stage.restore();
    voice.say(&format!("the network is RESTORED; {backlog} records wait"));
    note(faults, stage.await_applied(Some(&waiting), patience).await?);
    let took = restored.elapsed();
    voice.say(&format!("caught up after {} ms", took.as_millis()));
    Ok(CatchUp { took, backlog })
}

async fn type_in(crew: &Crew, requests: Vec<Request>) -> Result<Vec<Request>> {
    for request in &requests {
        crew.type_in(request.clone()).await?;
    }
    Ok(requests)
}

fn note(faults: &mut Vec<String>, outcome: Result<(), String>) {
    faults.extend(outcome.err());
}

fn examine(played: &Played, shown: &Shown, faults: &mut Vec<String>) -> Result<Report> {
    let stores = played.struck.read_stores()?;
    let hq = played.struck.read_hq()?;
    let expected = oracle::expect(&played.requests);
    let mut findings = audit::judge(&SITES, &expected, &played.logs, &stores, &hq.holdings, Some(shown));
    faults.append(&mut findings.faults);
    if let Some(agreed) = played.agreed {
        faults.extend(played.edits.check_hq(&hq.registers, agreed));
    }
    for log in &played.logs {
        let place = format!("{} at {}", log.device, SITES[log.site]);
        faults.extend(log.unreadable.iter().map(|text| format!("{place} got a reply it cannot read: {text}")));
    }
    Ok(Report {
        findings,
        conflicts: hq.registers.conflicts,
        wire_bytes: played.wire_bytes,
        catch_up_ms: u64::try_from(played.catch_up.took.as_millis()).unwrap_or(u64::MAX),
        backlog: played.catch_up.backlog,
        faults: std::mem::take(faults),
    })
}
