//! One MQTT connection to the hub: the only file that names rumqttc.
//!
//! Every connection is a new client with a new event loop and a clean session, since rumqttc can lose or wedge on what
//! it remembers over one. Whoever uses this must be able to say everything again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, QoS, SubscribeReasonCode, TlsConfiguration,
    Transport,
};
use tokio::sync::mpsc;

/// Messages queued in the client; more than our own window and an acknowledgement of each stream, so that it is never
/// full in a healthy connection.
const QUEUE: usize = 256;
const HEARD_MAX: usize = 64;
const PACKET_BYTES_MAX: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Where the hub is and who we are to it.
#[derive(Debug, Clone)]
pub(crate) struct HubAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) password: Option<String>,
    /// Without it the connection is in the clear.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl HubAddress {
    /// Whether it is the same place, whatever is shown there.
    pub(crate) fn is_at(&self, other: &HubAddress) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

/// What the hub's broker said.
#[derive(Debug)]
pub(crate) enum Said {
    Accepted,
    Subscribed,
    SubscriptionRefused,
    /// It has committed one of our publishes.
    Acked,
    Message(Bytes),
}

/// A connection that is being made or is there.
pub(crate) struct Wire {
    client: AsyncClient,
    heard: mpsc::Receiver<Result<Said, String>>,
    driver: tokio::task::JoinHandle<()>,
}

/// What the broker says for us if we vanish.
pub(crate) struct Testament {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    /// Begins to connect as `site`.
    pub(crate) fn open(hub: &HubAddress, site: &str, testament: Testament) -> Wire {
        let mut options = MqttOptions::new(format!("gateway:{site}"), &hub.host, hub.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_session(true);
        options.set_inflight(QUEUE as u16);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(tls) = &hub.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
        }
        if let Some(password) = &hub.password {
            options.set_credentials(site, password);
        }
        options.set_last_will(LastWill::new(testament.topic, testament.payload, QoS::AtLeastOnce, false));
        let (client, mut event_loop) = AsyncClient::new(options, QUEUE);
        let mut network = event_loop.network_options();
        // What is said is small and wanted now: without this each message waits for the one before to be acknowledged.
        network.set_tcp_nodelay(true);
        event_loop.set_network_options(network);
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        Wire { client, heard, driver: tokio::spawn(drive(event_loop, tell)) }
    }

    /// The next thing said. May be dropped at any await.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub(crate) async fn next(&mut self) -> Result<Said, String> {
        self.heard.recv().await.unwrap_or_else(|| Err("the connection's task ended".into()))
    }

    /// Queues a subscription; never waits.
    pub(crate) fn subscribe(&self, topic: String) -> Result<(), String> {
        self.client.try_subscribe(topic, QoS::AtLeastOnce).map_err(|e| e.to_string())
    }

    /// Queues a QoS 1 publish; never waits.
    pub(crate) fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), String> {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).map_err(|e| e.to_string())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// On a task of its own: rumqttc's `poll` must not be cancelled half-way.
async fn drive(mut event_loop: EventLoop, tell: mpsc::Sender<Result<Said, String>>) {
    loop {
        let said = match event_loop.poll().await {
            Ok(Event::Incoming(incoming)) => match said(incoming) {
                Some(said) => Ok(said),
                None => continue,
            },
            Ok(Event::Outgoing(_)) => continue,
            Err(error) => Err(error.to_string()),
        };
        let over = said.is_err();
        if tell.send(said).await.is_err() || over {
            return;
        }
    }
}

fn said(incoming: Incoming) -> Option<Said> {
    match incoming {
        Incoming::ConnAck(_) => Some(Said::Accepted),
        Incoming::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
            Some(Said::SubscriptionRefused)
        }
        Incoming::SubAck(_) => Some(Said::Subscribed),
        Incoming::PubAck(_) => Some(Said::Acked),
        Incoming::Publish(publish) => Some(Said::Message(publish.payload)),
        _ => None,
    }
}
