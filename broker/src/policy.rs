//! Who may do what at the hub: a gateway writes its own `up/{site}` and reads its own `down/{site}`, a monitor reads
//! `hq/…`, nobody does anything else.

use std::sync::Arc;

use proto::topic::Inbound;

use crate::config::Config;
use crate::front::{Credentials, Denial, Identity, Policy, Refusal};

#[derive(Debug)]
pub struct HubPolicy {
    config: Config,
}

impl HubPolicy {
    pub fn new(config: Config) -> HubPolicy {
        HubPolicy { config }
    }
}

impl Policy for HubPolicy {
    fn connect(&self, offered: &Credentials<'_>) -> Result<Option<Arc<str>>, Refusal> {
        if self.config.listen.open {
            return Ok(None);
        }
        self.config.sites.recognise(offered).or_else(|_| self.config.monitors.recognise(offered)).map(Some)
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial> {
        let denied = |code, reason: &str| Err(Denial { code, reason: reason.to_owned() });
        match (topic.parse(), &who.name) {
            (Ok(Inbound::Up { .. }), None) => Ok(()),
            // A monitor's login is not a gateway's, whatever its name.
            (Ok(Inbound::Up { site }), Some(name)) if site.as_str() == &**name && self.config.sites.has(name) => Ok(()),
            (Ok(Inbound::Up { .. }), Some(_)) => denied("foreign_site", "this topic belongs to another site"),
            _ => denied("topic_unknown", "gateways write to up/{site}, nobody else writes here"),
        }
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool {
        let hq = filter == "hq" || filter.starts_with("hq/");
        match &who.name {
            None => true,
            Some(name) => filter.strip_prefix("down/") == Some(name) || (hq && self.config.monitors.has(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_reads_and_a_gateway_writes_its_own_site() {
        let mut config = Config::default();
        config.sites.add("hill", "long enough".into());
        config.monitors.add("office", "long enough".into());
        let policy = HubPolicy::new(config);
        let who = |name: &str| Identity { client: "c".into(), name: Some(name.into()) };
        assert!(policy.may_publish(&who("hill"), "up/hill").is_ok());
        assert_eq!(policy.may_publish(&who("hill"), "up/harbour").unwrap_err().code, "foreign_site");
        assert!(policy.may_publish(&who("office"), "up/office").is_err(), "no site of that name exists");
        assert!(policy.may_subscribe(&who("office"), "hq/#") && !policy.may_subscribe(&who("hill"), "hq/#"));
    }
}
