//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::bench;
use crate::demo;
use crate::door::{Door, Login, Tls};
use crate::launch;
use crate::load;
use crate::seam::Fault;
use crate::torture;

#[derive(Debug, Parser)]
#[command(name = "firmware-sim", version, about, max_term_width = 110)]
/// Scanners and POS terminals that behave as real ones do, badly too
///
/// Plays them against a hub and gateways of its own, to see with one command what tillsync promises and whether it holds.
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(Demo),
    Torture(Torture),
    Launch(Launch),
    Load(Load),
    Bench(Bench),
}

/// Publish QoS 1 as fast as a broker acknowledges, and say how fast that is
///
/// Works against a gateway and against any other MQTT 3.1.1 broker, in the clear or over TLS, so that both can be measured
/// in one run. Each client keeps a window of publishes open and sends the next when one is acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  firmware-sim load --target 127.0.0.1:1883                           50 clients, window 50, five seconds
  firmware-sim load --target 127.0.0.1:1883 --clients 10 --window 1   what one acknowledgement takes
  firmware-sim load --target 192.168.1.5:8883 --ca ca.crt --user pos-1 --password WORD --clients 8
                                                                      a store's gateway as its devices meet it; one account
                                                                      may have 8 connections and 1,000 messages a second
                                                                      there, unless its configuration says otherwise")]
struct Load {
    /// Address and port of the broker
    #[arg(long, value_name = "ADDR")]
    target: SocketAddr,
    /// Connect over TLS to a broker whose certificate is of this CA, PEM: a gateway's is DIR/pki/ca.crt
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name in the broker's certificate, if it is not the address
    #[arg(long, value_name = "NAME", requires = "ca")]
    server_name: Option<String>,
    /// The account of all clients. They are called USER.load-N then and write the topics of the device USER
    #[arg(long, value_name = "USER", requires = "password")]
    user: Option<String>,
    #[arg(long, value_name = "WORD", requires = "user")]
    password: Option<String>,
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=2000))]
    clients: u16,
    /// Publishes that each client keeps open
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    window: u16,
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Bytes of each payload
    #[arg(long, value_name = "N", default_value_t = 100)]
    payload: usize,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl TryFrom<Load> for load::Options {
    type Error = anyhow::Error;

    fn try_from(load: Load) -> anyhow::Result<load::Options> {
        let Load { target, ca, server_name, user, password, clients, window, seconds, payload, json } = load;
        let tls = ca.map(|ca| Tls::trusting(&ca, server_name.as_deref())).transpose()?;
        let login = user.zip(password).map(|(user, password)| Login { user, password });
        let door = Door { addr: target, tls, login };
        Ok(load::Options { door, clients, window, seconds, payload_bytes: payload.clamp(16, 4096), json })
    }
}

/// The main job on real input: three weeks of three stores, with the network cut and a gateway killed on the way
///
/// Starts a hub and three gateways as separate processes. The gateways join the hub by one-time codes, and between them
/// all is TLS. Connects scanners, POS terminals and tablets to them over
/// TCP and plays the traffic of the three busiest stores of 84.51°'s "Complete Journey" data (simulated, says its
/// publisher, on real shopping patterns). Meanwhile it cuts the network to the hub, goes on selling, kills a gateway
/// with SIGKILL, edits one price and one tasting note at two cut-off stores at once, and restores the network. Then it
/// stops all and reads the ledgers: what the devices had acknowledged must be there, and at HQ, exactly once, and every
/// stock figure must be the one that an independent oracle works out from the input.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0  everything held
  1  something was lost, applied twice or different, or a check failed: the lines under the table name it
  2  the command line is wrong
  3  the demo could not run (a node did not start, say): the message says what to do

Examples:
  firmware-sim demo                      the whole of it, about a minute and a half
  firmware-sim demo --quick --json       a few hundred lines in seconds, for scripts
  firmware-sim demo --stay               leaves hub and gateways running, and prints commands to try on them
  firmware-sim demo --seed 7 --keep /tmp/run7    another roll of the dice; ledgers and logs stay in /tmp/run7")]
struct Demo {
    /// How long the replay is paced to take
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// A few hundred lines in about ten seconds
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Everything left to chance is drawn from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The last line of output is one JSON object with the figures of the table
    #[arg(long)]
    json: bool,
    /// After the table start hub and gateways again, print commands to try, and run until Ctrl-C
    #[arg(long)]
    stay: bool,
    /// Put ledgers and logs there and leave them; the folder must be empty or not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Give one node a fault, which the demo must notice
    #[arg(long, value_name = "FAULT", hide = true)]
    sabotage: Option<Fault>,
}

impl From<Demo> for demo::Options {
    fn from(demo: Demo) -> demo::Options {
        demo::Options {
            pace: if demo.quick { demo::Pace::QUICK } else { demo::Pace::full(demo.seconds) },
            seed: demo.seed,
            json: demo.json,
            stay: demo.stay,
            keep: demo.keep,
            fault: demo.sabotage,
        }
    }
}

