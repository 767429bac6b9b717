//! Hub, gateways and the networks between them. The hub has a CA of its own, the gateways join it by code, and all between
//! them is TLS; a till or a scanner is on its gateway's own loopback, in the clear.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::audit::{Holdings, Hq};
use crate::door::{Door, Login, Tls};
use crate::nodes::{self, Node, Spec};
use crate::plan::{KILLED_SITE, SITES};
use crate::proxy::{Carried, Proxy};
use crate::seam::{self, Fault, Role};
use crate::status;

/// Between two looks at a status.
const LOOK_EVERY: Duration = Duration::from_millis(20);
pub(super) const HUB: &str = "hub";
/// HQ's screen: an account at the hub, and the client id of its connections.
const MONITOR: &str = "demo-monitor";

pub(super) struct Stage {
    dir: PathBuf,
    pub(super) hub: Node,
    /// By site.
    pub(super) gateways: Vec<Node>,
    proxies: Vec<Proxy>,
    monitor: Login,
    fault: Option<Fault>,
}

impl Stage {
    pub(super) async fn set(dir: &Path, fault: Option<Fault>) -> Result<Stage> {
        let data = dir.join(HUB);
        let data = data.to_str().context("a folder's name in UTF-8")?;
        nodes::command(Role::Hub, &["init", "--data", data, "--name", "localhost,127.0.0.1"]).await?;
        let added = ["account", "add", MONITOR, "--kind", "monitor", "--json", "--data", data];
        let monitor = Login { user: MONITOR.into(), password: text(&command(Role::Hub, &added).await?, "password")? };
        let hub = Node::start(hub_spec(dir, fault)).await?;
        let api = status::hub(hub.dir()).await?.api.context("the hub has no HTTPS listener")?;
        let (mut gateways, mut proxies) = (Vec::new(), Vec::new());
        for (site, name) in SITES.iter().enumerate() {
            join(dir, name, &api).await?;
            let proxy = Proxy::start(hub.addr()).await.context("opening a proxy")?;
            gateways.push(Node::start(gateway_spec(dir, site, proxy.addr(), fault)).await?);
            proxies.push(proxy);
        }
        Ok(Stage { dir: dir.to_owned(), hub, gateways, proxies, monitor, fault })
    }

    /// Where HQ's screen connects.
    pub(super) fn hq(&self) -> Result<Door> {
        let tls = Some(Tls::trusting(&ca(&self.dir), None)?);
        Ok(Door { addr: self.hub.addr(), tls, login: Some(self.monitor.clone()) })
    }

    pub(super) fn cut(&self) {
        self.proxies.iter().for_each(Proxy::cut);
    }

    pub(super) fn restore(&self) {
        self.proxies.iter().for_each(Proxy::restore);
    }

    pub(super) fn carried(&self) -> Carried {
        self.proxies.iter().map(Proxy::carried).fold(Carried::default(), |sum, one| Carried {
            up_bytes: sum.up_bytes + one.up_bytes,
            down_bytes: sum.down_bytes + one.down_bytes,
        })
    }

