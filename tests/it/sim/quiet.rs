//! The end of a schedule: nothing goes wrong any more, and everybody must come to rest and agree.

use std::collections::{BTreeMap, BTreeSet};

use broker::ledger::Core;
use prost::Message;
use proto::loss;
use proto::wire::{CounterCell, RegisterCell, RegisterState, SiteCell};

use super::oracle::{Rep, rep, seen_of, visible};
use super::world::World;

/// Long enough for everything that waits; what only the next self-check finds comes too late, as a rule.
const SETTLE_S: u64 = 240;
const STALE_MS: u64 = 30_000;
const REST_MS: u64 = 45_000;
/// Times that long until nobody remembers what sold.
const FADES: u32 = 120;
/// By then each gateway has compared what it holds with the hub.
const CHECKED_MS: u64 = 330_000;

/// Tables of the gateway and of the hub, by their numbers on disk.
const PAST: u8 = 7;
const ELSEWHERE: u8 = 8;
const HUB_REGISTER: u8 = 4;
const HUB_SITE: u8 = 6;

impl World {
    /// Nothing goes wrong any more: all must settle, and then keep still.
    pub(super) fn settle(&mut self) {
        self.begin_calm();
        self.spite = self.dice.percent(70);
        // What was on its way for long may end a session that is as good as new: that takes a silence to be noticed.
        let until = self.now + STALE_MS;
        self.run_to(until);
        self.heed_alerts();
        let mut waits = String::new();
        for _ in 0..SETTLE_S {
            let until = self.now + 1_000;
            self.run_to(until);
            match self.unsettled() {
                None => return self.rest(),
                Some(why) => waits = why,
            }
        }
        panic!("after {SETTLE_S} s without a fault: {waits}");
    }

    pub(super) fn begin_calm(&mut self) {
        self.calm = true;
        self.hq.node.iter_mut().for_each(|node| node.fuse = None);
        for at in 0..self.sites.len() {
            let site = &mut self.sites[at];
            (site.link.up_cut, site.link.down_cut) = (false, false);
            site.node.iter_mut().for_each(|node| node.fuse = None);
            if site.done && site.forks.len() > 1 {
                self.crash_site(at, "to go on with the next fork");
            }
        }
        self.note(|| "from here on nothing goes wrong".into());
    }

    /// A hub that was restored waits for what the newest life of each site says of its rights. If a copy of an earlier one
    /// is in its place, a person has to act.
    fn heed_alerts(&mut self) {
        for at in 0..self.sites.len() {
            let (site, hub) = (&self.sites[at], self.hq.node.as_ref().map(|node| &node.disk).or(self.hq.disk.as_ref()));
            let newest = hub.and_then(|disk| disk.cell(HUB_SITE, site.name.as_str().as_bytes()));
            let newest = newest.map(|cell| SiteCell::decode(cell).expect("a cell of the hub").epoch);
            let now = site.node.as_ref().map(|node| &node.disk).or(site.disk.as_ref()).map(|disk| disk.replica.epoch.0);
            if self.oracle.restores > 0 && self.plan.rejoins && newest.is_some() && newest != now {
                self.set_apart(at);
            }
        }
    }

    /// Nobody has anything to say any more.
    fn rest(&mut self) {
        self.note(|| "settled".into());
        if self.oracle.restores > 0 {
            // What the hub lost for good, sites still show, until they compare.
            let until = self.now + CHECKED_MS;
            self.run_to(until);
        }
        // The last acknowledgements arrive, and what they let the hub forget goes.
        let until = self.now + 30_000;
        self.run_to(until);
        let ends = |world: &World| {
            let sites = world.sites.iter().map(|site| site.node.as_ref().map(|node| node.disk.last().seq));
            (world.hq.model.end, sites.collect::<Vec<_>>())
        };
        let mut before = ends(self);
        // The hub takes back what a site sells ever less of, for one that wants it: that goes on as long as demand fades.
        for _ in 0..if self.plan.pools > 0 { FADES } else { 1 } {
            before = ends(self);
            self.said = 0;
            let until = self.now + REST_MS;
            self.run_to(until);
            if (ends(self), self.said) == (before.clone(), 0) {
                break;
            }
        }
        assert_eq!((ends(self), self.said), (before, 0), "somebody still has something to say");
        assert_eq!(self.unsettled(), None, "it did not stay settled");
        self.account_for_all();
        self.everybody_is_served();
    }

    /// What is still to be done.
    pub(super) fn unsettled(&self) -> Option<String> {
        let Some(hub) = &self.hq.node else { return Some("the hub is down".into()) };
        let held_at = |of: &Rep| self.hq.model.held.get(of).map(|held| held.at).unwrap_or_default();
        for (at, site) in self.sites.iter().enumerate() {
            let Some(node) = &site.node else { return Some(format!("{at} is down")) };
            let of = rep(&node.disk.replica);
            let (last, held) = (node.disk.last(), held_at(&of));
            if held != last {
                return Some(format!("the hub is at {held:?} of {of:?}, which is at {last:?}"));
            }
            if node.core.applied() != last.seq {
                return Some(format!("{at} thinks that {} of {} is applied", node.core.applied(), last.seq));
            }
            for (gtin, due) in self.oracle.lives[&of].counted_to(last.seq.0) {
                let found = self.hq.model.counters.get(&(gtin, of.clone()));
                if found != Some(&due) {
                    return Some(format!("HQ has {found:?} of {gtin} at {of:?}, which has {due:?}"));
                }
            }
            if let Some(fork) = site.forks.last().filter(|_| !site.done || site.forks.len() > 1) {
                return Some(format!("{at} has not taken over its fork {}", fork.replica));
            }
            if site.live.as_ref().map(|live| live.session.incarnation()) != self.incarnation() {
                return Some(format!("{at} has no session with this hub"));
            }
        }
        if let Some(why) = self.rights_differ() {
            return Some(why);
        }
        let registers: BTreeMap<String, RegisterState> = hub
            .disk
            .table(HUB_REGISTER)
            .map(|(key, value)| {
                let state = RegisterCell::decode(value).expect("a cell of the hub").state.expect("a state");
                (String::from_utf8(key.to_vec()).expect("keys are text"), state)
            })
            .collect();
        let loose = self.loose_keys(&registers);
        (0..self.sites.len()).find_map(|at| self.disagrees(at, &registers, &loose).or_else(|| self.stock_differs(at)))
    }

