//! Where a node may listen while its connections are not encrypted.

use std::net::SocketAddr;

use crate::node::settings::Settings;

/// Reads `listen`, `open` and `allow_plain`, and finds what must not go together.
pub fn read(settings: &mut Settings, default: SocketAddr) -> (SocketAddr, bool) {
    let listen = settings.parsed("listen", "an address and port such as 127.0.0.1:1883").unwrap_or(default);
    let open = settings.switch("open", false);
    let allow_plain = settings.switch("allow_plain", false);
    if !listen.ip().is_loopback() {
        if open {
            settings.fault("open", true, format!("false on {listen}: without credentials only loopback is served"));
        } else if !allow_plain {
            let must_be = "a loopback address, or `allow_plain = true`: passwords and stock would cross the network \
                           in the clear";
            settings.fault("listen", listen, must_be);
        }
    }
    (listen, open)
}
