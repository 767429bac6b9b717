//! A launch: a thousand units, thousands of buyers online and in stores, stores that are cut off and one that is killed.
//! Then the stopped ledgers and what the buyers were told are held side by side.

mod browser;
mod floor;
mod judge;
mod plan;
mod report;
mod shop;
mod till;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::demo::interrupted;
use crate::folder::Folder;
use crate::seam::Fault;
use browser::Browser;
use floor::Floor;
use plan::{Plan, SITES_MIN, Troubles};
use report::{Report, Voice};
use shop::{Shop, site};
use till::Till;

/// A cut lasts so long at least, however fast buyers are served.
const CUT_MIN: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Options {
    pub units: u64,
    pub buyers: usize,
    /// Served at one moment.
    pub at_once: usize,
    pub sites: usize,
    pub seed: u64,
    pub json: bool,
    pub keep: Option<PathBuf>,
    pub fault: Option<Fault>,
}

/// Runs it. `true` if everything held.
pub fn main(options: Options) -> Result<bool> {
    ensure!(options.sites >= SITES_MIN, "two stores are cut off and one is killed: at least {SITES_MIN} are needed");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting tokio")?.block_on(async {
        let folder = Folder::make(options.keep.as_deref())?;
        let report = tokio::select! {
            report = run(&folder, &options) => report?,
            () = interrupted() => bail!("interrupted; all nodes were killed"),
        };
        println!("{}", report.table());
        if options.json {
            println!("{}", report.json());
        }
        Ok(report.verdict.held())
    })
}

async fn run(folder: &Folder, options: &Options) -> Result<Report> {
    let plan = Plan::draw(options.seed, options.buyers, options.at_once, options.sites);
    let voice = Voice::new(options.buyers);
    voice.say(&format!("a hub, {} stores and {} units in a pool", options.sites, options.units));
    let at_store = options.fault.map(|fault| (fault, plan.troubles.killed));
    let mut shop = Shop::open(folder.path(), options.sites, options.units, at_store).await?;
    let floor = Arc::new(Floor::new(options.units, &plan.buyers, options.sites, plan.troubles.before));
    let started = Instant::now();
    let mut crew = crew(&shop, &plan, &floor);
    voice.say(&format!("the doors are open: {} buyers come, {} at a time", options.buyers, options.at_once));
    let launch =
        async { tokio::try_join!(trouble(&mut shop, &plan.troubles, &floor, &voice), all_ended(&mut crew)).map(drop) };
    tokio::select! {
        ended = launch => ended?,
        () = watch(&floor, &voice) => {}
    }
    let took = started.elapsed();
    voice.say("all buyers were served: the hub catches up, everything stops, the ledgers are read");
    let (stores, hq, faults) = shop.close().await?;
    voice.done();
    let mut verdict = judge::judge(options.units, options.sites, &plan.buyers, &floor.told(), &stores, &hq);
    verdict.faults.extend(faults);
    Ok(Report { plan, verdict, at_once: floor.inside_most(), took })
}

/// Everybody who serves buyers.
fn crew(shop: &Shop, plan: &Plan, floor: &Arc<Floor>) -> JoinSet<()> {
    let mut crew = JoinSet::new();
    for _ in 0..plan.online {
        crew.spawn(Browser::new(shop.online.clone(), shop.token.clone()).serve(floor.clone()));
    }
    for (store, (addr, tills)) in shop.doors().into_iter().zip(&plan.stores).enumerate() {
        for n in 0..*tills {
            crew.spawn(Till::new(addr, store, n, plan.seed).serve(floor.clone()));
        }
    }
    crew
}

async fn all_ended(crew: &mut JoinSet<()>) -> Result<()> {
    while let Some(ended) = crew.join_next().await {
        ended.context("somebody who serves buyers died")?;
    }
    Ok(())
}

/// Plays the troubles while buyers come, and opens the doors for the others when all is whole again.
async fn trouble(shop: &mut Shop, plan: &Troubles, floor: &Floor, voice: &Voice) -> Result<()> {
    let told =
        |what: &str| voice.say(&format!("{what} ({} buyers served, {} units taken)", floor.served(), floor.taken()));
    let [a, b] = plan.cut_off.map(site);
    floor.until_served(plan.cut_at).await;
    shop.cut(&plan.cut_off);
    let cut_until = Instant::now() + CUT_MIN;
    told(&format!("{a} and {b} are cut off from the hub"));
    floor.until_served(plan.kill_at).await;
    told(&format!("{} is killed", site(plan.killed)));
    shop.kill_and_restart(plan.killed, plan.dead_for).await?;
    told(&format!("{} runs again", site(plan.killed)));
    floor.until_served(plan.heal_at).await;
    sleep_until(cut_until).await;
    shop.heal(&plan.cut_off);
    shop.await_uplinks().await?;
    told(&format!("{a} and {b} are back"));
    floor.open_doors();
    Ok(())
}

/// Moves the bar on; never ends.
async fn watch(floor: &Floor, voice: &Voice) {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
        voice.stands(floor.served(), floor.taken());
    }
}
