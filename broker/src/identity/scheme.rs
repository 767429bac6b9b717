//! In what stores and hubs differ: which kinds of accounts there are, and what a policy may allow.

use super::account::Kind;

/// Of one kind of node.
#[derive(Debug)]
pub struct Scheme {
    /// The command that changes accounts, as it is typed.
    pub command: &'static str,
    pub kinds: &'static [Kind],
    /// What topics that a policy lets somebody publish must begin with; `None`: it cannot let anybody publish anything.
    pub publish_below: Option<&'static str>,
    /// Whether a CA is made for the first certificate that is issued; else an operator makes it (`init`).
    pub makes_ca: bool,
    /// A policy file to start from, which is also its manual.
    pub example: &'static str,
}

/// Client ids that begin with these, or are one of the second, are the process's own and the uplink's.
const RESERVED_PREFIXES: [&str; 4] = ["gateway:", "tillsync", "hub:", "auto-"];
const RESERVED: [&str; 3] = ["gateway", "hub", "auto"];

/// Whether a client id is not for anybody to take, but for a site that connects as `gateway:{site}`.
pub fn is_reserved(client: &str) -> bool {
    RESERVED.contains(&client) || RESERVED_PREFIXES.iter().any(|prefix| client.starts_with(prefix))
}
