//! How the uplink is encrypted: which CA signs the hub's certificate, and what we show of ourselves.

use std::path::PathBuf;
use std::sync::Arc;

use broker::node::pem;
use rustls::{ClientConfig, RootCertStore};

/// The three PEM files of the configuration; certificate and key go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubTls {
    pub ca: PathBuf,
    pub own: Option<(PathBuf, PathBuf)>,
}

impl HubTls {
    /// Reads the files.
    ///
    /// # Errors
    /// In the operator's words, with the file that is wrong.
    pub fn load(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(&self.ca)? {
            roots.add(certificate).map_err(|e| pem::at(&self.ca, e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let private = pem::private_key(key)?;
                builder.with_client_auth_cert(pem::certificates(cert)?, private).map_err(|e| pem::at(cert, e))?
            }
        };
        Ok(Arc::new(config))
    }
}
