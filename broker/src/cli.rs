//! The command line of `tillsync-broker`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use proto::id::{Epoch, SiteName};
use serde_json::Value;
use tokio::sync::watch;

use crate::api::access::{self, TokenCommand};
use crate::backup::{self, BackupArgs, RestoreArgs};
use crate::config::{Config, MANUAL};
use crate::conflicts::{self, Conflicts};
use crate::doors;
use crate::face;
use crate::front::{FrontConfig, Publisher};
use crate::history::{self, HistoryArgs};
use crate::hub::{Effect, Hub};
use crate::identity::Guard;
use crate::identity::commands::{self as identity, Accounts, Policy};
use crate::ledger::{Limits, Options, Perform, Sabotage, Writer};
use crate::node::commands::{self, NodeFlags, StatusArgs};
use crate::node::doctor::{self, DoctorArgs};
use crate::node::process::Node;
use crate::node::settings::Settings;
use crate::node::{self, rejects, show};
use crate::pki::{self, InitArgs};
use crate::policy::{HubPolicy, SCHEME};
use crate::pools::{self, Audit, Pool, Rights};
use crate::recall::Recalls;
use crate::sites::{self, Site};
use crate::verify::{self, VerifyArgs};

/// The central broker of tillsync: takes what gateways send, once and in order, merges it, and shows HQ the truth.
#[derive(Debug, Parser)]
#[command(
    name = "tillsync-broker",
    version,
    after_help = "\
Exit codes: 0 stopped cleanly, 74 the ledger or a socket failed, 78 the configuration must be changed.
Try it:  tillsync-broker run --open --data ./hub --listen 127.0.0.1:1884
         mosquitto_sub -p 1884 -t 'hq/#' -v"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until SIGTERM or Ctrl-C.
    Run(NodeFlags),
    /// Show how a running hub is doing: its sites, their backlog, its ledger.
    Status(StatusArgs),
    /// Show what was refused, and what of the sites' journals was set aside, of a running or a stopped hub.
    #[command(subcommand)]
    Rejects(rejects::Look),
    /// Show where two sites wrote the same thing without knowing of each other, and bring back what lost.
    #[command(subcommand)]
    Conflicts(Conflicts),
    /// Show what a site recorded, with the times at which things happened, of a running or a stopped hub.
    History(HistoryArgs),
    /// Compare the stock that this hub holds of a site with what the site holds, key by key, and set right what differs.
    Verify(VerifyArgs),
    /// Invite sites, and see, disable and remove those that joined, of a running or a stopped hub; say whose box is lost.
    #[command(subcommand)]
    Site(Site),
    #[command(subcommand)]
    Pool(Pool),
    #[command(subcommand)]
    Rights(Rights),
    #[command(subcommand)]
    Audit(Audit),
    /// Give out, show and remove tokens for the HTTPS listener; of a running or a stopped hub.
    #[command(subcommand)]
    Token(TokenCommand),
    Init(InitArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    /// Look at the ledger of a stopped hub and say what is in it and what is wrong with it.
    Doctor(DoctorArgs),
    /// Who may connect besides sites: monitors and integrators.
    #[command(subcommand)]
    Account(Accounts),
    /// Rights beyond those that each kind of account has.
    #[command(subcommand)]
    Policy(Policy),
    /// Print the default configuration with a comment for each key.
    Config,
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
        Command::Rejects(look) => rejects::look(look, &Config::default().data),
        Command::Conflicts(command) => conflicts::run(command, &Config::default().data),
        Command::History(args) => history::run(args, &Config::default().data),
        Command::Verify(args) => verify::run(&args, &Config::default().data),
        Command::Site(command) => sites::run(command, &Config::default().data),
        Command::Pool(command) => pools::pool(command, &Config::default().data),
        Command::Rights(command) => pools::rights(command, &Config::default().data),
        Command::Audit(command) => return pools::audit(command, &Config::default().data),
        Command::Token(command) => access::run(command, &Config::default().data),
        Command::Init(args) => pki::init(&args, &Config::default().data),
        Command::Backup(args) => backup::backup(&args, &Config::default().data),
        Command::Restore(args) => backup::restore(&args),
        Command::Doctor(args) => return node::doctor_exit(doctor::doctor(&args, |_| Value::Null)),
        Command::Account(command) => identity::accounts(&command, &Config::default().data, &SCHEME),
        Command::Policy(command) => identity::policy(&command, &Config::default().data, &SCHEME),
        Command::Config => {
            print!("{MANUAL}");
            Ok(())
        }
    };
    node::exit(outcome)
}

