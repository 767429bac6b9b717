//! The hub's core: what a gateway's message comes to. Pure: events in, one step out.
//!
//! `sync.rs` answers gateways, `speak.rs` tells them what a commit came to, `lean.rs` makes chunks of lean batches again,
//! `apply.rs` takes them, `aside.rs` what cannot be read of them, `merge.rs` decides registers, `conflicts.rs` brings back
//! what lost, `present.rs` what a site says ahead of its journal, `check.rs` whether both hold the same, `rejoin.rs` is about
//! earlier lives of a site's ledger, `feed.rs` tells the other sites, `stock.rs` holds every site's stock in memory,
//! `rights/` keeps pools and grants rights, `channel/` is the hub's own way to promise, hold and move,
//! `forget.rs` ends what is deleted, `lost.rs` waits no more for a box that is lost, `security.rs` shows who was refused and
//! who let in, `report.rs` says how the hub is doing, `views.rs` tells HQ, `fold.rs` is what the journal means.

mod apply;
mod aside;
pub mod channel;
mod check;
mod conflicts;
mod feed;
mod fold;
mod forget;
mod lean;
mod lost;
mod merge;
mod present;
mod rejoin;
mod report;
mod rights;
mod security;
mod session;
mod speak;
mod stock;
mod sync;
mod tables;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::check::Sums;
use proto::chunk::Sealer;
use proto::clock::{Clock, Stamp};
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::register::Register;
use proto::topic::Outbound;
use proto::wire::{CounterTotal, Down, LostCell, SecurityEvent, SiteCell};
use serde_json::Value;
use tokio::sync::oneshot;

use self::aside::Strikes;
use self::channel::Channel;
pub use self::conflicts::{Ask, Kept, LIST_MAX, Wanted};
use self::feed::FeedIndex;
use self::forget::Forgetting;
pub use self::lost::Lost;
pub use self::rejoin::Question;
use self::rights::Desk;
pub use self::rights::{
    POOL_UNITS_MAX, Part, PoolChange, Pools, RightsAsk, RightsChange, RightsNote, RightsRules, Totals,
};
use self::security::SecurityCounts;
use self::session::Session;
use self::tables::{CONFLICT, HUB, HUB_INCARNATION, LOST, RESTORED, SITE, decode, site_of_lost};
use self::views::SiteView;
use crate::exactly_once;
use crate::front::{Inbound, Verdict};
use crate::ledger::{Core, LedgerError, Now, Placed, Put, Read, Step};
use crate::quota::RejectQuota;

/// Conflicts kept; past it the oldest goes, which is counted.
const CONFLICTS_MAX: usize = 10_000;
/// How often the hub looks for what can be forgotten, if nobody says otherwise.
pub const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Inputs besides what gateways publish.
#[derive(Debug)]
pub enum Input {
    Status(oneshot::Sender<Value>),
    /// Compare what is held of a site with what it holds, key by key.
    Verify(SiteName, oneshot::Sender<Value>),
    Conflicts(Ask, oneshot::Sender<Value>),
    /// All totals of a site, and the record up to which they are.
    Totals(SiteName, oneshot::Sender<Value>),
    /// What happened to who belongs here; answered when it is in the journal.
    Audit(Vec<SecurityEvent>, oneshot::Sender<Value>),
    /// Somebody says that a site's box is lost.
    Lost(Lost, oneshot::Sender<Value>),
    /// A caller of the HTTPS listener asks for something.
    Order(Box<channel::Order>, oneshot::Sender<channel::Reply>),
    /// Somebody looks at pools and rights, or changes them.
    Rights(RightsAsk, oneshot::Sender<Value>),
}

/// What happens after a commit.
#[derive(Debug)]
pub enum Effect {
    Publish {
        topic: String,
        payload: Bytes,
        retain: bool,
    },
    /// As `Publish` with `retain`, before anybody is connected.
    Restore {
        topic: String,
        payload: Bytes,
    },
    /// To be looked up in the journal, and answered to the site.
    Recall(Question),
    Answer(oneshot::Sender<Value>, Value),
    Reply(oneshot::Sender<channel::Reply>, channel::Reply),
    /// The incarnation that a restore drew is in the ledger.
    IncarnationKept,
}

impl Effect {
    fn tell((topic, payload): (String, Bytes)) -> Effect {
        Effect::Publish { topic, payload, retain: true }
    }

    fn restore((topic, payload): (String, Bytes)) -> Effect {
        Effect::Restore { topic, payload }
    }

