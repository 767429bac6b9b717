//! What a stolen password allows: filters, topics, wills and reading nothing, each as much as it can.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::sockets::many;
use super::wire::{HOSTILE, Target, Wire, connect, publish, subscribe, unsubscribe};
use super::{Attack, PASSWORD, THIEVES, count, under};
use crate::harness::gtin;

const RATES: &str = "device_messages_per_s = 20000\ndevice_kib_per_s = 65536\n";

async fn thief(target: &Target, n: usize) -> (Wire, &'static str) {
    let name = THIEVES[n % 2];
    (target.thief(&format!("{name}.{n}"), name, PASSWORD).await, name)
}

/// Deliveries of the `n`th hundred of made-up items, which change a hundred retained topics.
fn delivery(n: u64) -> Vec<u8> {
    let lines: Vec<_> = (0..100).map(|at| format!(r#"{{"gtin":"{}","qty":1}}"#, gtin(n * 100 + at))).collect();
    format!(r#"{{"lines":[{}]}}"#, lines.join(",")).into_bytes()
}

/// Sells all these items, so that what listens to their stock is told.
async fn stir(wire: &mut Wire, name: &str, hundreds: std::ops::Range<u64>) {
    for n in hundreds {
        let pkid = (n % 60_000 + 1) as u16;
        wire.send(&publish(&format!("dev/{name}/sale"), pkid, &delivery(n), false)).await.expect("it is taken");
        assert!(wire.heard(4, 1).await, "it is acknowledged");
    }
}

#[tokio::test]
async fn wildcards() {
    let attack = Attack { name: "40,000 wildcard filters", cap_mib: 96, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        many(16, 16, move |n| {
            let target = target.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                let mut filters: Vec<String> =
                    ["#", "+/#", "+/+/#", "dev/#", "dev/+/reply", "+/pos-1/+", "store/+/+/+/+/#"]
                        .map(str::to_owned)
                        .into();
                filters.extend((1..60).map(|depth| vec!["+"; depth].join("/")));
                filters.extend((1..60).map(|depth| format!("dev/{name}/{}", vec!["+"; depth].join("/"))));
                for _ in 0..20 {
                    let codes = wire.subscribe(&filters).await;
                    assert_eq!(codes.len(), filters.len());
                    assert!(codes[..6].iter().all(|code| *code == 0x80), "what is others' is refused: {codes:?}");
                }
            }
        })
        .await;
    });
    let status = status.await;
    assert!(count(&status, "subscribes_refused") > 10_000, "{status}");
}

#[tokio::test]
async fn a_subscription_bomb() {
    let attack =
        Attack { name: "10,000 filters of 16 connections, and traffic for them", cap_mib: 96, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        many(16, 16, move |n| {
            let target = target.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                let filters: Vec<_> = (0..625).map(|at| format!("store/stock/{}", gtin(n as u64 * 625 + at))).collect();
                let granted = wire.subscribe(&filters).await.iter().filter(|code| **code == 0).count();
                assert!(granted <= 64, "a connection has 64, not {granted}");
                stir(&mut wire, name, n as u64 * 6..n as u64 * 6 + 12).await;
            }
        })
        .await;
    });
    let status = status.await;
    // All but 64 of each connection's 625; fewer are granted while the router waits to be renewed.
    assert!(count(&status, "subscribes_refused") >= 16 * (625 - 64), "{status}");
}

/// The router never forgets a filter: ten thousand that come and go, some with messages.
#[tokio::test]
async fn filters_that_come_and_go() {
    let attack =
        Attack { name: "10,000 filters that come and go twice, with traffic", cap_mib: 192, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        let shared = target.clone();
        many(8, 8, move |n| {
            let target = shared.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                for round in 0..50 {
                    let at = (n as u64 * 50 + round) * 50;
                    let filters: Vec<_> = (at..at + 50)
                        .map(|at| format!("store/stock/{}", gtin(at % 5_000) + &"/#".repeat((at / 5_000 % 2) as usize)))
                        .collect();
                    wire.send(&subscribe(1, &filters)).await.expect("it is taken");
                    assert!(wire.heard(9, 1).await, "it is answered");
                    wire.send(&unsubscribe(2, &filters)).await.expect("it is taken");
                    assert!(wire.heard(11, 1).await, "it is answered");
                    if round % 10 == 0 {
                        stir(&mut wire, name, at / 100..at / 100 + 5).await;
                    }
                }
            }
        })
        .await;
        nobody_is_deaf(&target).await;
    });
    let status = status.await;
    assert!(count(&status, "router_renewals") > 0 && count(&status, "router_restarts") == 0, "{status}");
}

