//! Hubs and gateways as processes, on free ports and temporary folders.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use broker::identity::{self, Account, Book, Kind};
use firmware_sim::seam::Fault;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::wait::{PATIENCE, until};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tillsync-node");
/// A killed node's port may be held for a moment by a connection that passes through.
const START_TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(100);
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
const LOG_TAIL_BYTES: usize = 6_000;

/// How a node is started: what comes before `run`'s own flags, and they.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    role: &'static str,
    flags: Vec<String>,
    config: Option<String>,
    fault: Option<Fault>,
    /// A program that runs the node, such as strace with its flags.
    under: Vec<String>,
    /// Another version's.
    binary: Option<PathBuf>,
    listen: SocketAddr,
}

impl Spec {
    /// `dir` is where all nodes of a test live; each gets a folder by its name there.
    pub(crate) fn hub(dir: &Path) -> Spec {
        Spec::new("hub", "hub", dir)
    }

    pub(crate) fn gateway(dir: &Path, site: &str, hub: Option<SocketAddr>) -> Spec {
        let mut spec = Spec::new("gateway", site, dir);
        spec.flags.extend(["--site".into(), site.into()]);
        // A hub that comes back is noticed at once, so that the tests are quick.
        spec = spec.config("reconnect_max_ms = 200\n");
        if let Some(hub) = hub { spec.hub_at(hub) } else { spec }
    }

    pub(crate) fn hub_at(mut self, hub: SocketAddr) -> Spec {
        self.flags.extend(["--hub".into(), hub.to_string()]);
        self
    }

    /// A box that may have joined: it knows its site and its hub by itself.
    pub(crate) fn box_of(dir: &Path, name: &str) -> Spec {
        Spec::new("gateway", name, dir).config("reconnect_max_ms = 200\n")
    }

    pub(crate) fn site(mut self, site: &str) -> Spec {
        self.flags.extend(["--site".into(), site.into()]);
        self
    }

    /// Listens there instead of on a free port of 127.0.0.1.
    pub(crate) fn listen_at(mut self, listen: SocketAddr) -> Spec {
        self.listen = listen;
        self
    }

    fn new(role: &'static str, name: &str, dir: &Path) -> Spec {
        let (name, dir) = (name.to_owned(), dir.join(name));
        Spec {
            name,
            dir,
            role,
            flags: vec!["--open".into()],
            config: None,
            fault: None,
            under: Vec::new(),
            binary: None,
            listen: ANY_PORT,
        }
    }

    /// Adds to its configuration file.
    pub(crate) fn config(mut self, toml: &str) -> Spec {
        self.config.get_or_insert_default().push_str(toml);
        self
    }

    pub(crate) fn replace_config(mut self, toml: &str) -> Spec {
        self.config = Some(toml.to_owned());
        self
    }

    /// Only those that have an account may connect.
    pub(crate) fn closed(mut self) -> Spec {
        self.flags.retain(|flag| flag != "--open");
        self
    }

    /// Lets somebody in, with a password of the test's own. The node is not running yet.
    pub(crate) fn account(self, name: &str, kind: Kind, password: &str) -> Spec {
        let account = Account {
            name: name.into(),
            kind,
            password: Some(identity::hash(password).expect("hash a password")),
            keys: vec![],
            disabled: false,
            since_ms: 1,
            changed_ms: 1,
        };
        std::fs::create_dir_all(&self.dir).expect("make the node's folder");
        Book::edit(&self.dir, |book| book.put(account)).expect("write the accounts");
        self
    }

    /// Gives it a fault that a test must notice.
    pub(crate) fn sabotage(mut self, fault: Fault) -> Spec {
        self.fault = Some(fault);
        self
    }

