//! What of a site's journal cannot be read is asked for again, then set aside: kept, counted, told, and passed by, so
//! that it never stands in the way of what follows.

use bytes::Bytes;
use prost::Message;
use proto::chunk::{self, ChainHash, ChunkError, Head, Position};
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::record::Of;
use proto::wire::{Batch, SetAside, SetAsideCell};

use super::tables::{ASIDE, decode};
use super::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// The same bytes at the same place this often: they are what the gateway has, and no accident on the way.
const TRIES_SAME: u32 = 3;
/// Different bytes at the same place this often: they will not become right.
const TRIES_ANY: u32 = 10;
/// How much of what is set aside is kept. A chunk that the hub would take fits; one event must fit into one of ours.
pub(super) const ASIDE_BYTES_MAX: usize = 160 << 10;

/// Why something is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) reason: String,
    /// Newer software could read it: passing it by would throw good records away.
    newer: bool,
}

impl Fault {
    pub(super) fn new(code: &'static str, reason: impl Into<String>) -> Fault {
        Fault { code, reason: reason.into(), newer: false }
    }
}

impl From<ChunkError> for Fault {
    fn from(error: ChunkError) -> Fault {
        let newer = matches!(&error, ChunkError::Format(format) if *format > chunk::FORMAT);
        Fault { newer, ..Fault::new(error.code(), error.to_string()) }
    }
}

/// How often what comes next of a site's journal could not be read.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    epoch: u64,
    after: Seq,
    digest: [u8; 32],
    same: u32,
    any: u32,
}

impl Strikes {
    fn count(&mut self, epoch: Epoch, after: Seq, bytes: &[u8]) {
        if (self.epoch, self.after) != (epoch.0, after) {
            *self = Strikes { epoch: epoch.0, after, ..Strikes::default() };
        }
        let digest = *blake3::hash(bytes).as_bytes();
        self.same = if digest == self.digest { self.same.saturating_add(1) } else { 1 };
        self.digest = digest;
        self.any = self.any.saturating_add(1);
    }

    fn enough(&self) -> bool {
        self.same >= TRIES_SAME || self.hopeless()
    }

    fn hopeless(&self) -> bool {
        self.any >= TRIES_ANY
    }
}

/// What was set aside of a site, as its newest record says.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside {
    pub(super) count: u64,
    epoch: u64,
    last: u64,
    /// Where those begin that this one continues.
    run_first: u64,
}

impl Aside {
    /// Where a run begins that goes on with this.
    fn run_first(&self, epoch: Epoch, first: u64) -> u64 {
        let goes_on = (self.epoch, self.last.saturating_add(1)) == (epoch.0, first) && self.run_first > 0;
        if goes_on { self.run_first } else { first }
    }

    /// True for what is recorded already: records are looked at in their order.
    fn holds(&self, epoch: Epoch, seq: Seq) -> bool {
        self.epoch == epoch.0 && seq.0 <= self.last
    }
}

/// A record that breaks the rules, in a chunk that is applied without it.
#[derive(Debug)]
pub(super) struct LeftOut {
    pub(super) seq: Seq,
    pub(super) fault: Fault,
    pub(super) bytes: Bytes,
}

impl Hub {
    /// A part of a batch that cannot be read. True if it was dealt with and what follows can be looked at.
    pub(super) fn damaged(
        &mut self,
        site: &SiteName,
        batch: &Batch,
        bytes: &Bytes,
        fault: Fault,
        now: &Now,
        step: &mut Step<Effect>,
    ) -> bool {
        self.tally.undecodable += 1;
        let Some(session) = self.sessions.get_mut(site) else { return false };
        let (held, nonce, replica) = (session.watermark, session.nonce, session.replica(site));
        let head = chunk::head(bytes).ok().filter(|head| head.replica == replica);
        // A head that says so is believed inside the batch's span; without one it is as old as all of the batch.
        let old = match &head {
            Some(head) => head.last <= held.seq && head.first.0 >= batch.first_seq,
            None => (1..=held.seq.0).contains(&batch.last_seq),
        };
        if old {
            self.tally.repeats += 1;
            session.owes_applied = true;
            return true;
        }
        if batch.first_seq > held.seq.next().0 {
            self.tally.gaps += 1;
            session.gap();
            return false;
        }
        tracing::warn!(%site, after = held.seq.0, code = fault.code, "cannot be read: {}", fault.reason);
        let strikes = self.strikes.entry(site.clone()).or_default();
        strikes.count(replica.epoch, held.seq, bytes);
        let (enough, hopeless) = (strikes.enough(), strikes.hopeless());
        if !enough {
            session.ask_again();
            return false;
        }
        if fault.newer {
            let advice = format!("{}. Nothing is lost: the gateway keeps it until the hub is upgraded", fault.reason);
            step.then.push(self.turned(site, nonce, "hub_too_old", advice, now));
            return false;
        }
        let reaches = self.sites.get(site).map_or(0, |view| view.beat.journal_to).max(session.send_up_to());
        match claimed(head.as_ref(), batch, held, Seq(reaches)) {
            Some(after) => {
                session.watermark = after;
                session.owes_applied = true;
                // What it moved and wrote is asked for as it is now.
                session.tell_since = Some(session.tell_since.map_or(held.seq, |since| since.min(held.seq)));
                self.strikes.remove(site);
                if let Some(view) = self.sites.get_mut(site) {
                    view.applied_seq = after.seq.0;
                    view.beat.journal_to = view.beat.journal_to.max(after.seq.0);
                }
                let aside = SetAside {
                    first: held.seq.next().0,
                    last: after.seq.0,
                    hash: after.hash.0.to_vec().into(),
                    code: fault.code.into(),
                    reason: fault.reason,
                    bytes: Bytes::copy_from_slice(&bytes[..bytes.len().min(ASIDE_BYTES_MAX)]),
                    full_bytes: bytes.len() as u64,
                    ..SetAside::default()
                };
                self.set_aside(site, &replica, aside, now, step);
                true
            }
            None if hopeless => {
                let advice = "what it sends cannot be read, and it does not say where its journal goes on after that: \
                              upgrade the gateway";
                step.then.push(self.turned(site, nonce, "journal_unreadable", advice.into(), now));
                false
            }
            None => {
                session.one_by_one(Seq(batch.last_seq));
                false
            }
        }
    }

