//! The certificate that the store's listener shows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context;
use broker::front::Tls;
use broker::node::listen::Encryption;
use broker::node::settings::{Fault, Faults};
use broker::node::wall_ms;
use broker::pki::{self, Own, SERVER_VALID_MS};

use crate::config::Config;

/// TLS for devices, if connections are encrypted; with the store's own CA, if it is that.
pub(crate) fn secure(config: &Config) -> anyhow::Result<(Option<Tls>, Option<Own>)> {
    match &config.listen.encryption {
        Encryption::Plain => Ok((None, None)),
        Encryption::Files(tls) => Ok((Some(tls.clone()), None)),
        Encryption::Own => {
            let hosts = hosts(config);
            let own = open(config, &hosts).map_err(|why| {
                let must_be = "a folder whose `pki` holds this gateway's own CA, or none yet".to_owned();
                Faults(vec![Fault { key: "data".into(), found: why.to_string(), must_be }])
            })?;
            let paths = &own.paths;
            let tls = Tls::load(&paths.server, &paths.server, &[&paths.ca]).context("use the certificate just made")?;
            Ok((Some(tls), Some(own)))
        }
    }
}

fn open(config: &Config, hosts: &[String]) -> Result<Own, pki::PkiError> {
    let own = pki::open_or_create(&config.data, hosts, wall_ms())?;
    own.renew_server(hosts, wall_ms(), SERVER_VALID_MS)?;
    Ok(own)
}

/// How devices may call this box.
fn hosts(config: &Config) -> Vec<String> {
    let mut hosts = config.tls_names.clone();
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    // What is no DNS name cannot stand in a certificate.
    hosts.extend(Some(name).filter(|name| rustls::pki_types::DnsName::try_from(name.as_str()).is_ok()));
    hosts.push("localhost".into());
    hosts.extend(addresses(config.listen.addr).map(|ip| ip.to_string()));
    let mut once = Vec::new();
    hosts
        .into_iter()
        .filter(|host| {
            !once.contains(host) && {
                once.push(host.clone());
                true
            }
        })
        .collect()
}

/// The address that it listens on, or, if that is any, the one that leads out of here; and loopback.
fn addresses(listen: SocketAddr) -> impl Iterator<Item = IpAddr> {
    let said = Some(listen.ip()).filter(|ip| !ip.is_unspecified());
    said.or_else(outward).into_iter().chain([Ipv4Addr::LOCALHOST.into()])
}

/// The address of the interface that a packet would leave by; none is sent. 192.0.2.0/24 is nobody's (RFC 5737).
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}
