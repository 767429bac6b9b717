//! A certificate authority: its certificate and key in memory, and what it signs.

use std::fmt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use time::OffsetDateTime;

use super::DAY_MS;
use super::facts::Facts;
use super::files::PkiError;
use crate::identity::Fingerprint;

/// How long a CA that we make is valid: longer than the boxes live.
const CA_VALID_MS: u64 = 20 * 365 * DAY_MS;
/// A box whose clock is behind must not find a new certificate not yet valid: they begin a little earlier, but never by
/// more than a twentieth of their life.
const BEGINS_EARLIER_MS: u64 = 3_600_000;
/// The longest name of an X.509 common name, and of ours.
const NAME_MAX: usize = 64;
/// A longer request is not one of ours.
const REQUEST_BYTES_MAX: usize = 4 << 10;

/// A certificate with its key, as PEM texts.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, and those that lead to the authority's root.
    pub chain_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// Signs certificates. What it is given to sign is never trusted beyond the public key in it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: String,
    facts: Facts,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authority {
    /// A new one with a key of its own.
    ///
    /// # Errors
    /// The system gives no random numbers, or the name is longer than 64 bytes.
    pub fn create(name: &str, now_ms: u64) -> Result<Authority, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::request)?;
        let mut params = params(name, now_ms, CA_VALID_MS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(PkiError::request)?;
        Authority::of(certificate.pem(), key.serialize_pem())
    }

    /// One that is there: the PEM of its certificate (and of those that signed it, after it) and of its key.
    ///
    /// # Errors
    /// It is no CA's, or certificate and key do not go together.
    pub fn of(certificate_pem: String, key_pem: String) -> Result<Authority, PkiError> {
        let key = KeyPair::from_pem(&key_pem).map_err(|why| PkiError::request(format!("the CA's key: {why}")))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|why| PkiError::request(format!("the CA's certificate: {why}")))?;
        let facts = Facts::of(&certificate)?;
        if !facts.is_ca {
            return Err(PkiError::request("the CA's certificate says that it is none (basicConstraints)"));
        }
        if facts.key != Fingerprint::of_public_key(&key.subject_public_key_info()) {
            return Err(PkiError::request("the CA's certificate and key do not go together"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(PkiError::request)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(PkiError::request)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(PkiError::request)?;
        Ok(Authority { issuer, certificate_pem, key_pem, facts, verifier })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A server's certificate for these DNS names and addresses, with a new key.
    ///
    /// # Errors
    /// A host that is neither a DNS name nor an address, or none at all.
    pub fn server(&self, hosts: &[String], now_ms: u64, valid_ms: u64) -> Result<Issued, PkiError> {
        let Some(first) = hosts.first() else { return Err(PkiError::request("a server needs a name")) };
        let sans =
            CertificateParams::new(hosts.to_vec()).map_err(|why| PkiError::request(format!("{hosts:?}: {why}")))?;
        let name: String = first.chars().take(NAME_MAX).collect();
        let mut params = self.leaf(&name, now_ms, valid_ms, ExtendedKeyUsagePurpose::ServerAuth)?;
        params.subject_alt_names = sans.subject_alt_names;
        self.with_new_key(&params)
    }

    /// A client's certificate with a new key: for a device, which cannot make one itself.
    ///
    /// # Errors
    /// The name is longer than 64 bytes.
    pub fn client(&self, name: &str, now_ms: u64, valid_ms: u64) -> Result<Issued, PkiError> {
        self.with_new_key(&self.leaf(name, now_ms, valid_ms, ExtendedKeyUsagePurpose::ClientAuth)?)
    }

    /// A client's certificate for the key in a request (PKCS#10, PEM), whose own signature must be good. Nothing else in
    /// the request counts: who it is for is said by whoever knows, and what it may do is being a client.
    ///
    /// # Errors
    /// The request is not one, its signature is wrong, or its key is not ECDSA P-256.
    pub fn client_of_request(
        &self,
        request_pem: &str,
        name: &str,
        now_ms: u64,
        valid_ms: u64,
    ) -> Result<String, PkiError> {
        let request = request(request_pem)?;
        let params = self.leaf(name, now_ms, valid_ms, ExtendedKeyUsagePurpose::ClientAuth)?;
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(PkiError::request)?;
        Ok(certificate.pem())
    }

    /// Whether a client's certificate is of this authority and valid at a moment.
    ///
    /// # Errors
    /// Why not.
    pub fn check_client(&self, certificate: &CertificateDer<'_>, at_ms: u64) -> Result<(), PkiError> {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(at_ms));
        self.verifier.verify_client_cert(certificate, &[], at).map(drop).map_err(PkiError::request)
    }

    fn leaf(
        &self,
        name: &str,
        now_ms: u64,
        valid_ms: u64,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<CertificateParams, PkiError> {
        // None is good for longer than its authority.
        let valid_ms = valid_ms.min(self.facts.not_after_ms.saturating_sub(now_ms));
        if valid_ms == 0 {
            return Err(PkiError::request("the CA's own certificate has expired"));
        }
        let mut params = params(name, now_ms, valid_ms)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn with_new_key(&self, params: &CertificateParams) -> Result<Issued, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::request)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::request)?;
        let chain_pem = certificate.pem() + &self.certificate_pem;
        Ok(Issued { chain_pem, key_pem: key.serialize_pem() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The key that a request asks to be certified, after checking the request's signature with it.
///
/// # Errors
/// As [`Authority::client_of_request`].
pub(crate) fn key_of_request(request_pem: &str) -> Result<Fingerprint, PkiError> {
    Ok(Fingerprint::of_public_key(&request(request_pem)?.public_key.subject_public_key_info()))
}

fn request(pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    if pem.len() > REQUEST_BYTES_MAX {
        return Err(PkiError::request("the certificate request is too long"));
    }
    let request = CertificateSigningRequestParams::from_pem(pem)
        .map_err(|why| PkiError::request(format!("the certificate request: {why}")))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(PkiError::request("the certificate request: its key must be ECDSA P-256"));
    }
    Ok(request)
}

fn params(name: &str, now_ms: u64, valid_ms: u64) -> Result<CertificateParams, PkiError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(PkiError::request(format!("{name:?}: a certificate's name has 1 to {NAME_MAX} bytes")));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(now_ms.saturating_sub(BEGINS_EARLIER_MS.min(valid_ms / 20)))?;
    params.not_after = moment(now_ms.saturating_add(valid_ms))?;
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn moment(ms: u64) -> Result<OffsetDateTime, PkiError> {
    let seconds = i64::try_from(ms / 1_000).map_err(PkiError::request)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(PkiError::request)
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(PkiError::request)?;
    bytes[0] = bytes[0] & 0x7F | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::SERVER_VALID_MS;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn asked(name: &str) -> (KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        (key, request)
    }

    #[test]
    fn a_client_is_certified_as_who_we_say_and_for_its_time_only() {
        let authority = Authority::create("a CA", NOW).unwrap();
        let (key, request) = asked("hill");
        let pem = authority.client_of_request(&request, "harbour", NOW, 90 * DAY_MS).unwrap();
        let facts = Facts::of_pem(&pem).unwrap();
        assert_eq!((facts.name.as_str(), facts.is_ca), ("harbour", false));
        assert_eq!(facts.key, Fingerprint::of_public_key(&key.subject_public_key_info()));
        assert_eq!(facts.key, key_of_request(&request).unwrap());
        assert_eq!((facts.not_before_ms, facts.not_after_ms), (NOW - 3_600_000, NOW + 90 * DAY_MS));
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(authority.check_client(&der, NOW).is_ok());
        assert!(authority.check_client(&der, NOW + 91 * DAY_MS).is_err());
        assert!(authority.check_client(&der, NOW - DAY_MS).is_err());
        let other = Authority::create("a CA", NOW).unwrap();
        assert!(other.check_client(&der, NOW).is_err(), "another CA of the same name");
    }

    #[test]
    fn a_server_is_no_client_and_names_its_hosts() {
        let authority = Authority::create("a CA", NOW).unwrap();
        let hosts = ["hub.example".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let issued = authority.server(&hosts, NOW, SERVER_VALID_MS).unwrap();
        let facts = Facts::of_pem(&issued.chain_pem).unwrap();
        assert_eq!(facts.hosts, hosts);
        let der = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        assert!(authority.check_client(&der, NOW).is_err());
        assert!(authority.server(&[], NOW, SERVER_VALID_MS).is_err());
        assert!(authority.server(&["süd".into()], NOW, SERVER_VALID_MS).is_err());
    }

    #[test]
    fn a_request_that_was_tampered_with_or_has_another_kind_of_key_is_refused() {
        let authority = Authority::create("a CA", NOW).unwrap();
        let (_, request) = asked("harbour");
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
        let mut refused = 0;
        for at in 0..der.len() {
            let mut bytes = der.to_vec();
            bytes[at] ^= 1;
            refused += usize::from(CertificateSigningRequestParams::from_der(&bytes.into()).is_err());
        }
        // The signature is over all of it but the unused-bits octets and the like.
        assert!(refused >= der.len() - 4, "{refused} of {}", der.len());
        let wrong = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let wrong = CertificateParams::default().serialize_request(&wrong).unwrap().pem().unwrap();
        for request in [wrong, "hello".into(), String::new(), "x".repeat(9_000)] {
            assert!(authority.client_of_request(&request, "harbour", NOW, DAY_MS).is_err());
        }
    }

    #[test]
    fn yours_is_taken_if_it_is_a_ca_and_the_key_is_its() {
        let ours = Authority::create("a CA", NOW).unwrap();
        let again = Authority::of(ours.certificate_pem().into(), ours.key_pem().into()).unwrap();
        assert_eq!(again.facts(), ours.facts());
        let other = Authority::create("a CA", NOW).unwrap();
        assert!(Authority::of(ours.certificate_pem().into(), other.key_pem().into()).is_err());
        let server = ours.server(&["hub.example".into()], NOW, DAY_MS).unwrap();
        assert!(Authority::of(server.chain_pem, server.key_pem).is_err());
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let ours = Authority::create("a CA", NOW).unwrap();
        let end = ours.facts().not_after_ms;
        let late = ours.client("pos-1", end - DAY_MS, DEVICE).unwrap();
        assert_eq!(Facts::of_pem(&late.chain_pem).unwrap().not_after_ms, end);
        assert!(ours.client("pos-1", end, DEVICE).is_err());
    }

    const DEVICE: u64 = super::super::DEVICE_VALID_MS;
}
