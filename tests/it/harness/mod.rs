//! What every test stands on.

pub(crate) mod grants;
pub(crate) mod ledgers;
pub(crate) mod mqtt;
pub(crate) mod node;
pub(crate) mod tools;
pub(crate) mod wait;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use node::{Node, Spec};

/// An item's number, valid in every store of the world.
pub(crate) const GTIN: &str = "04006381333931";

/// A hub and one gateway that is connected to it, or about to be.
pub(crate) struct Pair {
    pub(crate) hub: Node,
    pub(crate) gateway: Node,
    /// Goes last, after the processes in it.
    _dir: TempDir,
}

pub(crate) const SITE: &str = "harbour";

impl Pair {
    pub(crate) async fn start() -> Pair {
        let dir = folder();
        let hub = Spec::hub(dir.path()).start().await;
        let gateway = gateway(dir.path(), SITE, hub.addr).await;
        Pair::of(hub, gateway, dir)
    }

    pub(crate) fn of(hub: Node, gateway: Node, dir: TempDir) -> Pair {
        Pair { hub, gateway, _dir: dir }
    }
}

pub(crate) async fn gateway(dir: &Path, site: &str, hub: SocketAddr) -> Node {
    Spec::gateway(dir, site, Some(hub)).start().await
}

pub(crate) fn folder() -> TempDir {
    TempDir::with_prefix("tillsync-test-").expect("make a temporary folder")
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// The `n`th of a row of made-up items.
pub(crate) fn gtin(n: u64) -> String {
    proto::gtin::Gtin::with_check_digit(400_638_000_000 + n).expect("an item number").to_string()
}
