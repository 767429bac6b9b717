//! The hub's side of rights once more, from its journal: what it granted, what it heard, and that it never gave what was not
//! free.

use std::collections::{BTreeMap, BTreeSet};

use proto::chunk;
use proto::wire::record::Of;
use proto::wire::{EarlierRights, Event, GrantReason, HoldEnd, Rights, RightsGranted};

use super::super::disk::Decided;
use super::rights::Promises;
use super::{Rep, rep};

/// A hub's book. Goes back with its disk when it is restored.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct HubRights {
    pools: BTreeMap<u64, u64>,
    granted: BTreeMap<(u64, Rep), RightsGranted>,
    used: BTreeMap<(u64, Rep), Rights>,
    /// What a later life of a site says of one that is over.
    late: BTreeMap<(u64, Rep), Rights>,
    over: BTreeSet<Rep>,
    /// Of its own channel, by item.
    promised: BTreeMap<u64, u64>,
    holds: BTreeMap<String, (u64, u64, HoldEnd, u64)>,
    said: BTreeMap<u64, Rights>,
    keys: BTreeSet<(String, String)>,
}

impl HubRights {
    pub(in super::super) fn pooled(&self) -> impl Iterator<Item = u64> {
        self.pools.keys().copied()
    }

    pub(in super::super) fn units(&self, gtin: u64) -> u64 {
        self.pools.get(&gtin).copied().unwrap_or(0)
    }

    pub(in super::super) fn refunded(&self, gtin: u64) -> u64 {
        self.said.get(&gtin).map_or(0, |own| own.refunded)
    }

    fn held(&self, gtin: u64) -> u64 {
        let open = self.holds.values().filter(|(of, _, how, _)| *of == gtin && *how == HoldEnd::Unspecified);
        open.map(|(_, units, ..)| *units).sum()
    }

    /// What its own channel promised and holds.
    pub(in super::super) fn own(&self, gtin: u64) -> u64 {
        self.promised.get(&gtin).copied().unwrap_or(0) + self.held(gtin)
    }

    /// What nobody else may promise of what a life was granted.
    fn exposure(&self, gtin: u64, life: &Rep) -> i64 {
        let key = (gtin, life.clone());
        let used = self.used.get(&key).copied().unwrap_or_default();
        let late = self.late.get(&key).copied().unwrap_or_default();
        // What the earlier life sold beyond its rights the later one counts as its own.
        let late = (late.promised + late.held).min(late.granted.saturating_sub(late.returned));
        let none = RightsGranted::default();
        let grant = self.granted.get(&key).unwrap_or(&none);
        let reclaimed = if self.over.contains(life) { grant.reclaimed } else { 0 };
        let outstanding = grant.granted as i64 - used.returned as i64 - reclaimed as i64;
        outstanding.max((used.promised + used.held).max(late) as i64) + grant.unaware as i64
    }

    pub(in super::super) fn free(&self, gtin: u64) -> i64 {
        let lives: BTreeSet<&Rep> = self.of_item(gtin).collect();
        let exposed: i64 = lives.iter().map(|life| self.exposure(gtin, life)).sum();
        let used = self.used.range((gtin, Rep::default())..).take_while(|((of, _), _)| *of == gtin);
        let refunded: u64 = used.map(|(_, used)| used.refunded).sum();
        (self.units(gtin) + self.refunded(gtin) + refunded) as i64 - exposed - self.own(gtin) as i64
    }

    fn of_item(&self, gtin: u64) -> impl Iterator<Item = &Rep> {
        let from = || (gtin, Rep::default());
        let granted = self.granted.range(from()..).take_while(move |((of, _), _)| *of == gtin);
        let used = self.used.range(from()..).take_while(move |((of, _), _)| *of == gtin);
        granted.map(|((_, life), _)| life).chain(used.map(|((_, life), _)| life))
    }

    pub(in super::super) fn grant(&self, gtin: u64, life: &Rep) -> RightsGranted {
        self.granted.get(&(gtin, life.clone())).cloned().unwrap_or_default()
    }

    pub(in super::super) fn used(&self, gtin: u64, life: &Rep) -> Option<Rights> {
        self.used.get(&(gtin, life.clone())).copied()
    }

    /// A hub's event became durable.
    pub(in super::super) fn wrote(&mut self, decided: &Decided, now_ms: u64, promises: &mut Promises) {
        let event = &decided.event;
        let mut spends = BTreeSet::new();
        for record in &event.records {
            match &record.of {
                Some(Of::SiteChunk(site_chunk)) => self.heard(&site_chunk.chunk),
                Some(Of::SiteFollows(follows)) => {
                    self.over.insert((follows.site.clone(), follows.retired));
                }
                Some(Of::SiteLost(lost)) => {
                    self.over.insert((lost.site.clone(), lost.epoch));
                }
                Some(Of::PoolChanged(changed)) => {
                    let free = self.free(changed.gtin).min(0);
                    self.pools.insert(changed.gtin, changed.units);
                    // What sites have of units that an operator took away they may still promise.
                    let short = free - self.free(changed.gtin).min(free);
                    *promises.outside.entry(changed.gtin).or_default() += short as u64;
                }
                Some(Of::RightsGranted(granted)) => {
                    spends.extend(self.granted(granted, promises).then_some(granted.gtin));
                }
                Some(Of::Promise(promise)) => {
                    *self.promised.entry(promise.gtin).or_default() += promise.units;
                    spends.insert(promise.gtin);
                }
                Some(Of::Hold(hold)) => {
                    let held = (hold.gtin, hold.units, HoldEnd::Unspecified, now_ms + hold.seconds * 1_000);
                    assert!(self.holds.insert(hold.id.clone(), held).is_none(), "two reservations {}", hold.id);
                    spends.insert(hold.gtin);
                }
                Some(Of::HoldEnded(ended)) => spends.extend(self.ends(&ended.id, ended.how(), now_ms)),
                _ => {}
            }
        }
        self.says(event);
        if !event.request.is_empty() {
            let news = self.keys.insert((event.device.clone(), event.request.clone()));
            assert!(news, "the hub carried out {} of {} twice", event.request, event.device);
        }
        for gtin in spends {
            let free = self.free(gtin);
            assert!(free >= 0, "the hub gave what was not free: {free} of {gtin} are, after {event:?}");
        }
    }

