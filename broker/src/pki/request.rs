//! A key of one's own, and the request to have it certified.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};

use super::files::PkiError;
use crate::identity::Fingerprint;
use crate::node::rejects::hex;

/// An ECDSA P-256 key that never leaves the box.
pub struct OwnKey(KeyPair);

impl OwnKey {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn draw() -> Result<OwnKey, PkiError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(OwnKey).map_err(PkiError::request)
    }

    /// # Errors
    /// The text is no private key.
    pub fn of_pem(pem: &str) -> Result<OwnKey, PkiError> {
        KeyPair::from_pem(pem).map(OwnKey).map_err(|why| PkiError::request(format!("a private key: {why}")))
    }

    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_public_key(&self.0.subject_public_key_info())
    }

    /// PKCS#10 as PEM. It names nobody: the other side knows who asks.
    ///
    /// # Errors
    /// None that is known; rcgen can fail.
    pub fn request_pem(&self) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).and_then(|request| request.pem()).map_err(PkiError::request)
    }

    /// ECDSA with SHA-256 over a text: DER, in hex.
    ///
    /// # Errors
    /// None that is known; ring can fail.
    pub fn sign(&self, text: &str) -> Result<String, PkiError> {
        self.0.sign(text.as_bytes()).map(|signature| hex::encode(&signature)).map_err(PkiError::request)
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey({})", self.fingerprint())
    }
}
