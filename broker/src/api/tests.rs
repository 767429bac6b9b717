//! The listener as a client meets it: over TLS, byte by byte, with a hub behind it.

mod connections;
mod document;
mod inventory;

use std::path::Path;
use std::sync::Arc;

use proto::id::Epoch;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsConnector;

use super::access::{Access, Role, Tokens};
use super::{Api, Behind, Orders, router, serve};
use crate::front::Tls;
use crate::hub::{Effect, Hub, Input, PoolChange, RightsAsk, RightsNote};
use crate::identity::{AuditSender, SharedBook};
use crate::join::{Desk, DeskRules};
use crate::ledger::{Handle, Limits, Options, Reader, Writer};
use crate::node::wall_ms;
use crate::pki::{Authority, DAY_MS, Own};

struct Rig {
    addr: std::net::SocketAddr,
    connector: TlsConnector,
    writer: Handle<Hub>,
    tokens: Vec<(Role, String)>,
    _stopping: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

/// A hub's writer over a ledger in the folder, with the ways to it. What it says to others is dropped.
pub(super) fn hub_in(dir: &Path) -> (Writer<Hub>, Handle<Hub>, Reader) {
    let options = Options {
        dir: dir.into(),
        site: "hub".parse().unwrap(),
        limits: Limits::NONE,
        commit_wait: std::time::Duration::ZERO,
        begin_anew: false,
        sabotage: None,
    };
    Writer::open(options, Epoch(1), Hub::new(7)).unwrap()
}

impl Rig {
    async fn start() -> Rig {
        Rig::at_rate(1_000_000).await
    }

