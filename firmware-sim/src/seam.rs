//! The one place that names `broker` and `gateway`: how a node is run in this process, how its stopped ledger is
//! read, and how an emulated store speaks to a hub. Everything else here deals with processes, sockets and bytes.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use broker::ledger::Sabotage;
use proto::chunk::Chunk;

/// The gateway's side of the sync protocol, for the bench's emulated stores: what a hub of hundreds of them would hear.
pub mod sync {
    pub use gateway::sync::{Chain, Cursors, Heard, PresentAsk, Session};
}

/// Which node a child process of ours is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Hub,
    Gateway,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Hub => "hub",
            Role::Gateway => "gateway",
        }
    }
}

/// A fault that a node is told to have, so that a test can show that the demo notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    DropRecord,
    ApplyTwice,
    AckEarly,
}

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::DropRecord => "drop-record",
            Fault::ApplyTwice => "apply-twice",
            Fault::AckEarly => "ack-early",
        }
    }
}

impl From<Fault> for Sabotage {
    fn from(fault: Fault) -> Sabotage {
        match fault {
            Fault::DropRecord => Sabotage::DropRecord,
            Fault::ApplyTwice => Sabotage::ApplyTwice,
            Fault::AckEarly => Sabotage::AckEarly,
        }
    }
}

/// Runs a node to its end with the command line that its own binary would get.
pub fn run_node(role: Role, args: Vec<OsString>, fault: Option<Fault>) -> ExitCode {
    match role {
        Role::Hub => broker::cli::main(args, fault.map(Into::into)),
        Role::Gateway => gateway::cli::main(args, fault.map(Into::into)),
    }
}

/// Visits every chunk of a stopped node's journal in order.
pub fn read_stopped(dir: &Path, each: &mut dyn FnMut(&Chunk)) -> Result<()> {
    Ok(broker::ledger::read_stopped(dir, each)?)
}
