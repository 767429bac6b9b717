//! Stock and promises over HTTPS at a real hub: requests that are sent again and again over connections that are cut, while
//! the hub is killed, count once; and what the hub writes reaches the stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firmware_sim::door::{Door, Tls};
use firmware_sim::http::{Answer, Client, Request};
use proto::wire::record::Of;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::mqtt::{Link, Monitor};
use crate::harness::{GTIN, SITE, gtin, ledgers};
use crate::join::{Chain, run, said};
use crate::verify::hub;

const BUYERS: u64 = 8;
const REQUESTS: u64 = 40;
const POOL: u64 = 300;
const KILLS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// The HTTPS listener, with an operator's token.
struct Shop {
    door: Door,
    token: String,
}

impl Shop {
    async fn of(chain: &Chain) -> Shop {
        let data = chain.data();
        let added = hub(&["token", "add", "shop", "--role", "operator"], &data).await;
        chain.hub.until_status("the token is seen", |now| now["access"]["local_tokens"] == 1).await;
        let addr = chain.api().await.parse().expect("its address");
        let tls = Tls::trusting(&chain.hub.dir().join("pki/ca.crt"), Some("localhost")).expect("the hub's CA");
        let token = added["token"].as_str().expect("a token").to_owned();
        Shop { door: Door { addr, tls: Some(tls), login: None }, token }
    }

    fn request(&self, method: &str, path: &str, headers: &[&str], body: &Value) -> Request {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Request::new(method, path, &self.token, headers, &body)
    }

    async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &Value) -> Answer {
        let mut client = Client::open(&self.door).await.expect("connect to the hub");
        client.ask(&self.request(method, path, headers, body)).await.expect("an answer")
    }
}

async fn pool(chain: &Chain, units: u64) {
    let done = run(&["hub", "pool", "create", GTIN, &units.to_string(), "--data", &chain.data()]).await;
    assert!(done.status.success(), "{}", said(&done));
}

/// What a request asks for, by its number: units of the item, and in how many lines.
fn wanted(n: u64) -> (&'static str, Value, u64) {
    let line = json!({ "gtin": GTIN, "units": 1 });
    match n % 4 {
        0 | 1 => ("/api/inventory/decrement", line, 1),
        2 => ("/api/inventory/decrement/bulk", json!({ "lines": [line, line, line] }), 3),
        _ => ("/api/reservations", json!({ "gtin": GTIN, "units": 2, "seconds": 3600 }), 2),
    }
}

