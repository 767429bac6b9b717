//! Power cuts: a gateway's real writes and syncs are recorded, disks that a cut at any moment may leave are built from
//! them, and a real gateway is started on each.
//!
//! `POWERCUTS=2000` looks at more states than every run does, `SEED` at others.

mod check;
mod cuts;
mod disk;
mod explore;
mod record;
mod replay;
mod trace;

use std::sync::Arc;

use check::Fault;
use explore::{Found, Plan, explore, kept, one};
use record::{Recorder, Recording};

use crate::harness::ledgers::Hq;
use crate::harness::node::Spec;
use crate::harness::{SITE, folder, tools};

/// States of one run, in all three recordings.
const STATES: usize = 240;
/// The smallest that the gateway takes.
const JOURNAL_MIB: usize = 8;
/// So many that the journal is trimmed a good while.
const LONG_REQUESTS: usize = 7_500;
/// States looked at in one recording of creation, stops and starts; for more there are more recordings.
const SHORT_STATES: usize = 160;
/// States looked at in each recording of a start on what a cut left.
const AGAIN: usize = 10;
/// Cuts that are tried for each state that is wanted: many leave what another one left.
const TRIES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_leaves_what_was_acknowledged() {
    if !tools::has(&["strace"]) {
        return;
    }
    let (states, seed) = (from_env("POWERCUTS", STATES), from_env("SEED", 1) as u64);
    // Large states: building one costs more than starting a gateway on it.
    let plan = Plan { states: states * 15 / 100, tries: 2, seed, lies: false };
    let mut found = explore(&Arc::new(long(seed).await), &plan).await;
    println!("power cuts while the journal is trimmed: {found}");
    let mut recording = Arc::new(short(seed).await);
    found.add(again(&recording, states / 4, seed).await);
    println!("power cuts, those in recoveries added: {found}");
    for turn in 1.. {
        let rest = states.saturating_sub(found.states).min(SHORT_STATES);
        let more = explore(&recording, &Plan { states: rest, tries: TRIES, seed, lies: false }).await;
        assert!(more.states > 0, "the recording leaves no different states: {found}");
        found.add(more);
        if found.states >= states {
            break;
        }
        recording = Arc::new(short(seed * 1_000 + turn).await);
    }
    println!("power cuts: seed={seed} {found}");
    assert!(found.failures.is_empty(), "{found}\n{}", found.failures.join("\n"));
}

/// The same recording on a disk that reports each sync one sync too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_is_caught() {
    if !tools::has(&["strace"]) {
        return;
    }
    let short = Arc::new(short(2).await);
    let found = explore(&short, &Plan { states: 12, tries: TRIES, seed: 2, lies: true }).await;
    println!("power cuts on a disk that lies: {found}");
    assert!(found.lost > found.states / 2, "the check must see it: {found}\n{}", found.failures.join("\n"));
}

fn from_env(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |value| value.parse().expect("POWERCUTS and SEED are numbers"))
}

/// From nothing: creation, a clean stop, a start, a kill among publishes, and the recovery from it.
async fn short(seed: u64) -> Recording {
    let mut recorder = Recorder::new("short", seed);
    recorder.start().await.expect("the gateway starts");
    recorder.publish(96, 6).await;
    recorder.stop().await;
    recorder.start().await.expect("the gateway starts");
    recorder.publish(48, 3).await;
    recorder.burst(48).await;
    recorder.settle_one().await;
    recorder.kill().await;
    recorder.start().await.expect("the gateway starts");
    recorder.publish(48, 12).await;
    recorder.kill().await;
    recorder.finish(None).expect("one ledger")
}

/// Until the journal has been over its bound for long, with a hub that applies it.
async fn long(seed: u64) -> Recording {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let mut recorder = Recorder::new("long", seed).trimming(hub.addr, JOURNAL_MIB);
    recorder.start().await.expect("the gateway starts");
    recorder.publish(LONG_REQUESTS, 96).await;
    recorder.node().until_applied().await;
    recorder.publish(192, 96).await;
    recorder.node().until_applied().await;
    recorder.stop().await;
    hub.stop().await;
    recorder.finish(Some(Hq::read(hub.dir()).of_site(SITE))).expect("one ledger")
}

/// Cuts in the recovery from cuts, and in the recovery from those.
async fn again(first: &Arc<Recording>, states: usize, seed: u64) -> Found {
    let (mut found, mut before) = (Found::default(), first.clone());
    for turn in 0..states.div_ceil(AGAIN) {
        let from = if turn % 2 == 0 { first } else { &before };
        let (name, state, acked) = one(from, seed * 1_000 + turn as u64);
        let mut recorder = Recorder::new(&format!("again-{turn}"), seed).on(state.0.clone(), &from.facts, acked);
        let recorded = match recorder.start().await {
            Err(why) => Err(Fault::Dead(why, false)),
            Ok(()) => {
                recorder.publish(12, 3).await;
                recorder.kill().await;
                recorder.finish(None).map_err(Fault::Stranger)
            }
        };
        let recording = match recorded {
            Ok(recording) => Arc::new(recording),
            Err(fault) => {
                found.failures.push(format!("{}: {fault}", kept(&name, &state)));
                continue;
            }
        };
        found.add(explore(&recording, &Plan { states: AGAIN, tries: TRIES, seed, lies: false }).await);
        before = recording;
    }
    found
}