/// Kill a gateway and a hub at seeded random instants, cut and delay their uplink, and look for what was acknowledged
///
/// Starts both as processes and connects devices that publish all the time: requests with ids and bare barcodes at
/// QoS 1, and QoS 2. In each cycle the gateway, the hub or both are killed with SIGKILL, also in the middle of their
/// start. The figures come from the devices' logs and from the stopped ledgers, never from a node:
///
/// acked: publishes whose PUBACK (or PUBREC) a device saw; found: of those, how many are in the gateway's ledger and
/// in the hub's; lost: how many are missing in one of them; doubled: how many are there more than once.
///
/// A dead gateway's ledger is read from a copy as the run goes on, at every kill for the first 50 cycles and then ever
/// more seldom, so that a loss is told early; the end, after one more kill of both, reads everything and gives each
/// cycle its row.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0  everything held, or the peer's run came to its end
  1  something that was acknowledged is lost or doubled: the seed and the whole plan are printed
  2  the command line is wrong
  3  the run could not go on (a node did not start, say): the message says what to do

With --peer mosquitto the same plan is played to two mosquitto brokers with a bridge between
them, with the most durable settings of its manual: persistence, saving on every change, queues
without bound, persistent sessions. The devices then publish at QoS 1 with a unique id each, and
found, lost and doubled are told by a subscriber at HQ with a persistent QoS 1 session. QoS 1
allows doubles; losses of what was acknowledged it does not.

Examples:
  firmware-sim torture                            50 cycles, about a minute
  firmware-sim torture --cycles 1000 --seed 7     a longer plan; the same seed plays the same plan again
  firmware-sim torture --peer mosquitto --json    the rival's column
  firmware-sim torture --keep /tmp/run7           ledgers and logs stay in /tmp/run7")]
struct Torture {
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cycles: u32,
    /// Everything left to chance is drawn from this
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The last line of output is one JSON object: peer, seed, cycles, kills, acked, found, lost, doubled, …
    #[arg(long)]
    json: bool,
    /// A line for each cycle, with what befell it
    #[arg(long)]
    verbose: bool,
    /// Play the plan to somebody else's brokers
    #[arg(long, value_name = "PEER")]
    peer: Option<torture::Peer>,
    /// Put ledgers and logs there and leave them; the folder must be empty or not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Give one node a fault, which the run must notice
    #[arg(long, value_name = "FAULT", hide = true, conflicts_with = "peer")]
    sabotage: Option<Fault>,
}

impl From<Torture> for torture::Options {
    fn from(torture: Torture) -> torture::Options {
        let Torture { cycles, seed, json, verbose, peer, keep, sabotage } = torture;
        torture::Options { cycles, seed, json, verbose, peer, keep, fault: sabotage }
    }
}

/// Sell one pool of units online and in stores at once, while stores are cut off and one is killed, and count
///
/// Starts a hub and gateways as processes, with all units in a pool. Buyers of one unit each come online (HTTPS at the
/// hub: a decrement, or a reservation and its commit, under idempotency keys) and in stores (MQTT: a hold, then its
/// commit or a sale that hands it over, under request ids). Two requests in five are sent again over connections that
/// break. Early on two stores are cut off from the hub for a while and one is killed with SIGKILL and started again;
/// buyers come there all the time. At least half of the buyers come when all is whole again.
///
/// The figures come from what buyers were told and from the stopped ledgers, never from a node. promised: units that the
/// ledgers have promised; doubled: promises to a buyer who has one; missing: buyers who were told yes and are in no
/// ledger; left over: units that nobody got though buyers were refused; refused while units were free elsewhere: all that
/// the others had or might have by then was less than there is, so it was the rights that were at the wrong place.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0  every unit was promised, once, to a buyer who was told so; everybody else was refused
  1  something was oversold, doubled, missing or left over, or somebody got no clear answer
  2  the command line is wrong
  3  the run could not go on (a node did not start, say): the message says what to do

Examples:
  firmware-sim launch                                       1,000 units, 5,000 buyers, 200 at a time, 5 stores
  firmware-sim launch --units 100 --buyers 400 --at-once 40 a small one
  firmware-sim launch --seed 7 --keep /tmp/run7             another plan; ledgers and logs stay in /tmp/run7")]
struct Launch {
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    units: u64,
    /// Each wants one unit
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    buyers: u32,
    /// Buyers that are served at one moment; everywhere it is one at least
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=600))]
    at_once: u16,
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=20))]
    sites: u16,
    /// Everything left to chance is drawn from this
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The last line of output is one JSON object: units, promised, oversold, refused, doubled, …
    #[arg(long)]
    json: bool,
    /// Put ledgers and logs there and leave them; the folder must be empty or not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Give one node a fault, which the run must notice
    #[arg(long, value_name = "FAULT", hide = true)]
    sabotage: Option<Fault>,
}

