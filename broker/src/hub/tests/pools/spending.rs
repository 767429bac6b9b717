//! What sites are granted, sell and give back.

use super::*;

#[tokio::test]
async fn a_site_is_granted_sells_and_gives_back() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    assert!(hub.pool(PoolChange::Add(1)).await["error"].as_str().unwrap().contains("no pool"));
    assert_eq!(hub.pool(PoolChange::Create(100)).await["free"], 100);
    assert!(hub.pool(PoolChange::Create(1)).await["error"].as_str().unwrap().contains("already"));
    assert_eq!(hub.rights("hill", RightsChange::Grant(30)).await["granted"], 30);
    hill.until_granted(&hub, 30).await;
    hill.sell(&hub, 10).await;
    hill.hold(&hub, 5).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["promised"], &shown["held"]), (&json!(70), &json!(10), &json!(5)), "{shown}");
    assert_eq!(shown["sites"]["hill"]["available"], 15);

    assert!(hub.rights("hill", RightsChange::Grant(71)).await["error"].as_str().unwrap().contains("70 units"));
    assert_eq!(hub.rights("hill", RightsChange::Ask(20)).await["asked"], 20);
    assert!(hub.rights("hill", RightsChange::Ask(1)).await["error"].as_str().unwrap().contains("not answered"));
    hill.until(&hub, "asked", |shop| shop.asked == 20).await;
    hill.answer(&hub).await;
    let shown = hub.shown().await;
    assert_eq!((&shown["free"], &shown["returned"]), (&json!(85), &json!(15)), "it had 15: {shown}");
    // Units that came back from buyers are in the pool again.
    hill.rights.refunded += 4;
    hill.say(&hub, vec![Of::Rights(hill.rights)]).await;
    assert_eq!(hub.free().await, 89);
    assert_eq!(hub.pool(PoolChange::Withdraw(1_000)).await["change"], -89, "only what is free goes");
    assert_eq!(
        hub.pool(PoolChange::WithdrawAll(1_000)).await["error"].as_str().map(|why| why.contains("11")),
        Some(true)
    );
    hub.pool(PoolChange::Add(9)).await;

    hub.until_shown("told", |_| hub.hq("hq/pools/04006381333931").is_some_and(|told| told["free"] == 9)).await;
    let before = hub.shown().await;
    let dir = as_journalled(hub, &before).await;
    let again = open_in(dir, sparing()).await;
    assert_eq!(again.shown().await, before, "the state says what the memory said");
    assert_eq!(again.hq("hq/pools/04006381333931").unwrap()["free"], 9, "and HQ has it after a start");
}

#[tokio::test]
async fn every_site_has_a_floor_and_the_hot_one_gets_more() {
    let hub = open(RightsRules { floor: 2, spread_percent: 0, ..RightsRules::default() }).await;
    let mut shops = vec![];
    for name in ["hill", "harbour", "mill"] {
        shops.push(Shop::open(&hub, name, 5).await);
    }
    hub.pool(PoolChange::Create(100)).await;
    for shop in &mut shops {
        shop.until_granted(&hub, 2).await;
    }
    shops[0].sell(&hub, 2).await;
    // The time of the sale is known, so its rate is: more than the two it sold.
    shops[0].until_granted(&hub, 4).await;
    shops[0].want(&hub, 20).await;
    shops[0].until_granted(&hub, 24).await;
    let shown = hub.shown().await;
    for cold in ["harbour", "mill"] {
        assert_eq!(shown["sites"][cold]["granted"], 2, "{shown}");
    }
    assert!(hub.free().await >= 10, "what is kept for the hub's own channel: {shown}");
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn sales_beyond_the_rights_are_covered_before_anything_is_granted() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(10)).await;
    hub.rights("hill", RightsChange::Grant(2)).await;
    hill.until_granted(&hub, 2).await;
    hill.sell(&hub, 7).await;
    assert_eq!(hub.free().await, 3, "five more than it had");
    let told = hub.hq("hq/alerts/hill:oversold").unwrap();
    assert!(told["say"].as_str().unwrap().contains("5 of"), "{told}");
    // The hole is filled, which costs nothing more, and no sooner does anybody get something.
    hill.until_granted(&hub, 7).await;
    assert_eq!(hub.free().await, 3);
    harbour.want(&hub, 9).await;
    hub.until_shown("granted what there is", |shown| shown["sites"]["harbour"]["granted"] == 3).await;
    hill.sell(&hub, 4).await;
    let shown = hub.until_shown("short", |shown| shown["free"] == -4).await;
    harbour.want(&hub, 9).await;
    assert_eq!(hub.shown().await["sites"]["harbour"]["granted"], shown["sites"]["harbour"]["granted"]);
    hub.until_shown("an alert", |_| {
        let told = hub.hq("hq/alerts/hub:pool_short:04006381333931");
        told.is_some_and(|told| told["short"] == 4 && told["sold_beyond"] == 4)
    })
    .await;
    // What comes free covers it first.
    hub.pool(PoolChange::Add(5)).await;
    hub.until_shown("over", |_| hub.hq("hq/alerts/hub:pool_short:04006381333931") == Some(Value::Null)).await;
    harbour.until_granted(&hub, 3).await;
    let shown = hub.until_shown("one left was granted", |shown| shown["free"] == 0).await;
    assert_eq!(hub.status().await["rights"]["oversold_units"], 9);
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn what_a_site_sold_before_it_knew_of_the_pool_counts() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hill.say(&hub, vec![sale(3)]).await;
    hub.pool(PoolChange::Create(10)).await;
    assert_eq!(hub.free().await, 10, "what was sold before the pool was shelf stock");
    tokio::time::sleep(Duration::from_millis(2)).await;
    hill.say(&hub, vec![sale(4)]).await;
    assert_eq!(hub.free().await, 6);
    hub.rights("hill", RightsChange::Grant(5)).await;
    hill.until_granted(&hub, 5).await;
    let shown = hub.shown().await;
    assert_eq!(
        (&shown["free"], &shown["sites"]["hill"]["available"]),
        (&json!(1), &json!(5)),
        "it can promise all of it"
    );
    hill.sell(&hub, 5).await;
    assert_eq!(hub.free().await, 1);
    // Handing over what a hold had committed spends nothing, and says nothing of rights.
    let collected =
        HoldEnded { id: "H-1".into(), how: HoldEnd::Collected.into(), gtin: GTIN, units: 2, ..HoldEnded::default() };
    hill.say(&hub, vec![sale(2), Of::HoldEnded(collected)]).await;
    // What an earlier life had sold and not sent is journalled again, and within its rights it is spent already.
    let again = || Event { rejoined_of: 3, origin_epoch: 4, ..Event::default() };
    hill.say_in(&hub, again(), vec![sale(2), Of::Rights(hill.rights)]).await;
    assert_eq!(hub.free().await, 1);
    // If that one knew nothing of the pool either, nobody else counts it.
    hill.say_in(&hub, again(), vec![sale(1)]).await;
    assert_eq!(hub.free().await, 0);
    // The same chunk again, as after a lost answer, counts nothing twice.
    let shown = hub.shown().await;
    let dir = as_journalled(hub, &shown).await;
    let again = open_in(dir, sparing()).await;
    hill.hello(&again, true, vec![]).await;
    assert_eq!(again.free().await, 0);
}

