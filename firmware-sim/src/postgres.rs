//! PostgreSQL as a process, for holding ours beside it: a private cluster on a loopback port as a plain user, and `pgbench`
//! as its client.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::nodes;

/// Where Debian puts it.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The account that Debian makes for it: it refuses to run as root.
const USER: &str = "postgres";
const READY_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const STOP_WAIT: Duration = Duration::from_secs(10);

/// A running server, as installed: durable. Dropping it kills the process.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    addr: SocketAddr,
    child: Child,
}

/// What `pgbench` found.
#[derive(Debug, Clone)]
pub struct Run {
    pub transactions: u64,
    pub per_s: f64,
    /// Of each transaction, microseconds, in order.
    pub took_us: Vec<u32>,
}

fn program(name: &str) -> Result<PathBuf> {
    let path = Path::new(PROGRAMS).join(name);
    ensure!(path.is_file(), "{} is not there: apt install postgresql-15 brings it", path.display());
    Ok(path)
}

/// The program as a user that it agrees to run as.
fn command(name: &str) -> Result<Command> {
    let program = program(name)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program);
    Ok(command)
}

async fn done(mut command: Command, doing: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| doing.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{doing}: {}", said.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Postgres {
    pub async fn start() -> Result<Postgres> {
        program("postgres")?;
        let dir = tempfile::Builder::new().prefix("tillsync-postgres-").tempdir().context("making a folder")?;
        if rustix::process::geteuid().is_root() {
            let mut chown = Command::new("chown");
            chown.arg(USER).arg(dir.path());
            done(chown, "giving the folder to postgres").await?;
        }
        let data = dir.path().join("data");
        let mut init = command("initdb")?;
        init.current_dir("/").args(["--auth", "trust", "--username", "bench", "--encoding", "UTF8", "-D"]).arg(&data);
        done(init, "making a cluster").await?;
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).context("finding a port")?;
        let log = File::create(dir.path().join("server.log")).context("making its log")?;
        let mut server = command("postgres")?;
        server.current_dir("/").arg("-D").arg(&data).args(["-p", &addr.port().to_string()]);
        let sockets = format!("unix_socket_directories={}", dir.path().display());
        server.args(["-c", "listen_addresses=127.0.0.1", "-c", &sockets]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = server.spawn().context("starting postgres")?;
        let mut postgres = Postgres { dir, addr, child };
        postgres.ready().await?;
        Ok(postgres)
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            if self.sql("SELECT 1").await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("waiting for postgres")? {
                bail!("postgres ended with {status}: {}", nodes::tail(&self.dir.path().join("server.log")));
            }
            ensure!(Instant::now() < deadline, "postgres is not ready after {} s", READY_WAIT.as_secs());
            sleep(LOOK_EVERY).await;
        }
    }

    /// "15.13", say.
    pub async fn version(&self) -> Result<String> {
        self.sql("SHOW server_version").await
    }

    /// What a statement says, without headings.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        let mut psql = Command::new("psql");
        psql.args(self.place()).args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, "postgres"]);
        Ok(done(psql, "asking postgres").await?.trim().to_owned())
    }

    fn place(&self) -> [String; 6] {
        let port = self.addr.port().to_string();
        ["-h".into(), "127.0.0.1".into(), "-p".into(), port, "-U".into(), "bench".into()]
    }

    /// Runs one statement as often as it goes, prepared once, on so many connections.
    pub async fn load(&self, statement: &str, connections: u16, seconds: u64) -> Result<Run> {
        let logs = tempfile::tempdir().context("making a folder")?;
        let script = logs.path().join("script.sql");
        std::fs::write(&script, format!("{statement}\n")).context("writing pgbench's script")?;
        let mut pgbench = Command::new(program("pgbench")?);
        pgbench.args(self.place()).args(["-n", "-M", "prepared", "-j", "2", "-l"]);
        pgbench.args(["-c", &connections.to_string(), "-T", &seconds.to_string(), "-f"]).arg(&script);
        pgbench.current_dir(logs.path()).arg("postgres");
        let said = done(pgbench, "running pgbench").await?;
        let number = |before: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(before))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        let per_s = number("tps = ").with_context(|| format!("pgbench says no rate: {said}"))?;
        let processed = number("number of transactions actually processed: ").context("pgbench says no number")?;
        Ok(Run { transactions: processed as u64, per_s, took_us: latencies(logs.path())? })
    }

    /// As on a plain stop of the server: nobody is waited for.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.context("postgres is gone already")?;
        rustix::process::kill_process(pid, rustix::process::Signal::INT).context("stopping postgres")?;
        timeout(STOP_WAIT, self.child.wait()).await.context("waiting for postgres to stop")??;
        Ok(())
    }
}

/// pgbench logs a line for each transaction, the microseconds in its third column.
fn latencies(dir: &Path) -> Result<Vec<u32>> {
    let mut took = Vec::new();
    for entry in std::fs::read_dir(dir).context("reading pgbench's logs")? {
        let path = entry.context("reading pgbench's logs")?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgbench_log")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        took.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u32>().ok()));
    }
    took.sort_unstable();
    Ok(took)
}