    fn down(site: &SiteName, down: &Down) -> Effect {
        let topic = Outbound::Down(site).to_string();
        Effect::Publish { topic, payload: down.encode_to_vec().into(), retain: false }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
struct Tally {
    batches: u64,
    repeats: u64,
    gaps: u64,
    undecodable: u64,
    set_aside: u64,
    refused: u64,
    conflicts: u64,
    conflicts_dropped: u64,
    conflicts_restored: u64,
}

/// The incarnation, if a commit puts it.
pub fn incarnation_put(put: &Put) -> Option<u64> {
    let ours = put.table == HUB && put.key == HUB_INCARNATION;
    put.value.as_deref().filter(|_| ours).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes)
}

/// The hub's core.
#[derive(Debug)]
pub struct Hub {
    incarnation: u64,
    /// The ledger came from a backup: its own incarnation is that of the hub that was lost.
    restored: bool,
    clock: Clock,
    sites: BTreeMap<SiteName, SiteView>,
    sessions: BTreeMap<SiteName, Session>,
    /// Sites of whose journal something cannot be read just now.
    strikes: BTreeMap<SiteName, Strikes>,
    /// Sites whose status must be told at the next tick.
    site_changed: BTreeSet<SiteName>,
    status_told_ms: u64,
    feed: FeedIndex,
    /// What may be promised of items that are sold from a pool.
    pools: Pools,
    channel: Channel,
    /// What granting goes by.
    desk: Desk,
    forgetting: Forgetting,
    /// Lives whose box is lost: nothing waits for them.
    lost: BTreeSet<ReplicaId>,
    /// Registers that the message at hand has merged; the ledger shows them after its step.
    unfolded: HashMap<String, Register>,
    /// Security events of this hub since it started.
    security: SecurityCounts,
    conflicts: VecDeque<Seq>,
    /// Sums over the registers, and the feed's head when they were made.
    register_sums: Option<(u64, Sums)>,
    quota: RejectQuota,
    tally: Tally,
    /// Makes chunks of lean batches again.
    sealer: Sealer,
}

impl Hub {
    /// `incarnation` is used if this ledger has none yet.
    pub fn new(incarnation: u64) -> Hub {
        Hub {
            incarnation,
            restored: false,
            clock: Clock::default(),
            sites: BTreeMap::new(),
            sessions: BTreeMap::new(),
            strikes: BTreeMap::new(),
            site_changed: Default::default(),
            status_told_ms: 0,
            feed: FeedIndex::default(),
            pools: Pools::default(),
            channel: Channel::default(),
            desk: Desk::default(),
            forgetting: Forgetting::every(FORGET_EVERY),
            lost: BTreeSet::new(),
            unfolded: HashMap::new(),
            security: SecurityCounts::default(),
            conflicts: Default::default(),
            register_sums: None,
            quota: RejectQuota::default(),
            tally: Tally::default(),
            sealer: Sealer::default(),
        }
    }

    /// The hub of a ledger that was restored from a backup: `incarnation` takes the place of the one in it. To be said
    /// until [`Effect::IncarnationKept`]; twice is once.
    pub fn restored(incarnation: u64) -> Hub {
        Hub { restored: true, ..Hub::new(incarnation) }
    }

    /// Who the hub's own writes are of. Its ledger's epoch is no name for them: a hub that is restored from a backup
    /// goes on under it at a seq that the lost one gave to something else. Each restore draws a new incarnation.
    fn writes_as(&self, ledger: &dyn Read) -> ReplicaId {
        ReplicaId { site: ledger.replica().site.clone(), epoch: Epoch(self.incarnation) }
    }

    fn drop_old_conflicts(&mut self) -> (Vec<Put>, Vec<Effect>) {
        let (mut lazy, mut effects) = (Vec::new(), Vec::new());
        while self.conflicts.len() > CONFLICTS_MAX {
            let Some(seq) = self.conflicts.pop_front() else { break };
            self.tally.conflicts_dropped += 1;
            lazy.extend([CONFLICT, RESTORED].map(|table| Put::delete(table, seq.0.to_be_bytes())));
            let topic = Outbound::HqConflict(&seq.to_string()).to_string();
            effects.push(Effect::Publish { topic, payload: Bytes::new(), retain: true });
        }
        (lazy, effects)
    }
}

impl Core for Hub {
    type Input = Input;
    type Effect = Effect;

    fn inbound(&mut self, inbound: Inbound, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        match inbound {
            Inbound::Publish(publish) => {
                let client = publish.who.client.clone();
                if let Some(pkid) = publish.exactly_once
                    && exactly_once::is_repeat(ledger, &client, pkid)?
                {
                    return Ok(Step { verdict: Verdict { forward: false, ..Verdict::ACCEPTED }, ..Step::nothing() });
                }
                let taken = publish.exactly_once.map(|pkid| exactly_once::take(&client, pkid));
                let mut step = self.message(publish, now, ledger)?;
                step.puts.extend(taken);
                Ok(step)
            }
            Inbound::Release { client, pkid } => {
                Ok(Step { puts: vec![exactly_once::release(&client, pkid)], ..Step::nothing() })
            }
            Inbound::Forget { client } => Ok(Step { puts: exactly_once::forget(ledger, &client)?, ..Step::nothing() }),
            Inbound::Session { .. } => Ok(Step::nothing()),
        }
    }

