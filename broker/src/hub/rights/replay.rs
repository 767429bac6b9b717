//! Pools from a journal instead of from the state: for a hub that does not run, and to check that both say the same.

use proto::chunk;
use proto::id::{Epoch, ReplicaId, Seq};
use proto::wire::Event;
use proto::wire::record::Of;

use super::fold::{grant_cell, pool_cell};
use super::pools::Pools;

impl Pools {
    /// The next event of the hub's journal.
    pub fn replay(&mut self, first: Seq, stamp_ms: u64, event: &Event) {
        for (offset, record) in (0..).zip(&event.records) {
            let seq = first.plus(offset);
            let life = |site: &str, epoch: u64| Some(ReplicaId { site: site.parse().ok()?, epoch: Epoch(epoch) });
            match &record.of {
                Some(Of::PoolChanged(changed)) => self.pool_changed(changed.gtin, pool_cell(changed, seq, stamp_ms)),
                Some(Of::RightsGranted(granted)) => {
                    if let Some(life) = life(&granted.site, granted.epoch) {
                        self.granted(&life, granted.gtin, grant_cell(granted, seq));
                    }
                }
                Some(Of::Rights(rights)) => self.own_changed(*rights),
                Some(Of::SiteLost(lost)) => life(&lost.site, lost.epoch).iter().for_each(|life| self.ended(life)),
                Some(Of::SiteFollows(follows)) => {
                    life(&follows.site, follows.retired).iter().for_each(|life| self.ended(life));
                }
                Some(Of::SiteChunk(embedded)) => {
                    let Ok(chunk) = chunk::open(&embedded.chunk) else { continue };
                    for record in chunk.body.events.iter().flat_map(|event| &event.records) {
                        match &record.of {
                            Some(Of::Rights(rights)) => self.used(&chunk.head.replica, *rights),
                            Some(Of::EarlierRights(earlier)) => self.late(&chunk.head.replica.site, earlier),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