    /// Each caller may make so many requests a second.
    async fn at_rate(rate: u32) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("a hub", wall_ms()).unwrap();
        let own = Own::create(dir.path(), authority, &["127.0.0.1".into()], wall_ms(), DAY_MS).unwrap();
        let tls = Tls::load(&own.paths.server, &own.paths.server, &[&own.paths.ca]).unwrap();
        let api = Api::bind(([127, 0, 0, 1], 0).into(), tls).await.unwrap();
        let (addr, stopping) = (api.local_addr().unwrap(), watch::Sender::new(false));
        let desk = desk(dir.path(), Own::open(dir.path()).unwrap());
        let roles = [Role::Viewer, Role::Operator, Role::Admin];
        let tokens = roles.map(|role| {
            let add = |tokens: &mut Tokens| tokens.add(&role.to_string(), role, wall_ms(), None);
            (role, Tokens::edit(dir.path(), add).unwrap().to_string())
        });
        let access = Access::open(dir.path(), None, Box::new(|_| {})).unwrap().at_rate(rate);
        let (questions, _) = tokio::sync::mpsc::channel(1);
        let (hub, writer, reader) = hub_in(&dir.path().join("hub"));
        let perform = |effect| match effect {
            Effect::Answer(answer, value) => drop(answer.send(value)),
            Effect::Reply(answer, reply) => drop(answer.send(reply)),
            _ => {}
        };
        drop(hub.spawn(Box::new(perform)).unwrap());
        let orders = Orders::new(writer.clone(), reader);
        let router = router(Arc::new(access), &Behind { desk: Some(Arc::new(desk)), questions, orders });
        tokio::spawn(serve(api, router, stopping.subscribe()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(own.authority.certificate_pem().as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Rig { addr, connector, writer, tokens: tokens.into(), _stopping: stopping, _dir: dir }
    }

    fn token(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(of, _)| *of == role).unwrap().1
    }

    /// Begins to sell an item from a pool.
    async fn pool(&self, gtin: &str, units: u64) {
        let (answer, answered) = oneshot::channel();
        let ask = RightsAsk::Pool(gtin.parse().unwrap(), PoolChange::Create(units), RightsNote::default());
        self.writer.input(Input::Rights(ask, answer)).await.unwrap();
        let said = answered.await.unwrap();
        assert!(said["error"].is_null(), "{said}");
    }

    /// A request of an operator on a connection of its own; `more` are lines of its head.
    async fn ask(&self, method: &str, path: &str, more: &[&str], body: &str) -> (u16, String, Value) {
        self.ask_as(Role::Operator, method, path, more, body).await
    }

    async fn ask_as(&self, role: Role, method: &str, path: &str, more: &[&str], body: &str) -> (u16, String, Value) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n");
        head += &format!("authorization: Bearer {}\r\n", self.token(role));
        more.iter().for_each(|line| head += &format!("{line}\r\n"));
        if !body.is_empty() && !more.iter().any(|line| line.starts_with("content-type")) {
            head += "content-type: application/json\r\n";
        }
        self.say(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    /// Sends bytes and reads to the end: the status, the whole head, and the body.
    async fn say(&self, bytes: &[u8]) -> (u16, String, Value) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let mut stream = self.connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
        // What is refused before all of it is read may break the connection.
        let _ = stream.write_all(bytes).await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        let text = String::from_utf8_lossy(&heard).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String, Value) {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {length}");
        self.say(format!("{head}\r\n\r\n{body}").as_bytes()).await
    }
}

fn desk(dir: &Path, own: Own) -> Desk {
    Desk {
        dir: dir.to_owned(),
        trust_pem: own.authority.certificate_pem().to_owned(),
        authority: own.authority,
        accounts: SharedBook::default(),
        rules: DeskRules { site_valid_ms: DAY_MS, renew_grace_ms: DAY_MS },
        mqtt: (None, 8883),
        throttle: Default::default(),
        cut: Arc::new(|_| {}),
        audit: AuditSender::default(),
    }
}

#[tokio::test]
async fn failures_are_problems_that_programs_can_read() {
    let rig = Rig::start().await;
    let (status, head, body) = rig.say(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!((status, body["status"].as_str()), (200, Some("ok")), "{head}");
    let join = |secret: &str| serde_json::json!({ "secret": secret, "request": "x" }).to_string();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    for ((status, head, body), wanted, code) in [
        (rig.say(get("/secrets").as_bytes()).await, 404, "not_found"),
        (rig.say(get("/join").as_bytes()).await, 405, "method_not_allowed"),
        (rig.post("/join", "{").await, 400, "unreadable"),
        (rig.post("/join", "{}").await, 422, "unreadable"),
        (rig.post("/join", &join("short")).await, 403, "code_unknown"),
        (rig.post("/join", &join("00000000000000000")).await, 400, "request_invalid"),
        (rig.post("/renew", r#"{"certificate":"x","request":"y","signature":"z"}"#).await, 400, "request_invalid"),
        (rig.post("/join", &"x".repeat(33 << 10)).await, 413, "unreadable"),
    ] {
        assert_eq!((status, body["code"].as_str()), (wanted, Some(code)), "{head}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
    }
}

#[tokio::test]
async fn guesses_are_slowed_down_with_429() {
    let rig = Rig::start().await;
    let guess = r#"{"secret":"WRONG","request":"x"}"#;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(rig.post("/join", guess).await);
    }
    assert!(statuses[..10].iter().all(|(status, _, _)| *status == 403));
    let (status, head, body) = &statuses[11];
    assert_eq!((*status, body["code"].as_str()), (429, Some("throttled")));
    assert!(head.contains("retry-after: "), "{head}");
}

#[tokio::test]
async fn giant_heads_and_plain_bytes_cost_nothing() {
    let rig = Rig::start().await;
    let giant = format!("GET /healthz HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "x".repeat(64 << 10));
    assert_ne!(rig.say(giant.as_bytes()).await.0, 200);
    let many = format!("GET /healthz HTTP/1.1\r\nhost: h\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert_ne!(rig.say(many.as_bytes()).await.0, 200);
    let mut plain = TcpStream::connect(rig.addr).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard).await;
    assert!(!String::from_utf8_lossy(&heard).contains("200"), "nothing is served in the clear");
    assert_eq!(rig.say(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.0, 200);
}
