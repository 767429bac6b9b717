//! The gateway's tables. Their numbers are on disk: never give one a second meaning. 1 is `exactly_once`'s.

use broker::ledger::{LedgerError, Table};
use prost::Message;
use proto::gtin::Gtin;
use proto::id::{DeviceName, RequestId};

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

pub(super) const SYNC_CURSOR: &[u8] = b"cursor";
pub(super) const SYNC_APPLIED: &[u8] = b"applied";

pub(super) fn counter_key(gtin: Gtin) -> [u8; 8] {
    gtin.number().to_be_bytes()
}

pub(super) fn id_key(device: &DeviceName, id: &RequestId) -> Vec<u8> {
    [device.as_str().as_bytes(), b"\0", id.as_str().as_bytes()].concat()
}

/// Reads a cell that this software wrote: what does not decode is damage.
pub(super) fn decode<M: Message + Default>(table: Table, value: &[u8]) -> Result<M, LedgerError> {
    M::decode(value).map_err(|e| LedgerError::Value { table: table.0, why: e.to_string() })
}
