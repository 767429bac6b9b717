//! Notices that the box joined, or renewed, while it runs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::id::SiteName;
use tokio::sync::watch;

use super::{Membership, path};

/// Between two looks; each costs one `stat`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The membership that counts now.
pub(crate) type Joined = Option<Arc<Membership>>;

/// Looks for changes of the file until nobody cares.
pub(super) struct Watcher {
    dir: PathBuf,
    site: SiteName,
    seen: Option<(u64, u64, i64, i64)>,
    joined: watch::Sender<Joined>,
}

impl Membership {
    /// This membership, and what comes after it. One of another site than the ledger's does not count.
    pub(crate) fn watch(dir: &Path, site: &SiteName, first: Option<Membership>) -> watch::Receiver<Joined> {
        let (joined, receiver) = watch::channel(first.map(Arc::new));
        let watcher = Watcher { dir: dir.to_owned(), site: site.clone(), seen: None, joined };
        tokio::spawn(watcher.run());
        receiver
    }
}

impl Watcher {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        while !self.joined.is_closed() {
            tick.tick().await;
            let found = look(&self.dir);
            if found == self.seen {
                continue;
            }
            self.seen = found;
            match Membership::load(&self.dir) {
                Ok(Some(other)) if other.site != self.site.as_str() => {
                    tracing::error!(joined = %other.site, ledger = %self.site, "the hub knows this box as another site");
                }
                Ok(membership) if membership.as_ref() == self.joined.borrow().as_deref() => {}
                Ok(membership) => {
                    let hub = membership.as_ref().map(|membership| membership.mqtt_host.clone());
                    tracing::info!(?hub, "the membership has changed");
                    self.joined.send_replace(membership.map(Arc::new));
                }
                Err(error) => tracing::error!(%error, "the membership cannot be used; what there was goes on"),
            }
        }
    }
}

fn look(dir: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = std::fs::metadata(path(dir)).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
