//! What every node process needs around its core: settings, the admin socket, logging, signals.

pub mod admin;
mod answers;
mod audit;
pub mod beside;
pub mod caps;
pub mod commands;
pub mod disk;
pub mod doctor;
pub mod host;
pub mod listen;
pub mod metrics;
pub mod note;
pub mod pem;
pub mod process;
pub mod rejects;
pub mod settings;
pub mod show;
pub mod span;
pub mod whole_file;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::ledger::LedgerError;

/// Exit code for a configuration that must be changed before it can work (EX_CONFIG of sysexits).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code for a ledger or socket that failed (EX_IOERR).
pub const EXIT_IO: u8 = 74;

/// Logs go to stderr, so that stdout stays for answers. `RUST_LOG` filters.
pub fn start_logging(default: &str) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let done = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
    // A second node in one process (tests) keeps the first one's subscriber.
    drop(done);
}

/// Tells whoever started the node where it listens; with port 0 this is the only way to learn it.
pub fn announce(listening: SocketAddr) {
    let mut out = std::io::stdout();
    // A closed stdout is no reason to stop.
    let _ = writeln!(out, "listening {listening}").and_then(|()| out.flush());
}

/// The same for `/metrics`.
pub fn announce_metrics(serving: SocketAddr) {
    tracing::info!("metrics at http://{serving}/metrics");
    announce_line(&format!("metrics {serving}"));
}

/// Says one thing more to whoever started the node.
pub fn announce_line(line: &str) {
    let mut out = std::io::stdout();
    // A closed stdout is no reason to stop.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Resolves at SIGTERM or SIGINT.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// The one place that prints an error and chooses the exit code.
pub fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    let config = error.downcast_ref::<settings::Faults>().is_some()
        || matches!(
            error.downcast_ref::<LedgerError>(),
            Some(
                LedgerError::OtherSite { .. }
                    | LedgerError::Format(_)
                    | LedgerError::OpenedEmpty(_)
                    | LedgerError::Stranger { .. }
            )
        );
    ExitCode::from(if config { EXIT_CONFIG } else { EXIT_IO })
}

/// As [`exit`], for the one command that also finds faults in data.
pub fn doctor_exit(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(false) => ExitCode::from(doctor::EXIT_DATA),
        other => exit(other.map(drop)),
    }
}

/// What the box's clock shows, milliseconds since 1970; 0 before that, when it is not set at all.
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// 64 random bits from the operating system: epochs, session nonces, jitter.
pub fn random() -> std::io::Result<u64> {
    getrandom::u64().map_err(std::io::Error::from)
}
