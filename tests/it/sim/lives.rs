//! The end of a schedule in which ledgers were set apart: what each of them had is at the hub once, under whatever life.

use std::collections::{BTreeMap, BTreeSet};

use proto::loss;

use super::oracle::{Fork, Rep, rep};
use super::world::World;

impl World {
    pub(super) fn forks_are_taken_over(&self) {
        for site in &self.sites {
            let Some(node) = &site.node else { continue };
            let times = self.times(site.name.as_str());
            self.nothing_twice(&times);
            let mut fork = self.oracle.lives[&rep(&node.disk.replica)].fork.as_ref();
            while let Some(of) = fork {
                self.taken_over(of, &times);
                fork = of.earlier.as_deref();
            }
            self.stock_is_what_was_asked(site.name.as_str());
        }
    }

    /// How often the hub has each request of a site.
    fn times(&self, site: &str) -> BTreeMap<usize, u32> {
        let mut times = BTreeMap::new();
        for (_, held) in self.hq.model.held.iter().filter(|((of, _), _)| of == site) {
            held.requests().for_each(|uid| *times.entry(uid).or_default() += 1);
        }
        times
    }

    /// A request that nobody can send again is in one life only. One with an id may be in two, if a device sent it again
    /// before the later life knew of the earlier: its stock is taken back then.
    fn nothing_twice(&self, times: &BTreeMap<usize, u32>) {
        for (uid, times) in times {
            let request = &self.oracle.requests[*uid];
            assert!(*times == 1 || request.id.is_some(), "the hub has request {uid} {times} times: {request:?}");
        }
    }

    /// What a fork had is at the hub, or was told lost.
    fn taken_over(&self, fork: &Fork, times: &BTreeMap<usize, u32>) {
        let nothing = Default::default();
        let held = self.hq.model.held.get(&fork.of).unwrap_or(&nothing);
        for (first, (uid, event)) in &fork.events {
            let Some(uid) = uid else { continue };
            let evicted = self.plan.evictions && loss::class_of(event).is_some();
            let told_lost = held.lacks(*first) || evicted || self.lost_later(&fork.of.0, *uid);
            assert!(
                times.contains_key(uid) || told_lost || self.same_as_another(*uid, times),
                "request {uid}, {first} of the fork {:?}, is neither at the hub nor told lost: {event:?}",
                fork.of
            );
        }
    }

    /// A later life had it, and a hub that was restored lacks that.
    fn lost_later(&self, site: &str, uid: usize) -> bool {
        let lives = self.oracle.lives.iter().filter(|((of, _), _)| of == site);
        let mut held = lives.filter_map(|(of, life)| Some((self.hq.model.held.get(of)?, life)));
        held.any(|(held, life)| life.current().any(|(first, of, _)| of == Some(uid) && held.lacks(first)))
    }

    /// The same bytes under the same id are the same request.
    fn same_as_another(&self, uid: usize, times: &BTreeMap<usize, u32>) -> bool {
        times.keys().any(|other| self.first_of(*other) == self.first_of(uid))
    }

    fn first_of(&self, uid: usize) -> usize {
        let requests = &self.oracle.requests;
        let request = &requests[uid];
        let same = |other: &super::oracle::Request| {
            request.id.is_some()
                && (&other.device, &other.id, other.kind, &other.payload)
                    == (&request.device, &request.id, request.kind, &request.payload)
        };
        requests.iter().position(same).unwrap_or(uid)
    }

    /// HQ's stock of a site is what its devices asked for, each request once, over all lives. Left out are items that a
    /// later life counted, and totals of records that no disk has any more.
    fn stock_is_what_was_asked(&self, site: &str) {
        let lives: Vec<(&Rep, _)> = self.oracle.lives.iter().filter(|((of, _), _)| of == site).collect();
        if lives.len() < 2 || self.oracle.restores > 0 {
            return;
        }
        let counted: BTreeSet<u64> = lives.iter().flat_map(|(_, life)| life.counted.iter().copied()).collect();
        let (mut found, mut movers) = (BTreeMap::<u64, i64>::new(), BTreeMap::<u64, BTreeSet<usize>>::new());
        let mut unclear = counted;
        for ((gtin, of), cell) in self.hq.model.counters.iter().filter(|((_, of), _)| of.0 == site) {
            *found.entry(*gtin).or_default() += cell.1;
            match self.hq.model.held.get(of).filter(|held| cell.0 <= held.at.seq.0) {
                Some(held) => {
                    let moved = held.movers_to(*gtin, cell.0).map(|uid| self.first_of(uid));
                    movers.entry(*gtin).or_default().extend(moved);
                }
                None => drop(unclear.insert(*gtin)),
            }
        }
        for (gtin, units) in found.into_iter().filter(|(gtin, _)| !unclear.contains(gtin)) {
            let asked = |uid: &usize| {
                let moves = &self.oracle.requests[*uid].moves;
                moves.iter().filter(|(of, _)| *of == gtin).map(|(_, units)| *units).sum::<i64>()
            };
            let due: i64 = movers.get(&gtin).into_iter().flatten().map(asked).sum();
            assert_eq!(units, due, "HQ's stock of {gtin} at {site}, over all lives of its ledger");
        }
    }
}