/// Sends one request 1 to 5 times, cut at any moment, and then until it is answered.
async fn persist(shop: &Shop, key: &str, n: u64, dice: &mut SmallRng) -> u16 {
    let (path, body, _) = wanted(n);
    let request = shop.request("POST", path, &[&format!("idempotency-key: {key}")], &body);
    for _ in 0..dice.random_range(0..5) {
        let patience = Duration::from_micros(dice.random_range(0..20_000));
        // Dropped wherever it is then: while connecting, sending, or waiting for the answer.
        let _ = timeout(patience, async { Client::open(&shop.door).await.ok()?.ask(&request).await.ok() }).await;
    }
    loop {
        let asked = async { Client::open(&shop.door).await.ok()?.ask(&request).await.ok() };
        match timeout(Duration::from_secs(5), asked).await {
            Ok(Some(answer)) if answer.status < 500 => return answer.status,
            // The hub is down, or was killed before it answered.
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_over_cut_connections_to_a_hub_that_is_killed_counts_once() {
    let mut chain = Chain::start("api_rate = 1000000\n").await;
    pool(&chain, POOL).await;
    let shop = Arc::new(Shop::of(&chain).await);
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..BUYERS {
        let shop = shop.clone();
        buyers.spawn(async move {
            let mut dice = SmallRng::seed_from_u64(buyer);
            let mut answered = Vec::new();
            for n in 0..REQUESTS {
                let key = format!("buyer-{buyer}-{n}");
                let status = persist(&shop, &key, n, &mut dice).await;
                answered.push((key, n, status));
            }
            answered
        });
    }
    for _ in 0..KILLS {
        sleep(Duration::from_millis(700)).await;
        chain.hub.kill().await;
        chain.hub.restart().await;
    }
    let mut answered = BTreeMap::new();
    while let Some(one) = timeout(PATIENCE, buyers.join_next()).await.expect("all are answered") {
        answered.extend(one.expect("a buyer").into_iter().map(|(key, n, status)| (key, (n, status))));
    }
    let stock = shop.ask("GET", &format!("/api/stock/{GTIN}"), &[], &Value::Null).await.json().expect("JSON");
    chain.hub.stop().await;

    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    for row in ledgers::of_gateway(chain.hub.dir()) {
        let units = match &row.of {
            Of::Promise(promise) => promise.units,
            Of::Hold(hold) => hold.units,
            _ => continue,
        };
        *taken.entry(row.request).or_default() += units;
    }
    for (key, (n, status)) in &answered {
        let units = if matches!(status, 200 | 201) { wanted(*n).2 } else { 0 };
        assert!(matches!(status, 200 | 201 | 409), "{key}: {status}");
        assert_eq!(taken.get(key).copied().unwrap_or(0), units, "{key} was answered {status}");
    }
    let sum: u64 = taken.values().sum();
    assert_eq!(taken.len(), taken.keys().filter(|key| answered.contains_key(*key)).count());
    assert_eq!(sum, POOL, "more was asked for than there is, and single units at the end");
    let [free, promised, held] = ["free", "promised", "held"].map(|name| stock["pool"][name].as_i64());
    assert_eq!((free, promised.zip(held).map(|(p, h)| p + h)), (Some(0), Some(POOL as i64)), "{stock}");
}

#[tokio::test]
async fn what_the_hub_moves_and_writes_reaches_the_store() {
    let chain = Chain::start("").await;
    chain.joined(SITE).await;
    let gateway = chain.gateway(SITE).start().await;
    let mut pos = Link::device(gateway.addr, "pos-1").await;
    let mut shelf = Monitor::open(gateway.addr, "store/#").await;
    let (item, shop) = (gtin(7), Shop::of(&chain).await);
    pos.done("move", json!({ "op": "receive", "lines": [{ "gtin": item, "qty": 20 }] })).await;
    let mut hq = json!(null);
    for _ in 0..600 {
        hq = shop.ask("GET", &format!("/api/stock/{item}"), &[], &Value::Null).await.json().expect("JSON");
        if hq["on_hand"] == 20 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(hq["sites"][SITE], 20, "{hq}");

    let body = json!({ "gtin": item, "units": 3, "site": SITE, "reference": "web-1", "channel": "web" });
    let moved = shop.ask("POST", "/api/inventory/decrement", &["idempotency-key: web-1"], &body).await;
    assert_eq!((moved.status, &moved.json().expect("JSON")["on_hand"]), (200, &json!(17)));
    shelf.until_json(&format!("store/stock/{item}"), |stock| stock["on_hand"] == 17).await;
    pos.done("sale", json!({ "lines": [{ "gtin": item, "qty": 1, "cents": 100 }] })).await;
    shelf.until_json(&format!("store/stock/{item}"), |stock| stock["on_hand"] == 16).await;
    gateway.until_applied().await;
    let data = chain.data();
    for words in [&["verify", SITE][..], &["verify", SITE, "--refold"]] {
        assert_eq!(hub(words, &data).await["differed"], 0, "{words:?}");
    }

    let at = format!("/api/items/{item}");
    let fields = json!({ "name": "Pear", "price_cents": 1000 });
    let made = shop.ask("PUT", &at, &["if-none-match: *"], &fields).await;
    assert_eq!(made.status, 201, "{made:?}");
    let seen = format!("if-match: {}", made.header("etag").expect("a version"));
    shelf.until_json(&format!("store/item/{item}"), |item| item["price_cents"] == 1000).await;
    pos.done("item", json!({ "gtin": item, "price_cents": 1100 })).await;
    gateway.until_applied().await;
    let stale = shop.ask("PATCH", &at, &[&seen], &json!({ "price_cents": 900 })).await;
    assert_eq!((stale.status, &stale.json().expect("JSON")["code"]), (412, &json!("version_differs")));
    let now = format!("if-match: {}", stale.header("etag").expect("the current version"));
    assert_eq!(shop.ask("PATCH", &at, &[&now], &json!({ "price_cents": 900 })).await.status, 200);
    shelf.until_json(&format!("store/item/{item}"), |item| item["price_cents"] == 900 && item["name"] == "Pear").await;
    assert_eq!(chain.hub.status().await["conflicts"]["kept"], 0);
}
