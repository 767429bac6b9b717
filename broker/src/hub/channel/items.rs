//! Items as callers see and write them: the registers of an item as one object with a version. A write is the hub's own
//! and has seen all that stood here, so it replaces that without being a conflict, and is fed to every site.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::gtin::Gtin;
use proto::id::Dot;
use proto::register::{Register, RegisterKey};
use proto::version::VersionVector;
use proto::wire::record::Of;
use proto::wire::{RegisterCell, RegisterMerged, RegisterState};
use serde_json::{Map, Value, json};

use super::order::{OnlyIf, Order, Outcome, Reply};
use crate::hub::merge::STATE_BYTES_MAX;
use crate::hub::tables::{REGISTER, decode};
use crate::hub::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Read, Step};

/// Fields that one write may name; what it deletes because it does not name it comes on top.
pub const FIELDS_MAX: usize = 32;
/// Registers that one write may change, and bytes of all it journals: one event must fit into a chunk.
const CHANGES_MAX: usize = 200;
const EVENT_BYTES_MAX: usize = 128 << 10;

/// What is to be written, and when.
pub(super) struct Write<'a> {
    pub(super) gtin: Gtin,
    pub(super) fields: &'a BTreeMap<String, Option<Bytes>>,
    pub(super) whole: bool,
    pub(super) only_if: &'a OnlyIf,
}

/// An item's registers by field, deleted ones too.
struct Item {
    gtin: Gtin,
    fields: BTreeMap<String, Register>,
}

impl Item {
    fn read(gtin: Gtin, ledger: &dyn Read) -> Result<Item, LedgerError> {
        let prefix = RegisterKey::item_prefix(gtin);
        let (mut fields, mut damaged) = (BTreeMap::new(), None);
        ledger.scan_prefix(REGISTER, prefix.as_bytes(), &mut |key, value| {
            let field = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            match register(value) {
                Ok(register) => drop(fields.insert(field, register)),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(Item { gtin, fields }), Err)
    }

    fn values(&self) -> impl Iterator<Item = (&str, &Register, &Bytes)> {
        self.fields.iter().filter_map(|(field, register)| Some((field.as_str(), register, register.value.as_ref()?)))
    }

    /// Of the writes whose values are shown; `None` if none is. A write has a name that no other has.
    fn version(&self) -> Option<String> {
        let mut hash = blake3::Hasher::new();
        let mut any = false;
        for (field, register, _) in self.values() {
            any = true;
            let Dot { replica, seq } = &register.dot;
            hash.update(field.as_bytes()).update(b"\0").update(replica.site.as_str().as_bytes()).update(b"\0");
            hash.update(&replica.epoch.0.to_be_bytes()).update(&seq.0.to_be_bytes());
        }
        any.then(|| hash.finalize().to_hex()[..32].to_owned())
    }

    fn json(&self) -> Value {
        let (mut item, mut attrs) = (Map::new(), Map::new());
        item.insert("gtin".into(), json!(self.gtin));
        for (field, _, value) in self.values() {
            let value = serde_json::from_slice(value).unwrap_or(Value::Null);
            match field.strip_prefix("attr:") {
                Some(name) => attrs.insert(name.into(), value),
                None => item.insert(field.into(), value),
            };
        }
        item.insert("attrs".into(), attrs.into());
        item.into()
    }

    fn shown(&self, outcome: Outcome) -> Reply {
        Reply { version: self.version(), ..Reply::new(outcome, &self.json()) }
    }

    fn stale(&self, only_if: &OnlyIf) -> Option<Reply> {
        let version = self.version();
        let why = match (only_if, &version) {
            (OnlyIf::Absent, None) | (OnlyIf::Exists, Some(_)) => return None,
            (OnlyIf::Version(known), Some(version)) if known.contains(version) => return None,
            (OnlyIf::Absent, Some(_)) => "there is such an item",
            (_, None) => "there is no such item",
            (OnlyIf::Version(_), Some(_)) => "the item was changed meanwhile",
        };
        let body = json!({ "detail": why, "version": version });
        Some(Reply { version, ..Reply::new(Outcome::VersionDiffers, &body) })
    }
}

fn register(value: &[u8]) -> Result<Register, LedgerError> {
    let damaged = |why: String| LedgerError::Value { table: REGISTER.0, why };
    let state = decode::<RegisterCell>(REGISTER, value)?.state;
    let state = state.ok_or_else(|| damaged("a register without a state".into()))?;
    Register::try_from(&state).map_err(|e| damaged(e.to_string()))
}

pub(super) fn show(gtin: Gtin, ledger: &dyn Read) -> Result<Reply, LedgerError> {
    let item = Item::read(gtin, ledger)?;
    Ok(match item.version() {
        Some(_) => item.shown(Outcome::Done),
        None => Reply::new(Outcome::ItemUnknown, &json!({ "detail": format!("nothing is known of {gtin}") })),
    })
}

impl Hub {
    pub(super) fn write_item(
        &mut self,
        order: &Order,
        write: &Write<'_>,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Reply, LedgerError> {
        let mut item = Item::read(write.gtin, ledger)?;
        if let Some(stale) = item.stale(write.only_if) {
            return Ok(stale);
        }
        let outcome = if item.version().is_some() { Outcome::Done } else { Outcome::Created };
        let changes = changes(write, &item);
        let (mut seq, mut bytes, mut too_large) = (step.next_seq(ledger), 0, changes.len() > CHANGES_MAX);
        let mut records = Vec::new();
        for (field, value) in changes {
            let before = item.fields.get(&field);
            let dot = Dot { replica: self.writes_as(ledger), seq };
            let mut seen = before.map(|before| before.seen.clone()).unwrap_or_else(VersionVector::default);
            seen.insert(&dot);
            let stamp = self.clock.stamp_write(now.reading(), before.map(|before| before.stamp));
            let register = Register { value, stamp, dot, seen, writer: String::new() };
            let state = RegisterState::from(&register);
            too_large |= state.encoded_len() > STATE_BYTES_MAX;
            bytes += state.encoded_len();
            let key = format!("{}{field}", RegisterKey::item_prefix(write.gtin));
            records.push(RegisterMerged { key, state: Some(state) });
            item.fields.insert(field, register);
            seq = seq.next();
        }
        if too_large || bytes > EVENT_BYTES_MAX {
            let why =
                "the item and all the sites that wrote it are too much for one write: change fewer fields at once";
            return Ok(Reply::new(Outcome::ItemTooLarge, &json!({ "detail": why })));
        }
        if !records.is_empty() {
            let first = step.next_seq(ledger);
            for (n, merged) in (0..).zip(&records) {
                self.feed.changed(&merged.key, first.plus(n).0);
            }
            let draft = self.draft_for(order, records.into_iter().map(Of::Merged).collect(), now);
            step.events.push(draft);
        }
        Ok(item.shown(outcome))
    }
}

/// Fields that come to hold something else.
fn changes(write: &Write<'_>, item: &Item) -> BTreeMap<String, Option<Bytes>> {
    let mut wanted = write.fields.clone();
    if write.whole {
        for (field, ..) in item.values() {
            wanted.entry(field.to_owned()).or_insert(None);
        }
    }
    let now = |field: &str| item.fields.get(field).and_then(|register| register.value.as_ref());
    wanted.retain(|field, value| now(field) != value.as_ref());
    wanted
}
