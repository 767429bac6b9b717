//! What all connections share.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::config::FrontConfig;
use super::disconnector::Changes;
use super::intake::{Batch, Inbound, Intake, Policy};
use super::publisher::Publisher;
use super::ration::Rations;
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
    pub(super) rations: Arc<Rations>,
    pub(super) changes: Changes,
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
        self.tell(Inbound::Forget { client: client.clone() }).await
    }

    /// As `forget`, for anything.
    pub(super) async fn tell(&self, item: Inbound) -> bool {
        let (answer, _) = oneshot::channel();
        self.intake.submit(Batch { items: vec![item], answer }).await.is_ok()
    }

    /// Makes changes of a session durable. False if the writer stopped.
    pub(super) async fn settle(&self, items: Vec<Inbound>) -> bool {
        let (answer, heard) = oneshot::channel();
        self.intake.submit(Batch { items, answer }).await.is_ok() && heard.await.is_ok()
    }
}
