//! A count names the moment it began: what was sold since stays sold.

use serde_json::json;

use crate::harness::mqtt::Link;
use crate::harness::node::Spec;
use crate::harness::wait::{holds, until};
use crate::harness::{folder, gtin, now_ms};

/// Received, sold before the count began, sold while it ran, counted, and what must then be on hand.
struct Case {
    received: i64,
    before: i64,
    during: i64,
    counted: i64,
    on_hand: i64,
}

const CASES: [Case; 4] = [
    Case { received: 10, before: 0, during: 3, counted: 10, on_hand: 7 },
    Case { received: 10, before: 2, during: 3, counted: 8, on_hand: 5 },
    // Two are missing from the shelf.
    Case { received: 10, before: 0, during: 1, counted: 8, on_hand: 7 },
    Case { received: 10, before: 4, during: 0, counted: 6, on_hand: 6 },
];

#[tokio::test]
async fn what_is_sold_while_people_count_stays_sold() {
    let dir = folder();
    let gateway = Spec::gateway(dir.path(), "harbour", None).start().await;
    let mut pos = Link::device(gateway.addr, "pos-1").await;
    for (n, case) in (0..).zip(&CASES) {
        let gtin = gtin(n);
        let sell = |qty: i64| json!({"lines": [{"gtin": gtin, "qty": qty}]});
        pos.done("scan", json!({"gtin": gtin, "op": "receive", "qty": case.received})).await;
        if case.before > 0 {
            pos.done("sale", sell(case.before)).await;
        }
        let began = next_ms().await;
        next_ms().await;
        if case.during > 0 {
            pos.done("sale", sell(case.during)).await;
        }
        let count = json!({"gtin": gtin, "qty": case.counted, "began_ms": began});
        let reply = pos.done("count", count).await;
        assert_eq!(reply["lines"][0]["on_hand"], case.on_hand, "case {n}: {reply}");
        let looked_up = pos.done("scan", json!({"gtin": gtin})).await;
        assert_eq!(looked_up["item"]["on_hand"], case.on_hand, "case {n}: {looked_up}");
    }
}

/// A millisecond in which nothing has happened yet.
async fn next_ms() -> u64 {
    let now = now_ms();
    until("the clock moves on", async || holds(now_ms() > now, now)).await;
    now + 1
}
