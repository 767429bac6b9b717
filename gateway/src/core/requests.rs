//! Requests: from a publish to records, a verdict and a reply.

use broker::front::{Denial, InboundPublish, Outcome as Told, Verdict};
use broker::ledger::{LedgerError, Now, Read, Step};
use bytes::Bytes;
use prost::Message;
use proto::clock::Stamp;
use proto::dedupe::{self, Repeat};
use proto::gtin::Gtin;
use proto::id::{DeviceName, Dot, Seq, Units, WallMs};
use proto::register::RegisterKey;
use proto::topic::{self, Form, Kind};
use proto::wire::record::Of;
use proto::wire::{Event, Lookup, Movement, MovementKind, Note, Pseudonym, Record, Refusal, RegisterWrite, Status};

use super::fold::outcome_of;
use super::refusals::retry_of;
use super::replies::{Decided, answer};
use super::rights::Sheet;
use super::{Effect, Gateway, ids, items, stock};
use crate::decode::decode;
use crate::privacy::Guarded;
use crate::reply::{HoldReply, ItemReply, LineReply, Reply};
use crate::request::{Ask, Moves, Refused, Request};

/// How far stamps may run ahead of the wall clock before moments on it mean nothing in the journal.
const CLOCK_SLACK_MS: u64 = 1_000;
/// The most that one request's register writes may take, with what each had seen: the hub takes chunks of 96 KiB.
const WRITES_BYTES_MAX: usize = 32 << 10;

/// Who asks, and how.
pub(super) struct Asked {
    pub(super) device: DeviceName,
    pub(super) kind: Kind,
    pub(super) form: Form,
    pub(super) topic: String,
    /// Without personal ids.
    pub(super) payload: Bytes,
    pub(super) people: Vec<Pseudonym>,
    /// The refusal that a person hands in again with this.
    pub(super) retry_of: Option<Seq>,
}

/// The records of one request as they are found, each with the seq it will have.
#[derive(Default)]
pub(super) struct Found {
    pub(super) first: Seq,
    pub(super) records: Vec<Record>,
    lines: Vec<LineReply>,
    item: Option<ItemReply>,
    pub(super) hold: Option<HoldReply>,
    /// Rights to items that are sold from a pool, with what this request does to them.
    pub(super) sheet: Sheet,
}

impl Found {
    fn next_seq(&self) -> Seq {
        self.first.plus(self.records.len() as u64)
    }

    pub(super) fn add(&mut self, of: Of) {
        self.records.push(Record { of: Some(of) });
    }
}

impl Gateway {
    pub(super) fn request(
        &mut self,
        publish: InboundPublish,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        // Nothing behind this sees who a person is.
        let personal = &self.rules.personal;
        match address(&publish) {
            Ok(asked) => {
                let Guarded { payload, people } = personal.guard(Some(asked.kind), asked.form, &asked.payload);
                Ok(self.decide(&Asked { payload, people, ..asked }, now, ledger)?.step)
            }
            Err(denial) => {
                let Guarded { payload, .. } = personal.guard(None, Form::Json, &publish.payload);
                Ok(self.deny(&InboundPublish { payload, ..publish }, &denial, now))
            }
        }
    }

    /// A request of a device that may make it.
    pub(super) fn decide(&mut self, asked: &Asked, now: &Now, ledger: &dyn Read) -> Result<Decided, LedgerError> {
        let mode = self.rules.modes.get(&asked.device).copied().unwrap_or_default();
        let request = match decode(asked.kind, asked.form, mode, &asked.payload, &self.rules.limits) {
            Ok(request) => request,
            Err(bad) => return Ok(self.refuse(asked, bad.id.as_ref(), bad.why, None, now)),
        };
        let mut digest = 0;
        if let Some(id) = &request.id {
            digest = dedupe::digest(asked.kind.as_str(), &asked.payload);
            match ids::look_up(ledger, &asked.device, id, digest)? {
                None => {}
                Some((Repeat::Same(outcome), seq)) => {
                    self.tally.duplicates += 1;
                    let verdict = Verdict { forward: false, ..Verdict::ACCEPTED };
                    let hold = match &request.ask {
                        Ask::Hold(ask) => self.hold_again(ask, id, now, ledger)?,
                        _ => None,
                    };
                    return Ok(answer(asked, &Reply { hold, ..Reply::duplicate(id, &outcome, seq) }, verdict));
                }
                Some((Repeat::Reused, _)) => {
                    let reason = "this id was used before for another request: use a new one";
                    return Ok(self.refuse(asked, Some(id), Refused::new("id_reused", reason), None, now));
                }
            }
        }
        self.carry_out(asked, request, digest, now, ledger)
    }

