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
use prost::{DecodeError, Message};
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
        // Of a number written with leading zeros as without.
        let scans = list(scans).into_iter().map(|scan| scan.trim_start_matches('0').to_owned());
        let scans = scans.filter(|scan| !scan.is_empty()).collect();
        let fields = list(fields);
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
            // Its people need no name that the configuration knows.
            (Form::Protobuf, Some(kind)) => rules.guard_protobuf(kind, payload, &mut people),
            _ if !rules.may_concern(payload) => None,
            (Form::Json, _) => rules.guard_json(payload, &mut people),
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
        let escaped = || {
            let any = !self.fields.is_empty() || !self.scans.is_empty();
            any && payload.windows(2).any(|two| two == b"\\u")
        };
        let scanned = || self.scans.iter().any(|scan| payload.windows(scan.len()).any(|part| part == scan.as_bytes()));
        named || escaped() || scanned()
    }

    fn guard_json(&self, payload: &[u8], people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        if let Ok(text) = std::str::from_utf8(payload)
            && let Some(card) = self.card(text)
        {
            return Some(self.replace("scan", &card, people)?.into());
        }
        match serde_json::from_slice::<Value>(payload) {
            Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
                let before = value.clone();
                self.walk(&mut value, people);
                (value != before).then(|| value.to_string().into())
            }
            // JSON within JSON is nothing of ours, and kept to be repaired.
            Ok(Value::String(inner)) => {
                let guarded = self.guard_json(inner.as_bytes(), people)?;
                Some(Value::from(String::from_utf8_lossy(&guarded)).to_string().into())
            }
            Ok(_) | Err(_) => self.guard_text(payload, people),
        }
    }

    fn walk(&self, value: &mut Value, people: &mut Vec<Pseudonym>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match self.field(name) {
                        Some(field) => self.replace_all(&field, value, people),
                        None if name == "gtin" => self.replace_cards(value, people),
                        None => self.walk(value, people),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.walk(value, people)),
            Value::String(text) => {
                if let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
                    let mut guarded = inner.clone();
                    self.walk(&mut guarded, people);
                    if guarded != inner {
                        *text = guarded.to_string();
                    }
                }
            }
            _ => {}
        }
    }

    /// Where an item's number should stand.
    fn replace_cards(&self, value: &mut Value, people: &mut Vec<Pseudonym>) {
        let code = match value {
            Value::String(code) => code.clone(),
            Value::Number(number) => number.to_string(),
            Value::Array(values) => return values.iter_mut().for_each(|value| self.replace_cards(value, people)),
            _ => return self.walk(value, people),
        };
        if let Some(of) = self.card(&code).and_then(|card| self.replace("scan", &card, people)) {
            *value = of.into();
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

    /// Only where `pos.proto` has room for people. In anything else the names mean nothing; what cannot be read is searched
    /// as text.
    fn guard_protobuf(&self, kind: Kind, payload: &Bytes, people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        self.guard_message(kind, payload, people).unwrap_or_else(|_| self.guard_text(payload, people))
    }

    fn guard_message(
        &self,
        kind: Kind,
        payload: &Bytes,
        people: &mut Vec<Pseudonym>,
    ) -> Result<Option<Bytes>, DecodeError> {
        let guarded = match kind {
            Kind::Activity | Kind::Feedback => {
                let mut remark = pos::Remark::decode(payload.clone())?;
                for (name, value) in &mut remark.fields {
                    let Some(field) = self.field(name) else { continue };
                    self.replace_value(&field, value, people);
                }
                remark.encode_to_vec()
            }
            Kind::Sale => {
                let mut sale = pos::Sale::decode(payload.clone())?;
                self.replace_people(&mut sale.people, people);
                sale.lines.iter_mut().for_each(|line| self.replace_card(&mut line.gtin, people));
                sale.encode_to_vec()
            }
            Kind::Move => {
                let mut movement = pos::Move::decode(payload.clone())?;
                self.replace_people(&mut movement.people, people);
                movement.lines.iter_mut().for_each(|line| self.replace_card(&mut line.gtin, people));
                movement.encode_to_vec()
            }
            Kind::Hold => {
                let mut hold = pos::Hold::decode(payload.clone())?;
                self.replace_people(&mut hold.people, people);
                self.replace_card(&mut hold.gtin, people);
                hold.encode_to_vec()
            }
            Kind::Scan => {
                let mut scan = pos::Scan::decode(payload.clone())?;
                self.replace_people(&mut scan.people, people);
                self.replace_card(&mut scan.gtin, people);
                scan.encode_to_vec()
            }
            Kind::Count => {
                let mut count = pos::Count::decode(payload.clone())?;
                self.replace_card(&mut count.gtin, people);
                count.encode_to_vec()
            }
            Kind::Item | Kind::Note | Kind::Setting => return Ok(self.guard_text(payload, people)),
        };
        // As it came, if it is about nobody: what newer firmware says besides stays.
        Ok((!people.is_empty()).then(|| guarded.into()))
    }

    fn replace_card(&self, code: &mut String, people: &mut Vec<Pseudonym>) {
        if let Some(of) = self.card(code).and_then(|card| self.replace("scan", &card, people)) {
            *code = of;
        }
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

    /// The card's own digits, if that is what was scanned: the same however the scanner writes it.
    fn card(&self, code: &str) -> Option<String> {
        let digits = text::digits_of(code)?;
        self.is_card(digits).then(|| digits.to_owned())
    }

    /// `digits` has no leading zeros.
    fn is_card(&self, digits: &str) -> bool {
        self.scans.iter().any(|scan| digits.starts_with(scan.as_str()))
    }

    /// Text that nothing else can read: what follows a field's name, and numbers that could be cards.
    fn guard_text(&self, payload: &[u8], people: &mut Vec<Pseudonym>) -> Option<Bytes> {
        let named = self.guard_names(payload, people);
        let text = named.as_deref().unwrap_or(payload);
        let (mut out, mut from) = (Vec::with_capacity(text.len() + 64), 0);
        for run in text::digit_runs(text) {
            let digits = std::str::from_utf8(&text[run.clone()]).ok().and_then(text::digits_of);
            let Some(digits) = digits.filter(|digits| self.is_card(digits)) else { continue };
            let Some(of) = self.replace("scan", digits, people) else { continue };
            out.extend_from_slice(&text[from..run.start]);
            out.extend_from_slice(of.as_bytes());
            from = run.end;
        }
        if from == 0 {
            return named.map(Bytes::from);
        }
        out.extend_from_slice(&text[from..]);
        Some(out.into())
    }

    fn guard_names(&self, payload: &[u8], people: &mut Vec<Pseudonym>) -> Option<Vec<u8>> {
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
        Some(out)
    }
}

#[cfg(test)]
mod tests;
