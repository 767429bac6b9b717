//! The processes that the tests start: hub, gateway or simulator, as their own binaries would run them. In one
//! binary of this crate, since cargo tells a test only where its own crate's binaries are.

use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = "usage: tillsync-node hub|gateway|sim ARGS…";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The demo starts its nodes by re-executing the binary it runs in.
    if let Some(code) = firmware_sim::nodes::run_if_node(&args) {
        return code;
    }
    let role = args.get(1).and_then(|role| role.to_str()).unwrap_or_default();
    let named = |name: &str| std::iter::once(name.into()).chain(args.iter().skip(2).cloned()).collect();
    match role {
        "hub" => broker::cli::main(named("tillsync-broker"), None),
        "gateway" => gateway::cli::main(named("tillsync-gateway"), None),
        "sim" => firmware_sim::cli::main(named("firmware-sim")),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
