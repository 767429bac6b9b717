//! What a certificate says.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::files::PkiError;
use crate::identity::Fingerprint;

/// A certificate's facts; nothing about whether to believe them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its common name; empty if it has none.
    pub name: String,
    pub serial_hex: String,
    /// Milliseconds since 1970.
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    pub key: Fingerprint,
    /// DNS names and addresses that it is for.
    pub hosts: Vec<String>,
    pub is_ca: bool,
    pub is_self_issued: bool,
}

impl Facts {
    /// # Errors
    /// It is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Facts, PkiError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|why| PkiError::request(format!("not a certificate: {why}")))?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        let validity = parsed.validity();
        // Before 1970 counts as 1970.
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        Ok(Facts {
            name: name.to_owned(),
            serial_hex: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before_ms: ms(validity.not_before.timestamp()),
            not_after_ms: ms(validity.not_after.timestamp()),
            key: Fingerprint::of_public_key(parsed.public_key().raw),
            hosts: hosts(&parsed),
            is_ca: parsed.is_ca(),
            is_self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        })
    }

    /// Of the first certificate in a PEM text.
    ///
    /// # Errors
    /// It holds none.
    pub fn of_pem(pem: &str) -> Result<Facts, PkiError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|why| PkiError::request(format!("no certificate in PEM: {why}")))?;
        Facts::of(&der)
    }

    /// Days until it ends, as a fraction; negative once it has.
    pub fn days_left(&self, now_ms: u64) -> f64 {
        (self.not_after_ms as f64 - now_ms as f64) / super::DAY_MS as f64
    }

    /// Whether others can be believed by it, or it by itself.
    pub fn is_anchor(&self) -> bool {
        self.is_ca || self.is_self_issued
    }

    /// How long it is valid in all.
    pub fn valid_ms(&self) -> u64 {
        self.not_after_ms.saturating_sub(self.not_before_ms)
    }
}

fn hosts(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    names.iter().filter_map(host).collect()
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|ip| std::net::IpAddr::from(ip).to_string());
            let v6 = || <[u8; 16]>::try_from(*bytes).map(|ip| std::net::IpAddr::from(ip).to_string());
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}
