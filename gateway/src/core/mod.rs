//! The shop's rules: what a request, a message of the hub or a tick comes to. Pure: events in, one step out.
//!
//! `requests.rs` decides requests, `refusals.rs` keeps what was not done, `replies.rs` answers, `stock.rs` holds counters, `items.rs` registers, `ids.rs`
//! idempotency, `time.rs` what is taken for the time, `again.rs` refusals that are handed in again, `hub.rs` and `feed.rs`
//! what the hub says, `rights.rs`, `holds.rs` and `wants.rs` what may be promised of items that are sold from a pool,
//! `inherit.rs` what earlier lives left of that, `snapshot.rs` all that it says of registers, `present.rs` what it is told ahead of the journal,
//! `check.rs` whether both hold the same, `takeover.rs` and `rejournal.rs` what is taken over from earlier lives of the
//! ledger, `fold.rs` what the journal means.

mod again;
mod check;
mod feed;
mod fold;
mod holds;
mod hub;
mod ids;
mod inherit;
mod items;
mod present;
mod refusals;
mod rejournal;
mod replies;
mod requests;
mod restate;
mod rights;
mod snapshot;
mod status;
mod stock;
mod tables;
mod takeover;
#[cfg(test)]
mod tests;
mod time;
mod wants;

use std::collections::HashMap;

use broker::exactly_once;
use broker::front::{Inbound, InboundPublish, Verdict};
use broker::ledger::{Core, LedgerError, Now, Placed, Put, Read, Step};
use broker::node::rejects::Again;
use broker::quota::RejectQuota;
use bytes::Bytes;
use proto::chunk::Position;
use proto::clock::{Clock, Stamp};
use proto::gtin::Gtin;
use proto::id::{DeviceName, Epoch, Seq};
use proto::wire::record::Of;
use proto::wire::up::Of as UpOf;
use proto::wire::{Ancestor, Beat, CounterTotal, Event, Past, Present, Record, SecurityEvent};

use self::check::CheckTimer;
pub use self::fold::{line_refusals, outcome_of};
use self::hub::HubView;
pub use self::hub::LinkState;
pub(crate) use self::hub::applied_on_disk;
use self::ids::Sweep;
use self::items::Items;
use self::rights::Book;
use self::status::Tally;
use self::stock::Stock;
use self::tables::{HOLDS, ID, PAST_IDS};
pub use self::takeover::ForkSays;
use self::takeover::Takeover;
use self::time::Time;
use crate::decode::{Limits, ScanMode};
use crate::privacy::Personal;
use crate::sync::{Ack, FromHub, PresentAsk};

/// What the rules need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    pub limits: Limits,
    /// Devices whose plain scans mean something else than a lookup.
    pub modes: HashMap<DeviceName, ScanMode>,
    /// Holds that may be open at once; a new one beyond them is refused.
    pub holds_max: usize,
    /// Whether there is a hub to forward to.
    pub has_hub: bool,
    /// Streams of the hub's feed that are followed besides the registers and what earlier lives left.
    pub follow: Vec<String>,
    /// What must not leave the store as it came.
    pub personal: Personal,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            limits: Limits::default(),
            modes: HashMap::new(),
            holds_max: 10_000,
            has_hub: false,
            follow: Vec::new(),
            personal: Personal::default(),
        }
    }
}

