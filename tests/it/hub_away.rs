//! With the hub away the store goes on; on return everything arrives, in order, once.

use serde_json::{Value, json};

use crate::harness::ledgers::{self, Hq};
use crate::harness::mqtt::{Link, Monitor};
use crate::harness::{GTIN, Pair, SITE};

const SALES: i64 = 60;

#[tokio::test]
async fn a_store_sells_on_without_its_hub() {
    let mut pair = Pair::start().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    let mut shelf = Monitor::open(pair.gateway.addr, "store/stock/+").await;
    scanner.done("scan", json!({"id": "r", "gtin": GTIN, "op": "receive", "qty": 1000})).await;
    pair.gateway.until_applied().await;

    pair.hub.stop().await;
    pair.gateway.until_status("the gateway notices", |status| status["uplink"]["connected"] == false).await;
    for n in 1..=SALES {
        let reply = pos.done("sale", sale(n)).await;
        assert_eq!(reply["lines"][0]["on_hand"], 1000 - n, "{reply}");
    }
    let topic = format!("store/stock/{GTIN}");
    shelf.until_json(&topic, |stock| stock["on_hand"] == 1000 - SALES).await;
    let status = pair.gateway.status().await;
    assert_eq!(status["uplink"]["backlog_records"], SALES, "{status}");
    assert!(status["ledger"]["backlog_bytes"].as_u64() > Some(0), "{status}");

    pair.hub.restart().await;
    pair.gateway.until_applied().await;
    let status = pair.gateway.status().await;
    assert_eq!(status["uplink"]["backlog_records"], 0, "{status}");
    let mut hq = Monitor::open(pair.hub.addr, "hq/#").await;
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["sites"][SITE] == 1000 - SALES).await;
    let caught_up = |site: &Value| site["online"] == true && site["backlog_records"] == 0;
    hq.until_json(&format!("hq/sites/{SITE}/status"), caught_up).await;

    pair.gateway.stop().await;
    hq.until_json(&format!("hq/sites/{SITE}/status"), |site| site["online"] == false).await;
    pair.hub.stop().await;
    let at_hq = Hq::read(pair.hub.dir()).rows;
    assert_eq!(at_hq, ledgers::of_gateway(pair.gateway.dir()), "everything, in order, once");
    let sold: Vec<_> = at_hq.iter().filter(|row| row.device == "pos-1").map(|row| row.request.clone()).collect();
    assert_eq!(sold, (1..=SALES).map(|n| format!("s{n}")).collect::<Vec<_>>());
}

fn sale(n: i64) -> Value {
    json!({"id": format!("s{n}"), "lines": [{"gtin": GTIN, "qty": 1, "cents": 999}]})
}