impl From<Launch> for launch::Options {
    fn from(launch: Launch) -> launch::Options {
        let Launch { units, buyers, at_once, sites, seed, json, keep, sabotage: fault } = launch;
        let (buyers, at_once, sites) = (buyers as usize, usize::from(at_once), usize::from(sites));
        launch::Options { units, buyers, at_once, sites, seed, json, keep, fault }
    }
}

/// Measure how fast, how large and how soon: the tables that the README quotes, on this machine
///
/// Starts gateways, a hub and mosquitto itself, on loopback and in a temporary folder, and measures them in turn. The
/// load generator runs on the same machine. What is told:
///
/// rates: acknowledged QoS 1 publishes of 100 bytes per second with p50 and p99, ours beside mosquitto without saving
/// and with saving on every change (with one persistent subscriber, without which it would have nothing to save), our
/// bytes written to disk per record, and what write and fdatasync alone give on the same file system, with a file that
/// grows and with one that has its size. Brokers take
/// turns, medians count.
///
/// tls: memory of an idle connection, plain and over TLS, with a thousand of them; full TLS 1.3 handshakes per second up to
/// CONNACK; acknowledged publishes per second over TLS; all beside mosquitto with the same certificates, which
/// keeps what it acknowledges in memory.
///
/// backlog: memory with 100 idle devices; memory, disk and the start after SIGKILL with a million records that wait;
/// the disk once a hub has applied them all and the journal's bound is 16 MiB, before and after a restart.
///
/// hold: what a hold and its commit take at a till beside a plain durable publish, and a sale from a pool beside one off the
/// shelf.
///
/// retail: bytes written per record for real baskets.
///
/// catch-up: a store with a million sale lines gets its network back: when HQ shows how it is, when all is applied,
/// bytes on the wire, memory; the same for a quiet store whose sales are commits of their own, what single sales cost on
/// the wire, and a mosquitto bridge with the same sales.
///
/// latency: from a till in one store to a screen in another, through HQ, at 500 sales a second, beside mosquitto
/// brokers bridged through a third.
///
/// fleet: emulated stores (the gateway's own sync over a socket each, journals in memory) and a real hub: records a
/// second, processor time and memory as stores and keys grow, and 500 stores that come back at once.
///
/// sync: catch-up, latency and fleet.
#[derive(Debug, Args)]
#[command(after_help = "\
Run a release build on a quiet machine; TMPDIR names the disk to measure (a tmpfs would flatter).

Examples:
  firmware-sim bench                          everything, some minutes
  firmware-sim bench rates --rounds 5         one table, more rounds
  firmware-sim bench tls --rounds 5           what encryption costs, beside mosquitto
  firmware-sim bench backlog --records 200000 a smaller backlog
  firmware-sim bench sync --json              how sync does, for programs as well")]
struct Bench {
    #[arg(value_name = "SECTION", default_value = "all")]
    section: bench::Section,
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Of each measurement of a rate
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Of the latency
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    latency_seconds: u64,
    /// Of the backlog, at least, and of catching up
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    records: u64,
    /// The last line of output is one JSON object with everything that was measured
    #[arg(long)]
    json: bool,
    /// Measure there and leave ledgers and logs; the folder must be empty or not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl From<Bench> for bench::Options {
    fn from(bench: Bench) -> bench::Options {
        let Bench { section, rounds, seconds, latency_seconds, records, json, keep } = bench;
        bench::Options { section, rounds, seconds, latency_seconds, records, json, keep }
    }
}

pub fn main(args: Vec<OsString>) -> ExitCode {
    let outcome = match Cli::parse_from(args).command {
        Command::Demo(demo) => demo::main(demo.into()),
        Command::Torture(torture) => torture::main(torture.into()),
        Command::Launch(launch) => launch::main(launch.into()),
        Command::Load(load) => load.try_into().and_then(|options| load::main(&options)).map(|()| true),
        Command::Bench(bench) => bench::main(bench.into()).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("firmware-sim: {error:#}");
            ExitCode::from(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_hides_its_sabotage() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        assert!(Cli::try_parse_from(["firmware-sim", "launch", "--sites", "2"]).is_err());
        for name in ["demo", "torture", "launch"] {
            let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(help.contains("Exit codes") && help.contains("--keep") && !help.contains("sabotage"), "{name}");
            assert!(Cli::try_parse_from(["firmware-sim", name, "--sabotage", "ack-early"]).is_ok());
        }
        assert!(Cli::try_parse_from(["firmware-sim", "torture", "--peer", "mosquitto"]).is_ok());
        assert!(Cli::try_parse_from(["firmware-sim", "torture", "--cycles", "0"]).is_err());
        assert!(Cli::try_parse_from(["firmware-sim", "demo", "--quick", "--seconds", "9"]).is_err());
    }
}
