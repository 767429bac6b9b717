//! A box without a clock of its own: it sells all the same, and its history shows the right time in the end.

use proto::chunk::Position;
use proto::wire::record::Of;

use super::*;

const HOUR_MS: u64 = 3_600_000;
const HUB_MS: u64 = 1_790_000_000_000;

impl Store {
    fn applied(&mut self, hub_ms: u64) {
        let now = self.now();
        let heard = Input::FromHub(FromHub::Applied {
            incarnation: 7,
            position: Position::default(),
            hub_ms,
            awaits_rights: false,
        });
        let step = self.gateway.input(heard, &now, &self.ledger).unwrap();
        self.commit(step);
    }

    fn last_event(&self) -> &Event {
        &self.ledger.events.last().unwrap().2
    }
}

#[test]
fn a_box_that_woke_in_1970_sells_and_its_history_shows_the_right_time_once_it_is_known() {
    let mut store = Store::open();
    store.restart();
    (store.synced, store.wall, store.mono) = (false, 5_000, 5_000);
    store.ask("sale", lines(1));
    let sold = store.last_event().clone();
    assert_eq!((sold.unsynced, sold.run, sold.uptime_ms), (true, 1, 5_000));
    store.tick();
    assert_eq!(store.ledger.events.len(), 1, "nobody knows the time yet");

    // Nine hours later there is a network.
    (store.wall, store.mono) = (9 * HOUR_MS, 9 * HOUR_MS);
    store.applied(HUB_MS);
    store.mono += 1_000;
    store.tick();
    let Some(Of::TimeAnchor(anchor)) = store.last_event().records[0].of.clone() else { panic!("no anchor") };
    assert_eq!((anchor.run, anchor.zero_ms), (1, HUB_MS - 9 * HOUR_MS));
    assert_eq!(anchor.zero_ms + sold.uptime_ms, HUB_MS - 9 * HOUR_MS + 5_000, "when it was sold");
    store.tick();
    assert_eq!(store.ledger.events.len(), 2, "once");

    // From here on it goes by the hub's clock.
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300 }));
    assert!(!store.last_event().unsynced && store.last_event().run == 0);
    assert_eq!(store.ledger.events.last().unwrap().1.ms().0, HUB_MS + 1_000);
}

#[test]
fn what_one_run_left_without_a_time_the_next_one_anchors() {
    let mut store = Store::open();
    store.restart();
    (store.synced, store.wall) = (false, 5_000);
    store.ask("sale", lines(1));
    store.gateway = Gateway::new(Rules::default());
    store.restart();
    (store.synced, store.wall) = (true, HUB_MS);
    store.tick();
    let Some(Of::TimeAnchor(anchor)) = store.last_event().records[0].of.clone() else { panic!("no anchor") };
    assert_eq!((anchor.run, anchor.wall_ms), (2, HUB_MS), "of a later run: only how long the box ran is known");
}

/// An edit of a box without a clock loses to one that was made knowingly and apart, and replaces what it had seen.
#[test]
fn an_edit_without_a_clock_is_a_tick_above_what_it_saw() {
    let mut store = Store::open();
    store.feed(0, 5, vec![by_another("200", HUB_MS << 16, &[])]);
    (store.synced, store.wall) = (false, 5_000);
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300 }));
    let Some(Of::Register(write)) = store.last_event().records[0].of.clone() else { panic!("no write") };
    assert_eq!(write.stamp, (HUB_MS << 16) + 1);
    assert_eq!(store.price(), 300);
}
