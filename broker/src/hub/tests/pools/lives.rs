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

/// The box comes back with what it had not sent, and a rejoin brings it: of that the hub had offered some again.
#[tokio::test]
async fn what_a_reclaimed_life_had_promised_shows_once_it_is_journalled_again() {
    let hub = open(sparing()).await;
    let mut old = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(10)).await;
    old.until_granted(&hub, 10).await;
    old.sell(&hub, 2).await;
    hub.leave("hill").await;
    assert_eq!((hub.lost("hill", true).await["reclaimed"].clone(), hub.free().await), (json!(8), 8));
    hub.rights("hill", RightsChange::Reclaim).await;
    let mut new = Shop::open(&hub, "hill", 6).await;
    let late = |promised: u64, held: u64, seq| {
        let rights = Rights { promised, held, ..old.rights };
        let earlier = EarlierRights { epoch: 5, rights: Some(rights) };
        let again = Event { rejoined_of: seq, origin_epoch: 5, origin_seq: seq, ..Event::default() };
        (again, vec![sale(1), Of::EarlierRights(earlier), Of::Rights(new.rights)])
    };
    let events = [late(3, 4, 9), late(7, 0, 10)];
    for (event, records) in events {
        new.say_in(&hub, event, records).await;
        assert_eq!(hub.free().await, 3, "a hold that is committed was counted");
    }
    hub.rights("hill", RightsChange::Grant(3)).await;
    let earlier = EarlierRights { epoch: 5, rights: Some(Rights { promised: 9, ..old.rights }) };
    new.say(&hub, vec![Of::EarlierRights(earlier)]).await;
    let told = || hub.hq("hq/alerts/hub:pool_short:04006381333931").filter(|told| told["short"] == 2);
    hub.until_shown("short", |shown| shown["free"] == -2 && told().is_some()).await;
    assert!(told().unwrap()["say"].as_str().unwrap().contains("reclaimed"), "{:?}", told());
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!(hub.shown().await, shown);
}

/// What is known to be promised is not offered, by whomever it was told.
#[tokio::test]
async fn what_a_later_life_told_is_not_reclaimed() {
    let hub = open(sparing()).await;
    let mut old = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(10)).await;
    old.until_granted(&hub, 10).await;
    let mut new = Shop::open(&hub, "hill", 6).await;
    let over = Ancestor { epoch: 5, hash: old.site.at.hash.0.to_vec().into(), ..Ancestor::default() };
    new.hello(&hub, true, vec![over]).await;
    let earlier = EarlierRights { epoch: 5, rights: Some(Rights { promised: 6, ..old.rights }) };
    new.say(&hub, vec![Of::EarlierRights(earlier)]).await;
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 4);
    assert_eq!(hub.free().await, 4);
}
