//! Boxes that are lost: an operator says so, and nothing waits for that life of the site's ledger any more.

use std::ops::ControlFlow;

use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::SiteLost;
use proto::wire::record::Of;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::tables::{SITE_LOST, replica_of};
use super::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// What a gateway of such a life is told.
pub(super) const LOST_ADVICE: &str = "an operator said that this box is lost, and the hub no longer waits for what it has: stop it and run \
     `tillsync-gateway rejoin`, which brings it under a new ledger";

/// That a site's box is lost, who says so and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub site: SiteName,
    pub by: String,
    pub why: String,
}

impl Hub {
    pub(super) fn recover_lost(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        ledger.scan_prefix(SITE_LOST, &[], &mut |key, _| {
            self.lost.extend(replica_of(key));
            ControlFlow::Continue(())
        })
    }

    /// Takes the site's current life out of the forgetting horizon, for good. Said again it changes nothing.
    //
    // Rights to promised stock that this life holds will be written off as spent here, in the same commit: nobody can know
    // which of them the box used.
    pub(super) fn site_lost(
        &mut self,
        lost: Lost,
        answer: oneshot::Sender<Value>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let said = match self.lose(&lost, now, &mut step) {
            Ok(replica) => json!({
                "site": lost.site.as_str(),
                "epoch": replica.epoch.to_string(),
                "seq": (!step.events.is_empty()).then(|| ledger.next_seq().0),
            }),
            Err(why) => json!({ "error": why }),
        };
        step.then.push(Effect::Answer(answer, said));
        Ok(step)
    }

    fn lose(&mut self, lost: &Lost, now: &Now, step: &mut Step<Effect>) -> Result<ReplicaId, String> {
        let Lost { site, by, why } = lost;
        let Some(view) = self.sites.get_mut(site) else { return Err(format!("no site is called {site}")) };
        if view.online {
            return Err(format!("{site} is connected: a box that is there is not lost. Switch it off first"));
        }
        let replica = ReplicaId { site: site.clone(), epoch: Epoch(view.epoch) };
        if self.lost.insert(replica.clone()) {
            view.is_lost = true;
            let record = SiteLost { site: site.to_string(), epoch: replica.epoch.0, by: by.clone(), why: why.clone() };
            let draft = self.draft(vec![Of::SiteLost(record)], now);
            step.events.push(draft);
            tracing::warn!(%site, ledger = %replica.epoch, by, why, "a site's box is lost: nothing waits for it");
            let say = format!("the box of {site} was declared lost; its ledger {} is turned away", replica.epoch);
            step.then.push(Effect::tell(views::alert(site, "site_lost", say, now.wall.0)));
            self.site_changed.insert(site.clone());
        }
        Ok(replica)
    }
}