/// Inputs besides what devices publish.
#[derive(Debug)]
pub enum Input {
    FromHub(FromHub),
    Link(LinkState),
    /// A part of what the hub has of earlier lives of this ledger, and the newest position in it that the journal of the
    /// life before has too, if that is still here.
    Past {
        past: Past,
        common: Option<Position>,
        /// Which life that is: another fork may be the next by now.
        fork: Option<Epoch>,
    },
    /// Of the journal of the life before.
    Fork(ForkSays),
    /// The uplink wants to say the present ahead of the journal.
    Present(PresentAsk),
    Status(tokio::sync::oneshot::Sender<serde_json::Value>),
    /// A refused request, once more.
    Again(Again),
    /// What happened to who belongs here; answered when it is in the journal.
    Audit(Vec<SecurityEvent>, tokio::sync::oneshot::Sender<serde_json::Value>),
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
    /// Where this gateway stands in the hub's feed.
    FeedAck(Ack),
    /// The answer to [`Input::Present`], and how many keys were looked through for it.
    Present {
        parts: Vec<Present>,
        looked: u64,
    },
    /// The next chunks of the life before are wanted, after this seq.
    ReadFork {
        after: Seq,
    },
    /// All of the life before is taken over: its journal may go.
    ForkDone,
    /// Which earlier lives led to this ledger.
    Lineage(Vec<Ancestor>),
    /// Something for the hub that is said again if it is lost.
    Say(UpOf),
    /// How the store is doing, for the hub; the uplink adds what it knows of the backlog.
    Beat(Beat),
    Answer(tokio::sync::oneshot::Sender<serde_json::Value>, serde_json::Value),
}

/// The gateway's core.
#[derive(Debug)]
pub struct Gateway {
    rules: Rules,
    clock: Clock,
    stock: Stock,
    rights: Book,
    items: Items,
    hub: HubView,
    sweep: Sweep,
    past_sweep: Sweep,
    hold_sweep: Sweep,
    takeover: Takeover,
    quota: RejectQuota,
    tally: Tally,
    check: CheckTimer,
    time: Time,
}

impl Gateway {
    pub fn new(rules: Rules) -> Gateway {
        Gateway {
            clock: Clock::default(),
            stock: Stock::default(),
            rights: Book::default(),
            items: Items::default(),
            hub: HubView::following(&rules.follow),
            rules,
            sweep: Sweep::of(ID, ids::answered_s),
            past_sweep: Sweep::of(PAST_IDS, ids::answered_s),
            hold_sweep: Sweep::of(HOLDS, ids::ended_s),
            takeover: Takeover::default(),
            quota: RejectQuota::default(),
            tally: Tally::default(),
            check: CheckTimer::default(),
            time: Time::default(),
        }
    }

    fn publish(&mut self, publish: InboundPublish, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let client = publish.who.client.clone();
        if let Some(pkid) = publish.exactly_once
            && exactly_once::is_repeat(ledger, &client, pkid)?
        {
            self.tally.repeats += 1;
            let verdict = Verdict { forward: false, ..Verdict::ACCEPTED };
            return Ok(Step { verdict, ..Step::nothing() });
        }
        let taken = publish.exactly_once.map(|pkid| exactly_once::take(&client, pkid));
        let mut step = self.request(publish, now, ledger)?;
        step.puts.extend(taken);
        Ok(step)
    }
}

impl Core for Gateway {
    type Input = Input;
    type Effect = Effect;

    fn inbound(&mut self, inbound: Inbound, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let now = self.time.believed(now);
        let mut step = match inbound {
            Inbound::Publish(publish) => self.publish(publish, &now, ledger)?,
            Inbound::Release { client, pkid } => {
                Step { puts: vec![exactly_once::release(&client, pkid)], ..Step::nothing() }
            }
            Inbound::Forget { client } => Step { puts: exactly_once::forget(ledger, &client)?, ..Step::nothing() },
            Inbound::Session { .. } => Step::nothing(),
        };
        self.anchor(&mut step, &now);
        Ok(step)
    }