    fn carry_out(
        &mut self,
        asked: &Asked,
        request: Request,
        digest: u32,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Decided, LedgerError> {
        let Request { id, device_ms, ask } = request;
        let mut found = Found { first: ledger.next_seq(), ..Found::default() };
        let refused = match ask {
            Ask::Lookup(gtin) => self.look_up(gtin, &mut found, ledger)?,
            Ask::Move(moves) => self.move_stock(moves, asked, now, &mut found, ledger)?,
            Ask::Count { gtin, counted, began_ms } => {
                let began = began_ms.map(|began| gateway_time(began, device_ms, now));
                self.count(gtin, counted, began, now, &mut found, ledger)?
            }
            Ask::Hold(ask) => self.hold(&ask, id.as_ref(), &mut found, now, ledger)?,
            Ask::Write { registers, .. } => self.write(registers, now, &mut found, ledger)?,
            Ask::Set { device, values } => {
                let site = ledger.replica().site.clone();
                let key = |field| RegisterKey::Setting { site: site.clone(), device: device.clone(), field };
                let registers = values.into_iter().map(|(field, value)| (key(field), value)).collect();
                self.write(registers, now, &mut found, ledger)?
            }
            Ask::Keep { kind, payload } => {
                found.add(Of::Note(Note { kind: kind.into(), payload }));
                None
            }
        };
        if let Some(why) = refused {
            return Ok(self.refuse(asked, id.as_ref(), why, found.hold, now));
        }
        found.records.extend(found.sheet.records());
        let request_id = id.as_ref().map_or(String::new(), |id| id.as_str().to_owned());
        let event = Event {
            device: asked.device.as_str().to_owned(),
            digest,
            request: request_id,
            records: found.records,
            device_ms,
            people: asked.people.clone(),
            retry_of: retry_of(asked.retry_of),
            ..Event::default()
        };
        let outcome = outcome_of(&event);
        match outcome.status() {
            Status::Ok | Status::Unspecified => self.tally.accepted += 1,
            Status::Partial => self.tally.partial += 1,
            Status::Refused => {}
        }
        let Found { lines, item, hold, .. } = found;
        let further = u32::try_from(lines.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let reply = Reply { lines, item, hold, ..Reply::of(id.as_ref(), &outcome, found.first.0) };
        let verdict = match outcome.status() {
            Status::Refused => Verdict::refused(Told::PayloadInvalid),
            _ => Verdict { further, ..Verdict::ACCEPTED },
        };
        let mut decided = answer(asked, &reply, verdict);
        decided.step.events.push(self.draft(event, now));
        Ok(decided)
    }

    fn look_up(&mut self, gtin: Gtin, found: &mut Found, ledger: &dyn Read) -> Result<Option<Refused>, LedgerError> {
        let item = self.item(gtin, ledger)?;
        let known = item.name.is_some() || item.price_cents.is_some() || item.on_hand != Units(0);
        found.add(Of::Lookup(Lookup { gtin: gtin.number(), known }));
        found.item = Some(item);
        Ok(None)
    }

    fn move_stock(
        &mut self,
        moves: Moves,
        asked: &Asked,
        now: &Now,
        found: &mut Found,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        for line in &moves.lines {
            let seq = found.next_seq();
            let on_hand = self.stock.apply(ledger, line.gtin, line.units, seq)?;
            found.lines.push(LineReply { line: line.number, gtin: line.gtin, on_hand });
            found.add(Of::Movement(Movement {
                gtin: line.gtin.number(),
                units: line.units.0,
                kind: moves.kind.into(),
                cents: line.cents.0,
                reference: moves.reference.clone(),
                peer: moves.peer.as_ref().map_or(String::new(), ToString::to_string),
                ..Movement::default()
            }));
        }
        for (n, bad) in moves.bad.iter().enumerate() {
            self.tally.refuse(bad.why.code);
            // The payload is kept once; it holds all the lines.
            let payload = if n == 0 { self.kept(asked.device.as_str(), &asked.payload, now) } else { Bytes::new() };
            found.add(Of::Refusal(Refusal {
                code: bad.why.code.into(),
                reason: bad.why.reason.clone(),
                line: bad.number,
                topic: asked.topic.clone(),
                payload_bytes: asked.payload.len() as u32,
                payload,
            }));
        }
        if let ([line], Kind::Scan) = (&moves.lines[..], asked.kind) {
            found.item = Some(self.item(line.gtin, ledger)?);
        }
        self.spend(&moves, found, now, ledger)?;
        Ok(None)
    }

    /// The movement is against what was on hand when the count began, so what was sold since stays sold.
    fn count(
        &mut self,
        gtin: Gtin,
        counted: Units,
        began: Option<WallMs>,
        now: &Now,
        found: &mut Found,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        if began.is_some() && self.clock.last().ms().0 > now.wall.0 + CLOCK_SLACK_MS {
            let reason = "this box's clock was set back, so it cannot tell what was sold since the count began: \
                          count this item again and leave `began_ms` out";
            return Ok(Some(Refused::new("clock_set_back", reason)));
        }
        let since = match began.filter(|began| *began < now.wall) {
            None => Units(0),
            Some(began) => match stock::moved_since(ledger, gtin, began)? {
                Some(units) => units,
                None => {
                    let reason = "the count began too long ago to tell what was sold since: count this item again";
                    return Ok(Some(Refused::new("count_too_old", reason)));
                }
            },
        };
        let on_hand = self.stock.on_hand(ledger, gtin)?;
        let units = counted + -(on_hand + -since);
        let after = self.stock.apply(ledger, gtin, units, found.next_seq())?;
        found.lines.push(LineReply { line: 1, gtin, on_hand: after });
        found.add(Of::Movement(Movement {
            gtin: gtin.number(),
            units: units.0,
            kind: MovementKind::Count.into(),
            counted: counted.0.unsigned_abs(),
            began_ms: began.map_or(0, |began| began.0),
            ..Movement::default()
        }));
        Ok(None)
    }

    fn write(
        &mut self,
        registers: Vec<(RegisterKey, Option<Bytes>)>,
        now: &Now,
        found: &mut Found,
        ledger: &dyn Read,
    ) -> Result<Option<Refused>, LedgerError> {
        for (key, value) in registers {
            let text = key.to_string();
            let replaced = items::visible(ledger, &text)?;
            let dot = Dot { replica: ledger.replica().clone(), seq: found.next_seq() };
            let stamp: Stamp = self.clock.stamp_write(now.reading(), replaced.as_ref().map(|register| register.stamp));
            let replaces_value = replaced.as_ref().is_some_and(|register| register.value.is_some());
            let mut seen = replaced.map(|register| register.seen).unwrap_or_default();
            seen.insert(&dot);
            found.add(Of::Register(RegisterWrite {
                key: text,
                deleted: value.is_none(),
                value: value.unwrap_or_default(),
                stamp: stamp.0,
                seen: Some((&seen).into()),
                replaces_value,
            }));
            self.items.touched(&key);
        }
        debug_assert!(!found.records.is_empty(), "the decoder takes no empty write");
        let bytes: usize = found.records.iter().map(Message::encoded_len).sum();
        if bytes > WRITES_BYTES_MAX {
            let reason = "too many fields at once for an item that so many sites write: send a few at a time";
            return Ok(Some(Refused::new("too_many_fields", reason)));
        }
        Ok(None)
    }

    fn item(&self, gtin: Gtin, ledger: &dyn Read) -> Result<ItemReply, LedgerError> {
        Ok(ItemReply {
            gtin,
            on_hand: self.stock.on_hand(ledger, gtin)?,
            name: items::raw_value(ledger, gtin, "name")?,
            price_cents: items::raw_value(ledger, gtin, "price_cents")?,
        })
    }
}

/// Who asks and how, or why it is not for us.
fn address(publish: &InboundPublish) -> Result<Asked, Denial> {
    if let Some(denial) = &publish.denied {
        return Err(denial.clone());
    }
    let denial = |code, reason: String| Denial { code, reason };
    let topic = std::str::from_utf8(&publish.topic).map_err(|e| denial("topic_invalid", e.to_string()))?;
    match topic.parse() {
        Ok(topic::Inbound::Device { device, kind, form }) => {
            let (topic, payload) = (topic.to_owned(), publish.payload.clone());
            Ok(Asked { device, kind, form, topic, payload, people: Vec::new(), retry_of: None })
        }
        Ok(topic::Inbound::Up { .. }) => Err(denial("topic_unknown", topic::TopicError::Unknown.to_string())),
        Err(error) => Err(denial(error.code(), error.to_string())),
    }
}

/// A device's moment on our clock, if it also said what its clock shows now.
fn gateway_time(began_ms: u64, device_ms: u64, now: &Now) -> WallMs {
    if device_ms == 0 || device_ms < began_ms {
        return WallMs(began_ms);
    }
    WallMs(now.wall.0.saturating_sub(device_ms - began_ms))
}
