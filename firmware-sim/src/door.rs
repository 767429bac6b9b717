//! Where a broker is reached, and how: in the clear or over TLS, with a name and a password or without.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A listener, and what a device knows of it.
#[derive(Debug, Clone)]
pub struct Door {
    pub addr: SocketAddr,
    /// Without it the connection is in the clear.
    pub tls: Option<Tls>,
    pub login: Option<Login>,
}

impl From<SocketAddr> for Door {
    fn from(addr: SocketAddr) -> Door {
        Door { addr, tls: None, login: None }
    }
}

/// What a device shows at CONNECT.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login of {}", self.user)
    }
}

/// Which CA the broker's certificate must be of. Every handshake is a full one: nothing is kept to resume with.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    /// The name in its certificate, if it is not the address.
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the CA's certificates, PEM. With `name` the broker's certificate must be for that, else for its address.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate in it; the name is no DNS name and no address.
    pub fn trusting(ca: &Path, name: Option<&str>) -> anyhow::Result<Tls> {
        let mut roots = RootCertStore::empty();
        let read = CertificateDer::pem_file_iter(ca).with_context(|| format!("reading {}", ca.display()))?;
        for certificate in read {
            let certificate = certificate.with_context(|| format!("reading {}", ca.display()))?;
            roots.add(certificate).with_context(|| format!("using {}", ca.display()))?;
        }
        anyhow::ensure!(!roots.is_empty(), "{} has no certificate in it", ca.display());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("setting up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = name.map(|name| ServerName::try_from(name.to_owned())).transpose().context("the broker's name")?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

/// A connected socket, encrypted or not.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Through the door, up to where MQTT begins.
    pub(crate) async fn open(door: &Door) -> io::Result<Stream> {
        let stream = TcpStream::connect(door.addr).await?;
        // A client that knocks on a free local port can meet itself, and would then keep the port from its owner.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        let Some(Tls { connector, name }) = &door.tls else { return Ok(Stream::Plain(stream)) };
        let name = name.clone().unwrap_or_else(|| ServerName::from(door.addr.ip()));
        Ok(Stream::Tls(Box::new(connector.connect(name, stream).await?)))
    }

    /// "TLSv1_3", say; `None` in the clear.
    pub(crate) fn protocol(&self) -> Option<String> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.get_ref().1.protocol_version().map(|version| format!("{version:?}")),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
