//! What the command lines of all nodes have in common.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};

use super::EXIT_CONFIG;
use super::settings::Settings;

/// Flags that stand in for keys of the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeFlags {
    /// A TOML file; the `config` command prints one to start from.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder of the ledger; made if it does not exist.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one and prints it.
    #[arg(long)]
    pub listen: Option<String>,
    /// Serve Prometheus metrics at this address and port, on loopback; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// Serve without credentials; on loopback only.
    #[arg(long)]
    pub open: bool,
}

impl NodeFlags {
    pub fn apply(&self, settings: &mut Settings) {
        settings.flag("data", self.data.as_ref().map(|dir| dir.to_string_lossy().into_owned()));
        settings.flag("listen", self.listen.clone());
        settings.flag("metrics", self.metrics.clone());
        settings.flag("open", self.open.then_some(true));
    }
}

/// Which running node to ask, and how to print.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The running node's data folder.
    #[arg(long)]
    pub data: PathBuf,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads the command line; on a fault or `--help` the exit code, after printing.
pub fn parse<P: Parser>(args: Vec<OsString>) -> Result<P, ExitCode> {
    P::try_parse_from(args).map_err(|error| {
        let code = if error.use_stderr() { EXIT_CONFIG } else { 0 };
        // Nothing is left to say if the terminal is gone.
        let _ = error.print();
        ExitCode::from(code)
    })
}