/// A filter that nobody had before is granted to whoever is in his rights.
async fn nobody_is_deaf(target: &Target) {
    let mut wire = target.thief("thief-1.after", "thief-1", PASSWORD).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut n = 900_000;
    while wire.subscribe(&[format!("store/stock/{}", gtin(n))]).await != [0] {
        assert!(Instant::now() < deadline, "no new filter is granted any more");
        sleep_until(Instant::now() + Duration::from_millis(100)).await;
        n += 1;
    }
}

/// Filters that match the same messages, and as much for them as goes through.
#[tokio::test]
async fn logs_that_fill_up() {
    let attack = Attack { name: "650 filters filled with 290 MB of messages", cap_mib: 96, config: RATES, tls: false };
    let status = under(attack, async |target: Target| {
        many(16, 16, move |n| {
            let target = target.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                let filters: Vec<_> = (0..32).map(|at| format!("store/stock/{}", gtin(n as u64 * 32 + at))).collect();
                wire.subscribe(&filters).await;
                let own: Vec<_> = ["#", "+", "+/#", "scan", "scan/#", "note", "note/#", "reply", "reply/#"]
                    .map(|tail| format!("dev/{name}/{tail}"))
                    .into();
                wire.subscribe(&own).await;
                // As large as a request may be.
                let large = vec![b' '; 60 << 10];
                for pkid in 1..=300 {
                    wire.send(&publish(&format!("dev/{name}/scan"), pkid, &large, false)).await.expect("it is taken");
                    assert!(wire.heard(4, 1).await, "it is acknowledged");
                }
            }
        })
        .await;
    });
    assert_eq!(count(&status.await, "router_restarts"), 0);
}

#[tokio::test]
async fn a_topic_bomb() {
    let attack = Attack { name: "100,000 topics refused, 30,000 published", cap_mib: 160, config: RATES, tls: false };
    let status = under(attack, async |target: Target| {
        many(8, 8, move |n| {
            let target = target.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                wire.subscribe(&["store/#".to_owned()]).await;
                for hundred in 0..125 {
                    let topic = |at: u32| format!("dev/{name}/kind-{n}-{hundred}-{at}");
                    let burst: Vec<u8> =
                        (0..100).flat_map(|at| publish(&topic(at), at as u16 + 1, b"x", false)).collect();
                    wire.send(&burst).await.expect("it is taken");
                    assert!(wire.heard(4, 100).await, "refusals are recorded and acknowledged");
                }
                stir(&mut wire, name, n as u64 * 38..n as u64 * 38 + 38).await;
            }
        })
        .await;
    });
    let status = status.await;
    assert_eq!(count(&status, "denied"), 100_000, "{status}");
    assert!(count(&status, "retained") > 25_000, "{status}");
}