    pub(crate) fn under(mut self, program: &[&str]) -> Spec {
        self.under = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs another version of the node.
    pub(crate) fn binary(mut self, path: &Path) -> Spec {
        self.binary = Some(path.to_owned());
        self
    }

    pub(crate) async fn start(self) -> Node {
        let (child, addr) = self.launch(self.listen).await.unwrap_or_else(|why| self.failed(&why));
        Node { spec: self, addr, child }
    }

    /// As `start`; if it does not come up, why not and what it logged.
    pub(crate) async fn try_start(self) -> Result<Node, String> {
        match self.launch(self.listen).await {
            Ok((child, addr)) => Ok(Node { spec: self, addr, child }),
            Err(why) => Err(format!("{why}\n{}", tail(&self.log()))),
        }
    }

    fn failed(&self, why: &str) -> ! {
        panic!("{} did not start: {why}\n{}", self.name, tail(&self.log()))
    }

    fn log(&self) -> PathBuf {
        self.dir.with_file_name(format!("{}.log", self.name))
    }

    fn spawn(&self, listen: SocketAddr) -> (Child, Lines<BufReader<ChildStdout>>) {
        // Its own folder is for the node to make.
        std::fs::create_dir_all(self.dir.parent().expect("a folder of all nodes")).expect("make the nodes' folder");
        let log = File::options().create(true).append(true).open(self.log()).expect("open the node's log");
        let mut words = self.under.clone();
        let binary = self.binary.as_deref().map_or(BINARY.to_owned(), path);
        match self.fault {
            None => words.extend([&binary, self.role, "run"].map(str::to_owned)),
            // As the demo starts its nodes: only there the switch exists.
            Some(fault) => {
                words.extend([BINARY, "node", self.role, "--sabotage", fault.as_str(), "run"].map(str::to_owned));
            }
        }
        if let Some(toml) = &self.config {
            let file = self.dir.with_file_name(format!("{}.toml", self.name));
            std::fs::write(&file, toml).expect("write the node's configuration");
            words.extend(["--config".into(), path(&file)]);
        }
        words.extend(self.flags.iter().cloned());
        words.extend(["--data".into(), path(&self.dir), "--listen".into(), listen.to_string()]);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start the node");
        let stdout = child.stdout.take().expect("the node's stdout");
        (child, BufReader::new(stdout).lines())
    }

    async fn launch(&self, listen: SocketAddr) -> Result<(Child, SocketAddr), String> {
        let (child, mut lines) = self.spawn(listen);
        let line = timeout(PATIENCE, lines.next_line()).await.map_err(|_| "it does not say that it listens")?;
        let line = line.map_err(|e| e.to_string())?.ok_or("it ended before it listened")?;
        let addr = line.strip_prefix("listening ").and_then(|addr| addr.parse().ok());
        Ok((child, addr.ok_or(format!("its first line is {line:?}"))?))
    }
}

/// A running node. Dropping it kills the process; if the test has failed, its log is shown.
#[derive(Debug)]
pub(crate) struct Node {
    spec: Spec,
    pub(crate) addr: SocketAddr,
    child: Child,
}

impl Node {
    pub(crate) fn dir(&self) -> &Path {
        &self.spec.dir
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the node runs")
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the node ends").expect("wait for the node")
    }

    /// From here on it is started in this version.
    pub(crate) fn is_ours(&mut self) {
        self.spec.binary = None;
    }

    /// From here on it is started without the program that ran it.
    pub(crate) fn by_itself(&mut self) {
        self.spec.under.clear();
    }

    /// SIGKILL, and gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("kill the node");
    }

    /// Starts it again on its port and folder.
    pub(crate) async fn restart(&mut self) {
        for tried in 1.. {
            match self.spec.launch(self.addr).await {
                Ok((child, _)) => return self.child = child,
                Err(why) if tried == START_TRIES => self.spec.failed(&why),
                Err(_) => sleep(TRY_AGAIN).await,
            }
        }
    }

    /// As `restart`, in another folder that is there already.
    pub(crate) async fn restart_in(&mut self, dir: &Path) {
        self.spec.dir = dir.to_owned();
        self.restart().await;
    }

    /// Starts it and kills it after `life`, wherever its start has come to by then.
    pub(crate) async fn start_and_kill(&mut self, life: Duration) {
        let (mut child, _stdout) = self.spec.spawn(self.addr);
        sleep(life).await;
        child.kill().await.expect("kill the node");
    }

    /// SIGTERM.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let id = self.child.id().and_then(|id| Pid::from_raw(id as i32)).expect("the node runs");
        kill_process(id, Signal::TERM).expect("send SIGTERM");
        timeout(PATIENCE, self.child.wait()).await.expect("the node ends after SIGTERM").expect("wait for the node")
    }

    /// SIGTERM, and a clean exit; its ledger can be read then.
    pub(crate) async fn stop(&mut self) {
        let status = self.end().await;
        assert!(status.success(), "{} stopped with {status}", self.spec.name);
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.spec.log()).unwrap_or_default()
    }

    pub(crate) async fn status(&self) -> Value {
        self.status_in(&self.spec.dir).await
    }

    /// As `status`, if its folder is to be found elsewhere from here.
    pub(crate) async fn status_in(&self, dir: &Path) -> Value {
        until("the node answers on its admin socket", async || ask_status(dir).await.map_err(|e| e.to_string())).await
    }

    /// Waits until the status is as `good` wants it.
    pub(crate) async fn until_status(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        until(what, async || {
            let status = self.status().await;
            if good(&status) { Ok(status) } else { Err(status.to_string()) }
        })
        .await
    }

    /// For a gateway: waits until HQ has applied all that its ledger holds.
    pub(crate) async fn until_applied(&self) {
        self.until_status("HQ has applied everything", |status| {
            let (last, applied) = (&status["ledger"]["last_seq"], &status["uplink"]["applied_seq"]);
            status["uplink"]["connected"] == true && last == applied
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log\n{}", self.spec.name, tail(&self.spec.log()));
        }
    }
}

async fn ask_status(dir: &Path) -> std::io::Result<Value> {
    let mut socket = UnixStream::connect(dir.join("admin.sock")).await?;
    socket.write_all(b"status\n").await?;
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await??;
    Ok(serde_json::from_str(&answer)?)
}

pub(crate) fn path(path: &Path) -> String {
    path.to_str().expect("a temporary folder's name is text").to_owned()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_TAIL_BYTES);
    text[(from..).start.min(text.len())..].to_owned()
}
