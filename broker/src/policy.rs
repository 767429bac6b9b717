//! Who may do what at the hub: a gateway writes its own `up/{site}` and reads its own `down/{site}`, a monitor reads
//! `hq/…`, nobody does anything else.

use std::sync::Arc;

use proto::topic::Inbound;

use crate::config::Config;
use crate::front::{Certified, Credentials, Denial, Identity, Policy, Refusal};
use crate::identity::{Kind, SharedBook};

#[derive(Debug)]
pub struct HubPolicy {
    config: Config,
    /// Sites that have joined.
    accounts: SharedBook,
}

impl HubPolicy {
    pub fn new(config: Config, accounts: SharedBook) -> HubPolicy {
        HubPolicy { config, accounts }
    }

    /// Whether a certificate is a joined site's: by its key, since a name can be certified again for another box.
    fn joined(&self, certified: &Certified) -> Result<Option<Arc<str>>, Refusal> {
        let accounts = self.accounts.now();
        let Some(account) = accounts.get(&certified.name).filter(|account| account.kind == Kind::Site) else {
            return Ok(None);
        };
        if account.disabled || !account.keys.contains(&certified.key) {
            return Err(Refusal::NotAuthorized);
        }
        Ok(Some(account.name.as_str().into()))
    }

    fn is_site(&self, name: &str) -> bool {
        let joined = || self.accounts.now().get(name).is_some_and(|account| account.kind == Kind::Site);
        self.config.sites.has(name) || joined()
    }
}

impl Policy for HubPolicy {
    fn connect(&self, offered: &Credentials<'_>) -> Result<Option<Arc<str>>, Refusal> {
        if self.config.listen.open {
            return Ok(None);
        }
        if let Some(site) = offered.certificate.map(|shown| self.joined(shown)).transpose()?.flatten() {
            let id = format!("gateway:{site}");
            let agrees = offered.username.is_none_or(|name| name == &*site) && offered.client == id;
            return if agrees { Ok(Some(site)) } else { Err(Refusal::NotAuthorized) };
        }
        self.config.sites.recognise(offered).or_else(|_| self.config.monitors.recognise(offered)).map(Some)
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial> {
        let denied = |code, reason: &str| Err(Denial { code, reason: reason.to_owned() });
        match (topic.parse(), &who.name) {
            (Ok(Inbound::Up { .. }), None) => Ok(()),
            // A monitor's login is not a gateway's, whatever its name.
            (Ok(Inbound::Up { site }), Some(name)) if site.as_str() == &**name && self.is_site(name) => Ok(()),
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
        let policy = HubPolicy::new(config, SharedBook::default());
        let who = |name: &str| Identity { client: "c".into(), name: Some(name.into()) };
        assert!(policy.may_publish(&who("hill"), "up/hill").is_ok());
        assert_eq!(policy.may_publish(&who("hill"), "up/harbour").unwrap_err().code, "foreign_site");
        assert!(policy.may_publish(&who("office"), "up/office").is_err(), "no site of that name exists");
        assert!(policy.may_subscribe(&who("office"), "hq/#") && !policy.may_subscribe(&who("hill"), "hq/#"));
    }
}