#[tokio::test]
async fn a_retained_flood() {
    let attack = Attack { name: "20,000 messages with the retain flag", cap_mib: 96, config: RATES, tls: false };
    let status = under(attack, async |target: Target| {
        many(8, 8, move |n| {
            let target = target.clone();
            async move {
                let (mut wire, name) = thief(&target, n).await;
                for hundred in 0..25 {
                    let topic = |at: u32| match at % 3 {
                        0 => format!("dev/{name}/activity"),
                        1 => format!("store/stock/{}-{hundred}-{at}", gtin(1)),
                        _ => format!("dev/{name}/own-{n}-{hundred}-{at}"),
                    };
                    let burst: Vec<u8> =
                        (0..100).flat_map(|at| publish(&topic(at), at as u16 + 1, br#"{"kept":1}"#, true)).collect();
                    wire.send(&burst).await.expect("it is taken");
                    assert!(wire.heard(4, 100).await, "it is acknowledged");
                }
            }
        })
        .await;
    });
    let status = status.await;
    // The store's own: the item that the honest sell, and what the gateway says of itself.
    assert!(count(&status, "retained") < 10, "nothing of a device's is kept: {status}");
}

#[tokio::test]
async fn a_will_storm() {
    let config = "connections_max = 700\nconnections_per_account = 300\nhandshakes_per_peer = 1000\n";
    let attack = Attack { name: "600 connections with wills, all cut at once", cap_mib: 96, config, tls: false };
    let status = under(attack, async |target: Target| {
        for _ in 0..3 {
            let mut alive = Vec::new();
            for n in 0..200 {
                let name = THIEVES[n % 2];
                let (client, topic) = (format!("{name}.{n}"), format!("dev/{name}/scan"));
                let mut wire = target.reach(HOSTILE).await.expect("connect to the node");
                let will = Some((topic.as_str(), "4006381333931"));
                assert_eq!(wire.greet(&connect(&client, Some((name, PASSWORD)), true, will)).await, Some(0));
                alive.push(wire);
            }
        }
        // A will that may not be published is none.
        let mut wire = target.reach(HOSTILE).await.expect("connect to the node");
        let will = Some(("dev/pos-1/sale", "{}"));
        assert_eq!(wire.greet(&connect("thief-1", Some(("thief-1", PASSWORD)), true, will)).await, Some(5));
    });
    let status = status.await;
    assert_eq!(count(&status, "wills"), 600, "{status}");
}

#[tokio::test]
async fn readers_that_stall() {
    let attack = Attack { name: "14 readers that stall, and traffic for them", cap_mib: 96, config: RATES, tls: false };
    let status = under(attack, async |target: Target| {
        let mut stalled = Vec::new();
        for n in 0..14 {
            let (mut wire, name) = thief(&target, n).await;
            wire.subscribe(&["store/#".to_owned(), format!("dev/{name}/#")]).await;
            stalled.push(wire);
        }
        let (mut wire, name) = thief(&target, 14).await;
        // More than the kernel keeps for a reader: 20 MB.
        let large = format!(r#"{{"x":"{}"}}"#, " ".repeat(4_000));
        for pkid in 1..=100 {
            let activity = publish(&format!("dev/{name}/activity"), pkid, large.as_bytes(), false);
            wire.send(&activity.repeat(50)).await.expect("it is taken");
            assert!(wire.heard(4, 50).await, "it is acknowledged");
        }
        // Longer than the front waits before it takes them for readers that stall: what comes then is lost to them.
        tokio::time::sleep(Duration::from_millis(600)).await;
        stir(&mut wire, name, 0..100).await;
    });
    let status = status.await;
    assert!(count(&status, "unread_lost") > 0 || count(&status, "overflow_lost") > 0, "{status}");
}

/// Sessions outlive connections: one password must not fill the table for all.
#[tokio::test]
async fn sessions_that_are_left_behind() {
    let attack = Attack { name: "5,000 sessions left behind", cap_mib: 96, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        let shared = target.clone();
        many(5_000, 4, move |n| {
            let target = shared.clone();
            async move {
                let mut wire = target.reach(HOSTILE).await.expect("connect to the node");
                let login = Some(("thief-1", PASSWORD));
                if wire.greet(&connect(&format!("thief-1.{n}"), login, false, None)).await == Some(0) {
                    wire.subscribe(&["store/#".to_owned()]).await;
                }
            }
        })
        .await;
        let mut wire = target.honest().await.expect("connect to the node");
        let code = wire.greet(&connect("pos-late.kept", Some(("pos-late", PASSWORD)), false, None)).await;
        assert_eq!(code, Some(0), "there is room for a session of somebody else");
    });
    let kept = count(&status.await, "sessions_kept");
    assert!(kept < 100, "one account has {kept} sessions");
}
