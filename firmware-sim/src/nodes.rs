//! Hub and gateways as processes: this binary again, in its hidden `node` role. Started, stopped, killed, restarted.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::seam::{self, Fault, Role};

/// From start to the ready line; recovery of a killed ledger is in it.
const READY_WAIT: Duration = Duration::from_secs(30);
/// From SIGTERM to exit.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Of a command beside the nodes.
const COMMAND_WAIT: Duration = Duration::from_secs(30);
const RESTART_TRIES: u32 = 5;
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// How much of a dead node's log its error shows.
const LOG_TAIL_BYTES: u64 = 1_500;

/// The first argument of a child process of ours.
pub const NODE: &str = "node";
const FAULT_FLAG: &str = "--sabotage";

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Spec {
    pub role: Role,
    /// Name of the node and of its log; a gateway's site.
    pub name: String,
    pub dir: PathBuf,
    /// For a gateway, where its uplink goes.
    pub hub: Option<SocketAddr>,
    pub fault: Option<Fault>,
    /// Serves anybody.
    pub open: bool,
    /// Lines of its configuration file; flags win over them.
    pub config: String,
}

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    spec: Spec,
    addr: SocketAddr,
    child: Child,
}

impl Node {
    pub async fn start(spec: Spec) -> Result<Node> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, addr) = launch(&spec, any).await?;
        Ok(Node { spec, addr, child })
    }

    /// Starts it on the port it had, which others know.
    pub async fn start_at(spec: Spec, addr: SocketAddr) -> Result<Node> {
        let child = relaunch(&spec, addr).await?;
        Ok(Node { spec, addr, child })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn dir(&self) -> &Path {
        &self.spec.dir
    }

    /// `None` between a kill and the next start.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL: the process gets no chance to write anything more.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.spec.name))
    }

    /// Starts it again on its old port and folder.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = relaunch(&self.spec, self.addr).await?;
        Ok(())
    }

    /// Starts a killed node and kills it so long after, wherever in its start that is.
    pub async fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        self.child = spawn(&self.spec, self.addr)?;
        tokio::time::sleep(after).await;
        self.kill().await
    }

    /// SIGTERM, and an exit with success before the deadline.
    pub async fn stop(mut self) -> Result<()> {
        let name = self.spec.name.clone();
        let pid = self.child.id().with_context(|| format!("{name} is not running: see {}", self.log().display()))?;
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .with_context(|| format!("stopping {name}"))?;
        let Ok(ended) = timeout(STOP_WAIT, self.child.wait()).await else {
            let log = self.log();
            self.child.kill().await.with_context(|| format!("killing {name}"))?;
            bail!("{name} did not stop within {} s of SIGTERM; its log is {}", STOP_WAIT.as_secs(), log.display());
        };
        let status = ended.with_context(|| format!("waiting for {name}"))?;
        if !status.success() {
            bail!("{name} stopped with {status}; the end of its log:\n{}", tail(&self.log()));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        log_path(&self.spec)
    }
}

/// What `main` does when it was started as a node: `None` if it was not.
pub fn run_if_node(args: &[OsString]) -> Option<ExitCode> {
    if args.get(1)? != NODE {
        return None;
    }
    let role = match args.get(2).and_then(|role| role.to_str()) {
        Some("hub") => Role::Hub,
        Some("gateway") => Role::Gateway,
        _ => return Some(usage()),
    };
    let mut rest = &args[3..];
    let mut fault = None;
    if rest.first().is_some_and(|flag| flag == FAULT_FLAG) {
        let named = rest.get(1).and_then(|name| name.to_str()).unwrap_or_default();
        match <Fault as clap::ValueEnum>::from_str(named, false) {
            Ok(known) => fault = Some(known),
            Err(_) => return Some(usage()),
        }
        rest = &rest[2..];
    }
    let program = OsString::from(match role {
        Role::Hub => "tillsync-broker",
        Role::Gateway => "tillsync-gateway",
    });
    Some(seam::run_node(role, std::iter::once(program).chain(rest.iter().cloned()).collect(), fault))
}

