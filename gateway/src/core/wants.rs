//! What is said to a hub that keeps rights: which this life holds, and what runs out here.

use std::collections::BTreeMap;

use broker::ledger::{LedgerError, Now, Read};
use proto::gtin::Gtin;
use proto::wire::up::Of as UpOf;
use proto::wire::{RightsEntry, RightsHeld, RightsWanted, Want};

use super::hub::LinkState;
use super::rights::{Book, available};
use super::{Effect, Gateway};

/// What still runs out is said again this often, and what is new of it.
const AGAIN_MS: u64 = 5_000;
const NEWS_MS: u64 = 1_000;
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
}

impl Wanted {
    fn is_due(&self, now_ms: u64) -> bool {
        let pause_ms = if self.news { NEWS_MS } else { AGAIN_MS };
        self.said_ms.is_none_or(|said| now_ms >= said + pause_ms)
    }
}

impl Wants {
    pub(super) fn runs_out(&mut self, gtin: Gtin) {
        self.0.entry(gtin).or_default().news = true;
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
        wanted.news = true;
    }

    /// What runs out and was not said lately. What does so no more is forgotten.
    fn wanted(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Want>, LedgerError> {
        let mut wants = Vec::new();
        for gtin in self.wants.due(now.mono_ms) {
            let (left, low) = (available(&self.rights(gtin, ledger)?), self.low_water(gtin));
            let Some(wanted) = self.wants.0.get_mut(&gtin) else { continue };
            let turned_away = std::mem::take(&mut wanted.turned_away);
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
    fn held_parts(&self) -> Vec<RightsHeld> {
        let held = self.pools.iter().filter(|(_, pool)| pool.granted > 0 || pool.asked > 0);
        let entry = |(gtin, pool): (&Gtin, &super::rights::Pool)| RightsEntry {
            gtin: gtin.number(),
            granted: pool.granted,
            asked: pool.asked,
        };
        let held: Vec<_> = held.map(entry).collect();
        let mut parts: Vec<_> =
            held.chunks(PART_MAX).map(|part| RightsHeld { rights: part.to_vec(), last: false }).collect();
        match parts.last_mut() {
            Some(part) => part.last = true,
            None => parts.push(RightsHeld { rights: Vec::new(), last: true }),
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

    /// After every welcome, and every tick until all parts are said: what waits for the uplink is bounded, and a lost part
    /// is said in the next session only.
    pub(super) fn say_rights(&mut self) -> impl Iterator<Item = Effect> {
        let parts = &mut self.rights.to_say;
        parts.drain(..parts.len().min(PARTS_AT_ONCE)).map(|part| Effect::Say(UpOf::RightsHeld(part)))
    }

    /// A session begins or ends: what the one before was not told is old.
    pub(super) fn begin_rights(&mut self, state: &LinkState) {
        let parts = if *state == LinkState::Connected { self.rights.held_parts() } else { Vec::new() };
        self.rights.to_say = parts.into();
    }
}
