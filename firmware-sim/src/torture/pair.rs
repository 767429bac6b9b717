//! A store's node and HQ's with a network between them: ours, or the rival's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::count::Held;
use super::crew::Ack;
use super::plan::Victim;
use crate::mosquitto::Broker;
use crate::nodes::Node;
use crate::proxy::Proxy;

/// A process that can be killed and started again on its port and folder.
pub(super) trait Process {
    async fn kill(&mut self) -> Result<()>;
    async fn start_and_kill(&mut self, after: Duration) -> Result<()>;
    async fn restart(&mut self) -> Result<()>;
}

impl Process for Node {
    async fn kill(&mut self) -> Result<()> {
        Node::kill(self).await
    }

    async fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        Node::start_and_kill(self, after).await
    }

    async fn restart(&mut self) -> Result<()> {
        Node::restart(self).await
    }
}

impl Process for Broker {
    async fn kill(&mut self) -> Result<()> {
        Broker::kill(self).await
    }

    async fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        Broker::start_and_kill(self, after).await
    }

    async fn restart(&mut self) -> Result<()> {
        Broker::restart(self).await
    }
}

pub(super) trait Pair: Sized {
    type Process: Process;

    /// Where devices connect.
    fn door(&self) -> SocketAddr;
    fn uplink(&self) -> &Proxy;
    /// The store's, and HQ's.
    fn processes(&mut self) -> (&mut Self::Process, &mut Self::Process);

    /// Waits until HQ has taken something since it was started, so that there is something to lose there; not longer
    /// than `most`.
    async fn await_hub_work(&mut self, most: Duration) -> Result<()>;

    /// What the store's node has on disk while it is dead. `None` if only the end can tell.
    fn look(&self) -> Result<Option<Held>>;

    /// Waits until HQ has everything, ends all, and gives what each place holds, with what is wrong beyond the counts.
    async fn end(self, log: &[Ack], most: Duration) -> Result<(Vec<Held>, Vec<String>)>;

    async fn kill(&mut self, victim: Victim) -> Result<()> {
        let (gateway, hub) = self.processes();
        match victim {
            Victim::Gateway => gateway.kill().await,
            Victim::Hub => hub.kill().await,
            Victim::Both => tokio::try_join!(gateway.kill(), hub.kill()).map(drop),
        }
    }

    async fn start_and_kill(&mut self, victim: Victim, after: Duration) -> Result<()> {
        let (gateway, hub) = self.processes();
        match victim {
            Victim::Gateway => gateway.start_and_kill(after).await,
            Victim::Hub => hub.start_and_kill(after).await,
            Victim::Both => tokio::try_join!(gateway.start_and_kill(after), hub.start_and_kill(after)).map(drop),
        }
    }

    async fn restart(&mut self, victim: Victim) -> Result<()> {
        let (gateway, hub) = self.processes();
        match victim {
            Victim::Gateway => gateway.restart().await,
            Victim::Hub => hub.restart().await,
            Victim::Both => tokio::try_join!(gateway.restart(), hub.restart()).map(drop),
        }
    }
}
