//! The command line of `tillsync-gateway`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::front::{FrontConfig, Publisher, Tls};
use broker::identity::Guard;
use broker::identity::commands::{self as identity, Accounts, Policy};
use broker::ledger::{Options, Perform, Sabotage, Writer};
use broker::node::commands::{self, NodeFlags, StatusArgs};
use broker::node::doctor::{self, DoctorArgs};
use broker::node::process::Node;
use broker::node::settings::{Fault, Faults, Settings};
use broker::node::{self, rejects, show};
use broker::pki::{Keeper, Own, SERVER_VALID_MS};
use clap::{Args, Parser, Subcommand};
use proto::id::Epoch;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Flags, MANUAL};
use crate::core::{Effect, Gateway};
use crate::face;
use crate::fork::{self, Ask};
use crate::membership::{self, JoinArgs, Membership, Renewal};
use crate::policy::{SCHEME, StorePolicy};
use crate::privacy::{self, Keys};
use crate::rejoin::{self, RejoinArgs};
use crate::secure;
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
    Join(JoinArgs),
    Rejoin(RejoinArgs),
    /// Show, change and share the key under which people have pseudonyms outside the store.
    #[command(subcommand)]
    Privacy(privacy::Command),
    /// Which devices may connect, and with what.
    #[command(subcommand)]
    Device(Accounts),
    /// Rights beyond those that each kind of device has.
    #[command(subcommand)]
    Policy(Policy),
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
        Command::Join(args) => membership::join(&args),
        Command::Rejoin(args) => rejoin::rejoin(&args),
        Command::Privacy(command) => privacy::run(command, &Config::default().data),
        Command::Device(command) => identity::accounts(&command, &Config::default().data, &SCHEME),
        Command::Policy(command) => identity::policy(&command, &Config::default().data, &SCHEME),
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
    node::start_logging("info,rumqttd=warn,rumqttc=warn,sled=warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, sabotage))
}

fn missing(key: &str, must_be: &str) -> Faults {
    Faults(vec![Fault { key: key.into(), found: "(missing)".into(), must_be: must_be.into() }])
}

async fn serve(config: Config, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let stop = node::stop_signal().context("listen for signals")?;
    let site = config
        .site
        .clone()
        .ok_or_else(|| missing("site", "this store's name: give --site or the key, or join a hub, which knows it"))?;
    let membership = Membership::load(&config.data)?;
    let has_hub = config.hub.is_some() || membership.is_some();
    let options = Options {
        dir: config.data.clone(),
        site: site.clone(),
        limits: config.limits,
        commit_wait: config.commit_wait,
        // The hub has what is not here any more. Without one there is only what is left.
        begin_anew: has_hub,
        sabotage,
    };
    let keys = Keys::load_or_draw(&config.data)?;
    let (writer, handle, reader) = Writer::open(options, Epoch(node::random()?), Gateway::new(config.rules(keys)))?;
    let fork = fork::open(&config.data, &handle).await.map_err(|_| anyhow::anyhow!("the writer is gone"))?;
    let (tls, own) = secure::secure(&config)?;
    let joined = Membership::watch(&config.data, &site, membership);
    let hub = config.hub_source(joined.clone())?;
    let front = FrontConfig { listen: config.listen.addr, tls: tls.clone(), ..config.caps.front() };
    let guard = Guard::open(&config.data, &SCHEME, config.policy.as_deref())?;
    if !config.listen.open && guard.book.now().is_empty() {
        tracing::warn!("no device can connect yet: `device add` lets them in");
    }
    let guard = Arc::new(guard);
    let policy = StorePolicy {
        open: config.listen.open,
        anonymous: config.anonymous,
        guard: guard.clone(),
        caps: config.caps.clone(),
        device_rate: config.device_rate,
    };
    let mut node = Node::bind(writer, handle, reader, front, Arc::new(policy), guard, config.listen.metrics).await?;

    let stopping = watch::Sender::new(false);
    if let Some(tls) = tls {
        keep(tls, own, &mut node, &stopping);
    }
    let renewal = Arc::new(Renewal::new(config.data.clone(), joined));
    tokio::spawn(renewal.clone().run(stopping.subscribe()));
    node.beside(renewal);
    let (to_hub, commands) = mpsc::channel(TO_HUB_MAX);
    let (reader, writer) = (node.reader(), node.handle());
    let (follow, stops) = (config.follow.clone(), stopping.subscribe());
    let (fork, found) = watch::channel(fork);
    let uplink = Uplink { hub, reader, fork: found, writer, commands, stopping: stops, follow };
    let uplink = tokio::spawn(uplink.run());
    let (to_fork, asks) = mpsc::channel(fork::ASKS_MAX);
    let dir = config.data.clone();
    tokio::spawn(fork::Task { dir, fork, asks, writer: node.handle(), reader: node.reader() }.run());
    let perform = perform(node.publisher(), to_hub, to_fork);
    let outcome = node.run(&config.data, perform, face::FACE, stopping, stop).await;
    // It was told with everybody else; it only has a farewell left to say.
    let _ = tokio::time::timeout(Duration::from_secs(2), uplink).await;
    outcome
}

/// Looks after the certificate that devices see, and says what they need to believe it.
fn keep(tls: Tls, own: Option<Own>, node: &mut Node<Gateway>, stopping: &watch::Sender<bool>) {
    if let Some(own) = &own {
        let (ca, key) = (own.paths.ca.display(), own.authority.facts().key);
        tracing::info!("devices need {ca} to connect; its key is {key}");
        node.announce(format!("ca {ca} {key}"));
    }
    let keeper = Arc::new(Keeper::new(tls, own, SERVER_VALID_MS));
    tokio::spawn(keeper.clone().run(stopping.subscribe()));
    node.beside(keeper);
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
        Effect::Lineage(lineage) => {
            ask_fork(Ask::Keep(lineage.clone()));
            tell_hub(ToHub::Lineage(lineage));
        }
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
