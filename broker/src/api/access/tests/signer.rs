//! What an issuer has: keys, and tokens signed with them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

/// Made once for these tests; it is nobody's.
pub(super) const RSA_PEM: &str = include_str!("rsa-for-tests-only.key.pem");

pub(super) enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    pub(super) fn ed() -> Signer {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    pub(super) fn ec() -> Signer {
        let (alg, rng) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(alg, &rng).unwrap();
        Signer::Ec(EcdsaKeyPair::from_pkcs8(alg, key.as_ref(), &rng).unwrap())
    }

    pub(super) fn rsa() -> Signer {
        let key = PrivatePkcs8KeyDer::from_pem_slice(RSA_PEM.as_bytes()).unwrap();
        Signer::Rsa(Box::new(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap()))
    }

    pub(super) fn alg(&self) -> &'static str {
        match self {
            Signer::Ed(_) => "EdDSA",
            Signer::Ec(_) => "ES256",
            Signer::Rsa(_) => "RS256",
        }
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Ed(key) => {
                json!({ "kid": kid, "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref()) })
            }
            Signer::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kid": kid, "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
            }
            Signer::Rsa(key) => {
                let RsaPublicKeyComponents::<Vec<u8>> { n, e } = key.public().into();
                json!({ "kid": kid, "kty": "RSA", "n": b64(&n), "e": b64(&e) })
            }
        }
    }

    pub(super) fn signature(&self, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match self {
            Signer::Ed(key) => key.sign(message).as_ref().to_vec(),
            Signer::Ec(key) => key.sign(&rng, message).unwrap().as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// With its own algorithm.
    pub(super) fn token(&self, kid: &str, claims: &Value) -> String {
        self.token_of(&json!({ "alg": self.alg(), "typ": "JWT", "kid": kid }).to_string(), claims)
    }

    /// Signed with this key whatever the header says.
    pub(super) fn token_of(&self, header: &str, claims: &Value) -> String {
        token(header, claims, |message| self.signature(message))
    }
}

pub(super) fn token(header: &str, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", b64(header.as_bytes()), b64(claims.to_string().as_bytes()));
    let signature = b64(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

pub(super) fn b64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
