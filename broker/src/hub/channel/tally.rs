//! What the channel was asked for and what came of it, since the start: for `status` and `/metrics`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::order::{Order, Outcome, Reply, What};
use crate::hub::Hub;

/// As many counts as there are kinds of orders and outcomes, at most.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By what was asked and what it came to; with the units that its lines named.
    by: BTreeMap<(&'static str, Outcome), (u64, u64)>,
    /// Answered once more under the key of an earlier request.
    repeats: u64,
    pub(super) expired: u64,
}

impl Tally {
    pub(super) fn count(&mut self, order: &Order, reply: &Reply) {
        if reply.replayed {
            self.repeats += 1;
            return;
        }
        let (requests, units) = self.by.entry((order.what.name(), reply.outcome)).or_default();
        *requests += 1;
        *units = units.saturating_add(order.what.units());
    }

    fn json(&self) -> Value {
        let (mut requests, mut units) = (Map::new(), Map::new());
        for ((what, outcome), (count, sum)) in &self.by {
            requests.entry(*what).or_insert_with(|| json!({}))[outcome.code()] = (*count).into();
            if *sum > 0 {
                units.entry(*what).or_insert_with(|| json!({}))[outcome.code()] = (*sum).into();
            }
        }
        json!({ "requests": requests, "units": units, "repeats": self.repeats, "reservations_expired": self.expired })
    }
}

impl What {
    fn name(&self) -> &'static str {
        match self {
            What::Decrement(_) => "decrement",
            What::Reserve(_) => "reserve",
            What::Commit(_) => "commit",
            What::Release(_) => "release",
            What::Reservation(_) => "reservation",
            What::Stock(_) => "stock",
            What::Item(_) => "item",
            What::Write { .. } => "write",
        }
    }

    /// Of all lines; 0 of what has none.
    fn units(&self) -> u64 {
        match self {
            What::Decrement(lines) | What::Reserve(lines) => {
                lines.lines().iter().map(|line| u64::from(line.units)).sum()
            }
            _ => 0,
        }
    }
}

impl Hub {
    pub(in crate::hub) fn channel_status(&self) -> Value {
        let mut status = self.channel.tally.json();
        status["reservations_open"] = self.channel.reservations.open().into();
        status
    }
}
