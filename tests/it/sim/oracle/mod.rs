//! What must be true, worked out in the most obvious way from what devices asked and what disks hold. It shares the format
//! of records and chunks with what it judges, and no rule.
//!
//! `life.rs` keeps what each life of a site's ledger wrote, `hub.rs` judges the hub's journal against that, `registers.rs`
//! decides registers once more, `sight.rs` reads what a store shows. A violation is a panic: the schedule is over.

mod grants;
mod hub;
mod life;
mod registers;
mod rights;
mod sight;

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::id::ReplicaId;
use proto::wire::{Dot, VersionVector};

pub(super) use self::hub::HubModel;
pub(super) use self::life::{Fork, Life};
use self::rights::Promises;
pub(super) use self::sight::{check_writes, visible};

/// A replica, as the wire names it.
pub(super) type Rep = (String, u64);
/// What a write had seen, or a register has.
pub(super) type Seen = BTreeMap<Rep, u64>;

pub(super) fn rep(replica: &ReplicaId) -> Rep {
    (replica.site.to_string(), replica.epoch.0)
}

pub(super) fn seen_of(vector: Option<&VersionVector>) -> Seen {
    let entries = vector.map(|vector| vector.entries.as_slice()).unwrap_or_default();
    entries.iter().map(|dot| ((dot.site.clone(), dot.epoch), dot.seq)).collect()
}

pub(super) fn dot_of(dot: Option<&Dot>) -> (Rep, u64) {
    let dot = dot.expect("a register has a dot");
    ((dot.site.clone(), dot.epoch), dot.seq)
}

/// What a device asks, and what it must come to.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) device: String,
    pub(super) id: Option<String>,
    pub(super) kind: &'static str,
    pub(super) payload: Bytes,
    /// Item and units of each good line, in order.
    pub(super) moves: Vec<(u64, i64)>,
    /// Item and pieces of a count.
    pub(super) count: Option<(u64, i64)>,
    /// Refused as a whole, whatever is known.
    pub(super) bad: bool,
    /// It may be refused for what the clock shows.
    pub(super) by_the_clock: bool,
    /// It may be refused for what may be promised here, or for how a hold stands.
    pub(super) by_rights: bool,
    pub(super) acked: bool,
}

/// Everything that was asked and written, apart from what the hub holds of it.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) requests: Vec<Request>,
    pub(super) lives: BTreeMap<Rep, Life>,
    /// How far any hub ever had a life's journal on disk.
    pub(super) ever_applied: BTreeMap<Rep, u64>,
    /// Hubs were restored from a backup.
    pub(super) restores: u32,
    pub(super) promises: Promises,
}

impl Oracle {
    /// A device heard that its request is safe: then it is on disk, now.
    pub(super) fn acknowledged(&mut self, uid: usize, replica: &ReplicaId) {
        let request = &mut self.requests[uid];
        request.acked = true;
        let life = self.lives.get(&rep(replica)).expect("a life that nobody began");
        let by_id = request.id.as_ref().is_some_and(|id| life.knows(&request.device, id));
        // An earlier life answered it: this one was told so, or its records are still to be journalled again.
        let earlier = |life: &Life| request.id.as_ref().is_some_and(|id| life.knew(&request.device, id));
        let elsewhere = || self.lives.iter().any(|((site, _), life)| *site == replica.site.as_str() && earlier(life));
        assert!(
            by_id || life.holds(uid) || elsewhere(),
            "request {uid} was acknowledged and is not on the disk of {replica}: {request:?}"
        );
    }
}
