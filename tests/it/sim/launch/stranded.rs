//! Where units lay when a buyer was turned away for them.

use std::ops::AddAssign;

use prost::Message;
use proto::wire::{Rights, RightsEntry};

use super::super::oracle::rep;
use super::super::sales::gtin;
use super::super::world::World;

/// The gateway's table of grants, by its number on disk.
const GRANTED: u8 = 14;

/// Units that buyers were turned away for, by the nearest place where as many lay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stranded {
    /// At the hub, or on the way to or from it.
    pub(super) at_hub: u64,
    /// At other stores that it reached.
    pub(super) at_stores: u64,
    /// At stores that were cut off or down.
    pub(super) cut_off: u64,
    pub(super) nowhere: u64,
}

impl AddAssign for Stranded {
    fn add_assign(&mut self, other: Stranded) {
        self.at_hub += other.at_hub;
        self.at_stores += other.at_stores;
        self.cut_off += other.cut_off;
        self.nowhere += other.nowhere;
    }
}

impl World {
    pub(super) fn turned_away_for(&self, units: u64) -> Stranded {
        let (mut near, mut away) = (0, 0);
        for site in &self.sites {
            let reached = site.live.is_some() && !site.link.up_cut && !site.link.down_cut;
            let Some(disk) = site.node.as_ref().map(|node| &node.disk).or(site.disk.as_ref()) else { continue };
            let Rights { returned, promised, held, .. } =
                self.oracle.promises.rights(&rep(&disk.replica), gtin(0).number());
            let heard = disk.cell(GRANTED, &gtin(0).number().to_be_bytes());
            let granted = heard.map_or(0, |cell| RightsEntry::decode(cell).expect("a cell of a gateway").granted);
            let left = granted.saturating_sub(returned + promised + held);
            *if reached { &mut near } else { &mut away } += left;
        }
        let book = &self.hq.model.rights;
        let lay = self.launch.pool.saturating_sub(self.oracle.promises.in_all(gtin(0).number(), book));
        let hub = lay.saturating_sub(near + away);
        let mut stranded = Stranded::default();
        *match units {
            _ if hub >= units => &mut stranded.at_hub,
            _ if hub + near >= units => &mut stranded.at_stores,
            _ if hub + near + away >= units => &mut stranded.cut_off,
            _ => &mut stranded.nowhere,
        } = units;
        stranded
    }
}
