//! What people ask of pools and rights, and do with them. Each change is one record or a few, with who and why.

use proto::gtin::Gtin;
use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::record::Of;
use proto::wire::{GrantReason, PoolChanged, RightsGranted};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::fold::pool_cell;
use crate::hub::lost::UNHEARD;
use crate::hub::{Effect, Hub};
use crate::ledger::{Now, Read, Step};

/// The most units of one pool: a number that no sum of a few can overflow, and more bottles than there are.
pub const POOL_UNITS_MAX: u64 = 1_000_000_000_000;

/// Who does it and why, and their own name for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RightsNote {
    pub by: String,
    pub why: String,
    pub reference: String,
}

/// What is done with a pool's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolChange {
    Create(u64),
    Add(u64),
    /// Only what is free.
    Withdraw(u64),
    /// All of it; sites are asked for what is not free.
    WithdrawAll(u64),
}

/// What is done with a site's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightsChange {
    Grant(u64),
    /// Asks them back, for the pool.
    Ask(u64),
    /// Asks them back, for another site.
    Move(u64, SiteName),
    /// Takes back what lives of the site's ledger that are over had left.
    Reclaim,
}

/// What people ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightsAsk {
    List,
    Show(Gtin),
    /// What the site's current life may have promised without our knowledge.
    AtRisk(SiteName),
    Pool(Gtin, PoolChange, RightsNote),
    Site(Gtin, SiteName, RightsChange, RightsNote),
}

impl RightsAsk {
    pub fn writes(&self) -> bool {
        matches!(self, RightsAsk::Pool(..) | RightsAsk::Site(..))
    }
}

