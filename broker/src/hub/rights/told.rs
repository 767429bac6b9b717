//! What HQ and people see of pools.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::topic::Outbound;
use serde_json::{Map, Value, json};

use super::pools::{Pools, Totals};
use crate::hub::{Effect, Hub};
use crate::ledger::Now;

/// Sites that one answer names; the sums are of all.
const SITES_MAX: usize = 2_000;
/// Lives' parts that are told at once; what is over waits for the next second.
const PARTS_AT_ONCE: usize = 20_000;
/// Items that a status names.
const STATUS_ITEMS_MAX: usize = 100;

impl Pools {
    /// One pool: its sums, and what each site has of it. A site's numbers are those of all lives of its ledger, but for
    /// `available`, which its current ones have.
    pub fn json(&self, gtin: u64) -> Option<Value> {
        let (mut pool, own) = (self.line(gtin)?, self.of_hub(gtin));
        let mut sites: Map<String, Value> = Map::new();
        let mut more = BTreeSet::new();
        for (life, part) in self.parts(gtin) {
            let name = life.site.as_str();
            if sites.len() == SITES_MAX && !sites.contains_key(name) {
                more.insert(name);
                continue;
            }
            let site = sites.entry(name).or_insert_with(|| json!({ "available": 0 }));
            let add = |site: &mut Value, key: &str, units: u64| {
                site[key] = site[key].as_u64().unwrap_or(0).saturating_add(units).into();
            };
            add(site, "granted", part.grant.granted);
            add(site, "returned", part.used.returned);
            add(site, "promised", part.used.promised.saturating_add(part.grant.unaware));
            add(site, "held", part.used.held);
            add(site, "refunded", part.used.refunded);
            add(site, "asked", part.asked_open());
            if part.over {
                // Had and not reported: it counts as spent unless it is reclaimed.
                add(site, "written_off", part.at_risk());
                add(site, "reclaimed", part.grant.reclaimed);
            } else {
                let available = site["available"].as_i64().unwrap_or(0);
                site["available"] = available.saturating_add(part.available()).into();
            }
        }
        pool["hub"] = json!({ "promised": own.promised, "held": own.held, "refunded": own.refunded });
        pool["sites"] = json!(sites);
        pool["more_sites"] = more.len().into();
        Some(pool)
    }

    /// In words, and how many units of it were sold in hand beyond the rights there were.
    fn why_short(&self, gtin: u64, short: u64) -> (String, u64) {
        let beyond = self.parts(gtin).map(|(_, part)| part.beyond()).fold(0, u64::saturating_add).min(short);
        let asked = self.parts(gtin).filter(|(_, part)| !part.over).map(|(_, part)| part.asked_open());
        let asked = asked.fold(0, u64::saturating_add).min(short - beyond);
        let why = match (beyond, asked) {
            _ if beyond == short => format!("{short} of {gtin:014} were sold in hand beyond the pool."),
            (0, 0) => format!(
                "{short} of {gtin:014} are promised or granted beyond the pool: more was withdrawn or reclaimed than was left."
            ),
            (0, _) => {
                format!("{short} of {gtin:014} more were withdrawn than were free, and sites are asked for {asked}.")
            }
            _ => format!(
                "{short} of {gtin:014} are missing: {beyond} were sold in hand beyond the pool, and sites are asked for {asked}."
            ),
        };
        (format!("{why} The first that come free cover it; until then nothing of it is promised or granted"), beyond)
    }

    /// The sums of one pool, for lists.
    pub fn line(&self, gtin: u64) -> Option<Value> {
        let sums = self.totals(gtin)?;
        Some(json!({
            "gtin": format!("{gtin:014}"),
            "units": sums.units,
            "granted": sums.granted,
            "returned": sums.returned,
            "promised": sums.promised,
            "held": sums.held,
            "refunded": sums.refunded,
            "free": sums.free,
        }))
    }
}

impl Hub {
    /// `hq/pools/{gtin}` of what changed, in turn, and alerts of what is short.
    pub(super) fn tell_pools(&mut self, now: &Now) -> Vec<Effect> {
        let (mut effects, mut parts) = (Vec::new(), 0);
        while parts < PARTS_AT_ONCE {
            let after = (Bound::Excluded(self.desk.told), Bound::Unbounded);
            let next = self.desk.to_tell.range(after).next().or_else(|| self.desk.to_tell.first());
            let Some(gtin) = next.copied() else { break };
            self.desk.to_tell.remove(&gtin);
            self.desk.told = gtin;
            parts += 1 + self.pools.parts(gtin).count();
            effects.extend(self.told_pool(gtin).map(Effect::tell));
            let Some(free) = self.pools.free(gtin) else { continue };
            let name = format!("hub:pool_short:{gtin:014}");
            if free < 0 && self.desk.short.insert(gtin) {
                let short = free.unsigned_abs();
                let (say, beyond) = self.pools.why_short(gtin, short);
                tracing::warn!(gtin, short, beyond, "a pool is short");
                let body = json!({
                    "gtin": format!("{gtin:014}"), "alert": "pool_short", "say": say, "short": short,
                    "sold_beyond": beyond, "at_ms": now.wall.0,
                });
                let (topic, payload) = (Outbound::HqAlert(&name).to_string(), body.to_string().into());
                effects.push(Effect::tell((topic, payload)));
            } else if free >= 0 && self.desk.short.remove(&gtin) {
                let topic = Outbound::HqAlert(&name).to_string();
                effects.push(Effect::Publish { topic, payload: Bytes::new(), retain: true });
            }
        }
        effects
    }

    /// For a start.
    pub(in crate::hub) fn restore_pools(&self) -> Vec<Effect> {
        self.pools.pooled().filter_map(|gtin| self.told_pool(gtin)).map(Effect::restore).collect()
    }

    fn told_pool(&self, gtin: u64) -> Option<(String, Bytes)> {
        let name = Gtin::from_number(gtin).ok()?;
        Some((Outbound::HqPool(name).to_string(), self.pools.json(gtin)?.to_string().into()))
    }

    pub(in crate::hub) fn rights_status(&self) -> Value {
        let (mut items, mut all, mut free, mut pools, mut short) = (Map::new(), Totals::default(), 0_i64, 0_u64, 0_u64);
        for gtin in self.pools.pooled() {
            let Some(sums) = self.pools.totals(gtin) else { continue };
            pools += 1;
            all.add(&sums);
            free = free.saturating_add(sums.free.max(0));
            short += u64::from(sums.free < 0);
            if items.len() < STATUS_ITEMS_MAX {
                items.insert(
                    format!("{gtin:014}"),
                    json!({ "units": sums.units, "free": sums.free, "held": sums.held }),
                );
            }
        }
        let counts = &self.desk.counts;
        json!({
            "pools": pools,
            "units": all.units,
            "free": free,
            "granted": all.granted,
            "returned": all.returned,
            "promised": all.promised,
            "held": all.held,
            "refunded": all.refunded,
            "short": short,
            "grants": counts.grants,
            "granted_units": counts.granted_units,
            "asks": counts.asks,
            "wants": counts.wants,
            "missed_units": counts.missed_units,
            "oversold_units": counts.oversold_units,
            "discrepancies": {
                "beyond": counts.beyond,
                "unaware": counts.unaware,
                "seen": counts.seen,
            },
            "waits_for": self.pools.unsure(),
            "items": items,
        })
    }
}
