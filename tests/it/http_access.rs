//! Bearer tokens at a real hub, over TLS: an issuer that changes its keys, tokens that the hub gives out itself, what each
//! role may, and what becomes of whoever tries many.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::path;
use crate::harness::{GTIN, now_ms};
use crate::join::{Chain, run, said};

const ISSUER: &str = "https://id.example";

/// Keys at a URL of this machine, and how often they were asked for.
struct Jwks {
    addr: SocketAddr,
    body: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
}

impl Jwks {
    async fn start(keys: &[Value]) -> Jwks {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("find a free port");
        let jwks =
            Jwks { addr: listener.local_addr().expect("its address"), body: Arc::default(), asked: Arc::default() };
        jwks.put(keys);
        let (body, asked) = (jwks.body.clone(), jwks.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::Relaxed);
                let body = body.lock().expect("nobody died with it").clone();
                let mut head = [0; 2_048];
                // One read: the request is one small packet. An asker that is killed meanwhile gets nothing.
                let _ = stream.read(&mut head).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        jwks
    }

    fn put(&self, keys: &[Value]) {
        *self.body.lock().expect("nobody died with it") = json!({ "keys": keys }).to_string();
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn config(&self) -> String {
        let addr = self.addr;
        format!("jwks = \"http://{addr}/keys\"\njwt_issuer = \"{ISSUER}\"\njwt_audience = \"tillsync\"\n")
    }
}

struct Signer {
    key: Ed25519KeyPair,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Signer {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("make a key");
        Signer { key: Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("read the key"), kid }
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(self.key.public_key().as_ref()) })
    }

    fn token(&self, sub: &str, role: &str) -> String {
        let now_s = now_ms() / 1_000;
        let header = json!({ "alg": "EdDSA", "kid": self.kid });
        let claims = json!({
            "iss": ISSUER, "aud": ["tillsync"], "exp": now_s + 600, "nbf": now_s, "sub": sub, "tillsync_role": role,
        });
        let signed = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
        format!("{signed}.{}", b64(self.key.sign(signed.as_bytes()).as_ref()))
    }
}

fn b64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Asks a hub's HTTPS listener, believing its CA only.
struct Client {
    api: SocketAddr,
    tls: TlsConnector,
    from: IpAddr,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Client {
    async fn of(chain: &Chain) -> Client {
        let api = chain.hub.status().await["api"].as_str().expect("an HTTPS listener").parse().expect("its address");
        let mut roots = RootCertStore::empty();
        let ca = broker::node::pem::certificates(&chain.hub.dir().join("pki/ca.crt")).expect("the hub's CA");
        ca.into_iter().for_each(|ca| roots.add(ca).expect("the hub's CA"));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client { api, tls: TlsConnector::from(Arc::new(config)), from: Ipv4Addr::LOCALHOST.into() }
    }

    /// The same from another address of this machine.
    fn from(&self, last: u8) -> Client {
        Client { api: self.api, tls: self.tls.clone(), from: Ipv4Addr::new(127, 0, 0, last).into() }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, token, "").await
    }

    async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((self.from, 0).into()).expect("an address of this machine");
        let stream = socket.connect(self.api).await.expect("connect to the hub");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = self.tls.connect(name, stream).await.expect("the hub's certificate is believed");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("ask");
        let mut answer = String::new();
        // It closes after the answer, perhaps without saying so.
        let _ = stream.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let body = serde_json::from_str(body).unwrap_or_default();
        Answer { status, head: head.to_lowercase(), body }
    }
}

async fn add(chain: &Chain, name: &str, role: &str) -> String {
    let added = token(chain, &["add", name, "--role", role]).await;
    added["token"].as_str().expect("a token").to_owned()
}

async fn token(chain: &Chain, words: &[&str]) -> Value {
    let done = run(&[&["hub", "token"], words, &["--data", &chain.data(), "--json"]].concat()).await;
    assert!(done.status.success(), "token {words:?}: {}", said(&done));
    serde_json::from_slice(&done.stdout).expect("the answer is JSON")
}

#[tokio::test]
async fn an_issuers_tokens_are_taken_and_its_new_key_once_it_may_be_asked_again() {
    let (first, second) = (Signer::new("2026-1"), Signer::new("2026-2"));
    let jwks = Jwks::start(&[first.jwk()]).await;
    let chain = Chain::start(&jwks.config()).await;
    chain.hub.until_status("the keys are there", |now| now["access"]["issuer"]["usable"] == 1).await;
    let client = Client::of(&chain).await;
    let me = client.get("/api/whoami", &first.token("anna", "viewer")).await;
    assert_eq!((me.status, me.body), (200, json!({ "name": "anna", "role": "viewer", "by": "jwt" })));
    let status = client.get("/api/status", &first.token("anna", "viewer")).await;
    assert_eq!((status.status, &status.body["access"]["granted"]), (200, &json!(2)), "{status:?}");
    let low = client.ask("POST", "/api/conflicts/1/restore", &first.token("anna", "viewer"), "{}").await;
    assert!(low.status == 403 && low.head.contains("insufficient_scope"), "{low:?}");

    jwks.put(&[second.jwk()]);
    // The list was just asked for: a made-up key must not be able to have it asked for again and again.
    let early = client.get("/api/whoami", &second.token("anna", "viewer")).await;
    assert_eq!((early.status, jwks.asked()), (401, 1), "{early:?}");
    let old_enough = |now: &Value| now["access"]["issuer"]["age_ms"].as_u64() >= Some(30_000);
    chain.hub.until_status("half a minute has gone", old_enough).await;
    let rotated = client.get("/api/whoami", &second.token("anna", "viewer")).await;
    assert_eq!((rotated.status, jwks.asked()), (200, 2), "{rotated:?}");
    let taken_back = client.get("/api/whoami", &first.token("anna", "viewer")).await;
    assert_eq!((taken_back.status, jwks.asked()), (401, 2), "{taken_back:?}");
}

