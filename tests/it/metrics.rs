//! What `/metrics` serves is what `status` says, and nobody who leans on its door hurts the node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::mqtt::Link;
use crate::harness::node::{Node, Spec};
use crate::harness::wait::PATIENCE;
use crate::harness::{GTIN, Pair, folder};

const METRICS: &str = "metrics = \"127.0.0.1:0\"\n";

async fn door(node: &Node) -> SocketAddr {
    let status = node.status().await;
    status["metrics"].as_str().and_then(|addr| addr.parse().ok()).expect("the status says where /metrics is")
}

/// Status code and body of one request, written as it is.
async fn request(addr: SocketAddr, head: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.expect("connect to /metrics");
    // The node may close before all of it is read.
    let _ = stream.write_all(head).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    let answer = String::from_utf8(answer).expect("an answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned())
}

/// Every sample by name and labels, after checking that each family says what it is.
async fn scrape(addr: SocketAddr) -> BTreeMap<String, f64> {
    let (code, text) = request(addr, b"GET /metrics HTTP/1.1\r\nHost: box\r\n\r\n").await;
    assert_eq!(code, 200, "{text}");
    let (mut samples, mut family) = (BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name").to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind.split(' ').next(), Some(family.as_str()), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert_eq!(name.split('{').next(), Some(family.as_str()), "{line} belongs to its family");
            samples.insert(name.to_owned(), value.parse().expect("a number"));
        }
    }
    samples
}

fn same(samples: &BTreeMap<String, f64>, name: &str, status: &Value) {
    assert_eq!(samples.get(name).copied(), status.as_f64(), "{name}: {samples:?}");
}

#[tokio::test]
async fn metrics_are_the_status_once_more() {
    let dir = folder();
    let hub = Spec::hub(dir.path()).config(METRICS).start().await;
    let gateway = Spec::gateway(dir.path(), "harbour", Some(hub.addr)).config(METRICS).start().await;
    let pair = Pair::of(hub, gateway, dir);
    let mut pos = Link::device(pair.gateway.addr, "pos-1").await;
    for n in 0..20 {
        pos.done("scan", json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"})).await;
    }
    pos.ask("scan", json!({"id": "r1", "gtin": GTIN, "op": "receive"}).to_string()).await;
    pos.ask("scan", json!({"gtin": GTIN, "op": "receive", "qty": 0}).to_string()).await;
    pair.gateway.until_applied().await;
    pair.hub.until_status("HQ knows it", |status| status["sites"]["harbour"]["applied_seq"] == 21).await;

    let (status, samples) = (pair.gateway.status().await, scrape(door(&pair.gateway).await).await);
    for (name, key) in
        [("durable_seq", "last_seq"), ("records_total", "records"), ("evicted_records_total", "evicted_records")]
    {
        same(&samples, &format!("tillsync_ledger_{name}"), &status["ledger"][key]);
    }
    same(&samples, "tillsync_uplink_applied_seq", &status["uplink"]["applied_seq"]);
    same(&samples, "tillsync_front_acks_total", &status["front"]["acks"]);
    same(&samples, "tillsync_requests_total{outcome=\"accepted\"}", &json!(20));
    same(&samples, "tillsync_requests_total{outcome=\"duplicates\"}", &json!(1));
    same(&samples, "tillsync_refusals_total{code=\"qty_zero\"}", &json!(1));
    for (name, value) in
        [("tillsync_uplink_connected", 1.0), ("tillsync_backlog_records", 0.0), ("tillsync_ledger_full", 0.0)]
    {
        assert_eq!(samples[name], value, "{name}");
    }
    for (name, key) in [("appended_bytes_total", "appended_bytes"), ("journal_bytes", "journal_bytes")] {
        // The answers are not of the same moment.
        assert!(samples[&format!("tillsync_ledger_{name}")] >= status["ledger"][key].as_f64().expect("a number"));
    }
    // What the disk had to write is measured and shown.
    let disk = &status["disk"];
    assert!(disk["written_bytes"].is_u64() && disk["free_bytes"].as_u64() > Some(0), "{disk}");
    assert_eq!(disk["written_bytes_per_day"], Value::Null, "too young for a rate: {disk}");
    let (appended, records) = (&status["ledger"]["appended_bytes"], &status["ledger"]["records"]);
    let each = appended.as_f64().expect("a number") / records.as_f64().expect("a number");
    assert_eq!(disk["appended_bytes_per_record"], each.round() as u64, "{status}");
    assert!(samples["tillsync_disk_written_bytes_total"] >= disk["written_bytes"].as_f64().expect("a number"));

    let (status, samples) = (pair.hub.status().await, scrape(door(&pair.hub).await).await);
    let site = &status["sites"]["harbour"];
    same(&samples, "tillsync_hub_site_applied_seq{site=\"harbour\"}", &site["applied_seq"]);
    same(&samples, "tillsync_hub_site_set_aside{site=\"harbour\"}", &json!(0));
    same(&samples, "tillsync_hub_site_lost_records{site=\"harbour\",class=\"scans\"}", &json!(0));
    same(&samples, "tillsync_ledger_durable_seq", &status["ledger"]["last_seq"]);
    same(&samples, "tillsync_hub_sites_online", &json!(1));
}

#[tokio::test]
async fn who_leans_on_the_metrics_door_does_not_hurt() {
    let dir = folder();
    let gateway = Spec::gateway(dir.path(), "harbour", None).config(METRICS).start().await;
    let addr = door(&gateway).await;
    let post = b"POST /metrics HTTP/1.1\r\nHost: box\r\nContent-Length: 9\r\n\r\nno thanks";
    assert_eq!(request(addr, post).await.0, 405);
    assert_eq!(request(addr, b"HEAD /metrics HTTP/1.1\r\nHost: box\r\n\r\n").await.0, 405);
    assert_eq!(request(addr, b"GET / HTTP/1.1\r\nHost: box\r\n\r\n").await.0, 404);
    assert_eq!(request(addr, b"GET /metrics/../etc/passwd HTTP/1.1\r\nHost: box\r\n\r\n").await.0, 404);
    let huge = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    assert_ne!(request(addr, &huge).await.0, 200);
    assert_ne!(request(addr, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await.0, 200);
    // More silent connections than there are places: they are closed after a while, and all others are served.
    let mut silent = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(addr).await.expect("connect to /metrics");
        stream.write_all(b"GET /met").await.expect("write half a request");
        silent.push(stream);
    }
    let mut pos = Link::device(gateway.addr, "pos-1").await;
    pos.done("scan", json!({"gtin": GTIN, "op": "receive"})).await;
    assert_eq!(scrape(addr).await["tillsync_requests_total{outcome=\"accepted\"}"], 1.0);
}
