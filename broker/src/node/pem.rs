//! Certificates from PEM files, with the file's name in every error.

use std::fmt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// At least one certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| at(path, e))?.collect();
    let all = all.map_err(|e| at(path, e))?;
    if all.is_empty() { Err(at(path, "holds no certificate")) } else { Ok(all) }
}

/// The text of the last certificate in a file, if it holds any.
pub fn last_certificate(path: &Path) -> Option<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::fs::read_to_string(path).ok()?;
    let from = text.rfind(BEGIN)?;
    let to = from + text[from..].find(END)? + END.len();
    Some(format!("{}\n", &text[from..to]))
}

pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| at(path, e))
}

pub fn at(path: &Path, why: impl fmt::Display) -> String {
    format!("{}: {why}", path.display())
}
