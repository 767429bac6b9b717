//! A launch: one hot item, fifty sites and the hub's own channel, buyers faster than the network is. What comes of it is
//! compared with a network that never fails.
//!
//! `SEED=… cargo test -p tillsync-tests sim::launch` replays one schedule; `SEEDS=…` runs so many, `FROM=…` from another on.

mod buyers;
mod ideal;
mod lost;
mod stranded;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::dice::Dice;
use super::plan::Plan;
use super::world::World;
use super::{TAIL_LINES, number, over_seeds, text_of};

pub(super) use self::buyers::Launch;
use self::ideal::Figures;

/// What fits into half a minute on two slow cores.
const SEEDS: u64 = 200;
/// Those with sites that are written off are long.
const WRITTEN_OFF_SEEDS: u64 = 60;
const SITES: usize = 50;

impl Plan {
    /// Fifty sites and one item; no disk is ever rolled back: the bound is the pool itself.
    fn launch(dice: &mut Dice) -> Plan {
        let calm = Plan {
            sites: SITES,
            items: 1,
            pools: 1,
            copies: false,
            hub_copies: false,
            swaps: false,
            rejoins: false,
            old_lives: false,
            disturbs: false,
            evictions: false,
            presents: false,
            withdraws: false,
            delay_ms: dice.pick(&[30, 30, 100, 400]),
            wrong_clocks: dice.percent(50),
            cuts: dice.percent(80),
            crashes: dice.percent(60),
            buyers: dice.pick(&[60, 150, 300]),
            ..Plan::draw(dice)
        };
        let pauses_ms = dice.pick(&[&[150][..], &[600], &[40, 2_000]]);
        Plan { acts: calm.buyers as u64 * 6 / 5, pauses_ms, ..calm }
    }

    /// The same for longer, and sites are declared lost that are only dark.
    fn written_off(dice: &mut Dice) -> Plan {
        let (buyers, pauses_ms) = (dice.pick(&[150, 300]), dice.pick(&[&[600][..], &[40, 2_000]]));
        let acts = buyers as u64 * 6 / 5;
        Plan { writes_off: true, rejoins: true, cuts: true, buyers, acts, pauses_ms, ..Plan::launch(dice) }
    }
}

fn schedule(seed: u64, trace: bool, draw: fn(&mut Dice) -> Plan) -> (Result<Figures, String>, Vec<String>) {
    let mut dice = Dice::new(seed);
    let plan = draw(&mut dice);
    let mut world = World::of(dice, plan, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        world.open_sale();
        world.run_acts();
        world.close_sale()
    }));
    (outcome.map_err(text_of), world.take_trace())
}

fn show(seed: u64, draw: fn(&mut Dice) -> Plan) -> ! {
    let (outcome, lines) = schedule(seed, true, draw);
    let from = if number("TRACE").is_some() { 0 } else { lines.len().saturating_sub(TAIL_LINES) };
    lines[from..].iter().for_each(|line| println!("{line}"));
    match outcome {
        Ok(_) => panic!("seed {seed} passes when it is replayed: something is not of its seed"),
        Err(why) => panic!("{why}\nSEED={seed} cargo test -p tillsync-tests sim::launch (TRACE=1 for all of it)"),
    }
}

/// The sum over all schedules, if there are many.
fn run(seeds: u64, draw: fn(&mut Dice) -> Plan) -> Option<Figures> {
    if let Some(seed) = number("SEED") {
        match schedule(seed, number("TRACE").is_some(), draw) {
            (Ok(figures), lines) => {
                lines.iter().for_each(|line| println!("{line}"));
                println!("{figures}");
            }
            (Err(_), _) => show(seed, draw),
        }
        return None;
    }
    let mut sum = Figures::default();
    let failed = over_seeds(seeds, |seed| schedule(seed, false, draw).0, |figures| sum.add(&figures));
    if let Some(seed) = failed {
        show(seed, draw);
    }
    println!("launch: {sum}");
    Some(sum)
}

#[test]
fn a_launch_is_its_seed() {
    for seed in 1..=2 {
        assert_eq!(schedule(seed, true, Plan::launch), schedule(seed, true, Plan::launch), "seed {seed}");
    }
}

#[test]
fn a_launch_is_never_oversold() {
    let Some(sum) = run(SEEDS, Plan::launch) else { return };
    assert_eq!(sum.oversold, 0, "units promised that there were not");
    assert!(sum.promised > 0 && sum.turned_away >= sum.unavoidable, "nothing was shown: {sum}");
}

/// Each schedule is held to what was reclaimed in it.
#[test]
fn a_site_that_was_written_off_and_comes_back_oversells_no_more_than_was_reclaimed() {
    let Some(sum) = run(WRITTEN_OFF_SEEDS, Plan::written_off) else { return };
    assert!(sum.oversold <= sum.outside && sum.outside > 0, "nothing was shown: {sum}");
}