impl Hub {
    pub(in crate::hub) fn rights_asked(
        &mut self,
        ask: RightsAsk,
        answer: oneshot::Sender<Value>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Step<Effect> {
        let mut step = Step::nothing();
        let done = match ask {
            RightsAsk::List => Ok(self.pool_list()),
            RightsAsk::Show(gtin) => self.shown(gtin),
            RightsAsk::AtRisk(site) => {
                let unheard = self.pools.awaited.contains(&site).then_some(UNHEARD);
                self.current_life(&site)
                    .map(|life| json!({ "site": site.as_str(), "rights": self.left_at(&life), "unheard": unheard }))
            }
            RightsAsk::Pool(gtin, change, note) => self.change_pool(gtin, change, note, now, ledger, &mut step),
            RightsAsk::Site(gtin, site, change, note) => {
                self.change_rights(gtin, site, change, note, now, ledger, &mut step)
            }
        };
        // Nothing that a person does waits for the next tick to be seen.
        let items = self.pools_changed(now);
        self.desk.touched.extend(&items);
        self.grant_touched(now, ledger, &mut step);
        step.then.extend(self.tell_pools(now));
        let said = done.unwrap_or_else(|why| json!({ "error": why }));
        step.then.push(Effect::Answer(answer, said));
        step
    }

    fn pool_list(&self) -> Value {
        let pools: Vec<Value> = self.pools.pooled().filter_map(|gtin| self.pools.line(gtin)).collect();
        json!({ "pools": pools, "waits_for": self.pools.unsure() })
    }

    fn shown(&self, gtin: Gtin) -> Result<Value, String> {
        let mut shown = self.pools.json(gtin.number()).ok_or_else(|| no_pool(gtin))?;
        shown["waits_for"] = self.pools.unsure().into();
        Ok(shown)
    }

    fn current_life(&self, site: &SiteName) -> Result<ReplicaId, String> {
        let view = self.sites.get(site).ok_or_else(|| format!("no site is called {site}"))?;
        Ok(ReplicaId { site: site.clone(), epoch: Epoch(view.epoch) })
    }

    /// By item, what a life has left of its rights as far as it was heard.
    pub(in crate::hub) fn left_at(&self, life: &ReplicaId) -> Vec<Value> {
        let left = |gtin| Some((gtin, self.pools.part(gtin, life)?.at_risk())).filter(|(_, units)| *units > 0);
        let items = self.pools.items_of(life).into_iter().filter_map(left);
        items.map(|(gtin, units)| json!({ "gtin": format!("{gtin:014}"), "units": units })).collect()
    }

    /// Makes what lives that are over had left promisable again.
    pub(in crate::hub) fn reclaim(
        &mut self,
        lives: &[(ReplicaId, u64)],
        note: &RightsNote,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> u64 {
        let (mut records, mut sum) = (Vec::new(), 0_u64);
        for (life, gtin) in lives {
            let Some(units) = self.pools.part(*gtin, life).filter(|part| part.over).map(|part| part.at_risk()) else {
                continue;
            };
            let record = self.granting(life, *gtin, GrantReason::Reclaimed);
            if units > 0 {
                sum = sum.saturating_add(units);
                let RightsNote { by, why, reference } = note.clone();
                let reclaimed = record.reclaimed.saturating_add(units);
                records.push(RightsGranted { reclaimed, by, why, reference, ..record });
            }
        }
        self.journal_grants(records, now, ledger, step);
        sum
    }

    fn change_pool(
        &mut self,
        gtin: Gtin,
        change: PoolChange,
        note: RightsNote,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Value, String> {
        let (PoolChange::Create(asked)
        | PoolChange::Add(asked)
        | PoolChange::Withdraw(asked)
        | PoolChange::WithdrawAll(asked)) = change;
        if asked > POOL_UNITS_MAX {
            return Err(format!("a pool has at most {POOL_UNITS_MAX} units"));
        }
        let number = gtin.number();
        let pool = self.pools.pool(number).copied();
        let (units, free) = (pool.as_ref().map_or(0, |pool| pool.units), self.pools.free(number).unwrap_or(0));
        let unsure = self.pools.unsure();
        let change = match change {
            PoolChange::Create(_) if pool.is_some() => return Err(format!("{gtin} has a pool of {units} already")),
            PoolChange::Create(more) => more as i64,
            _ if pool.is_none() => return Err(no_pool(gtin)),
            PoolChange::Add(more) => more as i64,
            PoolChange::WithdrawAll(less) if less > units => {
                return Err(format!("the pool of {gtin} has {units} units"));
            }
            PoolChange::WithdrawAll(less) => -(less as i64),
            // What is free is not known for sure while sites have not reported.
            PoolChange::Withdraw(_) if unsure.is_some() => return Err(waits(&unsure.unwrap_or_default())),
            PoolChange::Withdraw(less) => -(less.min(free.max(0) as u64).min(units) as i64),
        };
        if change == 0 {
            return Err(format!("nothing of {gtin} is free; --all asks the sites for it"));
        }
        let changed = units.saturating_add_signed(change);
        if changed > POOL_UNITS_MAX {
            return Err(format!("a pool has at most {POOL_UNITS_MAX} units"));
        }
        let record = PoolChanged {
            gtin: number,
            change,
            units: changed,
            by: note.by.clone(),
            why: note.why.clone(),
            reference: note.reference.clone(),
            since_ms: pool.as_ref().map_or(0, |pool| pool.since_ms),
            since_seq: pool.as_ref().map_or(0, |pool| pool.feed_position),
        };
        let seq = step.next_seq(ledger);
        let draft = self.draft(vec![Of::PoolChanged(record.clone())], now);
        self.pools.pool_changed(number, pool_cell(&record, seq, draft.stamp.ms().0));
        step.events.push(draft);
        let short = (-self.pools.free(number).unwrap_or(0).min(0)) as u64;
        let asked = if change < 0 && short > 0 { self.ask_all(number, short, &note, now, ledger, step) } else { 0 };
        let free = self.pools.free(number);
        Ok(json!({ "gtin": gtin, "change": change, "units": changed, "free": free, "asked": asked, "seq": seq.0 }))
    }

    /// Asks for so many units back, of those who have the most first.
    fn ask_all(
        &mut self,
        gtin: u64,
        units: u64,
        note: &RightsNote,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> u64 {
        let parts = self.pools.parts(gtin).filter(|(_, part)| !part.over && part.asked_open() == 0);
        let mut have: Vec<(u64, ReplicaId)> =
            parts.map(|(life, part)| (part.available().max(0) as u64, life.clone())).collect();
        have.sort_by(|a, b| b.cmp(a));
        let (mut left, mut records) = (units, Vec::new());
        for (has, life) in have {
            let ask = has.min(left);
            if ask > 0 {
                left -= ask;
                let record = self.granting(&life, gtin, GrantReason::Withdrawn);
                let (RightsNote { by, why, reference }, asked) = (note.clone(), record.asked.saturating_add(ask));
                records.push(RightsGranted { asked, by, why, reference, for_site: String::new(), ..record });
            }
        }
        self.journal_grants(records, now, ledger, step);
        units - left
    }

    #[expect(clippy::too_many_arguments, reason = "an order's four parts, and the three of every step")]
    fn change_rights(
        &mut self,
        gtin: Gtin,
        site: SiteName,
        change: RightsChange,
        note: RightsNote,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Value, String> {
        let number = gtin.number();
        let free = self.pools.free(number).ok_or_else(|| no_pool(gtin))?;
        let life = self.current_life(&site)?;
        if change == RightsChange::Reclaim {
            let parts = self.pools.parts(number).filter(|(life, part)| life.site == site && part.over);
            let lives: Vec<(ReplicaId, u64)> = parts.map(|(life, _)| (life.clone(), number)).collect();
            let units = self.reclaim(&lives, &note, now, ledger, step);
            return Ok(
                json!({ "gtin": gtin, "site": site.as_str(), "reclaimed": units, "free": self.pools.free(number) }),
            );
        }
        if self.pools.is_over(&life) {
            return Err(format!("the box of {site} is lost: it promises nothing"));
        }
        let part = self.pools.part(number, &life).cloned().unwrap_or_default();
        let reason = match &change {
            RightsChange::Move(..) => GrantReason::Moved,
            _ => GrantReason::Operator,
        };
        let mut record = self.granting(&life, number, reason);
        (record.by, record.why, record.reference) = (note.by, note.why, note.reference);
        let units = match change {
            RightsChange::Grant(units) => {
                if let Some(sites) = self.pools.unsure() {
                    return Err(waits(&sites));
                }
                if units > free.max(0) as u64 {
                    return Err(format!("{free} units of {gtin} are free"));
                }
                // What it sold beyond its rights is taken from the pool already.
                record.granted += units + part.available().min(0).unsigned_abs();
                units
            }
            RightsChange::Ask(_) | RightsChange::Move(..) if part.asked_open() > 0 => {
                return Err(format!("{site} was asked for {} of {gtin} and has not answered yet", part.asked_open()));
            }
            RightsChange::Ask(_) | RightsChange::Move(..) if part.available() <= 0 => {
                return Err(format!("{site} has no rights of {gtin} left, as far as it was heard"));
            }
            RightsChange::Ask(units) => {
                record.asked = record.asked.saturating_add(units);
                record.for_site = String::new();
                units
            }
            RightsChange::Move(units, to) => {
                if to == site || self.pools.is_over(&self.current_life(&to)?) {
                    return Err(format!("{to} cannot get them"));
                }
                record.asked = record.asked.saturating_add(units);
                record.for_site = to.to_string();
                units
            }
            RightsChange::Reclaim => 0,
        };
        let answer = json!({
            "gtin": gtin,
            "site": site.as_str(),
            "units": units,
            "granted": record.granted,
            "asked": record.asked,
            "for_site": record.for_site,
            "seq": step.next_seq(ledger).0,
        });
        self.journal_grants(vec![record], now, ledger, step);
        Ok(answer)
    }
}

fn no_pool(gtin: Gtin) -> String {
    format!("{gtin} has no pool: `pool create` makes one")
}

fn waits(sites: &str) -> String {
    format!(
        "this hub was restored and waits for what these sites hold: {sites}. `site lost` is for one that will not come back"
    )
}
