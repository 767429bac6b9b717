//! Where a node listens, and how its connections are encrypted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::front::Tls;
use crate::node::settings::Settings;

/// What the configuration says of the listener.
#[derive(Debug, Clone)]
pub struct Listen {
    pub addr: SocketAddr,
    /// Serve without credentials.
    pub open: bool,
    pub encryption: Encryption,
    /// Where Prometheus may ask, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// Not at all: on loopback, or because the operator said so.
    Plain,
    /// With the operator's own PEM files.
    Files(Tls),
    /// With the certificate in `DIR/pki`, which is loaded, and for a store made, when the node starts.
    Own,
}

/// When a node's own CA is used, if no `tls_…` keys are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnCa {
    /// There is none.
    Absent,
    /// Always: it is there because `init` made it. With its certificate's path.
    Always(PathBuf),
    /// Where others than this box can listen in; it is made if it is not there.
    BeyondLoopback(PathBuf),
}

impl OwnCa {
    fn certificate(&self) -> Option<&Path> {
        match self {
            OwnCa::Absent => None,
            OwnCa::Always(path) | OwnCa::BeyondLoopback(path) => Some(path.as_path()).filter(|path| path.exists()),
        }
    }
}

/// TLS files are compared by being there: two configurations that read the same keys are the same.
impl PartialEq for Listen {
    fn eq(&self, other: &Listen) -> bool {
        let encryption = |listen: &Listen| std::mem::discriminant(&listen.encryption);
        let facts = |listen: &Listen| (listen.addr, listen.open, encryption(listen), listen.metrics);
        facts(self) == facts(other)
    }
}

impl Eq for Listen {}

impl Default for Listen {
    fn default() -> Listen {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1883));
        Listen { addr, open: false, encryption: Encryption::Plain, metrics: None }
    }
}

/// Reads `listen`, `open`, `allow_plain`, `metrics` and the `tls_…` keys, and finds what must not go together.
pub fn read(settings: &mut Settings, own: &OwnCa) -> Listen {
    let default = Listen::default();
    let addr = settings.parsed("listen", "an address and port such as 127.0.0.1:1883").unwrap_or(default.addr);
    let open = settings.switch("open", false);
    let allow_plain = settings.switch("allow_plain", false);
    let beyond = !addr.ip().is_loopback();
    let encryption = match (tls(settings, own.certificate()), own) {
        (Some(tls), _) => Encryption::Files(tls),
        (None, OwnCa::Always(_)) => Encryption::Own,
        (None, OwnCa::BeyondLoopback(_)) if beyond && !allow_plain => Encryption::Own,
        (None, _) => Encryption::Plain,
    };
    if beyond && open {
        settings.fault("open", true, format!("false on {addr}: without credentials only loopback is served"));
    } else if beyond && !allow_plain && matches!(encryption, Encryption::Plain) {
        let must_be = "a loopback address, or encrypted (`tillsync-broker init` makes certificates, `tls_cert` and \
                       `tls_key` are yours), or `allow_plain = true`: passwords and stock would cross the network in the \
                       clear";
        settings.fault("listen", addr, must_be);
    }
    Listen { addr, open, encryption, metrics: metrics(settings) }
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

/// Certificates of this node's own CA are believed beside those of the operator's.
fn tls(settings: &mut Settings, own_ca: Option<&Path>) -> Option<Tls> {
    let mut path = |key: &str| settings.parsed::<PathBuf>(key, "the path of a PEM file");
    let (cert, key, client_ca) = (path("tls_cert"), path("tls_key"), path("tls_client_ca"));
    match (cert, key) {
        (Some(cert), Some(key)) => {
            let client_cas: Vec<&Path> = client_ca.as_deref().into_iter().chain(own_ca).collect();
            match Tls::load(&cert, &key, &client_cas) {
                Ok(tls) => return Some(tls),
                Err(error) => settings.fault("tls_cert", cert.display(), format!("usable, but {error}")),
            }
        }
        (None, None) if client_ca.is_none() => {}
        _ => settings.fault(
            "tls_cert",
            "(incomplete)",
            "given together with `tls_key`, for any of the tls keys to count",
        ),
    }
    None
}
