//! How fast, how large, how soon: the tables that the README quotes, measured here and now. Nothing in it judges; what
//! must hold is for the tests and the torture.

mod backlog;
mod catch_up;
mod decrement;
mod fleet;
mod hold;
mod latency;
mod process;
mod rates;
mod raw;
mod retail;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::demo::interrupted;
use crate::folder::Folder;
use crate::nodes::Spec;
use crate::seam::Role;

const SITE: &str = "harbour";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// Acknowledged publishes per second beside mosquitto (which must be installed), and the bare disk
    Rates,
    /// A million records that wait: memory, disk, start; then applied at a hub
    Backlog,
    /// What a line of a real basket costs on disk
    Retail,
    /// A store comes back with a million records: when HQ shows it, when all is applied, bytes on the wire
    CatchUp,
    /// From a till in one store to a screen in another, beside bridged mosquitto brokers
    Latency,
    /// Up to 500 emulated stores on one hub: rate, memory, and what happens when all come back
    Fleet,
    /// Durable decrements of one hot item over HTTPS, beside PostgreSQL 15 (which must be installed) on one row
    Decrement,
    /// A hold and its commit beside a plain durable publish; a sale from a pool beside one off the shelf
    Hold,
    /// How sync does: a store comes back, latency, fleet
    Sync,
    /// Memory of idle connections, handshakes and publishes over TLS, beside mosquitto with the same certificates
    Tls,
    /// All of them
    All,
}

#[derive(Debug)]
pub struct Options {
    pub section: Section,
    pub rounds: u32,
    pub seconds: u64,
    /// Of the latency.
    pub latency_seconds: u64,
    /// Of the backlog and of catching up.
    pub records: u64,
    pub json: bool,
    /// Where to measure; what is there is left alone.
    pub keep: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Findings {
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<rates::Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<tls::Encrypted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decrement: Option<decrement::Decrements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<hold::Holds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<backlog::Backlog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retail: Option<retail::Retail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    catch_up: Option<catch_up::CatchUp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<latency::Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<fleet::Fleet>,
}

pub fn main(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        let folder = Folder::make(options.keep.as_deref())?;
        let findings = tokio::select! {
            findings = measure(folder.path(), &options) => findings?,
            () = interrupted() => bail!("interrupted; all that was started was killed"),
        };
        if options.json {
            println!("{}", serde_json::to_string(&findings)?);
        }
        Ok(())
    })
}

/// Each section's table is printed when it is done.
async fn measure(dir: &Path, options: &Options) -> Result<Findings> {
    let wanted = |section| options.section == section || options.section == Section::All;
    let mut findings = Findings::default();
    if wanted(Section::Rates) {
        let rates = rates::measure(&dir.join("rates"), options).await?;
        println!("{}", rates.table());
        findings.rates = Some(rates);
    }
    if wanted(Section::Tls) {
        let tls = tls::measure(&dir.join("tls"), options).await?;
        println!("{}", tls.table());
        findings.tls = Some(tls);
    }
    if wanted(Section::Decrement) {
        let decrement = decrement::measure(&dir.join("decrement"), options).await?;
        println!("{}", decrement.table());
        findings.decrement = Some(decrement);
    }
    if wanted(Section::Hold) {
        let hold = hold::measure(&dir.join("hold"), options).await?;
        println!("{}", hold.table());
        findings.hold = Some(hold);
    }
    if wanted(Section::Retail) {
        let retail = retail::measure(&dir.join("retail")).await?;
        println!("{}", retail.table());
        findings.retail = Some(retail);
    }
    if wanted(Section::Backlog) {
        let backlog = backlog::measure(&dir.join("backlog"), options).await?;
        println!("{}", backlog.table());
        findings.backlog = Some(backlog);
    }
    let wanted = |section| options.section == Section::Sync || wanted(section);
    if wanted(Section::CatchUp) {
        let catch_up = catch_up::measure(&dir.join("catch-up"), options).await?;
        println!("{}", catch_up.table());
        findings.catch_up = Some(catch_up);
    }
    if wanted(Section::Latency) {
        let latency = latency::measure(&dir.join("latency"), options).await?;
        println!("{}", latency.table());
        findings.latency = Some(latency);
    }
    if wanted(Section::Fleet) {
        let fleet = fleet::measure(&dir.join("fleet")).await?;
        println!("{}", fleet.table());
        findings.fleet = Some(fleet);
    }
    Ok(findings)
}

fn hub_spec(dir: &Path) -> Spec {
    let (name, dir) = ("hub".to_owned(), dir.join("hub"));
    Spec { role: Role::Hub, name, dir, hub: None, fault: None, open: true, config: String::new() }
}

/// A gateway as a plain user would run it.
fn gateway_spec(dir: &Path, name: &str, hub: Option<SocketAddr>) -> Spec {
    let (name, dir) = (name.to_owned(), dir.join(name));
    Spec { role: Role::Gateway, name, dir, hub, fault: None, open: true, config: String::new() }
}
