//! What the devices say, and how each of it is known again in a ledger or at a subscriber.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::mqtt::Qos;
use crate::retail::barcode;

/// Till, till, scanner, handheld: two tills sell, the scanner also sends bare barcodes, the handheld uses QoS 2.
pub(super) const DEVICES: [&str; 4] = ["pos-1", "pos-2", "scanner-1", "handheld-1"];
const SCANNER: usize = 2;
const HANDHELD: usize = 3;
const PRODUCTS: u64 = 40;
/// Every so many-th message of the scanner is a bare barcode.
const BARE_EVERY: u64 = 4;

/// Which promises the devices lean on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Requests with ids at QoS 1, bare barcodes at QoS 1, and QoS 2 without ids.
    All,
    /// QoS 1, and a unique id in every payload: what any broker can carry and a subscriber can tell apart.
    Ids,
}

/// A message's name: device and number, as they stand in its id or reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) device: usize,
    pub(super) n: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) qos: Qos,
    pub(super) topic: String,
    pub(super) payload: Bytes,
}

impl Dialect {
    /// A bare barcode has no name: only how many there are can be told.
    pub(super) fn is_bare(self, name: Name) -> bool {
        self == Dialect::All && name.device == SCANNER && name.n % BARE_EVERY == BARE_EVERY - 1
    }

    pub(super) fn message(self, name: Name) -> Message {
        let Name { device, n } = name;
        let gtin = barcode(1_000 + n % PRODUCTS);
        let id = format!("r{n}");
        let (qos, kind, payload) = match device {
            _ if self.is_bare(name) => (Qos::AtLeastOnce, "scan", format!("{gtin}\r\n")),
            // No id: QoS 2 alone must keep it single. The reference tells which it is.
            HANDHELD if self == Dialect::All => {
                let lines = json!([{"gtin": gtin, "qty": 2}]);
                (Qos::ExactlyOnce, "move", json!({"op": "receive", "lines": lines, "reference": id}).to_string())
            }
            SCANNER | HANDHELD => {
                (Qos::AtLeastOnce, "scan", json!({"id": id, "gtin": gtin, "op": "receive", "qty": 3}).to_string())
            }
            _ => {
                let lines = json!([{"gtin": gtin, "qty": 1, "cents": 999}]);
                (Qos::AtLeastOnce, "sale", json!({"id": id, "lines": lines}).to_string())
            }
        };
        Message { qos, topic: format!("dev/{}/{kind}", DEVICES[device]), payload: payload.into() }
    }
}

/// The name that a device's name and an id or reference make. `None` if no device of ours says such.
pub(super) fn name(device: &str, id: &str) -> Option<Name> {
    let device = DEVICES.iter().position(|known| *known == device)?;
    Some(Name { device, n: id.strip_prefix('r')?.parse().ok()? })
}

/// The name in a message as a subscriber gets it.
pub(super) fn name_of(topic: &str, payload: &[u8]) -> Option<Name> {
    let device = topic.split('/').nth(1)?;
    let payload: Value = serde_json::from_slice(payload).ok()?;
    name(device, payload.get("id").or_else(|| payload.get("reference"))?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_bare_is_known_again() {
        for (dialect, bares) in [(Dialect::All, 25), (Dialect::Ids, 0)] {
            let names = (0..DEVICES.len()).flat_map(|device| (0..100).map(move |n| Name { device, n }));
            let mut bare = 0;
            for name in names {
                let Message { topic, payload, qos } = dialect.message(name);
                assert!(dialect == Dialect::All || qos == Qos::AtLeastOnce);
                let known = name_of(&topic, &payload);
                bare += usize::from(known.is_none());
                assert_eq!(known, (!dialect.is_bare(name)).then_some(name), "{topic}");
            }
            assert_eq!(bare, bares);
        }
        assert_eq!(name("pos-9", "r1"), None);
        assert_eq!(name("pos-1", "x1"), None);
    }
}