    /// Registers of which the hub lost a write for good: it was restored, and the site had let it go already.
    fn loose_keys(&self, registers: &BTreeMap<String, RegisterState>) -> BTreeSet<String> {
        let mut loose = BTreeSet::new();
        if self.oracle.restores == 0 {
            return loose;
        }
        for (of, life) in &self.oracle.lives {
            for (key, writes) in &life.writes {
                let seen =
                    registers.get(key).and_then(|state| seen_of(state.seen.as_ref()).get(of).copied()).unwrap_or(0);
                if writes.iter().any(|write| write.seq > seen) {
                    loose.insert(key.clone());
                }
            }
        }
        loose
    }

    fn disagrees(
        &self,
        at: usize,
        registers: &BTreeMap<String, RegisterState>,
        loose: &BTreeSet<String>,
    ) -> Option<String> {
        let shown = visible(&self.sites[at].node.as_ref()?.disk);
        let keys: BTreeSet<&String> =
            shown.keys().chain(registers.keys()).filter(|key| !loose.contains(*key)).collect();
        // A deletion that the hub has forgotten is none any more; the store keeps its note of it.
        let forgotten = |key: &str| !registers.contains_key(key) && shown.get(key).is_some_and(|state| state.deleted);
        let differs = keys.into_iter().find(|key| shown.get(*key) != registers.get(*key) && !forgotten(key))?;
        Some(format!("{at} shows {differs} as {:?}, the hub as {:?}", shown.get(differs), registers.get(differs)))
    }

    /// What streams brought is what the hub holds, and what the store shows is what HQ counts.
    fn stock_differs(&self, at: usize) -> Option<String> {
        let site = &self.sites[at];
        let disk = &site.node.as_ref()?.disk;
        let of = rep(&disk.replica);
        let cells = |table: u8| -> BTreeMap<Vec<u8>, (u64, i64)> {
            let cell = |(key, value): (&[u8], &[u8])| {
                let cell = CounterCell::decode(value).expect("a cell of a gateway");
                (key.to_vec(), (cell.seq, cell.units))
            };
            disk.table(table).map(cell).collect()
        };
        let (mut past, mut elsewhere, mut total) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::<u64, i64>::new());
        for ((gtin, life), cell) in &self.hq.model.counters {
            let (gtin_key, epoch) = (gtin.to_be_bytes(), life.1.to_be_bytes());
            if life.0 == of.0 {
                *total.entry(*gtin).or_default() += cell.1;
                if life.1 != of.1 {
                    past.insert([gtin_key, epoch].concat(), *cell);
                }
            } else if site.follow.iter().any(|stream| stream == "sites" || *stream == format!("site/{}", life.0)) {
                elsewhere.insert([life.0.as_bytes(), b"\0", &gtin_key, &epoch].concat(), *cell);
            }
        }
        if self.oracle.restores == 0 {
            let (found_past, found_elsewhere) = (cells(PAST), cells(ELSEWHERE));
            if (&found_past, &found_elsewhere) != (&past, &elsewhere) {
                return Some(format!(
                    "{at} knows {found_past:?} and {found_elsewhere:?}, the hub {past:?} and {elsewhere:?}"
                ));
            }
            for (gtin, units) in &total {
                let shown = site.shown.get(&format!("store/stock/{gtin:014}"));
                let shown = shown.and_then(|json| serde_json::from_slice::<serde_json::Value>(json).ok());
                let shown = shown.and_then(|json| json["on_hand"].as_i64());
                if shown != Some(*units) {
                    return Some(format!("{at} shows {shown:?} of {gtin}, HQ has {units}"));
                }
            }
        }
        None
    }

    /// Everything that was acknowledged is at the hub once, or reported lost for a cause that was ours.
    fn account_for_all(&self) {
        self.forks_are_taken_over();
        let nothing = Default::default();
        for (of, life) in &self.oracle.lives {
            let held = self.hq.model.held.get(of).unwrap_or(&nothing);
            if life.over && life.rolled_back_to.is_some() {
                // The hub may have the journal that the restored disk had lost, and the box is gone.
                continue;
            }
            for (first, uid, event) in life.current() {
                // Who took its place has it, if it was set apart.
                let gone_with_its_box = life.over && first > held.at.seq.0;
                let evicted = self.plan.evictions && loss::class_of(event).is_some();
                let told_lost = held.lacks(first) && (evicted || self.oracle.restores > 0);
                assert!(
                    held.has(first) || gone_with_its_box || told_lost,
                    "{first} of {of:?} is neither at the hub nor reported lost (request {uid:?}): {event:?}"
                );
            }
            let due = life.counted_to(if life.over { held.at.seq.0 } else { life.end });
            for (gtin, (seq, units)) in due {
                let found = self.hq.model.counters.get(&(gtin, of.clone())).copied().unwrap_or_default();
                let current =
                    if life.over { found.0 >= seq || self.oracle.restores > 0 } else { found == (seq, units) };
                assert!(current, "{gtin} of {of:?}: HQ has {found:?}, due is {units} after {seq}");
            }
        }
    }
}