    /// Records of a chunk that is applied without them. What a crash makes come again is recorded once.
    pub(super) fn leave_out(
        &mut self,
        site: &SiteName,
        replica: &ReplicaId,
        left_out: Vec<LeftOut>,
        now: &Now,
        step: &mut Step<Effect>,
    ) {
        for LeftOut { seq, fault, bytes } in left_out {
            if self.sites.get(site).is_some_and(|view| view.aside.holds(replica.epoch, seq)) {
                continue;
            }
            let aside = SetAside {
                first: seq.0,
                last: seq.0,
                code: fault.code.into(),
                reason: fault.reason,
                // The chunk that it is of is kept whole, so past the quota nothing is lost.
                bytes: self.quota.kept(site.as_str(), &bytes, now),
                full_bytes: bytes.len() as u64,
                ..SetAside::default()
            };
            self.set_aside(site, replica, aside, now, step);
        }
    }

    fn set_aside(&mut self, site: &SiteName, replica: &ReplicaId, aside: SetAside, now: &Now, step: &mut Step<Effect>) {
        self.tally.set_aside += 1;
        let view = self.sites.entry(site.clone()).or_default();
        // One record of a chunk that is applied moves nothing.
        let run_first = if aside.hash.is_empty() { 0 } else { view.aside.run_first(replica.epoch, aside.first) };
        view.aside = Aside { count: view.aside.count + 1, epoch: replica.epoch.0, last: aside.last, run_first };
        let aside = SetAside {
            site: site.to_string(),
            epoch: replica.epoch.0,
            received_ms: now.wall.0,
            of_site: view.aside.count,
            run_first,
            ..aside
        };
        tracing::error!(%site, first = aside.first, last = aside.last, code = aside.code, "set aside: {}", aside.reason);
        let cell = cell(&aside);
        step.then.push(Effect::tell(told(site, &cell)));
        self.site_changed.insert(site.clone());
        let draft = self.draft(vec![Of::SetAside(aside)], now);
        step.events.push(draft);
    }

    /// What was set aside before the start, with its alert.
    pub(super) fn recover_aside(&mut self, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut alerts = Vec::new();
        for (site, view) in &mut self.sites {
            let Some(value) = ledger.get(ASIDE, site.as_str().as_bytes())? else { continue };
            let cell: SetAsideCell = decode(ASIDE, &value)?;
            view.aside = Aside { count: cell.count, epoch: cell.epoch, last: cell.last, run_first: cell.run_first };
            alerts.push(Effect::restore(told(site, &cell)));
        }
        Ok(alerts)
    }
}

/// What a record of something set aside leaves in the state.
pub(super) fn cell(aside: &SetAside) -> SetAsideCell {
    SetAsideCell {
        count: aside.of_site,
        epoch: aside.epoch,
        last: aside.last,
        code: aside.code.clone(),
        reason: aside.reason.clone(),
        received_ms: aside.received_ms,
        run_first: aside.run_first,
    }
}

fn told(site: &SiteName, cell: &SetAsideCell) -> (String, Bytes) {
    let say = format!(
        "{} of {site}'s journal set aside since the beginning, the latest up to seq {} ({}): {}. \
         See `tillsync-broker rejects list`",
        cell.count, cell.last, cell.code, cell.reason
    );
    views::alert(site, "set_aside", say, cell.received_ms)
}

/// Where the site's journal goes on behind what cannot be read: as its own head says, or, if that cannot be believed, as
/// the batch says of its only chunk. Never beyond what the gateway has or may send, so that one flipped bit skips no year.
fn claimed(head: Option<&Head>, batch: &Batch, held: Position, reaches: Seq) -> Option<Position> {
    let continues = |head: &&Head| head.before() == held || (head.remnant && head.first <= held.seq.next());
    let by_batch = || {
        let alone = batch.chunks == 1 && batch.first_seq <= held.seq.next().0;
        alone.then_some(Position { seq: Seq(batch.last_seq), hash: ChainHash::from_slice(&batch.last_hash)? })
    };
    let credible = |after: &Position| held.seq < after.seq && after.seq <= reaches;
    head.filter(continues).map(Head::after).filter(credible).or_else(|| by_batch().filter(credible))
}

/// A record that is left out, as it came.
pub(super) fn bytes_of(record: &impl Message) -> Bytes {
    record.encode_to_vec().into()
}
