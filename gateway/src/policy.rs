//! Who may do what in the store: a device writes under its own `dev/{device}/` and reads that and `store/…`, a monitor
//! reads `store/…`, and the policy file says what else.

use std::net::SocketAddr;
use std::sync::Arc;

use broker::front::{Admission, Admitting, Allowance, Credentials, Denial, Identity, Policy, Rate};
use broker::identity::audit::What;
use broker::identity::{Guard, Kind, Say, Scheme, is_within};
use broker::node::caps::Caps;
use proto::topic::{self, Inbound, TopicError};

/// Accounts and policies of a store.
pub static SCHEME: Scheme = Scheme {
    command: "tillsync-gateway device",
    kinds: &[Kind::Scanner, Kind::Pos, Kind::Tablet, Kind::Monitor, Kind::Integrator],
    publish_below: Some("dev/"),
    makes_ca: true,
    example: include_str!("../policy.toml"),
};

pub struct StorePolicy {
    /// Take a device's name from its topic instead of its login.
    pub open: bool,
    /// Let in who shows nothing, with rights for scans under its client id.
    pub anonymous: bool,
    pub guard: Arc<Guard>,
    pub caps: Caps,
    pub device_rate: Rate,
}

impl Policy for StorePolicy {
    fn connect<'a>(&'a self, offered: Credentials<'a>) -> Admitting<'a> {
        Box::pin(async move {
            match self.open {
                true => Ok(Admission::default()),
                false => self.guard.door.recognise(&offered, self.anonymous).await,
            }
        })
    }

    fn allowance(&self, _who: &Identity) -> Allowance {
        if self.open { Allowance::UNLIMITED } else { self.caps.allowance(self.device_rate) }
    }

