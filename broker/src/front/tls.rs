//! TLS before the first byte: the handshake runs in the connection's own task, and what the client's certificate proves is
//! handed to the policy.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certified::Certified;
use crate::node::pem;
use crate::node::whole_file::{self, Seen};
use crate::pki::Facts;

/// How connections are encrypted, and whose client certificates are believed. Clones share it: when the files change, all
/// listeners that have it show the new certificate to whoever connects next.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: Files,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_cas: Vec<PathBuf>,
}

#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    facts: Facts,
    anchor: Option<String>,
    /// How the files looked when they were read.
    seen: Vec<Seen>,
}

/// What is wrong with the files, in the operator's words.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}")]
    File(String),
    #[error("certificate and key do not go together: {0}")]
    Pair(String),
    #[error("the clients' CA cannot be used: {0}")]
    ClientCa(String),
}

impl Tls {
    /// Reads PEM files: the server's certificate chain, its key, and the CAs that sign clients' certificates. With any of
    /// them a client may show a certificate, which must be of one; whether it has to is the policy's business.
    ///
    /// # Errors
    /// A file is missing or not what it should be.
    pub fn load(cert: &Path, key: &Path, client_cas: &[&Path]) -> Result<Tls, TlsError> {
        let client_cas = client_cas.iter().map(|&path| path.to_owned()).collect();
        let files = Files { cert: cert.into(), key: key.into(), client_cas };
        let current = RwLock::new(files.read()?);
        Ok(Tls { shared: Arc::new(Shared { files, current }) })
    }

    /// Reads the files again if they changed, and says whether they did. Connections that are there stay as they are.
    ///
    /// # Errors
    /// The new files cannot be used: the old ones go on. Asked again, it says so again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let seen = self.current().seen;
        if self.shared.files.look() == seen {
            return Ok(false);
        }
        let fresh = self.shared.files.read()?;
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    /// Of the certificate that is shown.
    pub fn facts(&self) -> Facts {
        self.current().facts
    }

    /// The last certificate of the chain, PEM, if others can believe the first one by it: a CA's, or one that signed
    /// itself.
    pub fn anchor_pem(&self) -> Option<String> {
        self.current().anchor
    }

    fn current(&self) -> Current {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The handshake, and what the client's certificate proves if it showed one.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Option<Certified>)> {
        let stream = TlsAcceptor::from(self.current().config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certified = shown.map(certified).transpose()?;
        Ok((stream, certified))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Files {
    fn look(&self) -> Vec<Seen> {
        [&self.cert, &self.key].into_iter().chain(&self.client_cas).map(|path| whole_file::look(path)).collect()
    }

    fn read(&self) -> Result<Current, TlsError> {
        // Before reading, so that what changes meanwhile is noticed at the next look.
        let seen = self.look();
        let key = pem::private_key(&self.key).map_err(TlsError::File)?;
        let chain = pem::certificates(&self.cert).map_err(TlsError::File)?;
        let facts = Facts::of(&chain[0]).map_err(|why| TlsError::File(pem::at(&self.cert, why)))?;
        let anchor =
            pem::last_certificate(&self.cert).filter(|last| Facts::of_pem(last).is_ok_and(|last| last.is_anchor()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Pair(e.to_string()))?;
        let builder = if self.client_cas.is_empty() {
            builder.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| TlsError::ClientCa(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| TlsError::Pair(e.to_string()))?;
        // A resumed session would bring back a client's certificate without looking at it again: one that has expired
        // meanwhile would go on. It also costs memory for each client that ever came.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Current { config: Arc::new(config), facts, anchor, seen })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for path in &self.client_cas {
            for certificate in pem::certificates(path).map_err(TlsError::File)? {
                roots.add(certificate).map_err(|e| TlsError::ClientCa(pem::at(path, e)))?;
            }
        }
        Ok(roots)
    }
}

fn certified(certificate: &CertificateDer<'_>) -> std::io::Result<Certified> {
    let facts = Facts::of(certificate).map_err(std::io::Error::other)?;
    Ok(Certified { name: facts.name, key: facts.key, serial_hex: facts.serial_hex })
}
