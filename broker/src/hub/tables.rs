//! The hub's tables. Their numbers are on disk: never give one a second meaning. 1 is `exactly_once`'s.

use prost::Message;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};

use crate::ledger::{LedgerError, Table};

/// site ‖ 0 ‖ epoch → how far that journal is applied. Folded.
pub(super) const WATERMARK: Table = Table(2);
/// site ‖ 0 ‖ epoch ‖ gtin → that replica's component. Folded. What changes together stands together: a message is of
/// one site, and sled takes neighbours at a fraction of what scattered cells cost.
pub(super) const COUNTER: Table = Table(17);
/// gtin ‖ site ‖ 0 ‖ epoch → the same, as earlier versions folded it. Never written: a component that moved since is in
/// `COUNTER`, which counts.
pub(super) const COUNTER_BEFORE: Table = Table(3);
/// register key → its merged state and feed position. Folded.
pub(super) const REGISTER: Table = Table(4);
/// seq of the hub's record → conflict. Folded; the oldest are dropped past a bound.
pub(super) const CONFLICT: Table = Table(5);
/// site → the life of its ledger that is current. Folded.
pub(super) const SITE: Table = Table(6);
/// site ‖ 0 ‖ epoch → seq of the record that first named it. Folded.
pub(super) const EPOCH: Table = Table(7);
/// site ‖ 0 ‖ epoch ‖ first seq → what a site lost there. Folded.
pub(super) const LOST: Table = Table(10);
/// site → how much of its journal was set aside. Folded.
pub(super) const ASIDE: Table = Table(11);
/// site ‖ 0 ‖ epoch → what the site said ahead of its journal. Folded.
pub(super) const PRESENT: Table = Table(12);
/// seq of a conflict's record → that its loser was brought back. Folded; goes with the conflict.
pub(super) const RESTORED: Table = Table(15);
/// site ‖ 0 ‖ epoch → which life followed it; its journal is closed. Folded.
pub(super) const RETIRED: Table = Table(13);
/// site ‖ 0 ‖ epoch → how far the registers are settled there. Put.
pub(super) const SETTLED: Table = Table(16);
/// site ‖ 0 ‖ epoch → seq of the record that says that its box is lost. Folded.
pub(super) const SITE_LOST: Table = Table(18);
/// site ‖ 0 ‖ epoch ‖ gtin → the hub's side of that life's rights. Folded.
pub(super) const GRANTS: Table = Table(19);
/// The same key → how that life used its rights, of the hub's own channel too. Folded.
pub(super) const USED: Table = Table(20);
/// gtin → what the pool has. Folded.
pub(super) const POOL: Table = Table(21);
/// A hold's id → a hold of the hub's own channel. Folded.
pub(super) const HOLDS: Table = Table(22);
/// A caller's idempotency key → what the request came to. Put; swept.
pub(super) const ANSWERS: Table = Table(23);
/// site ‖ 0 ‖ epoch → the incarnation of this hub to which that life has told its rights. Folded.
pub(super) const REPORTED: Table = Table(25);
/// site ‖ 0 ‖ epoch ‖ gtin → what a later life of the site said of that life's rights, out of the journal that only its box
/// had. Folded.
pub(super) const LATE: Table = Table(26);
/// What the hub keeps of itself. Put.
pub(super) const HUB: Table = Table(8);

pub(super) const HUB_INCARNATION: &[u8] = b"incarnation";
/// The incarnation of a restored hub that does not know yet what all sites hold of rights.
pub(super) const HUB_AWAITS_RIGHTS: &[u8] = b"awaits rights";
/// The highest feed position of a tombstone that was forgotten.
pub(super) const HUB_FORGOTTEN: &[u8] = b"forgotten";

pub(super) fn replica_key(site: &str, epoch: Epoch) -> Vec<u8> {
    [site.as_bytes(), b"\0", &epoch.0.to_be_bytes()].concat()
}

/// The replica of such a key.
pub(super) fn replica_of(key: &[u8]) -> Option<ReplicaId> {
    let (site, epoch) = key.split_at_checked(key.len().checked_sub(9)?)?;
    let site = std::str::from_utf8(site).ok()?.parse().ok()?;
    Some(ReplicaId { site, epoch: Epoch(u64::from_be_bytes(epoch.get(1..)?.try_into().ok()?)) })
}

pub(super) fn counter_key(gtin: u64, replica: &ReplicaId) -> Vec<u8> {
    [&replica_key(replica.site.as_str(), replica.epoch)[..], &gtin.to_be_bytes()].concat()
}

pub(super) fn counter_key_before(gtin: u64, replica: &ReplicaId) -> Vec<u8> {
    [&gtin.to_be_bytes()[..], &replica_key(replica.site.as_str(), replica.epoch)].concat()
}

pub(super) fn lost_key(replica: &ReplicaId, first: Seq) -> Vec<u8> {
    [&replica_key(replica.site.as_str(), replica.epoch)[..], &first.0.to_be_bytes()].concat()
}

/// The site of a loss's key.
pub(super) fn site_of_lost(key: &[u8]) -> Option<SiteName> {
    let end = key.len().checked_sub(17)?;
    std::str::from_utf8(&key[..end]).ok()?.parse().ok()
}

/// The item's number and the replica of a counter's key.
pub(super) fn of_counter(key: &[u8]) -> Option<(u64, ReplicaId)> {
    let (replica, gtin) = key.split_last_chunk()?;
    Some((u64::from_be_bytes(*gtin), replica_of(replica)?))
}

pub(super) fn of_counter_before(key: &[u8]) -> Option<(u64, ReplicaId)> {
    let (gtin, replica) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*gtin), replica_of(replica)?))
}

pub(super) fn seq_of(key: &[u8]) -> Option<Seq> {
    Some(Seq(u64::from_be_bytes(key.try_into().ok()?)))
}

/// Reads a cell that this software wrote: what does not decode is damage.
pub(super) fn decode<M: Message + Default>(table: Table, value: &[u8]) -> Result<M, LedgerError> {
    M::decode(value).map_err(|e| LedgerError::Value { table: table.0, why: e.to_string() })
}
