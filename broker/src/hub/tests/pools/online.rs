//! Buyers of the hub's own channel are demand like those of any site; and what `/metrics` says of rights.

use super::*;
use crate::face::FACE;
use crate::hub::channel::{Line, LinesOf, Order, Outcome, What};
use crate::node::metrics::Exposition;

impl Running {
    async fn buy(&self, units: u32) -> Outcome {
        let (site, seconds) = (None, None);
        let line = Line { gtin: gtin(), units, site, seconds, reference: String::new(), channel: "web".into() };
        let order = Order { caller: "shop".into(), key: None, what: What::Decrement(LinesOf::One(line)) };
        let (answer, answered) = oneshot::channel();
        self.handle.input(Input::Order(Box::new(order), answer)).await.unwrap();
        answered.await.unwrap().outcome
    }

    async fn shows(&self, lines: &[&str]) {
        let mut out = Exposition::default();
        (FACE.metrics)(&self.status().await, &mut out);
        let text = out.into_text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
        }
    }
}

#[tokio::test]
async fn an_idle_site_is_asked_for_what_buyers_online_were_turned_away_for() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(10)).await;
    hill.until_granted(&hub, 10).await;
    assert_eq!(hub.buy(4).await, Outcome::NotEnough);
    hill.until(&hub, "asked", |shop| shop.asked == 4).await;
    hill.answer(&hub).await;
    assert_eq!(hub.free().await, 4, "it is kept for them");
    assert_eq!(hub.buy(4).await, Outcome::Done);
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    // Who was turned away is not journalled: a hub that starts again asks for those who come then, and nobody before.
    let hub = open_in(dir, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    assert_eq!(hub.buy(3).await, Outcome::NotEnough);
    let shown = hub.until_shown("asked", |shown| shown["sites"]["hill"]["asked"] != 0).await;
    assert_eq!(shown["sites"]["hill"]["asked"], 3);
}

#[tokio::test]
async fn every_count_of_rights_is_there_and_moves() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.shows(&[
        "tillsync_hub_pools 0",
        "tillsync_hub_pools_granted 0",
        "tillsync_hub_pools_returned 0",
        "tillsync_hub_pools_promised 0",
        "tillsync_hub_pools_held 0",
        "tillsync_hub_pools_refunded 0",
        "tillsync_hub_rights_grants_total 0",
        "tillsync_hub_rights_asks_total 0",
        "tillsync_hub_rights_wants_total 0",
        "tillsync_hub_rights_missed_units_total 0",
        "tillsync_hub_rights_discrepancies_total{kind=\"beyond\"} 0",
        "tillsync_hub_rights_discrepancies_total{kind=\"unaware\"} 0",
        "tillsync_hub_rights_discrepancies_total{kind=\"seen\"} 0",
    ])
    .await;
    hub.pool(PoolChange::Create(10)).await;
    hill.want(&hub, 6).await;
    hill.until_granted(&hub, 6).await;
    hill.sell(&hub, 1).await;
    hill.hold(&hub, 1).await;
    assert_eq!(hub.buy(7).await, Outcome::NotEnough);
    hill.until(&hub, "asked", |shop| shop.asked > 0).await;
    hill.answer(&hub).await;
    hill.rights.refunded += 2;
    hill.sell(&hub, 9).await;
    hill.say(&hub, vec![sale(3)]).await;
    hub.shows(&[
        "tillsync_hub_pools 1",
        "tillsync_hub_pools_units 10",
        "tillsync_hub_pools_returned 3",
        "tillsync_hub_pools_promised 13",
        "tillsync_hub_pools_held 1",
        "tillsync_hub_pools_refunded 2",
        "tillsync_hub_rights_asks_total 1",
        "tillsync_hub_rights_wants_total 1",
        "tillsync_hub_rights_missed_units_total 13",
        "tillsync_hub_rights_discrepancies_total{kind=\"beyond\"} 1",
        "tillsync_hub_rights_discrepancies_total{kind=\"unaware\"} 1",
    ])
    .await;
    let status = hub.status().await;
    assert!(
        status["rights"]["grants"].as_u64() > Some(0) && status["rights"]["granted"].as_u64() >= Some(6),
        "{status}"
    );
    let hub = restored(hub.stop().await, 8, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    hill.rights.granted += 50;
    hill.report(&hub).await;
    hub.shows(&["tillsync_hub_rights_discrepancies_total{kind=\"seen\"} 1"]).await;
}
