//! TLS: who a certificate proves, who is not let in, and what a client that never finishes its handshake costs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::*;
use super::client::{Connect, V5, V311, publish, subscribe};
use super::harness::*;

/// A CA, a server's certificate for 127.0.0.1 and clients' certificates, as PEM files in one folder.
struct Pki {
    dir: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let pki = Pki { dir, ca: Issuer::new(params, key) };
        pki.issue("server", vec!["127.0.0.1".into()]);
        pki
    }

    fn issue(&self, name: &str, hosts: Vec<String>) {
        self.issue_until(name, hosts, rcgen::date_time_ymd(2090, 1, 1));
    }

    fn issue_until(&self, name: &str, hosts: Vec<String>, end: time::OffsetDateTime) {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.not_after = end;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn rig(&self, clients: bool) -> Rig {
        let client_ca = clients.then(|| self.path("ca.crt"));
        let tls = Tls::load(
            &self.path("server.crt"),
            &self.path("server.key"),
            &client_ca.as_deref().into_iter().collect::<Vec<_>>(),
        )
        .unwrap();
        let connect_timeout = Duration::from_millis(300);
        let handshake_timeout = connect_timeout;
        Rig::with(FrontConfig { tls: Some(tls), handshake_timeout, connect_timeout, ..FrontConfig::default() }).await
    }

    async fn connect(&self, rig: &Rig, as_client: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pem(&self.path("ca.crt"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match as_client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![pem(&self.path(&format!("{name}.crt")))], key).unwrap()
            }
        };
        // A reader that is slow is seen to be slow soon.
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(8 * 1024)?;
        let host = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(host, socket.connect(rig.addr).await?).await
    }
}

fn pem(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

#[tokio::test]
async fn the_policy_hears_the_name_in_a_verified_certificate() {
    let pki = Pki::new();
    pki.issue("pos-1", vec![]);
    let rig = pki.rig(true).await;
    for version in [V311, V5] {
        let mut stream = pki.connect(&rig, Some("pos-1")).await.unwrap();
        stream.write_all(&Connect::new(version, "till").bytes()).await.unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!((head[0], head[3]), (0x20, 0), "CONNACK: {head:x?}");
    }
    assert_eq!(rig.certificate_names(), ["pos-1", "pos-1"]);
}

#[tokio::test]
async fn a_foreign_or_an_expired_certificate_gets_no_further_than_the_handshake() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    foreign.issue("pos-1", vec![]);
    std::fs::copy(foreign.path("pos-1.crt"), pki.path("foreign.crt")).unwrap();
    std::fs::copy(foreign.path("pos-1.key"), pki.path("foreign.key")).unwrap();
    pki.issue_until("expired", vec![], rcgen::date_time_ymd(2020, 1, 1));
    let rig = pki.rig(true).await;
    for (n, who) in ["foreign", "expired"].into_iter().enumerate() {
        // With TLS 1.3 the client hears of its refusal at the first read.
        if let Ok(mut stream) = pki.connect(&rig, Some(who)).await {
            let _ = stream.write_all(&Connect::new(V311, "till").bytes()).await;
            assert!(!matches!(stream.read_u8().await, Ok(0x20)), "{who:?} was let in");
        }
        until("the failure is counted", || rig.stats.tls_failures.get() == n as u64 + 1).await;
    }
    assert_eq!(rig.stats.connections_total.get(), 0);
}

#[tokio::test]
async fn without_a_certificate_the_policy_decides() {
    let pki = Pki::new();
    let rig = pki.rig(true).await;
    let mut stream = pki.connect(&rig, None).await.unwrap();
    stream.write_all(&Connect::new(V311, "till").bytes()).await.unwrap();
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!((head[0], head[3]), (0x20, 0), "CONNACK: {head:x?}");
    assert!(rig.certificate_names().is_empty());
}

