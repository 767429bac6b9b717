//! What says who a person is leaves the store only as a pseudonym: the same for the same person at every store that has
//! the same key, and nothing that anybody without the key can turn back or look up.
//!
//! It is replaced at the door, before a message is decoded, refused or journalled, so nothing behind it ever holds the id
//! itself. Who a field is about is known by its name (`personal_fields`), on whatever level it stands. A message that
//! cannot be read is searched for those names as text, since it is kept to be repaired.

mod command;
mod keys;
mod text;

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use bytes::Bytes;
use prost::Message;
use proto::pos::{self, value};
use proto::pseudonym;
use proto::topic::{Form, Kind};
use proto::wire::Pseudonym;
use serde_json::Value;

pub(crate) use command::{Command, run};
pub use keys::{KeyError, Keys};

/// Fields that say who a person is, if the configuration does not name others.
pub const FIELDS: &str = "household, household_id, customer, customer_id, cashier, cashier_id, member, member_id, loyalty, loyalty_card, email, phone";
/// More of one message are replaced, too, but not told beside its records.
const TOLD_MAX: usize = 8;

/// The rules, and the keys. The default knows no personal field.
#[derive(Debug, Clone, Default)]
pub struct Personal {
    rules: Arc<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    /// In lower case.
    fields: Vec<String>,
    /// Finds the fields' names; `None` if there are none.
    names: Option<AhoCorasick>,
    /// What barcodes of people begin with: loyalty cards are scanned as items are.
    scans: Vec<String>,
    keys: Keys,
}

/// A message without what was personal in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Guarded {
    pub payload: Bytes,
    /// Who it is about, in the order in which they were found, each once.
    pub people: Vec<Pseudonym>,
}

impl Personal {
    /// `fields` and `scans` are names, and first digits of barcodes, with commas between them.
    pub fn new(fields: &str, scans: &str, keys: Keys) -> Personal {
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
        };
        let (fields, scans) = (list(fields), list(scans));
        // It fails for patterns beyond 2 GiB; then every message is read.
        let names = (!fields.is_empty())
            .then(|| AhoCorasick::builder().ascii_case_insensitive(true).build(&fields).ok())
            .flatten();
        Personal { rules: Arc::new(Rules { fields, names, scans, keys }) }
    }

    /// Replaces what is personal. What is a pseudonym already stays one, so guarding twice is guarding once.
    pub fn guard(&self, kind: Option<Kind>, form: Form, payload: &Bytes) -> Guarded {
        let rules = &*self.rules;
        let mut people = Vec::new();
        let payload = match (form, kind) {
            _ if !rules.may_concern(payload) => None,
            (Form::Json, _) => rules.guard_json(payload, &mut people),
            (Form::Protobuf, Some(kind)) => rules.guard_protobuf(kind, payload, &mut people),
            (Form::Protobuf, None) => rules.guard_text(payload, &mut people),
        }
        .unwrap_or_else(|| payload.clone());
        people.truncate(TOLD_MAX);
        Guarded { payload, people }
    }
}

impl Rules {
    /// A look that costs little: most messages are about nobody.
    fn may_concern(&self, payload: &[u8]) -> bool {
        let named = self.names.as_ref().is_some_and(|names| names.is_match(payload));
        // An escaped letter could hide a name.
        let escaped = || !self.fields.is_empty() && payload.windows(2).any(|two| two == b"\\u");
        let scanned = || self.scans.iter().any(|scan| payload.windows(scan.len()).any(|part| part == scan.as_bytes()));
        named || escaped() || scanned()
    }

