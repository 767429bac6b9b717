//! TLS before the first MQTT byte: the handshake runs in the connection's own task, and the name in the client's
//! certificate is handed to the policy.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certified::Certified;
use crate::identity::Fingerprint;
use crate::node::pem;

/// How connections are encrypted, and whose client certificates are believed.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
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
    /// Reads PEM files: the server's certificate chain, its key, and the CA that signs clients' certificates. With a
    /// `client_ca` every client must show a certificate of it; without, clients are known by what they log in with.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Tls, TlsError> {
        let key = pem::private_key(key).map_err(TlsError::File)?;
        let chain = pem::certificates(cert).map_err(TlsError::File)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Pair(e.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in pem::certificates(path).map_err(TlsError::File)? {
                    roots.add(certificate).map_err(|e| TlsError::ClientCa(e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|e| TlsError::ClientCa(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|e| TlsError::Pair(e.to_string()))?;
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The handshake, and who the client's certificate says it is, if it showed one.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Option<Certified>)> {
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| certified(chain.first()?));
        Ok((stream, shown))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Of a certificate that was verified.
fn certified(certificate: &CertificateDer<'_>) -> Option<Certified> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok())?.to_owned();
    let key = Fingerprint::of_public_key(parsed.public_key().raw);
    let serial_hex = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Certified { name, key, serial_hex })
}
