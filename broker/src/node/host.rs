//! Where another node is, as people write it.

use std::str::FromStr;

/// `host:port`; the host may be a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(pub String, pub u16);

impl FromStr for Host {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Host, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or("the port is not a number from 1 to 65535")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() { Err("the host is missing") } else { Ok(Host(host.to_owned(), port)) }
    }
}