    fn input(&mut self, input: Input, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let then = match input {
            Input::Status(answer) => Some(Effect::Answer(answer, self.status())),
            Input::Verify(site, answer) => self.verify(&site, answer),
            Input::Totals(site, answer) => Some(Effect::Answer(answer, self.totals(&site, ledger)?)),
            Input::Lost(lost, answer) => return self.site_lost(lost, answer, now, ledger),
            Input::Conflicts(ask, answer) => return self.asked(ask, answer, now, ledger),
            Input::Order(order, answer) => return self.ordered(&order, answer, now, ledger),
            Input::Rights(ask, answer) => return Ok(self.rights_asked(ask, answer, now, ledger)),
            Input::Audit(events, answer) => return Ok(self.audit(events, answer, now, ledger)),
        };
        Ok(Step { then: then.into_iter().collect(), ..Step::nothing() })
    }

    fn tick(&mut self, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let (lazy, mut then) = self.drop_old_conflicts();
        then.extend(self.tell_sites(now));
        let mut step = Step { lazy, then, ..Step::nothing() };
        // First: it looks at the ledger as it was before this step.
        self.tick_channel(now, ledger, &mut step)?;
        self.forget(now, ledger, &mut step)?;
        self.tick_rights(now, ledger, &mut step);
        Ok(step)
    }

    fn fold(&mut self, placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
        fold::event(placed, put);
    }

    fn fold_total(&mut self, _total: &CounterTotal, _chunk_first: Seq, _put: &mut dyn FnMut(Put)) {
        // The hub moves no stock of its own; sites' totals are inside their chunks.
    }

    fn seal(&mut self, _chunk_first: Seq) -> Vec<CounterTotal> {
        Vec::new()
    }

    fn recovered(&mut self, last: Stamp, _now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        self.clock = Clock::resume(last);
        self.feed = FeedIndex::rebuild(ledger)?;
        self.pools = Pools::rebuild(ledger)?;
        self.recover_channel(ledger)?;
        self.forgetting.recover(ledger)?;
        self.recover_lost(ledger)?;
        let mut step = Step::nothing();
        match ledger.get(HUB, HUB_INCARNATION)? {
            Some(bytes) if !self.restored => {
                self.incarnation = u64::from_be_bytes(bytes.try_into().unwrap_or_default());
            }
            _ => step.puts.push(Put::set(HUB, HUB_INCARNATION, self.incarnation.to_be_bytes())),
        }
        self.recover_sites(ledger)?;
        self.recover_awaited(ledger, &mut step)?;
        let alerts = self.recover_aside(ledger)?;
        ledger.scan_prefix(CONFLICT, &[], &mut |key, _| {
            self.conflicts.extend(tables::seq_of(key));
            ControlFlow::Continue(())
        })?;
        step.then = self.feed.stock.all().collect();
        step.then.extend(alerts);
        step.then.extend(self.restore_pools());
        step.then.extend(conflicts::all(ledger)?);
        step.then.extend(self.sites.iter().map(|(site, view)| Effect::restore(views::site_status(site, view))));
        step.then.extend(self.restored.then_some(Effect::IncarnationKept));
        Ok(step)
    }

    fn committed(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = self.speak_to_sites(now, ledger)?;
        effects.extend(self.feed.stock.changed(now.mono_ms));
        Ok(effects)
    }

    fn outgoing(effect: &Effect) -> Option<(&str, &Bytes)> {
        match effect {
            Effect::Publish { topic, payload, .. } => Some((topic, payload)),
            _ => None,
        }
    }

    fn applied(&self) -> Seq {
        // Nobody else holds the hub's journal: it is never trimmed.
        Seq::ZERO
    }
}

impl Hub {
    fn recover_sites(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        let mut found = Vec::new();
        ledger.scan_prefix(SITE, &[], &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        for (key, value) in found {
            let Some(site) = std::str::from_utf8(&key).ok().and_then(|name| name.parse::<SiteName>().ok()) else {
                continue;
            };
            let epoch = decode::<SiteCell>(SITE, &value)?.epoch;
            let applied_seq = sync::watermark(&site, Epoch(epoch), ledger)?.seq.0;
            let replica = ReplicaId { site: site.clone(), epoch: Epoch(epoch) };
            let present_seq = present::said(&replica, ledger)?.complete;
            let is_lost = self.lost.contains(&replica);
            self.sites.insert(site, SiteView { epoch, applied_seq, present_seq, is_lost, ..SiteView::default() });
        }
        let mut damaged = None;
        ledger.scan_prefix(LOST, &[], &mut |key, value| {
            match (site_of_lost(key), decode::<LostCell>(LOST, value)) {
                (_, Err(error)) => damaged = Some(error),
                (site, Ok(lost)) => {
                    if let Some(view) = site.and_then(|site| self.sites.get_mut(&site)) {
                        view.losses.add(&lost.losses);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)
    }
}
