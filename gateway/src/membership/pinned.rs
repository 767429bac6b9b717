//! Believes a hub whose chain has the key that the code pins, before anything is said to it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use broker::join::Pin;
use broker::pki::Facts;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// A certificate of the chain must have the pinned key; it is then the only one that the rest is believed by.
#[derive(Debug)]
pub(super) struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    /// Set if the chain had no such key: whoever answers is not the hub that gave the code.
    pub(super) foreign: Arc<OnceLock<()>>,
}

impl Pinned {
    /// For one connection.
    pub(super) fn config(pin: Pin) -> Result<(ClientConfig, Arc<OnceLock<()>>), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let foreign = Arc::<OnceLock<()>>::default();
        let verifier = Pinned { pin, provider: provider.clone(), foreign: foreign.clone() };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok((config, foreign))
    }

    fn anchor(&self, chain: &[&CertificateDer<'_>]) -> Option<CertificateDer<'static>> {
        let pinned = |der: &CertificateDer<'_>| Facts::of(der).is_ok_and(|facts| Pin::of(&facts.key) == self.pin);
        chain.iter().find(|der| pinned(der)).map(|der| CertificateDer::clone(der).into_owned())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        let Some(anchor) = self.anchor(&chain) else {
            let _ = self.foreign.set(());
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(anchor)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|why| Error::General(why.to_string()))?;
        // The clock of a new box may not be set yet; the pin does not need it, and what has ended is refused anyway.
        let begun = Facts::of(end_entity).map_or(0, |facts| facts.not_before_ms);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(begun / 1_000)));
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
