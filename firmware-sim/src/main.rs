//! `firmware-sim`: the demo, and, started by it in a hidden role, its hub and gateways.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match firmware_sim::nodes::run_if_node(&args) {
        Some(code) => code,
        None => firmware_sim::cli::main(args),
    }
}
