//! Disks that fail, fill up or give back something else than was written, under real processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::ledgers::{self, Hq, Row};
use crate::harness::mqtt::{Link, Monitor, Packet, Qos};
use crate::harness::node::{Spec, path};
use crate::harness::wait::until;
use crate::harness::{GTIN, Pair, SITE, folder, tools};

fn receive(n: u32) -> String {
    json!({"id": format!("r{n}"), "gtin": GTIN, "op": "receive"}).to_string()
}

fn requests(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.request.clone()).filter(|request| !request.is_empty()).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.join("journal")).expect("list the journal");
    let mut files: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// An fsync that fails once may have lost what it was for, and the next one would say that all is well.
#[tokio::test]
async fn after_a_failed_fsync_nothing_is_said_and_the_next_start_has_all_that_was() {
    if !tools::has(&["strace"]) {
        return;
    }
    let dir = folder();
    let inject = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=30"];
    let mut gateway = Spec::gateway(dir.path(), SITE, None).under(&inject).start().await;
    let mut scanner = Link::open(gateway.addr, "scanner-1").await;
    let mut acked = BTreeSet::new();
    for n in 1..=200u16 {
        scanner.throw(Qos::One, n, false, b"dev/scanner-1/scan", receive(n.into()).as_bytes()).await;
        let heard = scanner.next_or_closed().await;
        match heard {
            Some(Packet::PubAck(pkid)) => assert!(acked.insert(format!("r{pkid}"))),
            _ => break,
        }
    }
    assert_eq!(gateway.ended().await.code(), Some(74), "{}", gateway.log());
    assert!(acked.len() > 5 && acked.len() < 100, "{acked:?}");
    assert!(gateway.log().contains("the ledger failed"), "{}", gateway.log());

    gateway.by_itself();
    gateway.restart().await;
    let mut scanner = Link::device(gateway.addr, "scanner-1").await;
    // The one that was not acknowledged is sent again: done once, whether or not it had reached the disk.
    let next = acked.len() as u32 + 1;
    let again = scanner.ask("scan", receive(next)).await;
    assert!(["ok", "duplicate"].contains(&again["status"].as_str().unwrap_or_default()), "{again}");
    gateway.stop().await;
    let found = requests(&ledgers::of_gateway(gateway.dir()));
    let wanted: Vec<_> = (1..=next).map(|n| format!("r{n}")).collect();
    assert_eq!(found, wanted, "all that was acknowledged, once");
}