    fn guard_json(&self, payload: &[u8], people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        if let Ok(text) = std::str::from_utf8(payload)
            && self.is_personal_scan(text)
        {
            return Some(self.replace("scan", text.trim(), people)?.into());
        }
        match serde_json::from_slice::<Value>(payload) {
            Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
                let before = value.clone();
                self.walk(&mut value, people);
                (value != before).then(|| value.to_string().into())
            }
            Ok(_) => None,
            Err(_) => self.guard_text(payload, people),
        }
    }

    fn walk(&self, value: &mut Value, people: &mut Vec<Pseudonym>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (self.field(name), &*value) {
                        (Some(field), _) => self.replace_all(&field, value, people),
                        (None, Value::String(code)) if name == "gtin" && self.is_personal_scan(code) => {
                            self.replace_all("scan", value, people);
                        }
                        (None, _) => self.walk(value, people),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.walk(value, people)),
            _ => {}
        }
    }

    fn replace_all(&self, field: &str, value: &mut Value, people: &mut Vec<Pseudonym>) {
        match value {
            Value::String(text) => {
                if let Some(of) = self.replace(field, text, people) {
                    *text = of;
                }
            }
            Value::Number(number) => {
                if let Some(of) = self.replace(field, &number.to_string(), people) {
                    *value = of.into();
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.replace_all(field, value, people)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.replace_all(field, value, people)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Only where `pos.proto` has room for people. In anything else the names mean nothing.
    fn guard_protobuf(&self, kind: Kind, payload: &Bytes, people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        let guarded = match kind {
            Kind::Activity | Kind::Feedback => {
                let mut remark = pos::Remark::decode(payload.clone()).ok()?;
                for (name, value) in &mut remark.fields {
                    let Some(field) = self.field(name) else { continue };
                    self.replace_value(&field, value, people);
                }
                remark.encode_to_vec()
            }
            Kind::Sale => {
                let mut sale = pos::Sale::decode(payload.clone()).ok()?;
                self.replace_people(&mut sale.people, people);
                sale.encode_to_vec()
            }
            Kind::Move => {
                let mut movement = pos::Move::decode(payload.clone()).ok()?;
                self.replace_people(&mut movement.people, people);
                movement.encode_to_vec()
            }
            Kind::Hold => {
                let mut hold = pos::Hold::decode(payload.clone()).ok()?;
                self.replace_people(&mut hold.people, people);
                hold.encode_to_vec()
            }
            Kind::Scan => {
                let mut scan = pos::Scan::decode(payload.clone()).ok()?;
                if self.is_personal_scan(&scan.gtin) {
                    scan.gtin = self.replace("scan", &scan.gtin, people)?;
                }
                self.replace_people(&mut scan.people, people);
                scan.encode_to_vec()
            }
            Kind::Count | Kind::Item | Kind::Note | Kind::Setting => return self.guard_text(payload, people),
        };
        Some(guarded.into())
    }

    fn replace_value(&self, field: &str, value: &mut pos::Value, people: &mut Vec<Pseudonym>) {
        let text = match &value.of {
            Some(value::Of::Text(text)) => text.clone(),
            Some(value::Of::Whole(whole)) => whole.to_string(),
            Some(value::Of::Number(number)) => number.to_string(),
            Some(value::Of::Flag(_)) | None => return,
        };
        if let Some(of) = self.replace(field, &text, people) {
            value.of = Some(value::Of::Text(of));
        }
    }

    /// All of them: the field is for people.
    fn replace_people(&self, map: &mut std::collections::BTreeMap<String, String>, people: &mut Vec<Pseudonym>) {
        for (name, id) in map {
            if let Some(of) = self.replace(&name.to_ascii_lowercase(), id, people) {
                *id = of;
            }
        }
    }

    /// The pseudonym's text, and `people` has it. `None` if there is nothing to replace.
    fn replace(&self, field: &str, id: &str, people: &mut Vec<Pseudonym>) -> Option<String> {
        let id = id.trim();
        if id.is_empty() {
            return None;
        }
        let (text, of) = match pseudonym::read(id) {
            Some(of) => (id.to_owned(), of),
            None => {
                let of = self.keys.pseudonym(field, id);
                (pseudonym::write(&of), of)
            }
        };
        let person = Pseudonym { field: field.to_owned(), of: of.to_vec().into() };
        if !people.contains(&person) {
            people.push(person);
        }
        Some(text)
    }

    fn field(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|field| field.eq_ignore_ascii_case(name)).cloned()
    }

    fn is_personal_scan(&self, text: &str) -> bool {
        // Scanners may say first which kind of barcode it was: "]E0".
        let text = text.trim();
        let code = text.strip_prefix(']').and_then(|rest| rest.get(2..)).unwrap_or(text);
        !code.is_empty()
            && code.bytes().all(|b| b.is_ascii_digit())
            && self.scans.iter().any(|scan| code.starts_with(scan.as_str()))
    }

    fn guard_text(&self, payload: &[u8], people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        let names = self.names.as_ref()?;
        let mut out = Vec::with_capacity(payload.len() + 64);
        let mut from = 0;
        while let Some(found) = names.find(&payload[from..]) {
            let (start, end) = (from + found.start(), from + found.end());
            let span = text::value_after(payload, start, end);
            out.extend_from_slice(&payload[from..span.start]);
            let id = String::from_utf8_lossy(&payload[span.clone()]).into_owned();
            let field = &self.fields[found.pattern().as_usize()];
            match self.replace(field, &id, people) {
                Some(of) => out.extend_from_slice(of.as_bytes()),
                None => out.extend_from_slice(&payload[span.clone()]),
            }
            from = span.end;
        }
        if from == 0 {
            return None;
        }
        out.extend_from_slice(&payload[from..]);
        Some(out.into())
    }
}

#[cfg(test)]
mod tests;