#[tokio::test]
async fn a_running_hub_takes_and_drops_its_own_tokens_within_a_second() {
    let chain = Chain::start("").await;
    let client = Client::of(&chain).await;
    let anna = add(&chain, "anna", "admin").await;
    let tokens = |n: u64| move |now: &Value| now["access"]["local_tokens"] == n;
    chain.hub.until_status("it is seen", tokens(1)).await;
    let me = client.get("/api/whoami", &anna).await;
    assert_eq!((me.status, me.body), (200, json!({ "name": "anna", "role": "admin", "by": "local_token" })));
    assert_eq!(token(&chain, &["list"]).await["tokens"][0]["name"], "anna");
    let file = std::fs::read_to_string(chain.hub.dir().join("tokens.json")).expect("the file of tokens");
    assert!(!file.contains(&anna["tst_".len()..]), "{file}");
    token(&chain, &["remove", "anna"]).await;
    let gone = std::time::Instant::now();
    chain.hub.until_status("it is gone", tokens(0)).await;
    let took = gone.elapsed();
    let refused = client.get("/api/whoami", &anna).await;
    assert!(refused.status == 401 && refused.head.contains("invalid_token"), "{refused:?}");
    // On a busy machine the look comes late; half a second is its rhythm.
    assert!(took.as_secs() < 5, "{took:?}");
}

#[tokio::test]
async fn whoever_tries_many_tokens_waits_and_nobody_else_does() {
    let chain = Chain::start("metrics = \"127.0.0.1:0\"\n").await;
    let anna = add(&chain, "anna", "viewer").await;
    chain.hub.until_status("it is seen", |now| now["access"]["local_tokens"] == 1).await;
    let honest = Client::of(&chain).await;
    let guesser = honest.from(2);
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(guesser.get("/api/status", "tst_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await.status);
    }
    assert!(statuses[..10].iter().all(|status| *status == 401), "{statuses:?}");
    let waits = guesser.get("/api/status", &anna).await;
    let told = waits.head.lines().any(|line| line.starts_with("retry-after: "));
    assert!(waits.status == 429 && told, "{waits:?}");
    let seen = honest.get("/api/status", &anna).await;
    assert_eq!(seen.status, 200, "{seen:?}");
    let refused = &seen.body["access"]["refused"];
    assert!(refused["invalid"].as_u64() >= Some(10) && refused["throttled"].as_u64() > Some(0), "{refused}");

    let addr = chain.hub.status().await["metrics"].as_str().expect("metrics").to_owned();
    let mut stream = TcpStream::connect(addr).await.expect("connect to /metrics");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("ask");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the metrics");
    let line = format!("tillsync_access_refused_total{{why=\"invalid\"}} {}", refused["invalid"]);
    assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
}

#[tokio::test]
async fn an_operator_brings_back_what_lost_and_the_journal_says_who_did() {
    let mut chain = Chain::start("").await;
    let (mut gateways, mut tablets) = (Vec::new(), Vec::new());
    for site in ["harbour", "hill"] {
        chain.joined(site).await;
        let gateway = chain.gateway(site).start().await;
        tablets.push(Link::device(gateway.addr, "tablet-1").await);
        gateways.push(gateway);
    }
    let topic = format!("store/item/{GTIN}");
    let mut shelf = Monitor::open(gateways[1].addr, "store/item/+").await;
    tablets[0].done("item", json!({ "gtin": GTIN, "name": "Pear brandy", "price_cents": 1000 })).await;
    shelf.until_json(&topic, |item| item["price_cents"] == 1000).await;
    chain.hub.kill().await;
    for (tablet, price) in tablets.iter_mut().zip([1100, 1200]) {
        tablet.done("item", json!({ "gtin": GTIN, "price_cents": price })).await;
    }
    chain.hub.restart().await;
    chain.hub.until_status("a conflict at HQ", |now| now["conflicts"]["kept"] == 1).await;

    let listed = run(&["hub", "conflicts", "list", "--json", "--data", &path(chain.hub.dir())]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("--json is JSON");
    let id = listed["conflicts"][0]["id"].as_u64().expect("a conflict has an id");
    let (looker, anna) = (add(&chain, "looker", "viewer").await, add(&chain, "anna", "operator").await);
    chain.hub.until_status("they are seen", |now| now["access"]["local_tokens"] == 2).await;
    let client = Client::of(&chain).await;
    let at = format!("/api/conflicts/{id}/restore");
    let why = json!({ "why": "the price list says so" }).to_string();
    assert_eq!(client.ask("POST", &at, &looker, &why).await.status, 403);
    let done = client.ask("POST", &at, &anna, &why).await;
    assert_eq!((done.status, &done.body["restored"]["by"]), (200, &json!("anna")), "{done:?}");
    assert_eq!(done.body["restored"]["why"], "the price list says so");
    let again = client.ask("POST", &at, &anna, &why).await;
    assert!(
        again.status == 409 && again.body["detail"].as_str().is_some_and(|why| why.contains("by anna")),
        "{again:?}"
    );
    let odd = client.ask("POST", "/api/conflicts/x/restore", &anna, &why).await;
    assert_eq!((odd.status, &odd.body["code"]), (400, &json!("unreadable")));
    let lost = done.body["now"]["value"].clone();
    shelf.until_json(&topic, |item| item["price_cents"] == lost).await;
}
