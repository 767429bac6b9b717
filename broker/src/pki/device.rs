//! Certificates for a store's devices.

use std::fmt;
use std::path::Path;

use super::authority::Authority;
use super::facts::Facts;
use super::files::{PkiError, lock, make_folder};
use super::own::{Own, OwnPaths};
use super::{DEVICE_VALID_MS, SERVER_VALID_MS};
use crate::identity::Fingerprint;

/// What a device is given: PEM texts, and the key by which its account knows it.
#[derive(Clone)]
pub struct DeviceCertificate {
    pub cert_pem: String,
    pub key_pem: String,
    /// The CA of the gateway that the device connects to.
    pub ca_pem: String,
    pub key: Fingerprint,
}

impl fmt::Debug for DeviceCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCertificate").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Issues a client certificate for a device from the CA in `DIR/pki`, which is made if there is none. The device's key is
/// drawn here and kept nowhere: whoever asked shows it once.
///
/// # Errors
/// The disk's, or the CA's files are not what they should be.
pub fn issue_device(dir: &Path, name: &str, now_ms: u64) -> Result<DeviceCertificate, PkiError> {
    let own = open_or_create(dir, &["localhost".to_owned()], now_ms)?;
    let issued = own.authority.client(name, now_ms, DEVICE_VALID_MS)?;
    let key = Facts::of_pem(&issued.chain_pem)?.key;
    let ca_pem = own.authority.certificate_pem().to_owned();
    Ok(DeviceCertificate { cert_pem: issued.chain_pem, key_pem: issued.key_pem, ca_pem, key })
}

/// The store's CA; a new one if there is none.
///
/// # Errors
/// The disk's, or the CA's files are not what they should be.
pub fn open_or_create(dir: &Path, hosts: &[String], now_ms: u64) -> Result<Own, PkiError> {
    make_folder(dir)?;
    // A command beside the node may want the first one at the same moment.
    let _alone = lock(&dir.join("pki.lock"))?;
    if OwnPaths::of(dir).exist() {
        return Own::open(dir);
    }
    // The name tells two stores' CAs apart in a device's list; what counts is the key.
    let mut mark = [0; 4];
    getrandom::fill(&mut mark).map_err(PkiError::request)?;
    let name = format!("tillsync store {:08x}", u32::from_be_bytes(mark));
    Own::create(dir, Authority::create(&name, now_ms)?, hosts, now_ms, SERVER_VALID_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn two_devices_have_two_keys_and_one_ca() {
        let dir = tempfile::tempdir().unwrap();
        let now = 1_800_000_000_000;
        let one = issue_device(dir.path(), "pos-1", now).unwrap();
        let two = issue_device(dir.path(), "pos-2", now).unwrap();
        assert_ne!(one.key, two.key);
        assert_eq!(one.ca_pem, two.ca_pem);
        let der = CertificateDer::from_pem_slice(two.cert_pem.as_bytes()).unwrap();
        assert!(Own::open(dir.path()).unwrap().authority.check_client(&der, now).is_ok());
        assert_eq!(Facts::of(&der).unwrap().name, "pos-2");
    }
}
