//! What `/metrics` says of the channel.

use super::*;
use crate::face::FACE;
use crate::node::metrics::Exposition;

#[tokio::test]
async fn each_order_is_counted_by_what_it_came_to() {
    let hub = pooled(10).await;
    let mut seen = BTreeMap::new();
    let mut shows = async |lines: &[&str]| {
        let mut out = Exposition::default();
        (FACE.metrics)(&hub.status().await, &mut out);
        let text = out.into_text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_ne!(seen.insert(name.to_owned(), value.to_owned()).as_deref(), Some(value), "{name} moves");
        }
    };
    shows(&["tillsync_hub_channel_repeats_total 0", "tillsync_hub_reservations_open 0"]).await;
    shows(&["tillsync_hub_reservations_expired_total 0", "tillsync_hub_rights_missed_units_total 0"]).await;
    hub.reply(key(1, 5), decrement(4)).await;
    hub.reply(key(1, 5), decrement(4)).await;
    shows(&[
        "tillsync_hub_channel_requests_total{what=\"decrement\",outcome=\"done\"} 1",
        "tillsync_hub_channel_units_total{what=\"decrement\",outcome=\"done\"} 4",
        "tillsync_hub_channel_repeats_total 1",
    ])
    .await;
    hub.order(decrement(7)).await;
    hub.order(decrement(2)).await;
    hub.order(reserve(9, 60)).await;
    let (_, held) = hub.order(reserve(3, 60)).await;
    shows(&[
        "tillsync_hub_channel_requests_total{what=\"decrement\",outcome=\"done\"} 2",
        "tillsync_hub_channel_requests_total{what=\"decrement\",outcome=\"not_enough\"} 1",
        "tillsync_hub_channel_units_total{what=\"decrement\",outcome=\"not_enough\"} 7",
        "tillsync_hub_channel_requests_total{what=\"reserve\",outcome=\"created\"} 1",
        "tillsync_hub_channel_requests_total{what=\"reserve\",outcome=\"not_enough\"} 1",
        "tillsync_hub_rights_missed_units_total 16",
        "tillsync_hub_reservations_open 1",
        "tillsync_hub_pools_promised 6",
        "tillsync_hub_pools_held 3",
        "tillsync_hub_pools_free 1",
    ])
    .await;
    let id = held["id"].as_str().unwrap().to_owned();
    hub.order(What::Commit(id.clone())).await;
    hub.order(What::Release(id)).await;
    hub.order(What::Release("r-1".into())).await;
    shows(&[
        "tillsync_hub_channel_requests_total{what=\"commit\",outcome=\"done\"} 1",
        "tillsync_hub_channel_requests_total{what=\"release\",outcome=\"reservation_ended\"} 1",
        "tillsync_hub_channel_requests_total{what=\"release\",outcome=\"reservation_unknown\"} 1",
        "tillsync_hub_reservations_open 0",
        "tillsync_hub_pools_promised 9",
        "tillsync_hub_pools_held 0",
    ])
    .await;
    hub.order(reserve(1, 1)).await;
    hub.until_ended(1).await;
    shows(&["tillsync_hub_reservations_expired_total 1"]).await;
}

impl Running {
    async fn until_ended(&self, reservations: u64) {
        let ended = async || self.status().await["channel"]["reservations_expired"] == reservations;
        let began = std::time::Instant::now();
        while !ended().await {
            assert!(began.elapsed() < Duration::from_secs(20), "its second is long over");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
