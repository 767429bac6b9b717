//! What is told of an item's stock and its pool.

use std::collections::BTreeMap;

use proto::gtin::Gtin;
use serde_json::{Value, json};

use super::order::{Outcome, Reply};
use crate::hub::Hub;

/// One site's part of a pool, over all lives of its ledger.
#[derive(Debug, Default)]
struct OfSite {
    granted: u64,
    returned: u64,
    promised: u64,
    held: u64,
    /// Of the life that goes on.
    available: i64,
}

impl Hub {
    pub(super) fn show_stock(&self, gtin: Gtin) -> Reply {
        let sites = self.feed.stock.on_hand(gtin);
        let on_hand: proto::id::Units = sites.values().copied().sum();
        let body = json!({ "gtin": gtin, "on_hand": on_hand, "sites": sites, "pool": self.pool_json(gtin) });
        Reply::new(Outcome::Done, &body)
    }

    /// `null` if there is no pool.
    fn pool_json(&self, gtin: Gtin) -> Option<Value> {
        let totals = self.pools.totals(gtin.number())?;
        let own = self.pools.of_hub(gtin.number());
        let mut sites: BTreeMap<&str, OfSite> = BTreeMap::new();
        for (life, part) in self.pools.parts(gtin.number()) {
            let of = sites.entry(life.site.as_str()).or_default();
            of.granted = of.granted.saturating_add(part.grant.granted);
            of.returned = of.returned.saturating_add(part.used.returned);
            of.promised = of.promised.saturating_add(part.used.promised).saturating_add(part.grant.unaware);
            of.held = of.held.saturating_add(part.used.held);
            of.available = of.available.saturating_add(if part.over { 0 } else { part.available() });
        }
        let site = |of: &OfSite| {
            json!({
                "granted": of.granted,
                "returned": of.returned,
                "promised": of.promised,
                "held": of.held,
                "available": of.available,
            })
        };
        Some(json!({
            "units": totals.units,
            "free": totals.free,
            "granted": totals.granted,
            "returned": totals.returned,
            "promised": totals.promised,
            "held": totals.held,
            "refunded": totals.refunded,
            "waits_for": self.pools.unsure(),
            "hub": { "promised": own.promised, "held": own.held },
            "sites": sites.iter().map(|(name, of)| (name.to_string(), site(of))).collect::<serde_json::Map<_, _>>(),
        }))
    }
}
