//! Who may do what at the hub: a gateway writes its own `up/{site}` and reads its own `down/{site}`, a monitor reads
//! `hq/…`, an integrator does what the policy file says, nobody does anything else.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::topic::Inbound;

use crate::front::{Admission, Admitting, Allowance, Credentials, Denial, Identity, Policy, Rate};
use crate::identity::audit::What;
use crate::identity::{Guard, Kind, Say, Scheme, SecurityEvent, is_within};
use crate::node::caps::Caps;

/// Accounts and policies of a hub.
pub static SCHEME: Scheme = Scheme {
    command: "tillsync-broker account",
    kinds: &[Kind::Site, Kind::Monitor, Kind::Integrator],
    publish_below: None,
    makes_ca: false,
    example: include_str!("../policy.toml"),
};

pub struct HubPolicy {
    /// Serve anybody.
    pub open: bool,
    pub guard: Arc<Guard>,
    pub caps: Caps,
    pub site_rate: Rate,
    /// Of everybody but sites.
    pub account_rate: Rate,
}

impl Policy for HubPolicy {
    fn connect<'a>(&'a self, offered: Credentials<'a>) -> Admitting<'a> {
        Box::pin(async move {
            if self.open { Ok(Admission::default()) } else { self.guard.door.recognise(&offered, false).await }
        })
    }

    fn allowance(&self, who: &Identity) -> Allowance {
        match who.kind {
            None => Allowance::UNLIMITED,
            Some(Kind::Site) => self.caps.allowance(self.site_rate),
            Some(_) => self.caps.allowance(self.account_rate),
        }
    }

    fn refused(&self, client: &str, peer: SocketAddr, why: &'static str) {
        // Where anybody may be anybody, nobody is refused for who he is.
        if !self.open {
            self.guard.door.refused(client, peer.ip(), why);
        }
    }

    fn may_publish(&self, who: &Identity, topic: &str) -> Result<(), Denial> {
        let denied = |code, reason: &str| Err(Denial { code, reason: reason.to_owned() });
        let forbidden = |(name, kind)| self.guard.rights.now().publish(name, kind, topic) == Say::Denied;
        let judged = match (topic.parse(), &who.name) {
            (Ok(Inbound::Up { .. }), None) if self.open => Ok(()),
            _ if who.name.as_deref().zip(who.kind).is_some_and(forbidden) => {
                denied("not_authorized", "the policy forbids this account to write here")
            }
            // A monitor's login is not a gateway's, whatever its name.
            (Ok(Inbound::Up { site }), Some(name)) if site.as_str() == &**name && who.kind == Some(Kind::Site) => {
                Ok(())
            }
            (Ok(Inbound::Up { .. }), Some(_)) => denied("foreign_site", "this topic belongs to another site"),
            _ => denied("topic_unknown", "gateways write to up/{site}, nobody else writes here"),
        };
        if judged.is_err() && !self.open {
            self.guard.denied(What::PublishDenied, who, topic);
        }
        judged
    }

    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool {
        let allowed = match (&who.name, who.kind) {
            (Some(name), Some(kind)) => match self.guard.rights.now().subscribe(name, kind, filter) {
                Say::Denied => false,
                Say::Allowed => true,
                Say::Nothing => match kind {
                    Kind::Site => is_within(filter, "down/{name}", name),
                    Kind::Monitor => is_within(filter, "hq/#", name),
                    _ => false,
                },
            },
            _ => self.open,
        };
        if !allowed {
            self.guard.denied(What::SubscribeDenied, who, filter);
        }
        allowed
    }
}

/// What is written down of a denial: who, and what sort of thing.
impl Guard {
    /// A client was denied a topic or a filter. Its text is not told: it is the client's.
    pub fn denied(&self, what: What, who: &Identity, topic: &str) {
        let name = who.name.as_deref().unwrap_or(&who.client);
        let mut levels = topic.split('/');
        let known = |level: Option<&str>, known: &[&'static str]| {
            level.and_then(|level| known.iter().copied().find(|one| *one == level)).unwrap_or("other")
        };
        let detail = match known(levels.next(), &["dev", "store", "up", "down", "hq", "#", "+"]) {
            "dev" => {
                let kinds = proto::topic::Kind::ALL.map(proto::topic::Kind::as_str);
                let of = levels.next();
                let whose = if of == Some(name) { "{name}" } else { "+" };
                format!("dev/{whose}/{}", known(levels.next(), &kinds))
            }
            first => format!("{first}/…"),
        };
        let (who, by, peer) = (name.to_owned(), String::new(), String::new());
        self.audit.tell(SecurityEvent { what, who, by, peer, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Rights;

    #[test]
    fn a_monitor_reads_and_a_gateway_writes_its_own_site() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[[allow]]\nwho = \"erp\"\nsubscribe = [\"hq/stock/#\"]\n\
                    [[deny]]\nkind = \"monitor\"\nsubscribe = [\"hq/alerts/security/#\"]\n\
                    [[deny]]\nwho = \"mill\"\npublish = [\"up/#\"]\n";
        let rights = Rights::parse(text, "p", &SCHEME).unwrap();
        let guard = Arc::new(Guard::open(dir.path(), &SCHEME, None).unwrap());
        guard.rights.replace(rights);
        let rate = Rate { messages: 1, bytes: 1 };
        let caps = Caps::of(1, 1, 1);
        let policy = HubPolicy { open: false, guard, caps, site_rate: rate, account_rate: rate };
        let who = |name: &str, kind| Identity { client: "c".into(), name: Some(name.into()), kind: Some(kind) };
        let (hill, office, erp) = (who("hill", Kind::Site), who("office", Kind::Monitor), who("erp", Kind::Integrator));
        assert!(policy.may_publish(&hill, "up/hill").is_ok());
        assert_eq!(policy.may_publish(&hill, "up/harbour").unwrap_err().code, "foreign_site");
        assert!(policy.may_publish(&office, "up/office").is_err(), "its name is no site's");
        let mill = who("mill", Kind::Site);
        assert_eq!(policy.may_publish(&mill, "up/mill").unwrap_err().code, "not_authorized", "set apart by the policy");
        for (who, filter, may) in [
            (&hill, "down/hill", true),
            (&hill, "down/+", false),
            (&hill, "hq/#", false),
            (&office, "hq/sites/#", true),
            (&office, "hq/#", false),
            (&office, "hq/stock/+", true),
            (&office, "hq/alerts/+", false),
            (&office, "down/hill", false),
            (&erp, "hq/stock/+", true),
            (&erp, "hq/#", false),
            (&erp, "#", false),
        ] {
            assert_eq!(policy.may_subscribe(who, filter), may, "{filter} of {}", who.name.as_deref().unwrap());
        }
    }

    #[test]
    fn the_example_is_a_policy() {
        assert!(Rights::parse(SCHEME.example, "policy.toml", &SCHEME).unwrap().rules() > 0);
    }
}
