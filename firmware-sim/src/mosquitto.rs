//! mosquitto as a process, for holding ours beside it: found where Debian puts it, started with a configuration of
//! ours on a loopback port, killed, restarted.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::nodes;

const READY_WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Debian puts it where a plain user's PATH does not look.
const ELSEWHERE: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Saves at once whenever something changed: the most that the manual offers. Queues have no bound.
pub const SAVES: &str = "\
persistence true
autosave_interval 1
autosave_on_changes true
max_queued_messages 0
";
pub const SAVES_NOT: &str = "persistence false\nmax_queued_messages 0\n";

/// Where the program is.
pub fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(ELSEWHERE.map(PathBuf::from));
    let found = places.map(|place| place.join("mosquitto")).find(|program| program.is_file());
    found.context("mosquitto is not installed: apt install mosquitto brings it (its service is not needed)")
}

/// "2.0.11", say.
pub async fn version() -> Result<String> {
    let said = Command::new(find()?).arg("-h").output().await.context("asking mosquitto for its version")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = text.lines().next().and_then(|line| line.strip_prefix("mosquitto version "));
    Ok(version.unwrap_or("of an unknown version").to_owned())
}

/// A running broker. Dropping it kills the process.
#[derive(Debug)]
pub struct Broker {
    program: PathBuf,
    name: String,
    /// Its folder; configuration and log lie beside it.
    dir: PathBuf,
    addr: SocketAddr,
    child: Child,
}

impl Broker {
    /// `config` is what its configuration says beyond listener and folder.
    pub async fn start(dir: PathBuf, name: &str, config: &str) -> Result<Broker> {
        let program = find()?;
        let addr = free_port()?;
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.with_file_name(format!("{name}.conf"));
        // Started as root it would become a user who may not write here.
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\nlog_type error\n\
             log_type warning\npersistence_location {}/\n{config}",
            addr.port(),
            dir.display()
        );
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let child = spawn(&program, &dir, name)?;
        let mut broker = Broker { program, name: name.to_owned(), dir, addr, child };
        broker.ready().await?;
        Ok(broker)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    pub async fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.program, &self.dir, &self.name)?;
        self.ready().await
    }

    /// Starts a killed broker and kills it so long after.
    pub async fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        self.child = spawn(&self.program, &self.dir, &self.name)?;
        sleep(after).await;
        self.kill().await
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WAIT;
        while TcpStream::connect(self.addr).await.is_err() {
            let ended = self.child.try_wait().with_context(|| format!("looking after {}", self.name))?;
            if ended.is_some() || Instant::now() >= deadline {
                let end = nodes::tail(&log_path(&self.dir, &self.name));
                bail!("{} does not listen on {}; the end of its log:\n{end}", self.name, self.addr);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn spawn(program: &Path, dir: &Path, name: &str) -> Result<Child> {
    let log = log_path(dir, name);
    let stderr = File::options().create(true).append(true).open(&log);
    let stderr = stderr.with_context(|| format!("opening {}", log.display()))?;
    Command::new(program)
        .arg("-c")
        .arg(dir.with_file_name(format!("{name}.conf")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

fn log_path(dir: &Path, name: &str) -> PathBuf {
    dir.with_file_name(format!("{name}.log"))
}

fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}