    pub(super) fn doors(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Node::addr).collect()
    }

    /// How far each store's journal goes.
    pub(super) async fn journals(&self) -> Result<Vec<u64>> {
        let mut last = Vec::new();
        for gateway in &self.gateways {
            last.push(status::gateway(gateway.dir()).await?.ledger.last_seq);
        }
        Ok(last)
    }

    /// Waits until every uplink stands, or does not.
    pub(super) async fn await_uplinks(&self, connected: bool, most: Duration) -> Result<Result<(), String>> {
        let deadline = Instant::now() + most;
        loop {
            let mut wrong = Vec::new();
            for (gateway, name) in self.gateways.iter().zip(SITES) {
                if status::gateway(gateway.dir()).await?.uplink.connected != connected {
                    wrong.push(name);
                }
            }
            if wrong.is_empty() {
                return Ok(Ok(()));
            }
            if Instant::now() >= deadline {
                let state =
                    if connected { "not connected to the hub" } else { "still connected to a hub it cannot reach" };
                return Ok(Err(format!("{} {state} after {} s", wrong.join(", "), most.as_secs())));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the hub has applied each site's journal up to `targets`; without them, up to where it ends.
    pub(super) async fn await_applied(&self, targets: Option<&[u64]>, most: Duration) -> Result<Result<(), String>> {
        let deadline = Instant::now() + most;
        loop {
            let targets = match targets {
                Some(targets) => targets.to_vec(),
                None => self.journals().await?,
            };
            let applied = self.applied().await?;
            let behind = targets.iter().zip(&applied).zip(SITES).filter(|((due, applied), _)| applied < due);
            let behind: Vec<_> = behind
                .map(|((due, applied), site)| format!("{site} has {due} records, HQ applied {applied}"))
                .collect();
            if behind.is_empty() {
                return Ok(Ok(()));
            }
            if Instant::now() >= deadline {
                return Ok(Err(format!("no catch-up within {} s: {}", most.as_secs(), behind.join("; "))));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// How far the hub has applied each journal.
    pub(super) async fn applied(&self) -> Result<Vec<u64>> {
        let hub = status::hub(self.hub.dir()).await?;
        Ok(SITES.iter().map(|site| hub.sites.get(*site).map_or(0, |site| site.applied_seq)).collect())
    }

    /// Stops the stores, then HQ; tells what did not stop well.
    pub(super) async fn strike(self) -> (Vec<String>, Struck) {
        let struck = Struck {
            dir: self.dir,
            fault: self.fault,
            monitor: self.monitor,
            hub_addr: self.hub.addr(),
            gateway_addrs: self.gateways.iter().map(Node::addr).collect(),
        };
        let mut faults = Vec::new();
        for node in self.gateways.into_iter().chain([self.hub]) {
            if let Err(error) = node.stop().await {
                faults.push(format!("{error:#}"));
            }
        }
        (faults, struck)
    }
}

/// What is left when all is stopped: the ledgers, and where everybody listened.
pub(super) struct Struck {
    dir: PathBuf,
    fault: Option<Fault>,
    /// HQ's screen.
    pub(super) monitor: Login,
    hub_addr: SocketAddr,
    gateway_addrs: Vec<SocketAddr>,
}

impl Struck {
    pub(super) fn read_stores(&self) -> Result<Holdings> {
        let mut stores = Holdings::default();
        for site in SITES {
            let dir = self.dir.join(site);
            seam::read_stopped(&dir, &mut |chunk| stores.take(chunk, &SITES))
                .with_context(|| format!("reading the ledger in {}", dir.display()))?;
        }
        Ok(stores)
    }

    pub(super) fn read_hq(&self) -> Result<Hq> {
        let mut hq = Hq::default();
        let dir = self.dir.join(HUB);
        seam::read_stopped(&dir, &mut |chunk| hq.take(chunk, &SITES))
            .with_context(|| format!("reading the ledger in {}", dir.display()))?;
        Ok(hq)
    }

    /// By which devices believe the hub.
    pub(super) fn ca(&self) -> PathBuf {
        ca(&self.dir)
    }

    /// All again on the old ports, with the gateways straight at the hub.
    pub(super) async fn set_again(&self) -> Result<BTreeMap<&'static str, Node>> {
        let mut nodes = BTreeMap::new();
        nodes.insert(HUB, Node::start_at(hub_spec(&self.dir, self.fault), self.hub_addr).await?);
        for (site, addr) in self.gateway_addrs.iter().enumerate() {
            let spec = gateway_spec(&self.dir, site, self.hub_addr, self.fault);
            nodes.insert(SITES[site], Node::start_at(spec, *addr).await?);
        }
        Ok(nodes)
    }
}

/// A store's box joins the hub with a one-time code, as its owner would do it.
async fn join(dir: &Path, site: &str, api: &str) -> Result<()> {
    let data = |name: &str| dir.join(name).to_str().map(str::to_owned).context("a folder's name in UTF-8");
    let added = command(Role::Hub, &["site", "add", site, "--json", "--data", &data(HUB)?]).await?;
    nodes::command(Role::Gateway, &["join", api, &text(&added, "code")?, "--data", &data(site)?]).await?;
    Ok(())
}

/// A command whose answer is one JSON object.
async fn command(role: Role, words: &[&str]) -> Result<Value> {
    let said = nodes::command(role, words).await?;
    serde_json::from_str(&said).with_context(|| format!("reading what {words:?} said"))
}

fn text(said: &Value, key: &str) -> Result<String> {
    match said[key].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("no {key:?} in what a command said"),
    }
}

fn ca(dir: &Path) -> PathBuf {
    dir.join(HUB).join("pki/ca.crt")
}

fn hub_spec(dir: &Path, fault: Option<Fault>) -> Spec {
    let fault = fault.filter(|fault| *fault == Fault::ApplyTwice);
    Spec {
        role: Role::Hub,
        name: HUB.into(),
        dir: dir.join(HUB),
        hub: None,
        fault,
        open: false,
        config: "api = \"127.0.0.1:0\"\n".into(),
    }
}

fn gateway_spec(dir: &Path, site: usize, hub: SocketAddr, fault: Option<Fault>) -> Spec {
    let fault = fault.filter(|fault| *fault != Fault::ApplyTwice && site == KILLED_SITE);
    let (name, dir) = (SITES[site].to_owned(), dir.join(SITES[site]));
    Spec { role: Role::Gateway, name, dir, hub: Some(hub), fault, open: true, config: String::new() }
}
