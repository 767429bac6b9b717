//! A gateway and a hub of ours under torture. Their ledgers are read from copies, so that reading changes nothing of
//! what is tortured: opening a ledger recovers it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::count::Held;
use super::crew::Ack;
use super::pair::Pair;
use crate::nodes::{Node, Spec};
use crate::proxy::Proxy;
use crate::seam::{Fault, Role};
use crate::status;

const SITE: &str = "harbour";
const HUB: &str = "hub";
/// A hub that comes back is noticed at once: the plan's moments are tenths of a second.
const GATEWAY_CONFIG: &str = "reconnect_max_ms = 200\n";
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Ours {
    dir: PathBuf,
    gateway: Node,
    hub: Node,
    uplink: Proxy,
}

impl Ours {
    pub(super) async fn start(dir: &Path, fault: Option<Fault>) -> Result<Ours> {
        let at_hub = fault.filter(|fault| *fault == Fault::ApplyTwice);
        let at_gateway = fault.filter(|fault| *fault != Fault::ApplyTwice);
        let spec = |role, name: &str, hub, fault, config: &str| {
            let (name, dir) = (name.to_owned(), dir.join(name));
            Spec { role, name, dir, hub, fault, open: true, config: config.into() }
        };
        let hub = Node::start(spec(Role::Hub, HUB, None, at_hub, "")).await?;
        let uplink = Proxy::start(hub.addr()).await.context("opening a proxy")?;
        let gateway = spec(Role::Gateway, SITE, Some(uplink.addr()), at_gateway, GATEWAY_CONFIG);
        Ok(Ours { dir: dir.to_owned(), gateway: Node::start(gateway).await?, hub, uplink })
    }

    /// How far the hub has applied the site's journal.
    async fn applied(&self) -> Result<u64> {
        let hub = status::hub(self.hub.dir()).await?;
        Ok(hub.sites.get(SITE).map_or(0, |site| site.applied_seq))
    }

    async fn await_applied(&self, most: Duration) -> Result<Result<(), String>> {
        let deadline = Instant::now() + most;
        loop {
            let (last, applied) = (status::gateway(self.gateway.dir()).await?.ledger.last_seq, self.applied().await?);
            if applied >= last {
                return Ok(Ok(()));
            }
            if Instant::now() >= deadline {
                let after = most.as_secs();
                return Ok(Err(format!("the gateway has {last} records, the hub applied {applied} after {after} s")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Reads a copy of a stopped node's folder.
    fn read<T>(&self, node: &Node, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let copy = self.dir.join("reading");
        let copied = copy_all(node.dir(), &copy).with_context(|| format!("copying {}", node.dir().display()));
        let outcome = copied.and_then(|()| read(&copy));
        fs::remove_dir_all(&copy).with_context(|| format!("removing {}", copy.display()))?;
        outcome
    }
}

impl Pair for Ours {
    type Process = Node;

    fn door(&self) -> SocketAddr {
        self.gateway.addr()
    }

    fn uplink(&self) -> &Proxy {
        &self.uplink
    }

    fn processes(&mut self) -> (&mut Node, &mut Node) {
        (&mut self.gateway, &mut self.hub)
    }

    async fn await_hub_work(&mut self, most: Duration) -> Result<()> {
        let deadline = Instant::now() + most;
        let before = self.applied().await?;
        while self.applied().await? <= before && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn look(&self) -> Result<Option<Held>> {
        self.read(&self.gateway, Held::of_gateway).map(Some)
    }

    async fn end(mut self, _: &[Ack], most: Duration) -> Result<(Vec<Held>, Vec<String>)> {
        let faults = self.await_applied(most).await?.err().into_iter().collect();
        // The last word on both disks is a kill, too.
        tokio::try_join!(self.gateway.kill(), self.hub.kill())?;
        let mut gateway = self.read(&self.gateway, Held::of_gateway)?;
        let hub = self.read(&self.hub, Held::of_hub)?;
        if gateway.is_trimmed() {
            gateway.complete_from(&hub);
        }
        Ok((vec![gateway, hub], faults))
    }
}

/// An unfinished snapshot of the ledger's database, which a node removes before it opens it: so does the copy.
const UNFINISHED: &str = ".generating";

/// Regular files and folders; a socket is no part of a ledger.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else if kind.is_file() && !entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}
