//! What the hub's journal means. Reads nothing but the record, so that every replay ends the same.

use prost::Message;
use proto::chunk;
use proto::id::{Epoch, ReplicaId, Seq};
use proto::wire::record::Of;
use proto::wire::{
    Conflict, ConflictCell, ConflictRestored, CounterCell, Loss, LossClass, LostCell, PresentCell, RegisterCell,
    RegisterMerged, RestoredCell, RetiredCell, SetAside, SiteCell, SiteChunk, SiteFollows, SiteJoined, SitePresent,
    StockMoved, Watermark,
};

use super::aside;
use super::rights::fold as fold_rights;
use super::tables::{
    ASIDE, CONFLICT, COUNTER, EPOCH, LOST, PRESENT, REGISTER, RESTORED, RETIRED, SITE, SITE_LOST, WATERMARK,
    counter_key, lost_key, replica_key,
};
use crate::ledger::{Placed, Put};

pub(super) fn event(placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
    for (offset, record) in (0..).zip(&placed.event.records) {
        let seq = placed.first.plus(offset);
        match &record.of {
            Some(Of::SiteChunk(site_chunk)) => applied(site_chunk, seq, put),
            Some(Of::SitePresent(present)) => self::present(present, seq, put),
            Some(Of::Merged(merged)) => register(merged, seq, put),
            Some(Of::Conflict(conflict)) => self::conflict(conflict, seq, placed.stamp.ms().0, put),
            Some(Of::ConflictRestored(restored)) => self::restored(restored, seq, placed.stamp.ms().0, put),
            Some(Of::SiteJoined(joined)) => site_joined(joined, seq, put),
            Some(Of::SetAside(aside)) => set_aside(aside, put),
            Some(Of::SiteFollows(follows)) => site_follows(follows, placed.stamp.ms().0, put),
            Some(Of::SiteLost(lost)) => {
                let key = replica_key(&lost.site, Epoch(lost.epoch));
                put(Put::set(SITE_LOST, key, seq.0.to_be_bytes()));
            }
            Some(Of::PoolChanged(changed)) => fold_rights::pool(changed, seq, placed.stamp.ms().0, put),
            Some(Of::RightsGranted(granted)) => fold_rights::granted(granted, seq, put),
            Some(Of::Rights(rights)) => fold_rights::used(placed.replica, rights, put),
            Some(Of::Hold(hold)) => fold_rights::hold(hold, seq, placed, put),
            Some(Of::HoldEnded(ended)) => fold_rights::hold_ended(ended, seq, placed, put),
            Some(Of::StockMoved(moved)) => by_hub(moved, seq, put),
            Some(Of::RightsReported(reported)) => fold_rights::reported(reported, put),
            Some(Of::Forgotten(forgotten)) => put(Put::delete(REGISTER, forgotten.key.as_str())),
            _ => {}
        }
    }
}

/// A site's counters are replaced by the totals at its chunk's end; deltas are never added up.
fn applied(site_chunk: &SiteChunk, seq: Seq, put: &mut dyn FnMut(Put)) {
    // It was opened and checked before it was journalled, and the hub's own checksum covers it.
    let Ok(chunk) = chunk::open(&site_chunk.chunk) else {
        tracing::error!("a site's chunk in the hub's journal cannot be opened");
        return;
    };
    let head = &chunk.head;
    for (n, total) in (0..).zip(&chunk.body.totals) {
        // In order, as they were found.
        if site_chunk.overtaken.binary_search(&n).is_ok() {
            continue;
        }
        let of = head.first.0.saturating_add(u64::from(total.seq_offset));
        let cell = CounterCell { units: total.units, seq: of, feed_position: seq.0, by_hub: false };
        put(Put::set(COUNTER, counter_key(total.gtin, &head.replica), cell.encode_to_vec()));
    }
    fold_rights::of_site(&chunk, put);
    if !chunk.body.losses.is_empty() {
        let cell = LostCell { last: head.last.0, losses: chunk.body.losses.clone(), told_ms: site_chunk.received_ms };
        put(Put::set(LOST, lost_key(&head.replica, head.first), cell.encode_to_vec()));
    }
    let after = head.after();
    let mark = Watermark { seq: after.seq.0, hash: after.hash.0.to_vec().into(), applied_ms: site_chunk.received_ms };
    put(Put::set(WATERMARK, replica_key(head.replica.site.as_str(), head.replica.epoch), mark.encode_to_vec()));
}

