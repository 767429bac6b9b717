//! What is said to a hub that keeps rights: which this life holds, and what runs out here.

use std::collections::{BTreeMap, VecDeque};

use broker::ledger::{LedgerError, Now, Read};
use proto::gtin::Gtin;
use proto::wire::up::Of as UpOf;
use proto::wire::{RightsEntry, RightsHeld, RightsWanted, Want};

use super::hub::LinkState;
use super::rights::{Book, available};
use super::{Effect, Gateway};

/// What still runs out is said again after this long, then after twice as long each time while the hub has nothing to give;
/// and what is new of it.
const AGAIN_MS: u64 = 5_000;
const AGAIN_MS_MAX: u64 = 60_000;
const NEWS_MS: u64 = 1_000;
/// What is held is said again after this long if the hub has not heard it, then after twice as long each time, as above.
const REPORT_AGAIN_MS: u64 = 10_000;
/// Items that one message names; the others follow in the next.
const PART_MAX: usize = 1_000;
/// Parts of what is held that one tick says.
const PARTS_AT_ONCE: usize = 16;

/// Items that run out here. At most as many as have a pool.
#[derive(Debug, Default)]
pub(super) struct Wants(BTreeMap<Gtin, Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    turned_away: u64,
    /// Something happened since it was said.
    news: bool,
    said_ms: Option<u64>,
    /// How often it was said since anything happened.
    repeats: u32,
}

/// How far it is to tell the hub what is held, in this session.
#[derive(Debug, Default)]
pub(super) struct Report {
    stage: Stage,
    /// Of this session's hub.
    incarnation: u64,
    /// How often all of it was said in this session, and when last.
    times: u32,
    said_ms: u64,
}

#[derive(Debug, Default)]
enum Stage {
    /// There is no session.
    #[default]
    Nothing,
    /// Connected, and the hub's incarnation follows at once.
    Greeted,
    Due,
    Saying(VecDeque<RightsHeld>),
    Said,
}

impl Report {
    pub(super) fn is_said(&self) -> Option<u64> {
        matches!(self.stage, Stage::Said).then_some(self.incarnation)
    }

    /// The hub says every few seconds that it has not heard it; what it says may have crossed what is on its way.
    fn is_lost(&self, now_ms: u64) -> bool {
        let pause_ms = (REPORT_AGAIN_MS << self.times.saturating_sub(1).min(8)).min(AGAIN_MS_MAX);
        matches!(self.stage, Stage::Said) && now_ms >= self.said_ms + pause_ms
    }
}

impl Wanted {
    fn is_due(&self, now_ms: u64) -> bool {
        let again_ms = (AGAIN_MS << self.repeats.min(8)).min(AGAIN_MS_MAX);
        let pause_ms = if self.news { NEWS_MS } else { again_ms };
        self.said_ms.is_none_or(|said| now_ms >= said + pause_ms)
    }
}

impl Wants {
    pub(super) fn runs_out(&mut self, gtin: Gtin) {
        let wanted = self.0.entry(gtin).or_default();
        (wanted.news, wanted.repeats) = (true, 0);
    }