fn run(flags: NodeFlags, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let config = Settings::load(flags.config.as_deref()).and_then(|s| Config::read(s, &flags))?;
    node::start_logging("info,rumqttd=warn,sled=warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(serve(config, sabotage))
}

async fn serve(config: Config, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let stop = node::stop_signal().context("listen for signals")?;
    let (tls, own) = doors::secure(&config)?;
    let site: SiteName = "hub".parse().context("name the hub's own ledger")?;
    let options = Options {
        dir: config.data.clone(),
        site,
        // HQ keeps every site's journal: only the disk bounds it.
        limits: Limits { disk_reserve_bytes: config.disk_reserve_bytes, ..Limits::NONE },
        commit_wait: config.commit_wait,
        begin_anew: false,
        sabotage,
    };
    let hub = match backup::drawn(&config.data)? {
        Some(incarnation) => Hub::restored(incarnation),
        None => Hub::new(node::random()?),
    };
    let hub = hub.forgetting_every(config.forget_every).granting_by(config.rights.clone());
    let hub = hub.with_reservations(config.reservations);
    let (writer, handle, reader) = Writer::open(options, Epoch(node::random()?), hub)?;
    let front = FrontConfig {
        listen: config.listen.addr,
        tls: tls.clone(),
        retained_max: 2_000_000,
        retained_bytes_max: 512 << 20,
        publish_queue_max: 65_536,
        ..config.caps.front()
    };
    let guard = Guard::open(&config.data, &SCHEME, config.policy.as_deref())?;
    if !config.listen.open && guard.book.now().is_empty() {
        tracing::warn!("nobody can connect yet: `site add` and `account add` let them in");
    }
    let guard = Arc::new(guard);
    let policy = HubPolicy {
        open: config.listen.open,
        guard: guard.clone(),
        caps: config.caps.clone(),
        site_rate: config.site_rate,
        account_rate: config.account_rate,
    };
    let dir = config.data.clone();
    let metrics = config.listen.metrics;
    let mut node = Node::bind(writer, handle, reader, front, Arc::new(policy), guard, metrics).await?;
    let stopping = watch::Sender::new(false);
    let cut = doors::sites(&config, &mut node);
    if let Some(tls) = tls {
        doors::open(&config, tls, own, cut, &mut node, &stopping).await?;
    }
    let recalls = Recalls::start(node.reader(), node.publisher()).context("start a thread")?;
    let perform = perform(node.publisher(), recalls, dir.clone());
    node.run(&dir, perform, face::FACE, stopping, stop).await
}

fn perform(publisher: Publisher, recalls: Recalls, dir: PathBuf) -> Perform<Effect> {
    Box::new(move |effect| match effect {
        Effect::Publish { topic, payload, retain } => publisher.publish(&topic, payload, retain),
        Effect::Restore { topic, payload } => publisher.restore(&topic, payload),
        Effect::Recall(question) => recalls.ask(question),
        Effect::Answer(answer, value) => {
            // The asker may have left.
            let _ = answer.send(value);
        }
        Effect::Reply(answer, reply) => {
            // The same; a repeat with its key gets the same reply.
            let _ = answer.send(reply);
        }
        Effect::IncarnationKept => backup::forget(&dir),
    })
}
