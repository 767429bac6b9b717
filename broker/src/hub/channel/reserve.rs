//! Reservations: holds of the hub's own, with a deadline on the ledger's powered-on seconds. While the hub is down they do
//! not age: nobody could have committed them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use proto::gtin::Gtin;
use proto::wire::record::Of;
use proto::wire::{Hold, HoldCell, HoldEnd, HoldEnded, Rights};
use serde_json::{Value, json};

use super::order::{LinesOf, Order, Outcome, Reply};
use super::spend::as_asked;
use crate::hub::tables::{HOLDS, decode};
use crate::hub::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Put, Read, Step};

/// Seconds of a reservation that says none.
pub const RESERVATION_S: u64 = 600;
/// Reservations that may be open at once, if nobody says otherwise. At the bound more are turned away.
pub const RESERVATIONS_MAX: usize = 10_000;
/// For so many powered-on seconds it can be asked what became of one, and the most that are kept for that: past it the
/// oldest is forgotten.
const ENDED_KEEP_S: u64 = 7 * 24 * 3600;
const ENDED_MAX: usize = 200_000;
/// Ended by one step; the next one goes on.
const EXPIRE_MAX: usize = 500;
const FORGET_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationLimits {
    /// The longest that a caller may ask for.
    pub seconds_max: u64,
    pub open_max: usize,
}

impl Default for ReservationLimits {
    fn default() -> ReservationLimits {
        ReservationLimits { seconds_max: 86_400, open_max: RESERVATIONS_MAX }
    }
}

/// Which are open and which have ended, each by when, in powered-on seconds, and id.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    pub(super) limits: ReservationLimits,
    open: BTreeSet<(u64, String)>,
    ended: BTreeSet<(u64, String)>,
}

