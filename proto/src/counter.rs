//! Counters: one cumulative component per replica, written by its owner only; a count on hand is their sum.
//!
//! Deltas are never added by a reader, so a component that arrives twice, late or out of order does no harm, and
//! no counter takes a last-write-wins path between replicas.

use std::collections::BTreeMap;

use crate::id::{ReplicaId, Seq, Units};
use crate::wire;

/// One replica's cumulative sum, with the seq of the last movement in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Component {
    pub units: Units,
    pub seq: Seq,
}

impl Component {
    /// The owner's way to change it.
    pub fn moved(self, units: Units, seq: Seq) -> Component {
        debug_assert!(seq > self.seq, "a movement follows the one before it");
        Component { units: self.units + units, seq }
    }

    /// Everybody else's way: the one with the higher seq is the newer one.
    pub fn join(self, other: Component) -> Component {
        if other.seq > self.seq { other } else { self }
    }
}

impl From<Component> for wire::CounterCell {
    fn from(component: Component) -> Self {
        wire::CounterCell { units: component.units.0, seq: component.seq.0, feed_position: 0, by_hub: false }
    }
}

impl From<&wire::CounterCell> for Component {
    fn from(cell: &wire::CounterCell) -> Self {
        Component { units: Units(cell.units), seq: Seq(cell.seq) }
    }
}

/// A counter as a set of components.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counter(BTreeMap<ReplicaId, Component>);

impl Counter {
    pub fn set(&mut self, replica: ReplicaId, component: Component) {
        let held = self.0.entry(replica).or_default();
        *held = held.join(component);
    }

    pub fn join(&mut self, other: &Counter) {
        for (replica, component) in &other.0 {
            self.set(replica.clone(), *component);
        }
    }

    pub fn value(&self) -> Units {
        self.0.values().map(|component| component.units).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use proptest::prelude::*;

    fn replica(n: u8) -> ReplicaId {
        ReplicaId { site: format!("site-{}", n % 3).parse().unwrap(), epoch: Epoch(u64::from(n / 3)) }
    }

    /// Movements of several replicas (also two lives of one site), seen as components after each movement.
    fn histories() -> impl Strategy<Value = Vec<(u8, Vec<i64>)>> {
        prop::collection::vec((0u8..6, prop::collection::vec(-50i64..50, 1..8)), 1..6)
    }

    proptest! {
        #[test]
        fn every_movement_counts_once_in_any_order(mut histories in histories(), seed in any::<u64>(), again in 1usize..3) {
            histories.sort_by_key(|(n, _)| *n);
            histories.dedup_by_key(|(n, _)| *n);
            let expected: i64 = histories.iter().flat_map(|(_, moves)| moves).sum();

            let mut messages = Vec::new();
            for (n, moves) in &histories {
                let mut component = Component::default();
                for units in moves {
                    component = component.moved(Units(*units), component.seq.next());
                    messages.push((replica(*n), component));
                }
            }
            let mut counter = Counter::default();
            for round in 0..again {
                for at in 0..messages.len() {
                    let pick = (at.wrapping_mul(7919).wrapping_add(seed as usize + round)) % messages.len();
                    let (replica, component) = messages[pick].clone();
                    counter.set(replica, component);
                }
            }
            for (replica, component) in messages {
                counter.set(replica, component);
            }
            prop_assert_eq!(counter.value(), Units(expected));
        }
    }
}
