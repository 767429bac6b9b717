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

/// A gateway's unacknowledged publishes come again over the next connection: they may be older than the restore.
#[tokio::test]
async fn what_was_said_to_the_hub_that_was_lost_is_no_report() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(5)).await;
    let hub = restored(hub.stop().await, 8, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    for incarnation in [7, 0] {
        hill.report_as(&hub, RightsHeld { last: true, incarnation, ..RightsHeld::default() }).await;
        assert_eq!(hub.shown().await["waits_for"], "hill", "{incarnation}");
    }
    // Nor is the end of one whose beginning is lost.
    hill.report_as(&hub, RightsHeld { last: true, incarnation: 8, part: 1, ..RightsHeld::default() }).await;
    assert_eq!(hub.shown().await["waits_for"], "hill");
    hill.report(&hub).await;
    assert_eq!(hub.shown().await["waits_for"], Value::Null);
}

/// Whether the newest word on what is applied says so.
async fn awaits_rights(hub: &Running, shop: &mut Shop) -> bool {
    shop.say(hub, vec![Of::Rights(shop.rights)]).await;
    let began = Instant::now();
    loop {
        let told: Vec<_> = hub.told.lock().unwrap().iter().filter(|(to, _)| to == "down/hill").cloned().collect();
        let said = told.into_iter().rev().find_map(|(_, payload)| match Down::decode(payload).unwrap().of {
            Some(DownOf::Applied(applied)) if applied.seq == shop.site.at.seq.0 => Some(applied.awaits_rights),
            _ => None,
        });
        if let Some(awaits) = said {
            return awaits;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not hear what is applied");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_restored_hub_says_that_it_waits_until_it_has_all_parts() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(5)).await;
    assert!(!awaits_rights(&hub, &mut hill).await, "it was never restored");
    let hub = restored(hub.stop().await, 8, sparing()).await;
    hill.hello(&hub, true, vec![]).await;
    assert!(awaits_rights(&hub, &mut hill).await);
    // The first part is lost.
    hill.report_as(&hub, RightsHeld { last: true, incarnation: 8, part: 1, ..RightsHeld::default() }).await;
    assert!(awaits_rights(&hub, &mut hill).await);
    hill.report(&hub).await;
    assert!(!awaits_rights(&hub, &mut hill).await);
}

/// The site answered an ask; its record of that is trimmed there, and the hub went back to before it.
#[tokio::test]
async fn a_site_that_says_its_rights_anew_is_granted_again() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(10)).await;
    hill.until_granted(&hub, 10).await;
    hub.rights("hill", RightsChange::Ask(6)).await;
    let hub = restored(hub.stop().await, 8, sparing()).await;
    (hill.rights.returned, hill.rights.answered, hill.asked) = (6, 6, 6);
    hill.hello(&hub, true, vec![]).await;
    hill.report(&hub).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["sites"]["hill"]["asked"]), (&json!(0), &json!(6)), "it waits for that");
    hill.say(&hub, vec![Of::Rights(hill.rights)]).await;
    assert_eq!(hub.free().await, 6);
    hill.want(&hub, 5).await;
    hill.until_granted(&hub, 11).await;
}

/// The life that was granted something is over, and so is the hub that granted it: the next life tells the next hub.
#[tokio::test]
async fn a_restored_hub_hears_what_lives_had_that_are_over() {
    let hub = open(sparing()).await;
    let mut old = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    let dir = hub.stop().await;
    let copy = copied(&dir);
    let hub = open_in(dir, sparing()).await;
    old.hello(&hub, true, vec![]).await;
    hub.rights("hill", RightsChange::Grant(12)).await;
    old.until_granted(&hub, 12).await;
    old.sell(&hub, 14).await;
    hub.leave("hill").await;
    let mut new = Shop::open(&hub, "hill", 6).await;
    new.until(&hub, "told what the life before had", |shop| shop.earlier == [(5, 14)]).await;
    drop(hub.stop().await);

    let hub = restored(copy, 8, sparing()).await;
    let over = Ancestor { epoch: 5, seq: old.site.at.seq.0, hash: old.site.at.hash.0.to_vec().into() };
    new.hello(&hub, true, vec![over]).await;
    assert_eq!(hub.free().await, 20);
    new.report(&hub).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["waits_for"]), (&json!(6), &Value::Null), "{shown}");
    assert_eq!(hub.rights("hill", RightsChange::Reclaim).await["reclaimed"], 14, "what only a person knows to be free");
    let shown = hub.shown().await;
    as_journalled(hub, &shown).await;
}

/// Its box was lost before the backup; another one may have come since, and have been granted something.
#[tokio::test]
async fn a_restored_hub_waits_for_sites_and_not_for_lives() {
    let hub = open(sparing()).await;
    Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(5)).await;
    hub.leave("hill").await;
    assert_eq!(hub.lost("hill", false).await["unheard"], Value::Null);
    let dir = hub.stop().await;
    let copy = copied(&dir);
    let hub = restored(dir, 8, sparing()).await;
    assert_eq!(hub.shown().await["waits_for"], "hill");
    let mut new = Shop::open(&hub, "hill", 6).await;
    new.rights.granted = 3;
    assert_eq!(hub.shown().await["waits_for"], "hill");
    new.report(&hub).await;
    assert_eq!((hub.free().await, &hub.shown().await["waits_for"]), (2, &Value::Null));
    drop(hub.stop().await);

    // Nobody came: an operator says so again, to this hub.
    let hub = restored(copy, 9, sparing()).await;
    assert!(hub.ask(RightsAsk::AtRisk("hill".parse().unwrap())).await["unheard"].is_string());
    let lost = hub.lost("hill", false).await;
    assert!(lost["unheard"].as_str().unwrap().contains("since the backup"), "{lost}");
    assert_eq!(hub.shown().await["waits_for"], Value::Null);
    let hub = open_in(hub.stop().await, sparing()).await;
    assert_eq!(hub.shown().await["waits_for"], Value::Null, "over a restart, too");
}
