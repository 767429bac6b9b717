//! The front for fuzzers: whatever a client sends, without a socket. Built with `--cfg fuzzing` only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;

use super::arrivals::Arrivals;
use super::codec::{Codec, Decoded, Version};
use super::connection::serve;
use super::intake::{
    Admission, Admitting, Batch, Closed, Credentials, Denial, Identity, Inbound, Intake, Policy, Refusal, Verdict,
};
use super::shared::Shared;
use super::{Front, FrontConfig};
use crate::mailbox::{Mail, Mailboxes};

/// Decodes all packets that `bytes` holds, as a 3.1.1 or a v5 connection would.
pub fn decode(v5: bool, bytes: &[u8]) {
    let version = if v5 { Version::V5 } else { Version::V311 };
    let codec = Codec { version, packet_bytes_max: 64 << 10 };
    let mut buf = BytesMut::from(bytes);
    loop {
        let before = buf.len();
        match codec.decode(&mut buf) {
            Ok(Some(Decoded::Publish(publish))) => assert!(publish.topic.len() + publish.payload.len() < before),
            Ok(Some(Decoded::Packet(_))) => {}
            Ok(None) | Err(_) => return,
        }
        assert!(buf.len() < before, "a packet has bytes");
    }
}

/// A front whose connections are pipes.
pub struct Rig {
    runtime: Runtime,
    shared: Arc<Shared<Accepting>>,
    arrivals: Arc<Arrivals>,
}

impl Default for Rig {
    fn default() -> Rig {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start the runtime");
        let config = FrontConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            packet_bytes_max: 64 << 10,
            session_expiry_max: Duration::from_secs(2),
            // A router that dies is noticed at once. That a busy machine gave it no time is no finding.
            router_timeout: Duration::from_secs(600),
            ..FrontConfig::default()
        };
        let shared = runtime.block_on(async {
            let front = Front::bind(config, Arc::new(UnderA), Arc::new(Accepting::default())).await.expect("bind");
            let shared = front.shared.clone();
            tokio::spawn(front.run(std::future::pending()));
            shared
        });
        Rig { runtime, shared, arrivals: Arc::new(Arrivals::new(1)) }
    }
}

impl Rig {
    /// One connection that sends `bytes` in pieces, each as long as its first byte says, and is then closed by the
    /// client. Returns what it was answered.
    ///
    /// # Panics
    /// If the connection does, or does not end.
    pub fn serve(&self, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let (mut client, server) = duplex(256 << 10);
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            let arrival = self.arrivals.arrive(peer.ip()).expect("there is one connection at a time");
            let served = tokio::spawn(serve(server, peer, arrival, None, self.shared.clone()));
            let mut rest = bytes;
            while let Some((length, after)) = rest.split_first() {
                let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                rest = after;
            }
            let (mut answer, mut out) = (Vec::new(), client);
            // It may have been closed already.
            let _ = out.shutdown().await;
            let read = out.read_to_end(&mut answer);
            drop(tokio::time::timeout(Duration::from_secs(20), read).await.expect("the connection ends"));
            served.await.expect("the connection does not panic");
            answer
        })
    }

    /// Whether the router still does its work.
    pub fn router_lives(&self) -> bool {
        self.shared.stats.router_restarts.get() == 0
    }
}

/// Lets everybody write and read under `a/`.
struct UnderA;

impl Policy for UnderA {
    fn connect<'a>(&'a self, offered: Credentials<'a>) -> Admitting<'a> {
        let admitted = match offered.username {
            Some("nobody") => Err(Refusal::BadCredentials),
            name => Ok(Admission { name: name.map(Arc::from), kind: None }),
        };
        Box::pin(std::future::ready(admitted))
    }

    fn may_publish(&self, _: &Identity, topic: &str) -> Result<(), Denial> {
        let denied = || Denial { code: "topic_unknown", reason: String::new() };
        topic.starts_with("a/").then_some(()).ok_or_else(denied)
    }

    fn may_subscribe(&self, _: &Identity, filter: &str) -> bool {
        filter.starts_with("a/")
    }
}

/// Takes everything, as a writer with a disk that takes no time.
struct Accepting {
    mail: std::sync::Mutex<Mail>,
}

impl Default for Accepting {
    fn default() -> Accepting {
        Accepting { mail: std::sync::Mutex::default() }
    }
}

impl Intake for Accepting {
    async fn submit(&self, batch: Batch) -> Result<(), Closed> {
        let mut verdicts = Vec::new();
        {
            let mut mail = self.mail.lock().map_err(|_| Closed)?;
            for item in &batch.items {
                let forward = matches!(item, Inbound::Publish(publish) if publish.denied.is_none());
                verdicts.push(Verdict { forward, ..Verdict::ACCEPTED });
                match item {
                    Inbound::Publish(publish) if forward => {
                        let topic = std::str::from_utf8(&publish.topic).expect("checked by the front");
                        mail.publish(topic, &publish.properties, &publish.payload);
                    }
                    Inbound::Publish(_) | Inbound::Release { .. } => {}
                    Inbound::Session { client, change } => mail.change(client, change.clone()),
                    Inbound::Forget { client } => mail.forget(client),
                }
            }
            mail.close_group();
            // A disk that takes no room either.
            let _ = mail.take_changes();
            mail.committed();
        }
        // The connection may be gone.
        let _ = batch.answer.send(verdicts);
        Ok(())
    }

    fn mailboxes(&self) -> Arc<Mailboxes> {
        self.mail.lock().map(|mail| mail.mailboxes()).unwrap_or_default()
    }
}
