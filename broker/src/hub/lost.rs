//! Boxes that are lost: an operator says so, and nothing waits for that life of the site's ledger any more.

use std::ops::ControlFlow;

use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::SiteLost;
use proto::wire::record::Of;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::rights::RightsNote;
use super::tables::{SITE_LOST, replica_of};
use super::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// What a gateway of such a life is told.
pub(super) const LOST_ADVICE: &str = "an operator said that this box is lost, and the hub no longer waits for what it has: stop it and run \
     `tillsync-gateway rejoin`, which brings it under a new ledger";

/// What a hub that was restored says of one that it waited for.
pub(super) const UNHEARD: &str = "this hub was restored, and the site has not said what it was granted since the backup: what of that it \
     promised is not in these figures, and as many units may be promised twice";

/// That a site's box is lost, who says so and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub site: SiteName,
    pub by: String,
    pub why: String,
    /// Their own name for it.
    pub reference: String,
    /// What the box had left of its rights may be promised again, though it may have promised it.
    pub reclaim: bool,
}

impl Hub {
    pub(super) fn recover_lost(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        ledger.scan_prefix(SITE_LOST, &[], &mut |key, _| {
            self.lost.extend(replica_of(key));
            ControlFlow::Continue(())
        })
    }

    /// Takes the site's current life out of the forgetting horizon, for good. Said again it changes nothing.
    /// The rights that this life has left count as spent from then on: nobody can know which of them the box used. An
    /// operator who does can have them reclaimed.
    pub(super) fn site_lost(
        &mut self,
        lost: Lost,
        answer: oneshot::Sender<Value>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let said = match self.lose(&lost, now, &mut step) {
            Ok(replica) => {
                let seq = (!step.events.is_empty()).then(|| ledger.next_seq().0);
                let left = self.left_at(&replica);
                let unheard = self.waits_no_more(&replica, now, &mut step);
                if unheard {
                    let say = views::alert(&lost.site, "rights_unheard", UNHEARD.to_owned(), now.wall.0);
                    tracing::warn!(site = %lost.site, "{UNHEARD}");
                    step.then.push(Effect::tell(say));
                }
                let items = self.pools.items_of(&replica).into_iter().map(|gtin| (replica.clone(), gtin));
                let items: Vec<_> = if lost.reclaim { items.collect() } else { Vec::new() };
                let note = RightsNote { by: lost.by.clone(), why: lost.why.clone(), reference: lost.reference.clone() };
                let reclaimed = self.reclaim(&items, &note, now, ledger, &mut step);
                json!({
                    "site": lost.site.as_str(),
                    "epoch": replica.epoch.to_string(),
                    "seq": seq,
                    "rights": left,
                    "reclaimed": reclaimed,
                    "unheard": unheard.then_some(UNHEARD),
                })
            }
            Err(why) => json!({ "error": why }),
        };
        step.then.push(Effect::Answer(answer, said));
        Ok(step)
    }

    fn lose(&mut self, lost: &Lost, now: &Now, step: &mut Step<Effect>) -> Result<ReplicaId, String> {
        let Lost { site, by, why, reference, .. } = lost;
        let Some(view) = self.sites.get_mut(site) else { return Err(format!("no site is called {site}")) };
        if view.online {
            return Err(format!("{site} is connected: a box that is there is not lost. Switch it off first"));
        }
        let replica = ReplicaId { site: site.clone(), epoch: Epoch(view.epoch) };
        if self.lost.insert(replica.clone()) {
            view.is_lost = true;
            let record = SiteLost {
                site: site.to_string(),
                epoch: replica.epoch.0,
                by: by.clone(),
                why: why.clone(),
                reference: reference.clone(),
            };
            let draft = self.draft(vec![Of::SiteLost(record)], now);
            step.events.push(draft);
            tracing::warn!(%site, ledger = %replica.epoch, by, why, "a site's box is lost: nothing waits for it");
            let rights = match (written_off(&self.left_at(&replica)), lost.reclaim) {
                (None, _) => String::new(),
                (Some(left), false) => format!("; of its rights these count as spent: {left}"),
                (Some(left), true) => format!("; of its rights these may be promised again: {left}"),
            };
            let say =
                format!("the box of {site} was declared lost; its ledger {} is turned away{rights}", replica.epoch);
            self.pools.ended(&replica);
            step.then.push(Effect::tell(views::alert(site, "site_lost", say, now.wall.0)));
            self.site_changed.insert(site.clone());
        }
        Ok(replica)
    }
}

/// Items that an alert names.
const NAMED_MAX: usize = 20;

/// As `5 of 04006381333931`; `None` if there is nothing.
fn written_off(left: &[Value]) -> Option<String> {
    let named = left
        .iter()
        .take(NAMED_MAX)
        .map(|item| format!("{} of {}", item["units"], item["gtin"].as_str().unwrap_or("-")));
    let mut named: Vec<String> = named.collect();
    if left.len() > NAMED_MAX {
        named.push(format!("{} items more", left.len() - NAMED_MAX));
    }
    (!named.is_empty()).then(|| named.join(", "))
}
