//! The command line of `tillsync-gateway`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::front::{FrontConfig, Publisher};
use broker::ledger::{Options, Perform, Sabotage, Writer};
use broker::node::commands::{self, NodeFlags, StatusArgs};
use broker::node::doctor::{self, DoctorArgs};
use broker::node::process::Node;
use broker::node::settings::{Fault, Faults, Settings};
use broker::node::{self, rejects, show};
use clap::{Args, Parser, Subcommand};
use proto::id::Epoch;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Flags, MANUAL};
use crate::core::{Effect, Gateway};
use crate::face;
use crate::fork::{self, Ask};
use crate::policy::StorePolicy;
use crate::rejoin::{self, RejoinArgs};
use crate::uplink::{Command as ToHub, Uplink};

/// Acks and beats waiting for the uplink. What does not fit is dropped: the next of its kind says more.
const TO_HUB_MAX: usize = 64;

/// The tillsync gateway of one store: takes scans and sales over MQTT, answers when they are on disk, and forwards
/// them to the hub when there is a network.
#[derive(Debug, Parser)]
#[command(
    name = "tillsync-gateway",
    version,
    after_help = "\
Exit codes: 0 stopped cleanly, 74 the ledger or a socket failed, 78 the configuration must be changed.
Try it:  tillsync-gateway run --open --data ./harbour --site harbour --listen 127.0.0.1:1883 --hub 127.0.0.1:1884
         mosquitto_pub -p 1883 -q 1 -t dev/scanner-1/scan -m 4006381333931"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C.
    Run(RunArgs),
    /// Show how a running gateway is doing: its link to the hub, what waits to be sent, what was refused.
    Status(StatusArgs),
    /// Show what was refused, of a running or a stopped gateway, and hand it in again.
    #[command(subcommand)]
    Rejects(Rejects),
    /// Look at the ledger of a stopped gateway and say what is in it and what is wrong with it.
    Doctor(DoctorArgs),
    Rejoin(RejoinArgs),
    /// Print the default configuration with a comment for each key.
    Config,
}

#[derive(Debug, Subcommand)]
enum Rejects {
    #[command(flatten)]
    Look(rejects::Look),
    /// Hand a refused request in again, as it was or corrected, through the rules of the running gateway.
    Retry(rejects::RetryArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    node: NodeFlags,
    /// The site's name.
    #[arg(long)]
    site: Option<String>,
    /// The hub's host and port. Without it the store works for itself.
    #[arg(long)]
    hub: Option<String>,
}

/// Runs one command and returns its exit code. `sabotage` is for checks that must be seen to fail.
pub fn main(args: Vec<OsString>, sabotage: Option<Sabotage>) -> ExitCode {
    let cli = match commands::parse::<Cli>(args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let outcome = match cli.command {
        Command::Run(args) => run(args, sabotage),
        Command::Status(args) => show::status(&args.data, args.json, face::lines),
        Command::Rejects(Rejects::Look(look)) => rejects::look(look, &Config::default().data),
        Command::Rejects(Rejects::Retry(args)) => rejects::retry(args, &Config::default().data),
        Command::Doctor(args) => return node::doctor_exit(doctor::doctor(&args, crate::core::applied_on_disk)),
        Command::Rejoin(args) => rejoin::rejoin(&args),
        Command::Config => {
            print!("{MANUAL}");
            Ok(())
        }
    };
    node::exit(outcome)
}

fn run(args: RunArgs, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let flags = Flags { site: args.site, hub: args.hub, node: args.node };
    let config = Settings::load(flags.node.config.as_deref()).and_then(|s| Config::read(s, &flags))?;
    if !config.listen.open && config.devices.is_empty() {
        let must_be = "at least one [[device]] with its password, or --open on loopback: nobody could connect";
        return Err(missing("device", must_be).into());
    }
    node::start_logging("info,rumqttd=warn,rumqttc=warn,sled=warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, sabotage))
}

fn missing(key: &str, must_be: &str) -> Faults {
    Faults(vec![Fault { key: key.into(), found: "(missing)".into(), must_be: must_be.into() }])
}

async fn serve(config: Config, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let stop = node::stop_signal().context("listen for signals")?;
    let site = config.site.clone().ok_or_else(|| missing("site", "this store's name: give --site or the key"))?;
    let hub = config.hub_address()?;
    let options = Options {
        dir: config.data.clone(),
        site,
        limits: config.limits,
        commit_wait: config.commit_wait,
        // The hub has what is not here any more. Without one there is only what is left.
        begin_anew: hub.is_some(),
        sabotage,
    };
    let (writer, handle, reader) = Writer::open(options, Epoch(node::random()?), Gateway::new(config.rules()))?;
    let fork = fork::open(&config.data, &handle).await.map_err(|_| anyhow::anyhow!("the writer is gone"))?;
    let fork = fork.map(|fork| fork.reader);
    let front = FrontConfig {
        listen: config.listen.addr,
        tls: config.listen.tls.clone(),
        connections_max: config.connections_max,
        ..FrontConfig::default()
    };
    let policy = StorePolicy { open: config.listen.open, devices: config.devices.clone() };
    let node = Node::bind(writer, handle, reader, front, Arc::new(policy), config.listen.metrics).await?;

    let stopping = watch::Sender::new(false);
    let (to_hub, commands) = mpsc::channel(TO_HUB_MAX);
    let uplink = hub.map(|hub| {
        let (reader, writer, stopping) = (node.reader(), node.handle(), stopping.subscribe());
        let follow = config.follow.clone();
        let uplink = Uplink { hub, reader, fork: fork.clone(), writer, commands, stopping, follow };
        tokio::spawn(uplink.run())
    });
    let (to_fork, asks) = mpsc::channel(fork::ASKS_MAX);
    let dir = config.data.clone();
    tokio::spawn(fork::Task { dir, fork, asks, writer: node.handle(), reader: node.reader() }.run());
    let perform = perform(node.publisher(), to_hub, to_fork);
    let outcome = node.run(&config.data, perform, face::FACE, stopping, stop).await;
    if let Some(uplink) = uplink {
        // It was told with everybody else; it only has a farewell left to say.
        let _ = tokio::time::timeout(Duration::from_secs(2), uplink).await;
    }
    outcome
}

fn perform(publisher: Publisher, to_hub: mpsc::Sender<ToHub>, to_fork: mpsc::Sender<Ask>) -> Perform<Effect> {
    // A full queue means that the uplink is busy connecting; the next beat or feed says it again.
    let tell_hub = move |command| drop(to_hub.try_send(command));
    // One question at a time: the queue has room for it unless the process is ending.
    let ask_fork = move |ask| drop(to_fork.try_send(ask));
    Box::new(move |effect| match effect {
        Effect::Publish { topic, payload, retain } => publisher.publish(&topic, payload, retain),
        Effect::Restore { topic, payload } => publisher.restore(&topic, payload),
        Effect::FeedAck(ack) => tell_hub(ToHub::FeedAck(ack)),
        Effect::Present { parts, looked } => tell_hub(ToHub::Present { parts, looked }),
        Effect::Lineage(lineage) => tell_hub(ToHub::Lineage(lineage)),
        Effect::ReadFork { after } => ask_fork(Ask::Read(after)),
        Effect::ForkDone => ask_fork(Ask::Remove),
        Effect::Say(of) => tell_hub(ToHub::Say(of)),
        Effect::Beat(beat) => tell_hub(ToHub::Beat(beat)),
        Effect::Answer(answer, value) => {
            // The asker may have left.
            let _ = answer.send(value);
        }
    })
}