/// TLS takes more than the socket does. What it still has when all was handed to it goes out without anything more to say.
#[tokio::test]
async fn a_slow_reader_gets_the_end_of_a_message_too() {
    let pki = Pki::new();
    let tls = Tls::load(&pki.path("server.crt"), &pki.path("server.key"), &[]).unwrap();
    // One segment of the router's log holds the message.
    let rig = Rig::with(FrontConfig { tls: Some(tls), segment_bytes: 1 << 20, ..FrontConfig::default() }).await;
    let mut stream = pki.connect(&rig, None).await.unwrap();
    stream.write_all(&Connect::new(V311, "till").bytes()).await.unwrap();
    stream.write_all(&subscribe(V311, 1, &[(b"t/a", 0)], &[])).await.unwrap();
    stream.read_exact(&mut [0; 4 + 5]).await.unwrap();
    let message = publish(V311, b"t/a", &vec![b'x'; 900_000], 0, 0, &[]);
    stream.write_all(&message).await.unwrap();
    stream.flush().await.unwrap();
    until("it is being written", || rig.stats.unread_bytes.get() > 0).await;
    let (mut read, mut piece) = (0, vec![0; 4096]);
    while read < message.len() {
        match tokio::time::timeout(Duration::from_secs(10), stream.read(&mut piece)).await {
            Ok(Ok(got @ 1..)) => read += got,
            ended => panic!("{read} of {} bytes, then {ended:?}", message.len()),
        }
    }
    assert_eq!(read, message.len());
}

#[tokio::test]
async fn files_that_change_are_shown_to_whoever_connects_next() {
    let pki = Pki::new();
    let tls = Tls::load(&pki.path("server.crt"), &pki.path("server.key"), &[]).unwrap();
    let rig = Rig::with(FrontConfig { tls: Some(tls.clone()), ..FrontConfig::default() }).await;
    let serial = |stream: &TlsStream<TcpStream>| {
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        crate::pki::Facts::of(&shown).unwrap().serial_hex
    };
    let mut first = pki.connect(&rig, None).await.unwrap();
    assert!(!tls.refresh().unwrap());
    // Half a change: the old pair goes on.
    pki.issue("next", vec!["127.0.0.1".into()]);
    std::fs::copy(pki.path("next.crt"), pki.path("server.crt")).unwrap();
    assert!(tls.refresh().is_err());
    assert_eq!(serial(&pki.connect(&rig, None).await.unwrap()), serial(&first));
    std::fs::copy(pki.path("next.key"), pki.path("server.key")).unwrap();
    assert!(tls.refresh().unwrap() && !tls.refresh().unwrap());
    assert_ne!(serial(&pki.connect(&rig, None).await.unwrap()), serial(&first));
    // Who was there before stays.
    first.write_all(&Connect::new(V311, "till").bytes()).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), 0x20);
}

#[tokio::test]
async fn plain_bytes_and_half_a_handshake_are_closed() {
    let pki = Pki::new();
    let rig = pki.rig(false).await;
    let mut plain = TcpStream::connect(rig.addr).await.unwrap();
    plain.write_all(&Connect::new(V311, "till").bytes()).await.unwrap();
    until("plain MQTT is refused", || rig.stats.tls_failures.get() == 1).await;
    let silent = TcpStream::connect(rig.addr).await.unwrap();
    until("a silent client is given up", || rig.stats.handshake_timeouts.get() == 1).await;
    drop(silent);
}

#[tokio::test]
async fn mosquitto_speaks_tls() {
    let pki = Pki::new();
    pki.issue("pos-1", vec![]);
    let rig = pki.rig(true).await;
    let [ca, cert, key] = ["ca.crt", "pos-1.crt", "pos-1.key"].map(|file| pki.path(file).display().to_string());
    let args = format!("-q 1 -t t/a -m hello --cafile {ca} --cert {cert} --key {key}");
    let Some(published) = super::tools::tool(&rig, "mosquitto_pub", &args).await else { return };
    let output = super::tools::output(published).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rig.intake.publishes().len(), 1);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    pki.issue("other", vec![]);
    let load = |cert: &str, key: &str| Tls::load(&pki.path(cert), &pki.path(key), &[]).map(|_| ());
    assert!(load("server.crt", "server.key").is_ok());
    assert!(load("none.crt", "server.key").unwrap_err().to_string().contains("none.crt"));
    assert!(matches!(load("server.key", "server.key"), Err(TlsError::File(_))));
    assert!(matches!(load("server.crt", "other.key"), Err(TlsError::Pair(_))));
}
