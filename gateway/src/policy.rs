//! Who may do what in the store: a device writes under its own `dev/{device}/` and reads that and `store/…`.

use std::sync::Arc;

use broker::front::{Credentials, Denial, Identity, Policy, Refusal};
use broker::node::accounts::Accounts;
use proto::topic::Inbound;

#[derive(Debug)]
pub struct StorePolicy {
    /// Take a device's name from its topic instead of its login.
    pub open: bool,
    pub devices: Accounts,
}

impl Policy for StorePolicy {
    fn connect(&self, offered: &Credentials<'_>) -> Result<Option<Arc<str>>, Refusal> {
        if self.open { Ok(None) } else { self.devices.recognise(offered).map(Some) }
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial> {
        match (topic.parse::<Inbound>(), &who.name) {
            (Ok(Inbound::Device { .. }), None) => Ok(()),
            (Ok(Inbound::Device { device, .. }), Some(name)) if device.as_str() == &**name => Ok(()),
            (Ok(Inbound::Device { device, .. }), Some(name)) => {
                let reason = format!("this connection is {name}; it cannot write for {device}");
                Err(Denial { code: "foreign_device", reason })
            }
            (Ok(Inbound::Up { .. }), _) => {
                let reason = proto::topic::TopicError::Unknown.to_string();
                Err(Denial { code: "topic_unknown", reason })
            }
            (Err(error), _) => Err(Denial { code: error.code(), reason: error.to_string() }),
        }
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool {
        let store = filter == "store" || filter.starts_with("store/");
        match &who.name {
            None => true,
            Some(name) => {
                store
                    || filter
                        .strip_prefix("dev/")
                        .and_then(|rest| rest.strip_prefix(&**name))
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_to_its_own_topics() {
        let mut devices = Accounts::default();
        devices.add("pos-1", "long enough".into());
        let policy = StorePolicy { open: false, devices };
        let offered = |username, password| Credentials {
            client: "x",
            username,
            password,
            certificate: None,
            peer: ([127, 0, 0, 1], 9).into(),
        };
        assert_eq!(policy.connect(&offered(Some("pos-1"), Some("long enough"))).unwrap().as_deref(), Some("pos-1"));
        for (username, password) in [(None, None), (Some("pos-1"), Some("wrong")), (Some("pos-2"), Some("long enough"))]
        {
            assert_eq!(policy.connect(&offered(username, password)), Err(Refusal::BadCredentials));
        }
        let who = Identity { client: "x".into(), name: Some("pos-1".into()) };
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
}