    /// What a site's chunk says of its rights.
    fn heard(&mut self, bytes: &[u8]) {
        let chunk = chunk::open(bytes).expect("the hub journals what it could open");
        let life = rep(&chunk.head.replica);
        for record in chunk.body.events.iter().flat_map(|event| &event.records) {
            match &record.of {
                Some(Of::Rights(rights)) => drop(self.used.insert((rights.gtin, life.clone()), *rights)),
                Some(Of::EarlierRights(EarlierRights { epoch, rights: Some(rights) })) => {
                    self.late.insert((rights.gtin, (life.0.clone(), *epoch)), *rights);
                }
                _ => {}
            }
        }
    }

    /// True if it takes something of what is free.
    fn granted(&mut self, granted: &RightsGranted, promises: &mut Promises) -> bool {
        let life = (granted.site.clone(), granted.epoch);
        let before = self.exposure(granted.gtin, &life);
        let was = self.granted.insert((granted.gtin, life.clone()), granted.clone()).unwrap_or_default();
        let grown = [
            (was.granted, granted.granted),
            (was.asked, granted.asked),
            (was.reclaimed, granted.reclaimed),
            (was.unaware, granted.unaware),
        ];
        assert!(grown.iter().all(|(before, now)| before <= now), "the hub went back from {was:?} to {granted:?}");
        let used = self.used.get(&(granted.gtin, life.clone())).copied().unwrap_or_default();
        let spent = used.returned + used.promised + used.held + was.reclaimed;
        let reclaimed = granted.reclaimed - was.reclaimed;
        assert!(reclaimed <= was.granted.saturating_sub(spent), "more is reclaimed than {was:?} has left: {granted:?}");
        *promises.outside.entry(granted.gtin).or_default() += reclaimed;
        let most = promises.granted.entry((life.clone(), granted.gtin)).or_default();
        *most = (most.0.max(granted.granted), most.1.max(granted.asked));
        let found = matches!(granted.reason(), GrantReason::Seen | GrantReason::Unaware);
        assert!(found || granted.granted == was.granted || !self.over.contains(&life), "{life:?} is over: {granted:?}");
        !found && self.exposure(granted.gtin, &life) > before
    }

    /// A reservation ends; its item if that takes something of what is free.
    fn ends(&mut self, id: &str, how: HoldEnd, now_ms: u64) -> Option<u64> {
        let (gtin, units, was, due_ms) = self.holds.get_mut(id).unwrap_or_else(|| panic!("nobody reserved {id}"));
        let before = std::mem::replace(was, how);
        let late = before == HoldEnd::Expired && how == HoldEnd::CommittedLate;
        let may = before == HoldEnd::Unspecified || late;
        assert!(may, "reservation {id} was {before:?} and is {how:?} now");
        assert!(how != HoldEnd::Expired || now_ms >= *due_ms, "reservation {id} is cut short");
        if matches!(how, HoldEnd::Committed | HoldEnd::CommittedLate) {
            *self.promised.entry(*gtin).or_default() += *units;
        }
        late.then_some(*gtin)
    }

    /// What the hub says of its own rights is what its records come to.
    fn says(&mut self, event: &Event) {
        for record in &event.records {
            let Some(Of::Rights(own)) = &record.of else { continue };
            let promised = self.promised.get(&own.gtin).copied().unwrap_or(0);
            let due = (0, 0, promised, self.held(own.gtin));
            let found = (own.granted, own.returned, own.promised, own.held);
            assert_eq!(found, due, "granted, returned, promised and held by the hub itself, of {}", own.gtin);
            self.said.insert(own.gtin, *own);
        }
    }

    /// The box of a life is gone. What another hub granted it, and this one was not told, it will not say any more.
    pub(in super::super) fn box_gone(&self, life: &Rep, promises: &mut Promises) {
        for ((of, gtin), (granted, _)) in &promises.granted {
            let forgotten = granted.saturating_sub(self.grant(*gtin, life).granted);
            if of == life {
                *promises.outside.entry(*gtin).or_default() += forgotten;
            }
        }
    }

    /// A backup of it goes on in place of `now`. What was granted since then to lives that will not say so, and by how much
    /// the pool was larger, may be promised twice.
    pub(in super::super) fn forgets(&self, now: &HubRights, promises: &mut Promises, silent: impl Fn(&Rep) -> bool) {
        for ((gtin, life), granted) in &now.granted {
            let forgotten = granted.granted.saturating_sub(self.grant(*gtin, life).granted);
            if silent(life) {
                *promises.outside.entry(*gtin).or_default() += forgotten;
            }
        }
        for (gtin, units) in &now.pools {
            *promises.outside.entry(*gtin).or_default() += units.saturating_sub(self.units(*gtin));
        }
    }
}
