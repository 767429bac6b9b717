//! Registers as a store sees them: its own writes until the hub has taken them into account, then what the hub says.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use broker::ledger::{LedgerError, Read, Table};
use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::{DeviceName, SiteName};
use proto::register::{Register, RegisterKey};
use proto::topic::Outbound;
use proto::wire::{FeedCursor, RegisterState};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Effect;
use super::tables::{HUB, OWN, SYNC, cursor_key, decode};
use crate::sync::REGISTERS;

/// What has a topic that shows registers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Item(Gtin),
    /// The settings of a device of some store.
    Device(SiteName, DeviceName),
}

impl Shown {
    fn by(key: &RegisterKey) -> Shown {
        match key {
            RegisterKey::Item { gtin, .. } | RegisterKey::Note { gtin, .. } => Shown::Item(*gtin),
            RegisterKey::Setting { site, device, .. } => Shown::Device(site.clone(), device.clone()),
        }
    }
}

/// What must be told anew.
#[derive(Debug, Default)]
pub(super) struct Items {
    to_tell: BTreeSet<Shown>,
}

impl Items {
    pub(super) fn touched(&mut self, key: &RegisterKey) {
        self.to_tell.insert(Shown::by(key));
    }

    pub(super) fn changed(&mut self, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = Vec::new();
        for shown in std::mem::take(&mut self.to_tell) {
            let message = message(ledger, &shown)?;
            effects.extend(message.map(|(topic, payload)| Effect::Publish { topic, payload, retain: true }));
        }
        Ok(effects)
    }
}

/// The register as this store shows it.
pub(super) fn visible(ledger: &dyn Read, key: &str) -> Result<Option<Register>, LedgerError> {
    let (own, hub) = (stored(ledger, OWN, key)?, stored(ledger, HUB, key)?);
    Ok(match (own, hub) {
        (Some(own), Some(hub)) if hub.seen.covers(&own.dot) => Some(hub),
        (Some(own), None) if own.dot.seq.0 <= snapshot_to(ledger)? => None,
        (Some(own), _) => Some(own),
        (None, hub) => hub,
    })
}

/// Own writes up to this seq are older than the last snapshot: what the hub does not know of them it kept as conflicts.
pub(super) fn snapshot_to(ledger: &dyn Read) -> Result<u64, LedgerError> {
    let cursor =
        ledger.get(SYNC, &cursor_key(REGISTERS))?.map(|value| decode::<FeedCursor>(SYNC, &value)).transpose()?;
    Ok(cursor.map_or(0, |cursor| cursor.snapshot_to))
}

/// The JSON text of a register's value, if it has one.
pub(super) fn value(ledger: &dyn Read, key: &RegisterKey) -> Result<Option<Bytes>, LedgerError> {
    Ok(visible(ledger, &key.to_string())?.and_then(|register| register.value))
}

/// As [`value`], ready to stand in a reply.
pub(super) fn raw_value(ledger: &dyn Read, gtin: Gtin, field: &str) -> Result<Option<Box<RawValue>>, LedgerError> {
    let found = value(ledger, &RegisterKey::Item { gtin, field: field.into() })?;
    Ok(found.and_then(|text| RawValue::from_string(String::from_utf8(text.to_vec()).ok()?).ok()))
}

pub(super) fn stored(ledger: &dyn Read, table: Table, key: &str) -> Result<Option<Register>, LedgerError> {
    let Some(value) = ledger.get(table, key.as_bytes())? else { return Ok(None) };
    let state: RegisterState = decode(table, &value)?;
    Register::try_from(&state).map(Some).map_err(|e| LedgerError::Value { table: table.0, why: e.to_string() })
}

/// Every topic, for a start.
pub(super) fn all(ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
    let mut all = BTreeSet::new();
    for table in [OWN, HUB] {
        ledger.scan_prefix(table, &[], &mut |key, _| {
            let key = std::str::from_utf8(key).ok().and_then(|key| key.parse::<RegisterKey>().ok());
            all.extend(key.as_ref().map(Shown::by));
            ControlFlow::Continue(())
        })?;
    }
    let mut effects = Vec::new();
    for shown in all {
        effects.extend(message(ledger, &shown)?.map(|(topic, payload)| Effect::Restore { topic, payload }));
    }
    Ok(effects)
}

/// What its topic says. Other stores' devices have none here.
fn message(ledger: &dyn Read, shown: &Shown) -> Result<Option<(String, Bytes)>, LedgerError> {
    Ok(match shown {
        Shown::Item(gtin) => Some(item(ledger, *gtin)?),
        Shown::Device(site, device) if *site == ledger.replica().site => Some(settings(ledger, site, device)?),
        Shown::Device(..) => None,
    })
}

fn keys_with(ledger: &dyn Read, prefixes: &[String]) -> Result<BTreeSet<RegisterKey>, LedgerError> {
    let mut keys = BTreeSet::new();
    for prefix in prefixes {
        for table in [OWN, HUB] {
            ledger.scan_prefix(table, prefix.as_bytes(), &mut |key, _| {
                keys.extend(std::str::from_utf8(key).ok().and_then(|key| key.parse::<RegisterKey>().ok()));
                ControlFlow::Continue(())
            })?;
        }
    }
    Ok(keys)
}

/// `{"device":"scanner-1","settings":{"volume":3}}`
fn settings(ledger: &dyn Read, site: &SiteName, device: &DeviceName) -> Result<(String, Bytes), LedgerError> {
    let mut settings = Map::new();
    for key in keys_with(ledger, &[RegisterKey::setting_prefix(site, device)])? {
        let Some(text) = value(ledger, &key)? else { continue };
        settings.insert(key.field().to_owned(), serde_json::from_slice(&text).unwrap_or(Value::Null));
    }
    let body = json!({ "device": device.as_str(), "settings": settings });
    Ok((Outbound::StoreSetting(device).to_string(), body.to_string().into()))
}

/// `{"gtin":…,"name":…,"price_cents":…,"attrs":{…},"notes":{"anna":{"text":…,"score":…,"tags":[…]}}}`
fn item(ledger: &dyn Read, gtin: Gtin) -> Result<(String, Bytes), LedgerError> {
    let keys = keys_with(ledger, &[RegisterKey::item_prefix(gtin), RegisterKey::note_prefix(gtin)])?;
    let (mut item, mut attrs, mut notes) = (Map::new(), Map::new(), Map::new());
    item.insert("gtin".into(), json!(gtin));
    for key in keys {
        let Some(text) = value(ledger, &key)? else { continue };
        let shown: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        match key {
            RegisterKey::Item { field, .. } => match field.strip_prefix("attr:") {
                Some(name) => attrs.insert(name.into(), shown),
                None => item.insert(field, shown),
            },
            RegisterKey::Note { author, field, .. } => {
                let note = notes.entry(author).or_insert_with(|| Value::Object(Map::new()));
                note.as_object_mut().and_then(|note| note.insert(field, shown))
            }
            RegisterKey::Setting { .. } => None,
        };
    }
    item.insert("attrs".into(), attrs.into());
    item.insert("notes".into(), notes.into());
    Ok((Outbound::StoreItem(gtin).to_string(), Value::from(item).to_string().into()))
}
