//! Where a node listens, and how its connections are encrypted.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::front::Tls;
use crate::node::settings::Settings;

/// What the configuration says of the listener.
#[derive(Debug, Clone)]
pub struct Listen {
    pub addr: SocketAddr,
    /// Serve without credentials.
    pub open: bool,
    pub tls: Option<Tls>,
    /// Where Prometheus may ask, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// TLS files are compared by being there: two configurations that read the same keys are the same.
impl PartialEq for Listen {
    fn eq(&self, other: &Listen) -> bool {
        let facts = |listen: &Listen| (listen.addr, listen.open, listen.tls.is_some(), listen.metrics);
        facts(self) == facts(other)
    }
}

impl Eq for Listen {}

impl Default for Listen {
    fn default() -> Listen {
        Listen { addr: SocketAddr::from(([127, 0, 0, 1], 1883)), open: false, tls: None, metrics: None }
    }
}

/// Reads `listen`, `open`, `allow_plain`, `metrics` and the `tls_…` keys, and finds what must not go together.
pub fn read(settings: &mut Settings) -> Listen {
    let default = Listen::default();
    let addr = settings.parsed("listen", "an address and port such as 127.0.0.1:1883").unwrap_or(default.addr);
    let open = settings.switch("open", false);
    let allow_plain = settings.switch("allow_plain", false);
    let tls = tls(settings);
    if !addr.ip().is_loopback() {
        if open {
            settings.fault("open", true, format!("false on {addr}: without credentials only loopback is served"));
        } else if !allow_plain && tls.is_none() {
            let must_be = "a loopback address, or encrypted with `tls_cert` and `tls_key`, or `allow_plain = true`: \
                           passwords and stock would cross the network in the clear";
            settings.fault("listen", addr, must_be);
        }
    }
    Listen { addr, open, tls, metrics: metrics(settings) }
}

fn metrics(settings: &mut Settings) -> Option<SocketAddr> {
    let addr = settings.parsed::<SocketAddr>("metrics", "an address and port such as 127.0.0.1:9464");
    let consent = settings.switch("metrics_beyond_loopback", false);
    if let Some(addr) = addr.filter(|addr| !addr.ip().is_loopback() && !consent) {
        let must_be = "a loopback address, or `metrics_beyond_loopback = true`: whoever reaches it reads how the \
                       business is doing";
        settings.fault("metrics", addr, must_be);
    }
    addr
}

fn tls(settings: &mut Settings) -> Option<Tls> {
    let mut path = |key: &str| settings.parsed::<PathBuf>(key, "the path of a PEM file");
    let (cert, key, client_ca) = (path("tls_cert"), path("tls_key"), path("tls_client_ca"));
    match (cert, key) {
        (Some(cert), Some(key)) => match Tls::load(&cert, &key, client_ca.as_deref()) {
            Ok(tls) => return Some(tls),
            Err(error) => settings.fault("tls_cert", cert.display(), format!("usable, but {error}")),
        },
        (None, None) if client_ca.is_none() => {}
        _ => settings.fault(
            "tls_cert",
            "(incomplete)",
            "given together with `tls_key`, for any of the tls keys to count",
        ),
    }
    None
}
