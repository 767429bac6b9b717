//! Where the uplink goes: what the configuration says, and what joining said for the rest.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;

use crate::membership::Joined;
use crate::wire::HubAddress;

/// Asked before each connection, since a box may join, renew or move while it runs.
#[derive(Debug, Clone)]
pub(crate) struct HubSource {
    /// Of the configuration; it wins.
    pub(crate) address: Option<(String, u16)>,
    pub(crate) password: Option<String>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) reconnect_max: Duration,
    pub(crate) joined: watch::Receiver<Joined>,
}

impl HubSource {
    /// The hub, if there is one yet.
    ///
    /// # Errors
    /// The membership cannot be used.
    pub(crate) fn now(&self) -> Result<Option<HubAddress>, String> {
        let joined = self.joined.borrow().clone();
        let of_joined = joined.as_ref().map(|joined| (joined.mqtt_host.clone(), joined.mqtt_port));
        let Some((host, port)) = self.address.clone().or(of_joined) else { return Ok(None) };
        let tls = match (&self.tls, &joined) {
            (Some(tls), _) => Some(tls.clone()),
            (None, Some(joined)) => Some(joined.client_config().map_err(|why| why.to_string())?),
            (None, None) => None,
        };
        Ok(Some(HubAddress { host, port, password: self.password.clone(), tls }))
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        if self.joined.changed().await.is_err() {
            // Nobody looks any more: it stays as it is.
            std::future::pending::<()>().await;
        }
    }
}
