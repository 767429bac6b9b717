//! Lives of a site's ledger that end, and what goes on after them.

use super::*;

#[tokio::test]
async fn a_lost_box_is_written_off_and_can_be_reclaimed() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(12)).await;
    hill.until_granted(&hub, 12).await;
    hill.sell(&hub, 4).await;
    hill.hold(&hub, 3).await;
    hub.leave("hill").await;
    let left = hub.ask(RightsAsk::AtRisk("hill".parse().unwrap())).await;
    assert_eq!(left["rights"], json!([{ "gtin": "04006381333931", "units": 5 }]));
    let lost = hub.lost("hill", false).await;
    assert_eq!((&lost["rights"][0]["units"], &lost["reclaimed"]), (&json!(5), &json!(0)), "{lost}");
    let told = hub.hq("hq/alerts/hill:site_lost").unwrap();
    assert!(told["say"].as_str().unwrap().contains("count as spent: 5 of 04006381333931"), "{told}");
    assert_eq!(hub.free().await, 8);
    assert!(hub.rights("hill", RightsChange::Grant(1)).await["error"].as_str().unwrap().contains("lost"));
    assert_eq!(hub.lost("hill", true).await["reclaimed"], 5);
    assert_eq!(hub.free().await, 13, "what was promised or held stays so");
    assert_eq!(hub.lost("hill", true).await["reclaimed"], 0);
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 0);
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!(hub.shown().await, shown);
    // The box comes back: it is turned away, and gets nothing.
    hill.hello(&hub, true, vec![]).await;
    assert_eq!(hub.status().await["sites"]["hill"]["online"], false);
}

#[tokio::test]
async fn a_new_life_begins_with_nothing_and_the_old_ones_rights_count_as_spent() {
    let hub = open(sparing()).await;
    let mut old = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(12)).await;
    old.until_granted(&hub, 12).await;
    old.sell(&hub, 4).await;
    hub.leave("hill").await;
    let mut new = Shop::open(&hub, "hill", 6).await;
    assert_eq!(hub.free().await, 8);
    new.until(&hub, "fed the pool", |shop| shop.rights.granted == 0).await;
    let over = Ancestor { epoch: 5, seq: old.site.at.seq.0, hash: old.site.at.hash.0.to_vec().into() };
    new.hello(&hub, true, vec![over]).await;
    let shown = hub.shown().await;
    let hill = &shown["sites"]["hill"];
    assert_eq!(
        (&hill["available"], &hill["written_off"], &shown["free"]),
        (&json!(0), &json!(8), &json!(8)),
        "{shown}"
    );
    hub.rights("hill", RightsChange::Grant(3)).await;
    new.until_granted(&hub, 3).await;
    assert_eq!(hub.shown().await["sites"]["hill"]["available"], 3);
    // The old box is empty, somebody looked: what it had left is promised again.
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 8);
    let shown = hub.shown().await;
    assert_eq!(shown["free"], 13);
    as_journalled(hub, &shown).await;
}
