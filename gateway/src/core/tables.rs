//! The gateway's tables. Their numbers are on disk: never give one a second meaning. 1 is `exactly_once`'s.

use broker::ledger::{LedgerError, Table};
use prost::Message;
use proto::gtin::Gtin;
use proto::id::{DeviceName, Epoch, RequestId, SiteName};
use proto::wire::Event;

/// gtin → this ledger's component. Folded.
pub(super) const COUNTER: Table = Table(2);
/// device ‖ 0 ‖ request id → its first outcome. Folded; old ones are swept.
pub(super) const ID: Table = Table(3);
/// register key → this site's last write of it, until the hub has taken it into account. Folded; swept.
pub(super) const OWN: Table = Table(4);
/// register key → what the hub says. Put.
pub(super) const HUB: Table = Table(5);
/// How the sync stands. Put or lazy.
pub(super) const SYNC: Table = Table(6);
/// gtin ‖ epoch → the component that an earlier life of this site's ledger left. Put.
pub(super) const PAST: Table = Table(7);
/// site ‖ 0 ‖ gtin ‖ epoch → another site's component. Put.
pub(super) const ELSEWHERE: Table = Table(8);
/// gtin → nothing: it was counted in this life of the ledger. Folded.
pub(super) const COUNTED: Table = Table(9);
/// device ‖ 0 ‖ request id → what an earlier life answered. Put; old ones are swept.
pub(super) const PAST_IDS: Table = Table(10);
/// Nothing → up to where the journal of the life before is journalled again in this one. Folded.
pub(super) const REJOINED: Table = Table(11);

/// epoch ‖ seq ‖ hash → nothing: what an earlier life wrote there is journalled again in this one. Folded; swept at the end.
pub(super) const ORIGIN: Table = Table(12);
/// epoch ‖ seq ‖ hash → incarnation: by that hub, another life has journalled it again. Put; swept at the end.
pub(super) const PAST_ORIGIN: Table = Table(13);

/// gtin → what the hub granted and asked back: the item is sold from a pool. Put.
pub(super) const GRANTED: Table = Table(14);
/// gtin → how this life has used its rights. Folded.
pub(super) const RIGHTS: Table = Table(15);
/// hold → how it stands. Folded; ended ones are swept.
pub(super) const HOLDS: Table = Table(16);

/// epoch ‖ gtin → what another life of this site may have promised in all. Put.
pub(super) const EARLIER: Table = Table(17);

pub(super) const SYNC_TAKEOVER: &[u8] = b"takeover";
pub(super) const SYNC_APPLIED: &[u8] = b"applied";
/// Which incarnation of the hub was last told how this life has used its rights.
pub(super) const SYNC_RIGHTS_TOLD: &[u8] = b"rights_told";
pub(super) const SYNC_UNANCHORED: &[u8] = b"unanchored";

/// Where this gateway stands in a stream of the hub's feed.
pub(super) fn cursor_key(stream: &str) -> Vec<u8> {
    if stream.is_empty() { b"cursor".to_vec() } else { [b"cursor/", stream.as_bytes()].concat() }
}

pub(super) fn past_key(gtin: Gtin, epoch: Epoch) -> Vec<u8> {
    [gtin.number().to_be_bytes(), epoch.0.to_be_bytes()].concat()
}

/// Where a record that is journalled again was written first.
pub(super) fn origin_key(event: &Event) -> Vec<u8> {
    [event.origin_epoch, event.origin_seq, event.origin_hash].map(u64::to_be_bytes).concat()
}

pub(super) fn earlier_key(epoch: u64, gtin: u64) -> Vec<u8> {
    [epoch, gtin].map(u64::to_be_bytes).concat()
}

pub(super) fn elsewhere_prefix(site: &SiteName, gtin: Gtin) -> Vec<u8> {
    [site.as_str().as_bytes(), b"\0", &gtin.number().to_be_bytes()].concat()
}

/// The site and item of an [`ELSEWHERE`] key.
pub(super) fn elsewhere_of(key: &[u8]) -> Option<(SiteName, Gtin)> {
    let name_bytes = key.len().checked_sub(17)?;
    let site = std::str::from_utf8(&key[..name_bytes]).ok()?.parse().ok()?;
    Some((site, gtin_of(&key[name_bytes + 1..])?))
}

/// The item that a key begins with.
pub(super) fn gtin_of(key: &[u8]) -> Option<Gtin> {
    Gtin::from_number(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)).ok()
}

pub(super) fn counter_key(gtin: Gtin) -> [u8; 8] {
    gtin.number().to_be_bytes()
}

pub(super) fn id_key(device: &DeviceName, id: &RequestId) -> Vec<u8> {
    [device.as_str().as_bytes(), b"\0", id.as_str().as_bytes()].concat()
}

/// The same of the request that an event answered.
pub(super) fn answered_key(event: &Event) -> Vec<u8> {
    [event.device.as_bytes(), b"\0", event.request.as_bytes()].concat()
}

/// Reads a cell that this software wrote: what does not decode is damage.
pub(super) fn decode<M: Message + Default>(table: Table, value: &[u8]) -> Result<M, LedgerError> {
    M::decode(value).map_err(|e| LedgerError::Value { table: table.0, why: e.to_string() })
}
