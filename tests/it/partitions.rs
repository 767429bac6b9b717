//! A hub and five stores behind a network that is slow and comes and goes, under the retail traffic: when it is quiet
//! again, all agree and HQ has everything once. `WEATHER=SECONDS` for longer, `SEED=` for another course.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use firmware_sim::proxy::Proxy;
use firmware_sim::retail;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::ledgers::{self, Hq};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::node::{Node, Spec};
use crate::harness::wait::until;
use crate::harness::{GTIN, folder};

const SITES: [&str; 5] = ["harbour", "hill", "quay", "mill", "station"];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_stores_in_bad_weather_agree_in_the_end() {
    let (seed, life) = (number("SEED", 1), Duration::from_secs(number("WEATHER", 12)));
    println!("SEED={seed}");
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let rows = retail::rows().expect("the retail traffic");
    let stores = retail::busiest(&rows, SITES.len());
    let (mut proxies, mut gateways, mut shops) = (vec![], vec![], vec![]);
    let over = Instant::now() + life;
    for (n, site) in SITES.into_iter().enumerate() {
        let proxy = Proxy::start(hub.addr).await.expect("open a proxy");
        let follow = format!("follow = \"{}\"\n", SITES[(n + 1) % SITES.len()]);
        let store = Spec::gateway(dir.path(), site, Some(proxy.addr())).config(&follow).start().await;
        let traffic: Vec<retail::Row> = rows.iter().filter(|row| row.store_id == stores[n]).cloned().collect();
        shops.push(tokio::spawn(shop(store.addr, traffic, seed + n as u64, over)));
        proxies.push(proxy);
        gateways.push(store);
    }
    weather(&proxies, seed, over).await;
    let mut sold = BTreeMap::new();
    for (site, shop) in SITES.into_iter().zip(shops) {
        sold.insert(site, shop.await.expect("the shop sells"));
    }
    for store in &gateways {
        store.until_applied().await;
    }
    agree(&hub, &gateways, &sold).await;
    for store in &mut gateways {
        store.stop().await;
    }
    hub.stop().await;
    let at_hq = Hq::read(hub.dir());
    for (site, store) in SITES.into_iter().zip(&gateways) {
        assert_eq!(at_hq.of_site(site), ledgers::of_gateway(store.dir()), "{site}: everything, in order, once");
    }
}

/// Cuts, slows and mends connections until the time is over, then mends all.
async fn weather(proxies: &[Proxy], seed: u64, over: Instant) {
    let mut dice = SmallRng::seed_from_u64(seed);
    while Instant::now() < over {
        let proxy = &proxies[dice.random_range(0..proxies.len())];
        match dice.random_range(0..4) {
            0 => proxy.cut(),
            1 => proxy.weather().delay(Duration::from_millis(dice.random_range(1..150))),
            _ => proxy.restore(),
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(50..400))).await;
    }
    for proxy in proxies {
        proxy.weather().delay(Duration::ZERO);
        proxy.restore();
    }
}

/// Sells what the data says, edits one price now and then; what it sold, by item.
async fn shop(
    addr: std::net::SocketAddr,
    traffic: Vec<retail::Row>,
    seed: u64,
    over: Instant,
) -> BTreeMap<String, i64> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut pos = Link::device(addr, "pos-1").await;
    let mut sold = BTreeMap::new();
    for (n, row) in traffic.iter().cycle().enumerate() {
        if Instant::now() >= over {
            break;
        }
        let gtin = format!("0{}", retail::barcode(row.product_id));
        let line = json!({"gtin": gtin, "qty": row.quantity, "cents": row.cents});
        let reply = pos.ask("sale", json!({"id": format!("s{n}"), "lines": [line]}).to_string()).await;
        if reply["status"] == "ok" {
            *sold.entry(gtin).or_default() += row.quantity;
        }
        if n % 40 == 39 {
            pos.done("item", json!({"gtin": GTIN, "price_cents": dice.random_range(100..9_999)})).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(1..15))).await;
    }
    sold
}

/// HQ's stock is what was sold, every store shows the same price, and its neighbour's stock.
async fn agree(hub: &Node, gateways: &[Node], sold: &BTreeMap<&str, BTreeMap<String, i64>>) {
    let mut hq = Monitor::open(hub.addr, "hq/stock/+").await;
    for (site, items) in sold {
        for (gtin, units) in items {
            hq.until_json(&format!("hq/stock/{gtin}"), |stock| stock["sites"][site] == -units).await;
        }
    }
    for (n, store) in gateways.iter().enumerate() {
        let neighbour = SITES[(n + 1) % SITES.len()];
        let mut shelf = Monitor::open(store.addr, "store/elsewhere/#").await;
        for (gtin, units) in &sold[neighbour] {
            shelf.until_json(&format!("store/elsewhere/{neighbour}/{gtin}"), |stock| stock["on_hand"] == -units).await;
        }
    }
    let topic = format!("store/item/{GTIN}");
    until("every store shows the same price", async || {
        let mut prices: Vec<Value> = Vec::new();
        for store in gateways {
            let mut shelf = Monitor::open(store.addr, "store/item/+").await;
            prices.push(shelf.until_json(&topic, |item| item["price_cents"].is_number()).await["price_cents"].clone());
        }
        if prices.iter().all(|price| *price == prices[0]) { Ok(()) } else { Err(format!("{prices:?}")) }
    })
    .await;
}