#[tokio::test]
async fn rights_move_from_one_site_to_another() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(20)).await;
    hill.until_granted(&hub, 20).await;
    hill.sell(&hub, 8).await;
    let to = |name: &str| RightsChange::Move(15, name.parse().unwrap());
    assert!(hub.rights("hill", to("hill")).await["error"].is_string());
    assert!(hub.rights("hill", to("nowhere")).await["error"].is_string());
    assert_eq!(hub.rights("hill", to("harbour")).await["for_site"], "harbour");
    hill.until(&hub, "asked", |shop| shop.asked == 15).await;
    hill.answer(&hub).await;
    harbour.until_granted(&hub, 12).await;
    let shown = hub.shown().await;
    assert_eq!(
        (&shown["free"], &shown["sites"]["harbour"]["granted"]),
        (&json!(0), &json!(12)),
        "what it had: {shown}"
    );
    as_journalled(hub, &shown).await;
}

#[tokio::test]
async fn idle_rights_are_asked_back_when_buyers_go_away_elsewhere() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    let mut harbour = Shop::open(&hub, "harbour", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(20)).await;
    hill.until_granted(&hub, 20).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    hill.listen(&hub).await;
    assert_eq!(hill.asked, 0, "nobody wants it");
    harbour.want(&hub, 6).await;
    hill.until(&hub, "asked", |shop| shop.asked > 0).await;
    assert!(hill.asked >= 6, "{}", hill.asked);
    hill.answer(&hub).await;
    harbour.until_granted(&hub, 6).await;
    assert_eq!(hub.shown().await["sites"]["hill"]["asked"], 0);
}

#[tokio::test]
async fn more_is_withdrawn_than_is_free() {
    let hub = open(sparing()).await;
    let mut hill = Shop::open(&hub, "hill", 5).await;
    hub.pool(PoolChange::Create(20)).await;
    hub.rights("hill", RightsChange::Grant(15)).await;
    hill.until_granted(&hub, 15).await;
    let done = hub.pool(PoolChange::WithdrawAll(12)).await;
    assert_eq!((&done["units"], &done["free"], &done["asked"]), (&json!(8), &json!(-7), &json!(7)), "{done}");
    hill.until(&hub, "asked", |shop| shop.asked == 7).await;
    // Nobody sold anything: HQ is told what is so.
    let short = || hub.hq("hq/alerts/hub:pool_short:04006381333931").filter(|told| told["short"] == 7);
    hub.until_shown("an alert", |_| short().is_some()).await;
    let told = short().unwrap();
    assert!(told["say"].as_str().unwrap().contains("sites are asked for 7"), "{told}");
    assert_eq!(told["sold_beyond"], 0);
    hill.answer(&hub).await;
    assert_eq!(hub.free().await, 0);
}
