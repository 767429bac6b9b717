//! Seeded simulation: a hub and a few gateways, as the pure cores and sessions that they are, on disks, wires and clocks that
//! fail by a seed. Virtual time, no thread, no socket. The oracle judges every commit and the end.
//!
//! `SEED=… cargo test -p tillsync-tests sim::` replays one schedule; `TRACE=1` prints all of it; `SEEDS=…` runs so many,
//! `FROM=…` from another one on.

mod agreed;
mod dice;
mod disk;
mod faults;
mod hq;
mod launch;
mod lives;
mod net;
mod node;
mod oracle;
mod plan;
mod quiet;
mod sales;
mod served;
mod site;
mod uplink;
mod work;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use self::world::World;

/// What fits into about a minute on two slow cores.
const SEEDS: u64 = 2_500;
/// How much of a failed schedule is shown.
const TAIL_LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// What a panic said.
fn text_of(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs one schedule to its end; what was wrong, with its trace if that was wanted.
fn schedule(seed: u64, trace: bool) -> (Result<(), String>, Vec<String>) {
    let mut world = World::new(seed, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        world.run_acts();
        world.settle();
    }));
    (outcome.map_err(text_of), world.take_trace())
}

fn show(seed: u64) -> ! {
    let (outcome, lines) = schedule(seed, true);
    let from = if number("TRACE").is_some() { 0 } else { lines.len().saturating_sub(TAIL_LINES) };
    lines[from..].iter().for_each(|line| println!("{line}"));
    match outcome {
        Ok(()) if number("SEED").is_some() => {
            panic!("seed {seed} passes when it is replayed: something is not of its seed")
        }
        Ok(()) => panic!("seed {seed} failed and passes when it is replayed: something is not of its seed"),
        Err(why) => panic!("{why}\nSEED={seed} cargo test -p tillsync-tests sim:: (TRACE=1 for all of it)"),
    }
}

#[test]
fn a_seed_says_everything() {
    for seed in 1..=6 {
        assert_eq!(schedule(seed, true), schedule(seed, true), "seed {seed}");
    }
}

#[test]
fn schedules_by_seed() {
    if let Some(seed) = number("SEED") {
        let (outcome, lines) = schedule(seed, number("TRACE").is_some());
        match outcome {
            Ok(()) => lines.iter().for_each(|line| println!("{line}")),
            Err(_) => show(seed),
        }
        return;
    }
    let (seeds, started) = (number("SEEDS").unwrap_or(SEEDS), Instant::now());
    if let Some(seed) = over_seeds(SEEDS, |seed| schedule(seed, false).0, drop) {
        show(seed);
    }
    println!("{seeds} schedules in {:.1} s", started.elapsed().as_secs_f64());
}

/// Runs as many schedules as are wanted on all processors; the least seed that was found to fail, after which it stops.
fn over_seeds<T: Send>(
    seeds: u64,
    run: impl Fn(u64) -> Result<T, String> + Sync,
    done: impl FnMut(T) + Send,
) -> Option<u64> {
    let (from, seeds) = (number("FROM").unwrap_or(1), number("SEEDS").unwrap_or(seeds));
    let (next, failed, done) = (AtomicU64::new(from), Mutex::new(None::<u64>), Mutex::new(done));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || failed.lock().expect("nobody panics with it").is_some() {
                        break;
                    }
                    match run(seed) {
                        Ok(outcome) => (*done.lock().expect("nobody panics with it"))(outcome),
                        Err(_) => {
                            let mut failed = failed.lock().expect("nobody panics with it");
                            *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().expect("nobody panics with it")
}