    fn refused(&self, client: &str, peer: SocketAddr, why: &'static str) {
        // Where anybody may be anybody, nobody is refused for who he is.
        if !self.open {
            self.guard.door.refused(client, peer.ip(), why);
        }
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial> {
        let denial = |code, reason: String| Denial { code, reason };
        let unknown = |error: TopicError| denial(error.code(), error.to_string());
        let (device, kind) = match topic.parse::<Inbound>() {
            Ok(Inbound::Device { device, kind, .. }) => (device, kind),
            Ok(Inbound::Up { .. }) => return Err(unknown(TopicError::Unknown)),
            Err(error) => return Err(unknown(error)),
        };
        let judged = match (&who.name, who.kind) {
            _ if self.open => return Ok(()),
            (Some(name), Some(of)) => match self.guard.rights.now().publish(name, of, topic) {
                Say::Denied => Err(denial("not_authorized", format!("{name} may not write {topic}"))),
                Say::Allowed => Ok(()),
                Say::Nothing if of.is_device() && device.as_str() == &**name => Ok(()),
                Say::Nothing => {
                    Err(denial("foreign_device", format!("this connection is {name}; it cannot write for {device}")))
                }
            },
            _ if kind == topic::Kind::Scan && device.as_str() == &*who.client => Ok(()),
            _ => {
                let reason = format!("without a login only dev/{}/scan can be written here", who.client);
                Err(denial("not_authorized", reason))
            }
        };
        if judged.is_err() {
            self.guard.denied(What::PublishDenied, who, topic);
        }
        judged
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool {
        let within = |pattern, name: &str| is_within(filter, pattern, name);
        let allowed = match (&who.name, who.kind) {
            _ if self.open => true,
            (Some(name), Some(kind)) => match self.guard.rights.now().subscribe(name, kind, filter) {
                Say::Denied => false,
                Say::Allowed => true,
                Say::Nothing if kind.is_device() => within("store/#", name) || within("dev/{name}/#", name),
                Say::Nothing => kind == Kind::Monitor && within("store/#", name),
            },
            _ => within("store/#", "") || within("dev/{name}/reply/#", &who.client),
        };
        if !allowed {
            self.guard.denied(What::SubscribeDenied, who, filter);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use broker::identity::Rights;

    use super::*;

    fn policy(rights: &str, anonymous: bool) -> StorePolicy {
        let dir = tempfile::tempdir().unwrap();
        let rights = Rights::parse(rights, "p", &SCHEME).unwrap();
        let guard = Arc::new(Guard::open(dir.path(), &SCHEME, None).unwrap());
        guard.rights.replace(rights);
        let (caps, device_rate) = (Caps::of(1, 1, 1), Rate { messages: 1, bytes: 1 });
        StorePolicy { open: false, anonymous, guard, caps, device_rate }
    }

    fn who(name: &str, kind: Kind) -> Identity {
        Identity { client: "x".into(), name: Some(name.into()), kind: Some(kind) }
    }

    #[test]
    fn a_device_keeps_to_its_own_topics() {
        let policy = policy("", false);
        let who = who("pos-1", Kind::Pos);
        assert!(policy.may_publish(&who, "dev/pos-1/sale").is_ok());
        assert!(policy.may_publish(&who, "dev/pos-1/sale/pb").is_ok());
        assert_eq!(policy.may_publish(&who, "dev/pos-2/sale/pb").unwrap_err().code, "foreign_device");
        assert_eq!(policy.may_publish(&who, "dev/pos-2/sale").unwrap_err().code, "foreign_device");
        assert_eq!(policy.may_publish(&who, "store/stock/1").unwrap_err().code, "topic_unknown");
        for (filter, allowed) in [
            ("dev/pos-1/reply", true),
            ("dev/pos-1/reply/pb", true),
            ("dev/pos-1/#", true),
            ("store/#", true),
            ("dev/pos-10/reply", false),
            ("dev/+/reply", false),
            ("dev/pos-1+", false),
            ("#", false),
        ] {
            assert_eq!(policy.may_subscribe(&who, filter), allowed, "{filter}");
        }
    }

    #[test]
    fn the_example_lets_a_system_write_items_and_no_scanner_sell() {
        let policy = policy(SCHEME.example, false);
        let (erp, scanner) = (who("erp", Kind::Integrator), who("s-1", Kind::Scanner));
        assert!(policy.may_publish(&erp, "dev/erp/item").is_ok());
        assert_eq!(policy.may_publish(&erp, "dev/erp/sale").unwrap_err().code, "foreign_device");
        assert!(policy.may_subscribe(&erp, "store/stock/+") && !policy.may_subscribe(&erp, "store/#"));
        for topic in ["dev/s-1/sale", "dev/s-1/sale/pb"] {
            assert_eq!(policy.may_publish(&scanner, topic).unwrap_err().code, "not_authorized", "{topic}");
        }
        assert!(policy.may_publish(&scanner, "dev/s-1/scan").is_ok());
        let monitor = who("screen", Kind::Monitor);
        assert!(policy.may_subscribe(&monitor, "store/stock/#") && !policy.may_subscribe(&monitor, "dev/screen/#"));
        assert!(policy.may_publish(&monitor, "dev/screen/scan").is_err());
    }

    #[test]
    fn who_has_no_name_scans_under_its_client_id_and_no_more() {
        let policy = policy("", true);
        let who = Identity { client: "scanner-9".into(), name: None, kind: None };
        assert!(policy.may_publish(&who, "dev/scanner-9/scan").is_ok());
        for topic in ["dev/scanner-9/sale", "dev/pos-1/scan", "dev/scanner-9/item"] {
            assert_eq!(policy.may_publish(&who, topic).unwrap_err().code, "not_authorized", "{topic}");
        }
        for (filter, may) in [
            ("store/stock/+", true),
            ("dev/scanner-9/reply", true),
            ("dev/scanner-9/#", false),
            ("dev/+/reply", false),
            ("#", false),
        ] {
            assert_eq!(policy.may_subscribe(&who, filter), may, "{filter}");
        }
    }
}
