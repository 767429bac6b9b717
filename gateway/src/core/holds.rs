//! Holds: units set aside for a buyer until a deadline in powered-on seconds. Open, then committed, released or expired,
//! each a record, and the first of them stands. They spend this life's own rights, so they need no network.
//!
//! After a restart powered-on time goes on from what is on disk, so time that is not known to have passed does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use broker::ledger::{Draft, LedgerError, Now, Read};
use proto::gtin::Gtin;
use proto::id::{HoldId, RequestId};
use proto::wire::record::Of;
use proto::wire::{Event, Hold, HoldCell, HoldEnd, HoldEnded, Record, Rights};

use super::Gateway;
use super::requests::Found;
use super::rights::{EVENT_RECORDS, Net, Sheet, available};
use super::tables::{HOLDS, decode};
use crate::reply::HoldReply;
use crate::request::{HoldAsk, NewHold, Refused};

/// Open holds by their deadline, for the tick. At most as many as may be open, and as many again from earlier lives.
#[derive(Debug, Default)]
pub(super) struct Open {
    deadlines: BTreeMap<String, u64>,
    due: BTreeSet<(u64, String)>,
}

impl Open {
    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        let mut damaged = None;
        ledger.scan_prefix(HOLDS, &[], &mut |key, value| {
            match decode::<HoldCell>(HOLDS, value) {
                Ok(cell) if cell.ended == 0 => self.begins(&String::from_utf8_lossy(key), cell.at_s),
                Ok(_) => {}
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// Follows what is journalled.
    pub(super) fn folded(&mut self, of: &Of, powered_on_s: u64) {
        match of {
            Of::Hold(hold) => self.begins(&hold.id, powered_on_s.saturating_add(hold.seconds)),
            Of::HoldEnded(ended) => self.ends(&ended.id),
            _ => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.deadlines.len()
    }

    fn begins(&mut self, id: &str, at_s: u64) {
        self.ends(id);
        self.deadlines.insert(id.to_owned(), at_s);
        self.due.insert((at_s, id.to_owned()));
    }

    fn ends(&mut self, id: &str) {
        if let Some(at_s) = self.deadlines.remove(id) {
            self.due.remove(&(at_s, id.to_owned()));
        }
    }

    fn past(&self, powered_on_s: u64) -> Vec<String> {
        let past = self.due.iter().take_while(|(at_s, _)| is_past(*at_s, powered_on_s));
        past.take(EVENT_RECORDS).map(|(_, id)| id.clone()).collect()
    }
}

/// Powered-on time is cut to whole seconds: a second more, so that none is short.
fn is_past(at_s: u64, powered_on_s: u64) -> bool {
    powered_on_s > at_s
}

/// A hold as it stands at a moment.
pub(super) struct Held {
    pub(super) hold: Hold,
    gtin: Gtin,
    at_s: u64,
    pub(super) stands: Stands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Open,
    /// Past its deadline, and the tick has not come by yet.
    Past,
    Ended(HoldEnd),
}

impl Stands {
    fn text(self) -> &'static str {
        match self {
            Stands::Open => "open",
            Stands::Past | Stands::Ended(HoldEnd::Expired) => "expired",
            Stands::Ended(HoldEnd::Committed | HoldEnd::CommittedLate) => "committed",
            Stands::Ended(HoldEnd::Collected) => "collected",
            // Newer software may know more ways; units are free again in none that this one does not know.
            Stands::Ended(HoldEnd::Released | HoldEnd::Unspecified) => "released",
        }
    }
}

impl Held {
    fn ended(&self, how: HoldEnd, units: u64, reference: &str) -> Record {
        let Hold { id, gtin, reference: own, .. } = self.hold.clone();
        let reference = if reference.is_empty() { own } else { reference.to_owned() };
        Record { of: Some(Of::HoldEnded(HoldEnded { id, how: how.into(), gtin, units, reference })) }
    }

    fn reply(&self, now: &Now) -> HoldReply {
        HoldReply {
            hold: self.hold.id.parse().ok(),
            gtin: Some(self.gtin),
            units: Some(self.hold.units),
            state: self.stands.text(),
            expires_s: (self.stands == Stands::Open).then(|| self.at_s.saturating_sub(now.powered_on_s)),
            ..HoldReply::default()
        }
    }

    /// It is open no more, in its own life's rights.
    fn give_back(&self, rights: &mut Rights) {
        if !self.hold.inherited {
            rights.held = rights.held.saturating_sub(self.hold.units);
        }
    }
}

pub(super) fn look(id: &str, now: &Now, ledger: &dyn Read) -> Result<Option<Held>, LedgerError> {
    let Some(value) = ledger.get(HOLDS, id.as_bytes())? else { return Ok(None) };
    let HoldCell { hold, ended, at_s, .. } = decode(HOLDS, &value)?;
    let hold = hold.unwrap_or_default();
    let gtin = Gtin::from_number(hold.gtin);
    let gtin = gtin.map_err(|e| LedgerError::Value { table: HOLDS.0, why: e.to_string() })?;
    let stands = match ended {
        0 if is_past(at_s, now.powered_on_s) => Stands::Past,
        0 => Stands::Open,
        how => Stands::Ended(HoldEnd::try_from(how).unwrap_or_default()),
    };
    Ok(Some(Held { hold, gtin, at_s, stands }))
}

impl Gateway {
    pub(super) fn hold(
        &mut self,
        ask: &HoldAsk,
        request: Option<&RequestId>,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        let id = match ask {
            HoldAsk::Begin(new) => return self.begin_hold(new, request, found, now, ledger),
            HoldAsk::Commit(id) | HoldAsk::Release(id) => id,
        };
        let Some(held) = look(id.as_str(), now, ledger)? else {
            found.hold = Some(unknown(id));
            return Ok(Some(Refused::new("hold_unknown", format!("there is no hold {id} here"))));
        };
        found.hold = Some(held.reply(now));
        if self.may_have_ended(&held) {
            let reason = format!("what the ledger before did with hold {id} is not read yet: ask again in a moment");
            return Ok(Some(Refused::new("hold_unsure", reason)));
        }
        let how = match (ask, held.stands) {
            (HoldAsk::Commit(_), Stands::Open) if held.hold.unsure => {
                return self.commit_late(&held, found, now, ledger);
            }
            (HoldAsk::Commit(_), Stands::Open) => HoldEnd::Committed,
            (_, Stands::Open) => HoldEnd::Released,
            (HoldAsk::Commit(_), Stands::Past | Stands::Ended(HoldEnd::Expired)) => {
                return self.commit_late(&held, found, now, ledger);
            }
            (_, stands) => return Ok(Some(ended_already(id, stands))),
        };
        found.records.push(held.ended(how, held.hold.units, ""));
        if !held.hold.inherited {
            let rights = found.sheet.of(held.gtin, &self.rights, ledger)?;
            held.give_back(rights);
            if how == HoldEnd::Committed {
                rights.promised = rights.promised.saturating_add(held.hold.units);
            }
        }
        self.tell_hold(Held { stands: Stands::Ended(how), ..held }, found, now, ledger)
    }

    fn begin_hold(
        &mut self,
        new: &NewHold,
        request: Option<&RequestId>,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        let id = name_of(new, request, found);
        if let Some(held) = look(&id, now, ledger)? {
            found.hold = Some(held.reply(now));
            let reason = format!("there is a hold {id} already, {}: use another name", held.stands.text());
            return Ok(Some(Refused::new("hold_exists", reason)));
        }
        let (gtin, units) = (new.gtin, new.units.0.unsigned_abs());
        if !self.rights.is_pooled(gtin) {
            let reason =
                format!("{gtin} is not sold from a pool, as far as this store knows: nothing of it can be held");
            return Ok(Some(Refused::new("not_pooled", reason)));
        }
        if self.rights.open.len() >= self.rules.holds_max {
            let reason = format!("{} holds are open, and no more may be", self.rights.open.len());
            return Ok(Some(Refused::new("too_many_holds", reason)));
        }
        let rights = found.sheet.of(gtin, &self.rights, ledger)?;
        let left = available(rights);
        if i128::from(left) < i128::from(units) {
            self.rights.turned_away(gtin, units);
            found.hold =
                Some(HoldReply { gtin: Some(gtin), available: Some(left), state: UNKNOWN, ..HoldReply::default() });
            let reason = format!("{units} of {gtin} are asked for, {} may be promised here", left.max(0));
            return Ok(Some(Refused::new("no_rights", reason)));
        }
        rights.held = rights.held.saturating_add(units);
        let rights = *rights;
        self.rights.used(gtin, &rights);
        let (seconds, reference) = (new.seconds, new.reference.clone());
        let hold = Hold { id, gtin: gtin.number(), units, seconds, reference, ..Hold::default() };
        found.add(Of::Hold(hold.clone()));
        let at_s = now.powered_on_s.saturating_add(seconds);
        self.tell_hold(Held { hold, gtin, at_s, stands: Stands::Open }, found, now, ledger)
    }

    /// Its units were free again, or nobody knows that they were not: it takes a right as a new one would.
    fn commit_late(
        &mut self,
        held: &Held,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        let (gtin, units) = (held.gtin, held.hold.units);
        let rights = found.sheet.of(gtin, &self.rights, ledger)?;
        if held.stands == Stands::Past {
            held.give_back(rights);
            found.records.push(held.ended(HoldEnd::Expired, units, ""));
        }
        let left = available(rights);
        if i128::from(left) < i128::from(units) {
            self.rights.turned_away(gtin, units);
            found.hold = Some(HoldReply { available: Some(left), ..held.reply(now) });
            let left = left.max(0);
            let reason = format!("hold {} has expired, and {left} of {gtin} may be promised here", held.hold.id);
            let unsure = format!(
                "what became of hold {} is gone with the box before, and {left} of {gtin} may be promised here",
                held.hold.id
            );
            let is_open = held.stands == Stands::Open;
            let (code, reason) = if is_open { ("no_rights", unsure) } else { ("hold_expired", reason) };
            return Ok(Some(Refused::new(code, reason)));
        }
        rights.promised = rights.promised.saturating_add(units);
        let rights = *rights;
        self.rights.used(gtin, &rights);
        found.records.push(held.ended(HoldEnd::CommittedLate, units, ""));
        let (hold, stands) = (held.hold.clone(), Stands::Ended(HoldEnd::CommittedLate));
        self.tell_hold(Held { hold, stands, ..*held }, found, now, ledger)
    }

    fn tell_hold(
        &self,
        held: Held,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        let rights = found.sheet.seen(held.gtin, &self.rights, ledger)?;
        let left = self.rights.is_pooled(held.gtin).then(|| available(&rights));
        found.hold = Some(HoldReply { available: left, ..held.reply(now) });
        Ok(None)
    }

    /// Hands a hold's goods over by a sale: the item, and how many of its units no further right is spent for. An open hold
    /// is committed by it, as far as it is sold; a hold is collected once.
    pub(super) fn collect(
        &mut self,
        id: &HoldId,
        sums: &BTreeMap<Gtin, Net>,
        reference: &str,
        found: &mut Found,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<(Gtin, u64)>, LedgerError> {
        let Some(held) = look(id.as_str(), now, ledger)? else {
            found.hold = Some(HoldReply { covered: Some(0), ..unknown(id) });
            return Ok(None);
        };
        let covered = sums.get(&held.gtin).map_or(0, |net| net.sold).min(held.hold.units);
        let set_aside = match held.stands {
            Stands::Open if !self.may_have_ended(&held) => true,
            Stands::Ended(HoldEnd::Committed | HoldEnd::CommittedLate) => false,
            _ => {
                found.hold = Some(HoldReply { covered: Some(0), ..held.reply(now) });
                return Ok(None);
            }
        };
        found.hold = Some(HoldReply { covered: Some(covered), ..held.reply(now) });
        if covered == 0 {
            return Ok(None);
        }
        if set_aside {
            let how = if held.hold.unsure { HoldEnd::CommittedLate } else { HoldEnd::Committed };
            found.records.push(held.ended(how, covered, reference));
        }
        found.records.push(held.ended(HoldEnd::Collected, covered, reference));
        if set_aside && (held.hold.unsure || !held.hold.inherited) {
            let rights = found.sheet.of(held.gtin, &self.rights, ledger)?;
            held.give_back(rights);
            rights.promised = rights.promised.saturating_add(covered);
            let rights = *rights;
            self.rights.used(held.gtin, &rights);
        }
        let told = Held { hold: held.hold.clone(), stands: Stands::Ended(HoldEnd::Collected), ..held };
        found.hold = Some(HoldReply { covered: Some(covered), ..told.reply(now) });
        Ok(Some((told.gtin, covered)))
    }

    /// The hub shows an inherited hold as open, and the fork may say that it ended, and who has its units since.
    fn may_have_ended(&self, held: &Held) -> bool {
        held.hold.inherited && held.stands == Stands::Open && self.takeover.reads_on()
    }

    /// How the hold of a request stands that came again.
    pub(super) fn hold_again(
        &self,
        ask: &HoldAsk,
        request: &RequestId,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Option<HoldReply>, LedgerError> {
        let id = match ask {
            HoldAsk::Begin(NewHold { hold: None, .. }) => request.as_str(),
            HoldAsk::Begin(NewHold { hold: Some(id), .. }) | HoldAsk::Commit(id) | HoldAsk::Release(id) => id.as_str(),
        };
        let Some(held) = look(id, now, ledger)? else { return Ok(None) };
        let rights = self.rights.shown(held.gtin, ledger)?;
        Ok(Some(HoldReply { available: rights.as_ref().map(available), ..held.reply(now) }))
    }

    /// Every tick: what is past its deadline ends.
    pub(super) fn expire(&mut self, now: &Now, ledger: &dyn Read) -> Result<Option<Draft>, LedgerError> {
        let (mut sheet, mut records) = (Sheet::default(), Vec::new());
        for id in self.rights.open.past(now.powered_on_s) {
            let Some(held) = look(&id, now, ledger)?.filter(|held| held.stands == Stands::Past) else {
                debug_assert!(false, "what is folded is what is indexed");
                self.rights.open.ends(&id);
                continue;
            };
            records.push(held.ended(HoldEnd::Expired, held.hold.units, ""));
            if !held.hold.inherited {
                held.give_back(sheet.of(held.gtin, &self.rights, ledger)?);
            }
        }
        records.extend(sheet.records());
        Ok((!records.is_empty()).then(|| self.draft(Event { records, ..Event::default() }, now)))
    }
}

const UNKNOWN: &str = "unknown";

fn unknown(id: &HoldId) -> HoldReply {
    HoldReply { hold: Some(id.clone()), state: UNKNOWN, ..HoldReply::default() }
}

fn ended_already(id: &HoldId, stands: Stands) -> Refused {
    Refused::new("hold_ended", format!("hold {id} is {} already", stands.text()))
}

/// Its own, the request's, or one that no other record of this ledger gives.
fn name_of(new: &NewHold, request: Option<&RequestId>, found: &Found) -> String {
    let own = new.hold.as_ref().map(HoldId::as_str);
    own.or(request.map(RequestId::as_str)).map_or_else(|| format!("h{}", found.first), str::to_owned)
}
