//! The nodes of a launch: a hub with a pool and an HTTPS listener, and gateways that joined it, each behind a network of
//! its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::judge::Book;
use crate::door::{Door, Tls};
use crate::nodes::{self, Node, Spec};
use crate::proxy::Proxy;
use crate::seam::{self, Fault, Role};
use crate::status;

pub(super) const GTIN: &str = "04006381333931";
pub(super) const NUMBER: u64 = 4_006_381_333_931;
const HUB: &str = "hub";
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a thing that takes a moment: joining, granting, catching up.
const MOST: Duration = Duration::from_secs(60);
/// All buyers come from one address here.
const HUB_CONFIG: &str = "api = \"127.0.0.1:0\"\napi_rate = 1000000\n";
/// A launch is over in minutes: what is wanted changes by the second, and so does who gets what. Nearly a third of the buyers
/// come online.
const RIGHTS_CONFIG: &str = "[rights]\nhalf_life_s = 10\ncover_s = 10\nidle_return_s = 5\nhub_percent = 30\n";
const GATEWAY_CONFIG: &str = "reconnect_max_ms = 500\n";

pub(super) struct Shop {
    dir: PathBuf,
    hub: Node,
    gateways: Vec<Node>,
    proxies: Vec<Proxy>,
    /// Where buyers go online, and the token of the site that they use.
    pub(super) online: Door,
    pub(super) token: String,
}

pub(super) fn site(store: usize) -> String {
    format!("store-{}", store + 1)
}

impl Shop {
    /// Starts all, with so many units in a pool, and waits until every store may sell some. A fault that no hub has is the
    /// named store's.
    pub(super) async fn open(dir: &Path, sites: usize, units: u64, fault: Option<(Fault, usize)>) -> Result<Shop> {
        let data = path(dir, HUB)?;
        let hub = async |words: &[&str]| nodes::command(Role::Hub, &[words, &["--data", &data]].concat()).await;
        hub(&["init", "--name", "localhost,127.0.0.1"]).await?;
        let token = text(&hub(&["token", "add", "shop", "--role", "operator", "--json"]).await?, "token")?;
        let config = format!("{HUB_CONFIG}{RIGHTS_CONFIG}");
        let at_hub = fault.map(|(fault, _)| fault).filter(|fault| *fault == Fault::ApplyTwice);
        let node = Node::start(Spec { fault: at_hub, ..spec(dir, Role::Hub, HUB.into(), None, config) }).await?;
        let api = status::hub(node.dir()).await?.api.context("the hub has no HTTPS listener")?;
        let (mut gateways, mut proxies) = (Vec::new(), Vec::new());
        for (store, name) in (0..sites).map(site).enumerate() {
            let at_store = fault.filter(|(fault, at)| *fault != Fault::ApplyTwice && *at == store);
            let fault = at_store.map(|(fault, _)| fault);
            let code = text(&hub(&["site", "add", &name, "--json"]).await?, "code")?;
            nodes::command(Role::Gateway, &["join", &api, &code, "--data", &path(dir, &name)?]).await?;
            let proxy = Proxy::start(node.addr()).await.context("opening a proxy")?;
            let spec = spec(dir, Role::Gateway, name, Some(proxy.addr()), GATEWAY_CONFIG.into());
            gateways.push(Node::start(Spec { fault, ..spec }).await?);
            proxies.push(proxy);
        }
        let tls = Some(Tls::trusting(&dir.join(HUB).join("pki/ca.crt"), Some("localhost"))?);
        let online = Door { addr: api.parse().context("the listener's address")?, tls, login: None };
        let shop = Shop { dir: dir.to_owned(), hub: node, gateways, proxies, online, token };
        shop.await_uplinks().await?;
        hub(&["pool", "create", GTIN, &units.to_string()]).await?;
        shop.await_grants().await?;
        Ok(shop)
    }

    pub(super) fn doors(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Node::addr).collect()
    }

    pub(super) fn cut(&self, stores: &[usize]) {
        stores.iter().for_each(|store| self.proxies[*store].cut());
    }

    pub(super) fn heal(&self, stores: &[usize]) {
        stores.iter().for_each(|store| self.proxies[*store].restore());
    }

    /// SIGKILL, and a start on the same folder so long after.
    pub(super) async fn kill_and_restart(&mut self, store: usize, after: Duration) -> Result<()> {
        self.gateways[store].kill().await?;
        sleep(after).await;
        self.gateways[store].restart().await
    }

    pub(super) async fn await_uplinks(&self) -> Result<()> {
        self.until("every store is connected to the hub", |gateway| gateway.uplink.connected).await
    }

    async fn await_grants(&self) -> Result<()> {
        let granted =
            |gateway: &status::GatewayStatus| gateway.rights.items.get(GTIN).is_some_and(|item| item.granted > 0);
        self.until("every store has rights", granted).await
    }

    async fn until(&self, what: &str, good: impl Fn(&status::GatewayStatus) -> bool) -> Result<()> {
        let deadline = Instant::now() + MOST;
        for gateway in &self.gateways {
            while !good(&status::gateway(gateway.dir()).await?) {
                if Instant::now() >= deadline {
                    bail!("not after {} s: {what}", MOST.as_secs());
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Waits until the hub has applied every store's journal.
    async fn await_applied(&self) -> Result<()> {
        let deadline = Instant::now() + MOST;
        for (store, gateway) in self.gateways.iter().enumerate() {
            loop {
                let due = status::gateway(gateway.dir()).await?.ledger.last_seq;
                let applied = status::hub(self.hub.dir()).await?.sites.get(&site(store)).map_or(0, |s| s.applied_seq);
                if applied >= due {
                    break;
                }
                if Instant::now() >= deadline {
                    bail!("{} has {due} records and the hub applied {applied}", site(store));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Lets the hub catch up, stops all and reads every ledger: the stores' own, and the hub's with what it has of them.
    pub(super) async fn close(self) -> Result<(Book, Book, Vec<String>)> {
        let mut faults: Vec<String> = self.await_applied().await.err().map(|e| format!("{e:#}")).into_iter().collect();
        let sites = self.gateways.len();
        for node in self.gateways.into_iter().chain([self.hub]) {
            if let Err(error) = node.stop().await {
                faults.push(format!("{error:#}"));
            }
        }
        let (mut stores, mut hq) = (Book::default(), Book::default());
        for name in (0..sites).map(site) {
            read(&self.dir.join(name), &mut |chunk| stores.take(chunk))?;
        }
        read(&self.dir.join(HUB), &mut |chunk| hq.take(chunk))?;
        Ok((stores, hq, faults))
    }
}

fn read(dir: &Path, each: &mut dyn FnMut(&proto::chunk::Chunk)) -> Result<()> {
    seam::read_stopped(dir, each).with_context(|| format!("reading the ledger in {}", dir.display()))
}

fn spec(dir: &Path, role: Role, name: String, hub: Option<SocketAddr>, config: String) -> Spec {
    let (dir, open) = (dir.join(&name), role == Role::Gateway);
    Spec { role, name, dir, hub, fault: None, open, config }
}

fn path(dir: &Path, name: &str) -> Result<String> {
    dir.join(name).to_str().map(str::to_owned).context("a folder's name in UTF-8")
}

fn text(said: &str, key: &str) -> Result<String> {
    let said: Value = serde_json::from_str(said).context("reading what a command said")?;
    said[key].as_str().map(str::to_owned).with_context(|| format!("no {key:?} in what a command said"))
}