/// What the hub moves at a site is a component of its own, under the incarnation in place of a life's epoch.
fn by_hub(moved: &StockMoved, seq: Seq, put: &mut dyn FnMut(Put)) {
    let Ok(site) = moved.site.parse() else { return };
    let replica = ReplicaId { site, epoch: Epoch(moved.incarnation) };
    let cell = CounterCell { units: moved.total, seq: seq.0, feed_position: seq.0, by_hub: true };
    put(Put::set(COUNTER, counter_key(moved.gtin, &replica), cell.encode_to_vec()));
}

fn present(present: &SitePresent, seq: Seq, put: &mut dyn FnMut(Put)) {
    let Ok(site) = present.site.parse() else { return };
    let replica = ReplicaId { site, epoch: Epoch(present.epoch) };
    for total in &present.totals {
        let cell = CounterCell { units: total.units, seq: total.seq, feed_position: seq.0, by_hub: false };
        put(Put::set(COUNTER, counter_key(total.gtin, &replica), cell.encode_to_vec()));
    }
    let cell = PresentCell { complete: present.complete, newest: present.newest };
    put(Put::set(PRESENT, replica_key(&present.site, replica.epoch), cell.encode_to_vec()));
}

fn register(merged: &RegisterMerged, seq: Seq, put: &mut dyn FnMut(Put)) {
    let cell = RegisterCell { state: merged.state.clone(), feed_position: seq.0 };
    put(Put::set(REGISTER, merged.key.as_str(), cell.encode_to_vec()));
}

fn conflict(conflict: &Conflict, seq: Seq, seen_ms: u64, put: &mut dyn FnMut(Put)) {
    let cell = ConflictCell { conflict: Some(conflict.clone()), seen_ms };
    put(Put::set(CONFLICT, seq.0.to_be_bytes(), cell.encode_to_vec()));
}

fn restored(restored: &ConflictRestored, seq: Seq, at_ms: u64, put: &mut dyn FnMut(Put)) {
    let cell = RestoredCell { seq: seq.0, at_ms, by: restored.by.clone(), why: restored.why.clone() };
    put(Put::set(RESTORED, restored.conflict.to_be_bytes(), cell.encode_to_vec()));
}

fn site_joined(joined: &SiteJoined, seq: Seq, put: &mut dyn FnMut(Put)) {
    let cell = SiteCell { epoch: joined.epoch, joined: seq.0 };
    put(Put::set(SITE, joined.site.as_str(), cell.encode_to_vec()));
    put(Put::set(EPOCH, replica_key(&joined.site, Epoch(joined.epoch)), seq.0.to_be_bytes()));
}

fn site_follows(follows: &SiteFollows, at_ms: u64, put: &mut dyn FnMut(Put)) {
    if let Ok(site) = follows.site.parse()
        && follows.lacks > 0
    {
        let replica = ReplicaId { site, epoch: Epoch(follows.retired) };
        let losses = vec![Loss { class: LossClass::Trimmed.into(), records: follows.lacks }];
        let cell = LostCell { last: follows.lacks_to, losses, told_ms: at_ms };
        let first = Seq(follows.lacks_to.saturating_sub(follows.lacks)).next();
        put(Put::set(LOST, lost_key(&replica, first), cell.encode_to_vec()));
    }
    let cell = RetiredCell { followed_by: follows.epoch, seq: follows.seq, hash: follows.hash.clone() };
    put(Put::set(RETIRED, replica_key(&follows.site, Epoch(follows.retired)), cell.encode_to_vec()));
}

/// The journal goes on behind it, at the hash that it claimed.
fn set_aside(aside: &SetAside, put: &mut dyn FnMut(Put)) {
    put(Put::set(ASIDE, aside.site.as_str(), aside::cell(aside).encode_to_vec()));
    if !aside.hash.is_empty() {
        let mark = Watermark { seq: aside.last, hash: aside.hash.clone(), applied_ms: aside.received_ms };
        put(Put::set(WATERMARK, replica_key(&aside.site, Epoch(aside.epoch)), mark.encode_to_vec()));
    }
}
