//! What all connections share.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::config::FrontConfig;
use super::intake::{Batch, Inbound, Intake, Policy};
use super::publisher::Publisher;
use super::retained::Retained;
use super::router::Router;
use super::sessions::Sessions;
use super::stats::FrontStats;

pub(super) struct Shared<I> {
    pub(super) config: FrontConfig,
    pub(super) policy: Arc<dyn Policy>,
    pub(super) intake: Arc<I>,
    pub(super) router: Arc<Router>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) retained: Arc<Retained>,
    pub(super) publisher: Publisher,
    pub(super) stats: Arc<FrontStats>,
    /// True once the process stops.
    pub(super) stopping: watch::Sender<bool>,
}

impl<I: Intake> Shared<I> {
    /// Tells the intake that nothing kept under this client id is needed any more. Nobody waits for its answer: the
    /// intake takes batches in order, so whatever the client sends next comes after it. False if the writer stopped.
    pub(super) async fn forget(&self, client: &Arc<str>) -> bool {
        let (answer, _) = oneshot::channel();
        let batch = Batch { items: vec![Inbound::Forget { client: client.clone() }], answer };
        self.intake.submit(batch).await.is_ok()
    }
}
