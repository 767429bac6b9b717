//! Granting and asking back: what `policy.rs` comes to, as records, and when it is asked.

use std::collections::BTreeSet;

use proto::id::{ReplicaId, SiteName};
use proto::wire::record::Of;
use proto::wire::{GrantReason, RightsGranted, RightsWanted};

use super::demand::Demand;
use super::fold::grant_cell;
use super::policy::{Channel, RightsRules, Seat, allot};
use crate::hub::feed::Stream;
use crate::hub::{Effect, Hub};
use crate::ledger::{Now, Read, Step};

/// Records of one event.
const EVENT_RECORDS: usize = 200;
/// Items that are looked at in a tick though nothing of them changed: as many of which buyers were turned away, and as many
/// in turn, since a rate that falls makes a site idle. The others wait for the next tick.
const LOOKED_AT: usize = 100;
/// A gateway beats every two seconds. One that was not heard for this long is granted and asked nothing until it is: what
/// it has it keeps, and more would lie there where nobody can fetch it.
const SILENT_MS: u64 = 5_000;
/// Wants that are read of one message; a gateway says what runs out, and again.
const WANTS_MAX: usize = 1_000;

/// What the hub knows for granting, besides the pools.
#[derive(Debug, Default)]
pub(in crate::hub) struct Desk {
    pub(super) rules: RightsRules,
    pub(super) demand: Demand,
    /// Items that the message at hand touched.
    pub(super) touched: BTreeSet<u64>,
    /// Items of which buyers were turned away since the last tick: it looks whether anybody can spare some.
    missed: BTreeSet<u64>,
    /// Where looking at all items in turn stands.
    turn: u64,
    /// Items of which HQ is to be told, and the one that it was told of last.
    pub(super) to_tell: BTreeSet<u64>,
    pub(super) told: u64,
    /// Items of which less than nothing is free, as HQ was told.
    pub(super) short: BTreeSet<u64>,
    pub(super) counts: Counts,
    /// This hub was restored, ever: what sites say that they hold counts.
    pub(super) was_restored: bool,
    /// HQ was told that rights wait.
    pub(super) told_waiting: bool,
    /// That nobody is awaited any more is kept.
    pub(super) settled: bool,
}

/// Since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) grants: u64,
    pub(super) granted_units: u64,
    pub(super) asks: u64,
    pub(super) wants: u64,
    /// Units that buyers were turned away for, at sites and at the hub's own channel.
    pub(super) missed_units: u64,
    pub(super) oversold_units: u64,
    /// Times that a site's journal or report said other than the hub knew: sold beyond its rights, sold without knowing of
    /// the pool, granted more than a hub that was restored remembers.
    pub(super) beyond: u64,
    pub(super) unaware: u64,
    pub(super) seen: u64,
}

impl Hub {
    #[must_use]
    pub fn granting_by(mut self, rules: RightsRules) -> Hub {
        self.desk.rules = rules;
        self
    }

    /// The hub's side of a life's rights as it stands, as a record that a caller changes.
    pub(super) fn granting(&self, life: &ReplicaId, gtin: u64, reason: GrantReason) -> RightsGranted {
        let part = self.pools.part(gtin, life).cloned().unwrap_or_default();
        let grant = part.grant;
        RightsGranted {
            site: life.site.to_string(),
            epoch: life.epoch.0,
            gtin,
            granted: grant.granted,
            // A hub that was restored may have forgotten asks that were answered: the next one must be news.
            asked: grant.asked.max(part.used.answered),
            reclaimed: grant.reclaimed,
            unaware: grant.unaware,
            for_site: grant.for_site,
            reason: reason.into(),
            ..RightsGranted::default()
        }
    }

    /// Journals it with what else the step does; records of one life and item stand in their order.
    pub(super) fn journal_grants(
        &mut self,
        records: Vec<RightsGranted>,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) {
        for records in records.chunks(EVENT_RECORDS) {
            let first = step.next_seq(ledger);
            for (offset, record) in (0..).zip(records) {
                let Ok(site) = record.site.parse::<SiteName>() else { continue };
                let life = ReplicaId { site, epoch: proto::id::Epoch(record.epoch) };
                self.pools.granted(&life, record.gtin, grant_cell(record, first.plus(offset)));
            }
            let draft = self.draft(records.iter().cloned().map(Of::RightsGranted).collect(), now);
            step.events.push(draft);
        }
    }

    /// Sites say what runs out.
    pub(in crate::hub) fn rights_wanted(&mut self, site: &SiteName, wanted: &RightsWanted, now: &Now) {
        let half_s = self.desk.rules.half_life_s;
        for want in wanted.wants.iter().take(WANTS_MAX).filter(|want| self.pools.is_pooled(want.gtin)) {
            self.desk.counts.wants += 1;
            self.desk.counts.missed_units = self.desk.counts.missed_units.saturating_add(want.turned_away);
            let of = Some(site.clone());
            self.desk.demand.wanted(want.gtin, of.clone(), want.turned_away, 0, now.mono_ms, half_s);
            self.desk.demand.wants(want.gtin, &of, want.turned_away, now.mono_ms);
            self.desk.touched.insert(want.gtin);
            if want.turned_away > 0 {
                self.desk.missed.insert(want.gtin);
            }
        }
    }