    /// The hub has something to give again.
    pub(super) fn granted(&mut self, gtin: Gtin) {
        if let Some(wanted) = self.0.get_mut(&gtin) {
            (wanted.news, wanted.repeats) = (true, 0);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn due(&self, now_ms: u64) -> Vec<Gtin> {
        self.0.iter().filter(|(_, wanted)| wanted.is_due(now_ms)).map(|(gtin, _)| *gtin).take(PART_MAX).collect()
    }
}

impl Book {
    /// A buyer asked for units that are not there.
    pub(super) fn turned_away(&mut self, gtin: Gtin, units: u64) {
        let wanted = self.wants.0.entry(gtin).or_default();
        wanted.turned_away = wanted.turned_away.saturating_add(units);
        (wanted.news, wanted.repeats) = (true, 0);
    }

    /// What runs out and was not said lately. What does so no more is forgotten.
    fn wanted(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Want>, LedgerError> {
        let mut wants = Vec::new();
        for gtin in self.wants.due(now.mono_ms) {
            let (left, low) = (available(&self.rights(gtin, ledger)?), self.low_water(gtin));
            let Some(wanted) = self.wants.0.get_mut(&gtin) else { continue };
            let turned_away = std::mem::take(&mut wanted.turned_away);
            wanted.repeats = if wanted.news || wanted.said_ms.is_none() { 0 } else { wanted.repeats.saturating_add(1) };
            (wanted.news, wanted.said_ms) = (false, Some(now.mono_ms));
            if left <= low || turned_away > 0 {
                wants.push(Want { gtin: gtin.number(), available: left.max(0).unsigned_abs(), turned_away });
            }
            if left > low {
                self.wants.0.remove(&gtin);
            }
        }
        Ok(wants)
    }

    /// In parts, and one empty one if nothing is held: a hub that was restored waits for the last.
    fn held_parts(&self, incarnation: u64) -> VecDeque<RightsHeld> {
        let held = self.pools.iter().filter(|(_, pool)| pool.granted > 0 || pool.asked > 0);
        let own = held.map(|(gtin, pool)| (gtin.number(), pool.granted, pool.asked, 0));
        let earlier = self.earlier.iter().map(|((epoch, gtin), units)| (*gtin, *units, 0, *epoch));
        let entry = |(gtin, granted, asked, epoch)| RightsEntry { gtin, granted, asked, epoch };
        let held: Vec<_> = own.chain(earlier).map(entry).collect();
        let part = |(part, rights): (u32, &[RightsEntry])| RightsHeld {
            rights: rights.to_vec(),
            incarnation,
            part,
            last: false,
        };
        let mut parts: VecDeque<_> = (0..).zip(held.chunks(PART_MAX)).map(part).collect();
        match parts.back_mut() {
            Some(part) => part.last = true,
            None => parts.push_back(RightsHeld { incarnation, last: true, ..RightsHeld::default() }),
        }
        parts
    }
}

impl Gateway {
    /// Every tick.
    pub(super) fn say_wants(&mut self, now: &Now, ledger: &dyn Read) -> Result<Option<Effect>, LedgerError> {
        if self.hub.link != LinkState::Connected {
            return Ok(None);
        }
        let wants = self.rights.wanted(now, ledger)?;
        Ok((!wants.is_empty()).then(|| Effect::Say(UpOf::RightsWanted(RightsWanted { wants }))))
    }

    /// After every welcome, and every tick until all parts are said: what waits for the uplink is bounded. Nothing is said
    /// before the fork is read: a hub that was restored would take it for all that is known here of the life before.
    pub(super) fn say_rights(&mut self, now: &Now) -> Vec<Effect> {
        let report = &mut self.rights.report;
        if matches!(report.stage, Stage::Due) && !self.takeover.reads_on() {
            let parts = self.rights.held_parts(self.rights.report.incarnation);
            self.rights.report.stage = Stage::Saying(parts);
        }
        let report = &mut self.rights.report;
        let Stage::Saying(parts) = &mut report.stage else { return Vec::new() };
        let said = parts.drain(..parts.len().min(PARTS_AT_ONCE)).map(|part| Effect::Say(UpOf::RightsHeld(part)));
        let said = said.collect();
        if parts.is_empty() {
            (report.stage, report.times, report.said_ms) = (Stage::Said, report.times.saturating_add(1), now.mono_ms);
        }
        said
    }

    /// A session begins or ends: what the one before was not told is old.
    pub(super) fn begin_rights(&mut self, state: &LinkState) {
        let stage = if *state == LinkState::Connected { Stage::Greeted } else { Stage::Nothing };
        self.rights.report = Report { stage, ..Report::default() };
    }

    /// The first that a session's hub says: which incarnation it is. Later it may say that it lacks some part.
    pub(super) fn rights_due(&mut self, incarnation: u64, awaits_rights: bool, now: &Now) -> Vec<Effect> {
        let report = &mut self.rights.report;
        if matches!(report.stage, Stage::Greeted) {
            (report.stage, report.incarnation) = (Stage::Due, incarnation);
        } else if awaits_rights && report.incarnation == incarnation && report.is_lost(now.mono_ms) {
            tracing::info!(times = report.times, "the hub has not heard what is held here: it is said again");
            report.stage = Stage::Due;
        }
        self.say_rights(now)
    }
}
