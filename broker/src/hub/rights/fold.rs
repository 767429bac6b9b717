//! What records about pools, rights and holds mean for the state. Each says the whole of what it changes.

use prost::Message;
use proto::chunk::Chunk;
use proto::id::{Epoch, ReplicaId, Seq};
use proto::wire::record::Of;
use proto::wire::{
    EarlierRights, GrantCell, Hold, HoldCell, HoldEnd, HoldEnded, PoolCell, PoolChanged, Rights, RightsGranted,
    RightsReported,
};

use crate::hub::tables::{GRANTS, HOLDS, LATE, POOL, REPORTED, USED, counter_key, replica_key};
use crate::ledger::{Placed, Put};

pub(in crate::hub) fn pool(changed: &PoolChanged, seq: Seq, at_ms: u64, put: &mut dyn FnMut(Put)) {
    put(Put::set(POOL, changed.gtin.to_be_bytes(), pool_cell(changed, seq, at_ms).encode_to_vec()));
}

pub(super) fn pool_cell(changed: &PoolChanged, seq: Seq, at_ms: u64) -> PoolCell {
    let (since_ms, feed_position) = match changed.since_seq {
        0 => (at_ms, seq.0),
        since_seq => (changed.since_ms, since_seq),
    };
    PoolCell { units: changed.units, since_ms, feed_position }
}

pub(in crate::hub) fn granted(granted: &RightsGranted, seq: Seq, put: &mut dyn FnMut(Put)) {
    let Ok(site) = granted.site.parse() else { return };
    let key = counter_key(granted.gtin, &ReplicaId { site, epoch: Epoch(granted.epoch) });
    put(Put::set(GRANTS, key, grant_cell(granted, seq).encode_to_vec()));
}

pub(super) fn grant_cell(granted: &RightsGranted, seq: Seq) -> GrantCell {
    GrantCell {
        granted: granted.granted,
        asked: granted.asked,
        reclaimed: granted.reclaimed,
        for_site: granted.for_site.clone(),
        feed_position: seq.0,
        unaware: granted.unaware,
    }
}

pub(in crate::hub) fn used(replica: &ReplicaId, rights: &Rights, put: &mut dyn FnMut(Put)) {
    put(Put::set(USED, counter_key(rights.gtin, replica), rights.encode_to_vec()));
}

/// The rights in a site's chunk; in their order, so the last of an item counts.
pub(in crate::hub) fn of_site(chunk: &Chunk, put: &mut dyn FnMut(Put)) {
    for record in chunk.body.events.iter().flat_map(|event| &event.records) {
        match &record.of {
            Some(Of::Rights(rights)) => used(&chunk.head.replica, rights, put),
            Some(Of::EarlierRights(EarlierRights { epoch, rights: Some(rights) })) => {
                let life = ReplicaId { epoch: Epoch(*epoch), ..chunk.head.replica.clone() };
                put(Put::set(LATE, counter_key(rights.gtin, &life), rights.encode_to_vec()));
            }
            _ => {}
        }
    }
}

/// A hold of the hub's own.
pub(in crate::hub) fn hold(hold: &Hold, seq: Seq, placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
    let cell = HoldCell {
        at_s: placed.powered_on_s.saturating_add(hold.seconds),
        hold: Some(hold.clone()),
        ended: HoldEnd::Unspecified.into(),
        device: placed.event.device.clone(),
        seq: seq.0,
    };
    put(Put::set(HOLDS, hold.id.as_str(), cell.encode_to_vec()));
}

pub(in crate::hub) fn hold_ended(ended: &HoldEnded, seq: Seq, placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
    let HoldEnded { id, gtin, units, reference, how } = ended.clone();
    let hold = Hold { id, gtin, units, reference, ..Hold::default() };
    let cell = HoldCell {
        hold: Some(hold),
        ended: how,
        at_s: placed.powered_on_s,
        device: placed.event.device.clone(),
        seq: seq.0,
    };
    put(Put::set(HOLDS, ended.id.as_str(), cell.encode_to_vec()));
}

pub(in crate::hub) fn reported(reported: &RightsReported, put: &mut dyn FnMut(Put)) {
    let key = replica_key(&reported.site, Epoch(reported.epoch));
    put(Put::set(REPORTED, key, reported.incarnation.to_be_bytes()));
}