/// Runs one command of a node's command line to its end, and gives what it printed.
pub async fn command(role: Role, words: &[&str]) -> Result<String> {
    let program = std::env::current_exe().context("finding this program")?;
    let run =
        Command::new(program).arg(NODE).arg(role.as_str()).args(words).stdin(Stdio::null()).kill_on_drop(true).output();
    let done =
        timeout(COMMAND_WAIT, run).await.with_context(|| format!("{} {words:?} takes too long", role.as_str()))?;
    let done = done.with_context(|| format!("running {} {words:?}", role.as_str()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} {} ended with {}: {}", role.as_str(), words.first().unwrap_or(&""), done.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn usage() -> ExitCode {
    eprintln!("usage: firmware-sim node hub|gateway [--sabotage drop-record|apply-twice|ack-early] ARGS…");
    ExitCode::from(2)
}

/// A passing connection may hold the old port for a moment: so more than one try.
async fn relaunch(spec: &Spec, addr: SocketAddr) -> Result<Child> {
    let mut tries = 1;
    loop {
        match launch(spec, addr).await {
            Ok((child, _)) => return Ok(child),
            Err(error) if tries >= RESTART_TRIES => return Err(error.context("starting again on the old port")),
            Err(_) => tokio::time::sleep(RESTART_PAUSE).await,
        }
        tries += 1;
    }
}

async fn launch(spec: &Spec, listen: SocketAddr) -> Result<(Child, SocketAddr)> {
    let mut child = spawn(spec, listen)?;
    let stdout = child.stdout.take().context("the node's stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let addr = match ready(&mut lines).await {
        Ok(addr) => addr,
        Err(error) => {
            // It is of no use any more, whether it still runs or not.
            let _ = child.kill().await;
            let end = tail(&log_path(spec));
            bail!("{} did not start: {error:#}\nThe end of its log (--keep DIR keeps all of it):\n{end}", spec.name);
        }
    };
    tokio::spawn(drain(lines));
    Ok((child, addr))
}

fn spawn(spec: &Spec, listen: SocketAddr) -> Result<Child> {
    std::fs::create_dir_all(&spec.dir).with_context(|| format!("making {}", spec.dir.display()))?;
    let log = log_path(spec);
    let stderr = File::options().create(true).append(true).open(&log);
    let stderr = stderr.with_context(|| format!("opening {}", log.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    if !spec.config.is_empty() {
        let path = config_path(spec);
        std::fs::write(&path, &spec.config).with_context(|| format!("writing {}", path.display()))?;
    }
    Command::new(program)
        .args(arguments(spec, listen))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        // A Ctrl-C at the terminal is for the demo, which then stops its nodes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", spec.name))
}

fn arguments(spec: &Spec, listen: SocketAddr) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![NODE.into(), spec.role.as_str().into()];
    if let Some(fault) = spec.fault {
        args.extend([FAULT_FLAG.into(), fault.as_str().into()]);
    }
    args.push("run".into());
    if spec.open {
        args.push("--open".into());
    }
    args.extend(["--data".into(), spec.dir.clone().into_os_string()]);
    if !spec.config.is_empty() {
        args.extend(["--config".into(), config_path(spec).into_os_string()]);
    }
    if spec.role == Role::Gateway {
        args.extend(["--site".into(), spec.name.clone().into()]);
    }
    args.extend(["--listen".into(), listen.to_string().into()]);
    if let Some(hub) = spec.hub {
        args.extend(["--hub".into(), hub.to_string().into()]);
    }
    args
}

/// The address of the ready line.
async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<SocketAddr> {
    let deadline = Instant::now() + READY_WAIT;
    while let Ok(line) = timeout_at(deadline, lines.next_line()).await {
        let line = line.context("reading its stdout")?.context("it ended before it listened")?;
        if let Some(addr) = line.trim().strip_prefix("listening ") {
            return addr.parse().with_context(|| format!("reading its ready line {line:?}"));
        }
    }
    bail!("it did not say that it listens within {} s", READY_WAIT.as_secs())
}

/// Reads on, so that a node that prints more never waits for a full pipe.
async fn drain(lines: Lines<BufReader<ChildStdout>>) {
    let mut stdout = lines.into_inner();
    let mut scrap = [0; 1024];
    while let Ok(1..) = stdout.read(&mut scrap).await {}
}

fn log_path(spec: &Spec) -> PathBuf {
    spec.dir.with_file_name(format!("{}.log", spec.name))
}

fn config_path(spec: &Spec) -> PathBuf {
    spec.dir.with_file_name(format!("{}.toml", spec.name))
}

pub(crate) fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.is_empty() => "(it is empty)".into(),
        Ok(text) => text.trim_end().to_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_the_command_line_of_its_own_binary() {
        let spec = Spec {
            role: Role::Gateway,
            name: "harbour".into(),
            dir: "/d/harbour".into(),
            hub: Some(([127, 0, 0, 1], 1884).into()),
            fault: Some(Fault::AckEarly),
            open: true,
            config: String::new(),
        };
        let words: Vec<_> = arguments(&spec, ([127, 0, 0, 1], 0).into());
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = "node gateway --sabotage ack-early run --open --data /d/harbour --site harbour --listen 127.0.0.1:0 \
                    --hub 127.0.0.1:1884";
        assert_eq!(words.join(" "), line);
    }

    #[test]
    fn other_command_lines_are_not_a_node() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(run_if_node(&args("firmware-sim")).is_none());
        assert!(run_if_node(&args("firmware-sim demo --quick")).is_none());
        assert!(run_if_node(&args("firmware-sim node teapot")).is_some());
    }
}