    /// The hub's own channel turned somebody away for want of so many units: demand like any site's. In memory only, as
    /// all demand: a hub that is restarted learns it again.
    pub(in crate::hub) fn channel_missed(&mut self, gtin: u64, units: u64, now: &Now) {
        self.desk.counts.missed_units = self.desk.counts.missed_units.saturating_add(units);
        self.desk.demand.wanted(gtin, None, units, 0, now.mono_ms, self.desk.rules.half_life_s);
        self.desk.demand.wants(gtin, &None, units, now.mono_ms);
        self.desk.missed.insert(gtin);
    }

    /// Grants what the message at hand made due.
    pub(in crate::hub) fn grant_touched(&mut self, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) {
        let touched = std::mem::take(&mut self.desk.touched);
        self.grant(&touched, false, now, ledger, step);
    }

    /// Once a second: what changed otherwise, and the next few of all items.
    pub(in crate::hub) fn tick_rights(&mut self, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) {
        self.settle_unsure(now, step);
        self.desk.demand.forget_old_wants(now.mono_ms);
        let mut look_at = self.pools_changed(now);
        for _ in 0..LOOKED_AT {
            look_at.extend(self.desk.missed.pop_first());
        }
        for _ in 0..LOOKED_AT {
            let Some(next) = self.pools.pooled_after(self.desk.turn) else {
                self.desk.turn = 0;
                break;
            };
            self.desk.turn = next;
            look_at.insert(next);
        }
        self.grant(&look_at, true, now, ledger, step);
        self.pools_changed(now);
        step.then.extend(self.tell_pools(now));
    }

    /// Items of which something changed since this was last asked. HQ is told of them in turn, and what the hub's own channel
    /// spent is demand.
    pub(super) fn pools_changed(&mut self, now: &Now) -> BTreeSet<u64> {
        let items = self.pools.take_changed();
        for gtin in items.iter().copied() {
            let own = self.pools.of_hub(gtin);
            let used = own.promised.saturating_add(own.held);
            self.desk.demand.own_used(gtin, used, now.mono_ms, self.desk.rules.half_life_s);
        }
        self.desk.to_tell.extend(&items);
        items
    }

    /// Only a tick `asks` for anything back: what two sites want of each other would else go to and fro as fast as messages
    /// do.
    fn grant(&mut self, items: &BTreeSet<u64>, asks: bool, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) {
        if items.is_empty() || self.pools.unsure().is_some() {
            return;
        }
        let records: Vec<RightsGranted> = items.iter().flat_map(|gtin| self.allot(*gtin, asks, now)).collect();
        self.journal_grants(records, now, ledger, step);
    }

    /// One item's round.
    fn allot(&mut self, gtin: u64, asks: bool, now: &Now) -> Vec<RightsGranted> {
        let Some(free) = self.pools.free(gtin) else { return Vec::new() };
        let half_s = self.desk.rules.half_life_s;
        let (mut lives, mut seats) = (Vec::new(), Vec::new());
        for (site, session) in &self.sessions {
            let life = session.replica(site);
            let follows = session.streams.iter().any(|followed| followed.stream == Stream::Rights);
            let silent = now.mono_ms >= session.heard_ms + SILENT_MS;
            if !follows || silent || session.snapshot.is_some() || self.pools.is_over(&life) {
                continue;
            }
            let (part, of) = (self.pools.part(gtin, &life), Some(site.clone()));
            let want = self.desk.demand.want(gtin, &of);
            seats.push(Seat {
                available: part.map_or(0, |part| part.available()),
                rate: self.desk.demand.rate(gtin, &of, now.mono_ms, half_s),
                missed: want.map_or(0, |want| want.missed),
                wants: want.is_some(),
                idle_s: self.desk.demand.idle_s(gtin, &of, now.mono_ms),
                is_asked: part.is_some_and(|part| part.asked_open() > 0),
            });
            lives.push(life);
        }
        let channel = Channel {
            rate: self.desk.demand.rate(gtin, &None, now.mono_ms, half_s),
            missed: self.desk.demand.want(gtin, &None).map_or(0, |want| want.missed),
        };
        let round = allot(free, channel, &seats, &self.desk.rules);
        let mut records = Vec::new();
        for (life, (seat, (grant, ask))) in lives.iter().zip(seats.iter().zip(round.grants.into_iter().zip(round.asks)))
        {
            // What it sold beyond its rights is taken from the pool already: if that is not short, the site is told so.
            let hole = if free >= 0 { seat.available.min(0).unsigned_abs() } else { 0 };
            if grant > 0 || hole > 0 {
                let reason = match seat {
                    _ if seat.wants => GrantReason::Wanted,
                    _ if seat.rate > 0.0 => GrantReason::Demand,
                    _ => GrantReason::Floor,
                };
                let record = self.granting(life, gtin, reason);
                let granted = record.granted.saturating_add(grant).saturating_add(hole);
                records.push(RightsGranted { granted, ..record });
                self.desk.demand.served(gtin, &Some(life.site.clone()), grant);
                self.desk.counts.grants += 1;
                self.desk.counts.granted_units += grant;
            } else if asks && ask > 0 {
                // Never both: each record is of what stood before, and the second would take back what the first granted.
                let record = self.granting(life, gtin, GrantReason::Idle);
                let asked = record.asked.saturating_add(ask);
                records.push(RightsGranted { asked, for_site: String::new(), ..record });
                self.desk.counts.asks += 1;
            }
        }
        records
    }
}
