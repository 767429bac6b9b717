//! How the uplink is encrypted: which CA signs the hub's certificate, and what we show of ourselves.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|e| at(&self.ca, e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|e| at(key, e))?;
                builder.with_client_auth_cert(certificates(cert)?, private).map_err(|e| at(cert, e))?
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| at(path, e))?.collect();
    let all = all.map_err(|e| at(path, e))?;
    if all.is_empty() { Err(at(path, "holds no certificate")) } else { Ok(all) }
}

fn at(path: &Path, why: impl fmt::Display) -> String {
    format!("{}: {why}", path.display())
}