    fn input(&mut self, input: Input, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        if let Input::FromHub(FromHub::Applied { hub_ms, .. }) = &input {
            self.time.heard(*hub_ms, now);
        }
        let now = self.time.believed(now);
        let mut step = match input {
            Input::FromHub(message) => self.heard(message, &now, ledger)?,
            Input::Again(again) => self.again(again, &now, ledger)?,
            Input::Audit(events, answer) => {
                let records = events.into_iter().map(|event| Record { of: Some(Of::Security(event)) }).collect();
                let draft = self.draft(Event { records, ..Event::default() }, &now);
                let then = vec![Effect::Answer(answer, serde_json::Value::Null)];
                Step { events: vec![draft], then, ..Step::nothing() }
            }
            Input::Link(state) => self.link_changed(state),
            Input::Past { past, common, fork } => {
                self.hub.heard_mono_ms = Some(now.mono_ms);
                if self.takeover.is_of_another(fork) {
                    Step::nothing()
                } else {
                    self.past(&past, common, &now, ledger)?
                }
            }
            Input::Fork(says) => self.fork_says(says, &now, ledger)?,
            Input::Present(ask) => {
                let (parts, looked) = present::since(ask, ledger)?;
                Step { then: vec![Effect::Present { parts, looked }], ..Step::nothing() }
            }
            Input::Status(answer) => {
                let mut status = self.status(&now, ledger);
                status["rights"]["items"] = self.rights.items(ledger)?;
                Step { then: vec![Effect::Answer(answer, status)], ..Step::nothing() }
            }
        };
        self.anchor(&mut step, &now);
        Ok(step)
    }

    /// What is taken over comes with the totals of its own movements and no others.
    fn begins_group(input: &Input) -> bool {
        match input {
            Input::Fork(_) | Input::Past { .. } => true,
            Input::FromHub(FromHub::Feed { feed, .. }) => feed.stream == crate::sync::OWN_PAST,
            _ => false,
        }
    }

    fn tick(&mut self, now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        let now = &self.time.believed(now);
        let mut lazy = self.sweep.expired(now, ledger)?;
        lazy.extend(self.past_sweep.expired(now, ledger)?);
        lazy.extend(self.hold_sweep.expired(now, ledger)?);
        lazy.extend(self.takeover.sweep(ledger)?);
        let mut then = self.report(now, ledger);
        then.extend(self.check(now, ledger)?);
        then.extend(self.ask_for_the_past(now));
        then.extend(self.say_rights(now));
        then.extend(self.say_wants(now, ledger)?);
        let events = self.expire(now, ledger)?.into_iter().collect();
        let mut step = Step { events, lazy, then, ..Step::nothing() };
        self.say_rights_anew(now, ledger, &mut step)?;
        self.anchor(&mut step, now);
        Ok(step)
    }

    fn fold(&mut self, placed: &Placed<'_>, put: &mut dyn FnMut(Put)) {
        fold::event(placed, put);
        for of in placed.event.records.iter().filter_map(|record| record.of.as_ref()) {
            self.rights.open.folded(of, placed.powered_on_s);
            if let Of::Rights(rights) = of
                && let Ok(gtin) = Gtin::from_number(rights.gtin)
            {
                self.stock.touched(gtin);
            }
        }
    }

    fn fold_total(&mut self, total: &CounterTotal, chunk_first: Seq, put: &mut dyn FnMut(Put)) {
        fold::total(total, chunk_first, put);
    }

    fn seal(&mut self, chunk_first: Seq) -> Vec<CounterTotal> {
        self.stock.seal(chunk_first)
    }

    fn recovered(&mut self, last: Stamp, _now: &Now, ledger: &dyn Read) -> Result<Step<Effect>, LedgerError> {
        self.clock = Clock::resume(last);
        self.time.resume(ledger)?;
        self.hub.resume(ledger)?;
        self.takeover.resume(ledger)?;
        let mut then: Vec<Effect> = self.hub.acks(ledger).map(Effect::FeedAck).collect();
        then.extend(self.takeover.lineage());
        self.rights.resume(ledger)?;
        then.extend(self.stock.resume(ledger, &self.rights)?);
        then.extend(items::all(ledger)?);
        let (lazy, elsewhere) = feed::resume(&self.rules.follow, ledger)?;
        then.extend(elsewhere);
        Ok(Step { then, lazy, ..Step::nothing() })
    }

    fn committed(&mut self, _now: &Now, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = self.stock.changed(ledger, &self.rights)?;
        effects.extend(self.items.changed(ledger)?);
        Ok(effects)
    }

    fn outgoing(effect: &Effect) -> Option<(&str, &Bytes)> {
        match effect {
            Effect::Publish { topic, payload, .. } => Some((topic, payload)),
            _ => None,
        }
    }

    fn applied(&self) -> Seq {
        self.hub.applied
    }
}
