//! A hub that was restored from a backup, and what it has to learn before it grants anything.

use super::*;

#[tokio::test]
async fn a_restored_hub_grants_nothing_before_all_have_said_what_they_hold() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(50)).await;
    let dir = hub.stop().await;
    let copy = copied(&dir);
    // After the backup was made.
    let hub = open_in(dir, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    hub.rights("hill", RightsChange::Grant(30)).await;
    hill.until_granted(&hub, 30).await;
    drop(hub.stop().await);

    let hub = restored(copy, 8, sparing()).await;
    let alert = || hub.hq("hq/alerts/hub:rights_waiting");
    hub.until_shown("waiting for both", |shown| shown["waits_for"] == "harbour, hill").await;
    hub.until_shown("told", |_| alert().is_some_and(|told| told["say"].as_str().unwrap().contains("harbour, hill")))
        .await;
    assert_eq!(hub.free().await, 50, "it knows nothing of the grant");
    let refused = hub.rights("hill", RightsChange::Grant(40)).await;
    assert!(refused["error"].as_str().unwrap().contains("harbour"), "{refused}");
    hill.hello(&hub, true, vec![]).await;
    hill.want(&hub, 5).await;
    assert_eq!(hub.shown().await["granted"], 0, "nobody is granted anything");
    hill.report(&hub).await;
    assert_eq!((hub.free().await, &hub.shown().await["waits_for"]), (20, &json!("harbour")));
    // Over a restart it waits on, and does not ask twice.
    let dir = hub.stop().await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!(hub.shown().await["waits_for"], "harbour");
    // One whose software knows no rights holds none.
    harbour.hello(&hub, false, vec![]).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["waits_for"], &shown["free"]), (&Value::Null, &json!(20)), "{shown}");
    hub.until_shown("settled", |_| hub.hq("hq/alerts/hub:rights_waiting") == Some(Value::Null)).await;
    assert_eq!(hub.rights("harbour", RightsChange::Grant(20)).await["granted"], 20);
    // A claim of more does not count any more, here or at a hub that was never restored.
    hill.hello(&hub, true, vec![]).await;
    hill.rights.granted = 1 << 40;
    hill.report(&hub).await;
    assert_eq!(hub.free().await, 0);
    let dir = hub.stop().await;
    let hub = open_in(dir, sparing()).await;
    assert_eq!((hub.free().await, &hub.shown().await["waits_for"]), (0, &Value::Null));
}

#[tokio::test]
async fn a_site_that_will_not_come_back_does_not_keep_a_restored_hub_waiting() {
    let hub = open(sparing()).await;
    Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(5)).await;
    let hub = restored(hub.stop().await, 8, sparing()).await;
    hub.until_shown("waiting", |shown| shown["waits_for"] == "hill").await;
    hub.lost("hill", false).await;
    assert_eq!(hub.shown().await["waits_for"], Value::Null);
}
