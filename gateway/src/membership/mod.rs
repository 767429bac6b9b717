//! What this box got when it joined: its certificate and key, whom it believes to be the hub, and where that is.
//!
//! One file, `DIR/pki/membership.json`, replaced as a whole: a crash leaves the old membership or the new one. `join` is the
//! command, `renew` keeps the certificate from ending, `watch` notices when either has written the file.

mod https;
mod join;
mod pinned;
mod renew;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker::join::Granted;
use broker::pki::{self, Facts, OwnKey, PkiError};
use proto::id::SiteName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};

pub(crate) use join::{JoinArgs, join};
pub(crate) use renew::Renewal;
pub(crate) use watch::Joined;

const FORMAT: u32 = 1;

/// All that a box needs to be its site at the hub.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    format: u32,
    pub(crate) site: String,
    /// Where it joined and renews: HTTPS.
    pub(crate) api_host: String,
    pub(crate) api_port: u16,
    pub(crate) mqtt_host: String,
    pub(crate) mqtt_port: u16,
    /// What the hub's certificate is believed by, PEM.
    ca: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("site", &self.site).field("api_host", &self.api_host).finish_non_exhaustive()
    }
}

impl Membership {
    /// From what the hub granted for `key`, having been asked at `api`.
    ///
    /// # Errors
    /// The answer does not fit together.
    fn of(granted: Granted, key: &OwnKey, api: (&str, u16)) -> Result<Membership, PkiError> {
        let wrong = |why: &str| PkiError::Request(format!("the hub's answer: {why}"));
        let facts = Facts::of_pem(&granted.certificate)?;
        if facts.key != key.fingerprint() || facts.name != granted.site {
            return Err(wrong("the certificate is not for our key and site"));
        }
        granted.site.parse::<SiteName>().map_err(|why| wrong(&format!("the site {why}")))?;
        let membership = Membership {
            format: FORMAT,
            site: granted.site,
            api_host: api.0.to_owned(),
            api_port: api.1,
            mqtt_host: granted.mqtt_host.unwrap_or_else(|| api.0.to_owned()),
            mqtt_port: granted.mqtt_port,
            ca: granted.ca,
            certificate: granted.certificate,
            key: key.pem(),
        };
        // What is stored can be used.
        membership.client_config().map_err(|why| wrong(&why.to_string()))?;
        Ok(membership)
    }

    /// `None` if the box never joined.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be.
    pub(crate) fn load(dir: &Path) -> Result<Option<Membership>, PkiError> {
        let path = path(dir);
        let Some(text) = pki::read_bounded(&path)? else { return Ok(None) };
        let again = "join again with a new code";
        let membership: Membership =
            serde_json::from_str(&text).map_err(|why| PkiError::content(&path, format!("{why}; {again}")))?;
        if membership.format > FORMAT {
            let why = format!("format {}; this version reads up to {FORMAT}: use the newer program", membership.format);
            return Err(PkiError::content(&path, why));
        }
        membership.client_config().map_err(|why| PkiError::content(&path, format!("{why}; {again}")))?;
        Ok(Some(membership))
    }

    /// Durable when it returns.
    fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let path = path(dir);
        let text = serde_json::to_string_pretty(self).map_err(|why| PkiError::content(&path, why))?;
        pki::make_folder(dir)?;
        pki::make_folder(&dir.join("pki"))?;
        pki::write_private(&path, &text)
    }

    /// Of the site's certificate.
    ///
    /// # Errors
    /// None after [`Membership::load`].
    pub(crate) fn facts(&self) -> Result<Facts, PkiError> {
        Facts::of_pem(&self.certificate)
    }

    /// For MQTT: we show our certificate, and believe the hub's by its CA.
    ///
    /// # Errors
    /// Something in it is not PEM, or does not go together.
    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, PkiError> {
        let wrong = |why: &dyn fmt::Display| PkiError::Request(why.to_string());
        let chain = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|why| wrong(&why))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|why| wrong(&why))?;
        let config = self.trusting()?.with_client_auth_cert(vec![chain], key).map_err(|why| wrong(&why))?;
        Ok(Arc::new(config))
    }

    /// For renewing: our certificate may have ended, so it is not shown by TLS.
    fn renewing_config(&self) -> Result<ClientConfig, PkiError> {
        Ok(self.trusting()?.with_no_client_auth())
    }

    fn trusting(&self) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, PkiError> {
        let wrong = |why: &dyn fmt::Display| PkiError::Request(why.to_string());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(|why| wrong(&why))?;
        roots.add(ca).map_err(|why| wrong(&why))?;
        let not_before = Duration::from_millis(self.facts()?.not_before_ms);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(NotBefore(not_before)));
        let builder = builder.with_safe_default_protocol_versions().map_err(|why| wrong(&why))?;
        Ok(builder.with_root_certificates(roots))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("pki").join("membership.json")
}

/// The system's clock, but never before our certificate was made: a box without a battery wakes up in 1970, and must
/// still find that the hub's certificate has begun.
#[derive(Debug)]
struct NotBefore(Duration);

impl TimeProvider for NotBefore {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(now.max(self.0)))
    }
}