impl Reservations {
    pub(super) fn recover(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        let mut damaged = None;
        let Reservations { open, ended, .. } = self;
        ledger.scan_prefix(HOLDS, &[], &mut |key, value| {
            let id = String::from_utf8_lossy(key).into_owned();
            match decode::<HoldCell>(HOLDS, value) {
                Ok(cell) if is_open(&cell) => drop(open.insert((cell.at_s, id))),
                Ok(cell) => drop(ended.insert((cell.at_s, id))),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// Those that ended long ago.
    pub(super) fn forget(&mut self, now: &Now) -> Vec<Put> {
        let mut gone = Vec::new();
        while gone.len() < FORGET_MAX
            && let Some((at_s, _)) = self.ended.first()
            && (self.ended.len() > ENDED_MAX || at_s.saturating_add(ENDED_KEEP_S) < now.powered_on_s)
        {
            gone.extend(self.ended.pop_first().map(|(_, id)| Put::delete(HOLDS, id)));
        }
        gone
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    fn ended(&mut self, due_s: u64, id: &str, now: &Now) {
        self.open.remove(&(due_s, id.to_owned()));
        self.ended.insert((now.powered_on_s, id.to_owned()));
    }
}

fn is_open(cell: &HoldCell) -> bool {
    cell.ended() == HoldEnd::Unspecified
}

/// A reservation as its answers show it.
struct Shown<'a> {
    hold: &'a Hold,
    state: &'static str,
    /// Powered-on seconds, of one that is open.
    due_s: Option<u64>,
}

impl Shown<'_> {
    /// The deadline by the wall clock is as good as that clock.
    fn json(&self, now: &Now) -> Value {
        let left_s = self.due_s.map(|due_s| due_s.saturating_sub(now.powered_on_s));
        json!({
            "id": self.hold.id,
            "gtin": format!("{:014}", self.hold.gtin),
            "units": self.hold.units,
            "state": self.state,
            "seconds_left": left_s,
            "deadline_ms": left_s.map(|left_s| now.wall.0.saturating_add(left_s.saturating_mul(1_000))),
            "reference": self.hold.reference,
        })
    }
}

/// One that is kept, as it stands now.
struct Found {
    hold: Hold,
    how: HoldEnd,
    due_s: u64,
}

impl Found {
    fn json(&self, now: &Now) -> Value {
        let due_s = (self.how == HoldEnd::Unspecified).then_some(self.due_s);
        Shown { hold: &self.hold, state: word(self.how), due_s }.json(now)
    }
}

fn word(how: HoldEnd) -> &'static str {
    match how {
        HoldEnd::Unspecified => "open",
        HoldEnd::Committed | HoldEnd::Collected | HoldEnd::CommittedLate => "committed",
        HoldEnd::Released => "released",
        HoldEnd::Expired => "expired",
    }
}

impl Hub {
    pub(super) fn reserve(
        &mut self,
        order: &Order,
        of: &LinesOf,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Reply {
        let lines = of.lines();
        let ReservationLimits { seconds_max, open_max } = self.channel.reservations.limits;
        if let Some(line) = lines.iter().find(|line| !self.pools.is_pooled(line.gtin.number())) {
            let why = format!("{} has no pool: only what is sold from one can be reserved here", line.gtin);
            return Reply::new(Outcome::NotPooled, &json!({ "detail": why, "gtin": line.gtin }));
        }
        if lines.iter().any(|line| line.seconds.is_some_and(|seconds| seconds > seconds_max)) {
            let why = format!("a reservation lasts {seconds_max} seconds at most");
            return Reply::new(Outcome::SecondsTooLong, &json!({ "detail": why, "seconds_max": seconds_max }));
        }
        if self.channel.reservations.open().saturating_add(lines.len()) > open_max {
            let why = format!("{open_max} reservations are open, and no more are taken");
            return Reply::new(Outcome::TooManyReservations, &json!({ "detail": why }));
        }
        if let Some(refused) = self.lacking(lines, now) {
            return refused;
        }
        let (mut records, mut answers, mut held) = (Vec::new(), Vec::new(), BTreeSet::new());
        let first = step.next_seq(ledger);
        for line in lines {
            let seq = first.plus(records.len() as u64);
            // A hub that was restored gives the same seq to another one: its incarnation tells them apart.
            let id = format!("r-{:016x}-{}", self.incarnation, seq.0);
            let seconds = line.seconds.unwrap_or(RESERVATION_S.min(seconds_max));
            let due_s = now.powered_on_s.saturating_add(seconds);
            let hold = Hold {
                id,
                gtin: line.gtin.number(),
                units: u64::from(line.units),
                seconds,
                reference: line.reference.clone(),
                ..Hold::default()
            };
            self.use_rights(line.gtin, |own| own.held = own.held.saturating_add(hold.units));
            self.channel.reservations.open.insert((due_s, hold.id.clone()));
            answers.push(Shown { hold: &hold, state: "open", due_s: Some(due_s) }.json(now));
            records.push(Of::Hold(hold));
            held.insert(line.gtin);
        }
        records.extend(held.into_iter().map(|gtin| Of::Rights(self.pools.of_hub(gtin.number()))));
        let draft = self.draft_for(order, records, now);
        step.events.push(draft);
        Reply::new(Outcome::Created, &as_asked(of, answers))
    }

    /// The units are promised for good. After its deadline only if there is still as much free.
    pub(super) fn commit_reservation(
        &mut self,
        order: &Order,
        id: &str,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Reply, LedgerError> {
        let Some(found) = self.find_reservation(id, ledger)? else { return Ok(unknown(id)) };
        match found.how {
            HoldEnd::Released => return Ok(ended(&found, now)),
            HoldEnd::Unspecified | HoldEnd::Expired => {}
            HoldEnd::Committed | HoldEnd::CommittedLate | HoldEnd::Collected => {
                return Ok(Reply::new(Outcome::Done, &found.json(now)));
            }
        }
        if let Some(unsure) = self.unsure() {
            return Ok(unsure);
        }
        let Ok(gtin) = Gtin::from_number(found.hold.gtin) else { return Ok(unknown(id)) };
        if found.how == HoldEnd::Unspecified {
            return Ok(self.end_reservation(order, found, HoldEnd::Committed, now, step));
        }
        let left = self.left(gtin);
        if u64::try_from(left).unwrap_or(0) < found.hold.units {
            self.channel_missed(gtin.number(), found.hold.units, now);
            let why = format!("the reservation expired, and of {gtin} there are {left} left");
            return Ok(Reply::new(Outcome::ReservationExpired, &json!({ "detail": why, "left": left })));
        }
        Ok(self.end_reservation(order, found, HoldEnd::CommittedLate, now, step))
    }

    pub(super) fn release_reservation(
        &mut self,
        order: &Order,
        id: &str,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Reply, LedgerError> {
        let Some(found) = self.find_reservation(id, ledger)? else { return Ok(unknown(id)) };
        Ok(match found.how {
            HoldEnd::Unspecified => match self.unsure() {
                Some(unsure) => unsure,
                None => self.end_reservation(order, found, HoldEnd::Released, now, step),
            },
            HoldEnd::Released => Reply::new(Outcome::Done, &found.json(now)),
            _ => ended(&found, now),
        })
    }

    pub(super) fn show_reservation(&self, id: &str, now: &Now, ledger: &dyn Read) -> Result<Reply, LedgerError> {
        let found = self.find_reservation(id, ledger)?;
        Ok(found.map_or_else(|| unknown(id), |found| Reply::new(Outcome::Done, &found.json(now))))
    }

    /// What is due ends, before anybody is told what is left. The next step goes on if there is more.
    pub(super) fn expire(&mut self, now: &Now, ledger: &dyn Read, step: &mut Step<Effect>) -> Result<(), LedgerError> {
        let (mut records, mut changed) = (Vec::new(), BTreeMap::new());
        while records.len() < EXPIRE_MAX
            && let Some((due_s, id)) = self.channel.reservations.open.first().cloned()
            // Powered-on time is cut to whole seconds: a second more, so that none is short.
            && due_s < now.powered_on_s
        {
            self.channel.reservations.ended(due_s, &id, now);
            let Some(value) = ledger.get(HOLDS, id.as_bytes())? else { continue };
            let Some(hold) = decode::<HoldCell>(HOLDS, &value)?.hold else { continue };
            self.channel.tally.expired += 1;
            records.push(Of::HoldEnded(end_of(&hold, HoldEnd::Expired)));
            if let Ok(gtin) = Gtin::from_number(hold.gtin) {
                changed.insert(gtin, self.use_rights(gtin, |own| own.held = own.held.saturating_sub(hold.units)));
            }
        }
        if !records.is_empty() {
            records.extend(changed.into_values().map(Of::Rights));
            let draft = self.draft(records, now);
            step.events.push(draft);
        }
        Ok(())
    }

    /// With what this step has ended already, which the ledger does not show yet.
    fn find_reservation(&self, id: &str, ledger: &dyn Read) -> Result<Option<Found>, LedgerError> {
        let Some(value) = ledger.get(HOLDS, id.as_bytes())? else { return Ok(None) };
        let cell: HoldCell = decode(HOLDS, &value)?;
        let (due_s, mut how) = (cell.at_s, cell.ended());
        if how == HoldEnd::Unspecified && !self.channel.reservations.open.contains(&(due_s, id.to_owned())) {
            how = HoldEnd::Expired;
        }
        Ok(cell.hold.map(|hold| Found { hold, how, due_s }))
    }

    fn end_reservation(
        &mut self,
        order: &Order,
        found: Found,
        how: HoldEnd,
        now: &Now,
        step: &mut Step<Effect>,
    ) -> Reply {
        let Found { hold, how: before, due_s } = found;
        if before == HoldEnd::Unspecified {
            self.channel.reservations.ended(due_s, &hold.id, now);
        }
        let mut own = Rights { gtin: hold.gtin, ..Rights::default() };
        if let Ok(gtin) = Gtin::from_number(hold.gtin) {
            own = self.use_rights(gtin, |own| {
                if before == HoldEnd::Unspecified {
                    own.held = own.held.saturating_sub(hold.units);
                }
                if how != HoldEnd::Released {
                    own.promised = own.promised.saturating_add(hold.units);
                }
            });
        }
        let records = vec![Of::HoldEnded(end_of(&hold, how)), Of::Rights(own)];
        let draft = self.draft_for(order, records, now);
        step.events.push(draft);
        Reply::new(Outcome::Done, &Shown { hold: &hold, state: word(how), due_s: None }.json(now))
    }
}

fn end_of(hold: &Hold, how: HoldEnd) -> HoldEnded {
    let Hold { id, gtin, units, reference, .. } = hold.clone();
    HoldEnded { id, how: how.into(), gtin, units, reference }
}

fn unknown(id: &str) -> Reply {
    let why = format!("there is no reservation {id:?}, or it ended long ago");
    Reply::new(Outcome::ReservationUnknown, &json!({ "detail": why }))
}

fn ended(found: &Found, now: &Now) -> Reply {
    let why = format!("the reservation was {} before", word(found.how));
    Reply::new(Outcome::ReservationEnded, &json!({ "detail": why, "reservation": found.json(now) }))
}