/// A file system of its own, which another program fills.
#[tokio::test]
async fn a_full_disk_refuses_keeps_serving_and_recovers_by_itself() {
    let mount = "mount -t tmpfs -o size=64m none \"$0\" && exec \"$@\"";
    let allowed = std::process::Command::new("unshare").args(["-rm", "sh", "-c", mount, "/mnt", "true"]).output();
    if !allowed.is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: this machine lets nobody mount a file system of their own");
        return;
    }
    let dir = folder();
    let inside = path(&dir.path().join(SITE));
    fs::create_dir(&inside).expect("make the place to mount on");
    let spec = Spec::gateway(dir.path(), SITE, None).config("disk_reserve_mib = 20\n");
    let gateway = spec.under(&["unshare", "-rm", "sh", "-c", mount, &inside]).start().await;
    // Another process's files are reached through its root.
    let data = PathBuf::from(format!("/proc/{}/root{inside}", gateway.id()));
    let mut scanner = Link::device(gateway.addr, "scanner-1").await;
    let mut shelf = Monitor::watch(Link::open(gateway.addr, "shelf").await, "store/stock/+").await;
    for n in 1..=20 {
        scanner.ask("scan", receive(n)).await;
    }
    fs::write(data.join("ballast"), vec![0u8; 50 << 20]).expect("fill the disk");
    let mut sent = 20;
    until("publishes are refused", async || {
        let mut device = Link::open(gateway.addr, "scanner-1").await;
        sent += 1;
        device.throw(Qos::One, 1, false, b"dev/scanner-1/scan", receive(sent).as_bytes()).await;
        match device.next_or_closed().await {
            None => Ok(()),
            Some(packet) => Err(format!("{packet:?}")),
        }
    })
    .await;
    // Closed without PUBACK: it comes back and sends again. Meanwhile stock is served.
    let refused = sent;
    let topic = format!("store/stock/{GTIN}");
    shelf.until_json(&topic, |stock| stock["on_hand"] == refused - 1).await;
    let mut late = Monitor::watch(Link::open(gateway.addr, "late").await, "store/stock/+").await;
    late.until_json(&topic, |stock| stock["on_hand"] == refused - 1).await;

    fs::remove_file(data.join("ballast")).expect("make room");
    until("publishes are taken again", async || {
        let mut device = Link::open(gateway.addr, "scanner-1").await;
        device.throw(Qos::One, 1, true, b"dev/scanner-1/scan", receive(refused).as_bytes()).await;
        match device.next_or_closed().await {
            Some(Packet::PubAck(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    shelf.until_json(&topic, |stock| stock["on_hand"] == refused).await;
    // What a kill would leave.
    let copy = dir.path().join("copy/journal");
    fs::create_dir_all(&copy).expect("make a folder");
    for file in segments(&data) {
        fs::copy(&file, copy.join(file.file_name().expect("a name"))).expect("copy a segment");
    }
    let found = requests(&ledgers::of_gateway(&dir.path().join("copy")));
    assert_eq!(found, (1..=refused).map(|n| format!("r{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_journal_is_mended_and_hq_hears_what_is_gone() {
    let mut pair = Pair::start().await;
    pair.gateway.until_applied().await;
    pair.hub.stop().await;
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    for n in 1..=60 {
        scanner.ask("scan", receive(n)).await;
    }
    pair.gateway.kill().await;
    let newest = segments(pair.gateway.dir()).pop().expect("a segment");
    let mut bytes = fs::read(&newest).expect("read a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).expect("damage a segment");

    pair.gateway.restart().await;
    let status = pair.gateway.status().await;
    let lost = &status["recovery"]["lost"][0];
    assert!(lost[0].as_u64().is_some() && lost[0] == lost[1], "one commit of one record: {status}");
    assert!(pair.gateway.dir().join("damaged").join(newest.file_name().expect("a name")).exists());
    let mut scanner = Link::device(pair.gateway.addr, "scanner-1").await;
    scanner.done("scan", json!({"id": "after", "gtin": GTIN, "op": "receive"})).await;
    pair.hub.restart().await;
    pair.gateway.until_applied().await;
    let mut hq = Monitor::open(pair.hub.addr, "hq/#").await;
    let site = hq.until_json(&format!("hq/sites/{SITE}/status"), |site| site["lost"]["damaged"] == 1).await;
    assert_eq!(site["lost"]["scans"], 0, "{site}");
    hq.until_json(&format!("hq/alerts/{SITE}:records_lost"), |alert| alert["say"].as_str().is_some()).await;
    // The units of the lost record are in the totals of those that came after it.
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == 61).await;
    pair.gateway.stop().await;
    pair.hub.stop().await;
    let at_hq = Hq::read(pair.hub.dir()).rows;
    assert_eq!(at_hq, ledgers::of_gateway(pair.gateway.dir()));
    assert_eq!(requests(&at_hq).len(), 60, "59 of 60, and the one after");
}

/// The hub is away and the journal is small: activity goes, then scans, sales stay, and HQ learns what went.
#[tokio::test]
async fn what_is_evicted_reaches_hq_as_a_loss_and_sales_never_go() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let addr = hub.addr;
    hub.stop().await;
    let mut gateway = Spec::gateway(dir.path(), SITE, Some(addr)).config("journal_mib_max = 2\n").start().await;
    let mut pos = Link::open(gateway.addr, "pos-1").await;
    let mut sales = Vec::new();
    let mut noise = 1u64;
    let mut pkid = 0;
    let mut batches = 0;
    while gateway.status().await["ledger"]["evicted_records"].as_u64() < Some(200) {
        batches += 1;
        assert!(batches < 200, "nothing is evicted: {}", gateway.status().await);
        for n in 0..40 {
            // Text that does not pack, so that the journal fills up.
            let text: String = (0..600)
                .map(|_| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    char::from(b'0' + (noise >> 58) as u8)
                })
                .collect();
            pkid += 1;
            let text = json!({ "text": text }).to_string();
            pos.throw(Qos::One, pkid, false, b"dev/pos-1/activity", text.as_bytes()).await;
            if n % 8 == 0 {
                pkid += 1;
                sales.push(format!("s{pkid}"));
                let lines = json!([{"gtin": GTIN, "qty": 1, "cents": 999}]);
                let sale = json!({"id": sales.last(), "lines": lines}).to_string();
                pos.throw(Qos::One, pkid, false, b"dev/pos-1/sale", sale.as_bytes()).await;
            }
        }
        pos.expect_packet(Packet::PubAck(pkid)).await;
    }
    hub.restart().await;
    gateway.until_applied().await;
    let evicted = gateway.status().await["ledger"]["evicted_records"].clone();
    let mut hq = Monitor::open(addr, "hq/#").await;
    let site = hq.until_json(&format!("hq/sites/{SITE}/status"), |site| site["lost"]["activity"] == evicted).await;
    assert_eq!(site["lost"]["scans"], 0, "{site}");
    hq.until_json(&format!("hq/stock/{GTIN}"), |stock| stock["on_hand"] == -(sales.len() as i64)).await;
    gateway.stop().await;
    hub.stop().await;
    let sold = |rows: Vec<Row>| requests(&rows.into_iter().filter(|row| row.movement().is_some()).collect::<Vec<_>>());
    assert_eq!(sold(Hq::read(hub.dir()).rows), sales);
    // Once HQ has them, the oldest may go there too.
    assert!(sales.ends_with(&sold(ledgers::of_gateway(gateway.dir()))));
    // And the hub still knows after its own restart.
    hub.restart().await;
    let lost = hub.status().await["sites"][SITE]["lost"]["activity"].clone();
    assert_eq!(lost, evicted);
}

/// SIGTERM in the middle of the traffic: what was acknowledged is there, and the next start has nothing to do.
#[tokio::test]
async fn sigterm_under_load_drains_and_leaves_nothing_to_replay() {
    let dir = folder();
    let mut gateway = Spec::gateway(dir.path(), SITE, None).start().await;
    let addr = gateway.addr;
    let device = |n: u32| async move {
        let mut link = Link::open(addr, &format!("scanner-{n}")).await;
        let topic = format!("dev/scanner-{n}/scan");
        let (mut acked, mut sent) = (Vec::new(), 0u16);
        loop {
            sent += 1;
            link.throw(Qos::One, sent, false, topic.as_bytes(), receive(sent.into()).as_bytes()).await;
            match link.next_or_closed().await {
                Some(Packet::PubAck(pkid)) => acked.push(format!("r{pkid}")),
                Some(_) => {}
                None => return acked,
            }
        }
    };
    let devices: Vec<_> = (0..8).map(|n| tokio::spawn(device(n))).collect();
    gateway.until_status("traffic", |status| status["ledger"]["last_seq"].as_u64() > Some(500)).await;
    gateway.stop().await;
    let mut acked = 0;
    let rows = ledgers::of_gateway(gateway.dir());
    for (n, device) in devices.into_iter().enumerate() {
        let name = format!("scanner-{n}");
        let held: BTreeSet<_> = rows.iter().filter(|row| row.device == name).map(|row| row.request.clone()).collect();
        for id in device.await.expect("the device ends") {
            assert!(held.contains(&id), "{name} {id}");
            acked += 1;
        }
    }
    assert!(acked >= 500);
    gateway.restart().await;
    let status = gateway.status().await;
    assert_eq!(status["recovery"]["replayed_records"], 0, "{status}");
    assert_eq!(status["recovery"]["clean"], true, "{status}");
}
