//! Payloads to requests: the one door. Past it there is no invalid scan, so nobody checks again.
//!
//! `json.rs` and `pb.rs` read what a message says into the same fields; `moves.rs`, `holds.rs` and `writes.rs` hold them
//! against the rules, `fields.rs` one at a time. So a message is taken, or refused with the same code, whichever way it was written.

mod fields;
mod holds;
mod json;
mod moves;
mod pb;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;
mod writes;

use bytes::Bytes;
use proto::id::RequestId;
use proto::register::VALUE_BYTES_MAX;
use proto::topic::{Form, Kind};

use crate::request::{Ask, Refused, Request, Undecodable};

/// What a plain barcode from this device means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScanMode {
    /// Records the scan and moves no stock.
    #[default]
    Lookup,
    Receive,
    Sell,
}

impl std::str::FromStr for ScanMode {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "lookup" => Ok(ScanMode::Lookup),
            "receive" => Ok(ScanMode::Receive),
            "sell" => Ok(ScanMode::Sell),
            _ => Err("not a mode"),
        }
    }
}

/// What a request may hold at most. Past each of them it is refused with a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub payload_bytes_max: usize,
    /// Units of one line.
    pub units_max: i64,
    pub lines_max: usize,
    /// Powered-on seconds for which a hold may last.
    pub hold_s_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { payload_bytes_max: 64 << 10, units_max: 9_999, lines_max: 100, hold_s_max: 86_400 }
    }
}

type Decoded = Result<Request, Undecodable>;

/// Reads one payload. Never panics, whatever the bytes.
pub fn decode(kind: Kind, form: Form, mode: ScanMode, payload: &Bytes, limits: &Limits) -> Decoded {
    if payload.is_empty() {
        return refuse(None, "payload_empty", "the message is empty");
    }
    if payload.len() > limits.payload_bytes_max {
        let reason = format!("the message has {} bytes; at most {} are taken", payload.len(), limits.payload_bytes_max);
        return refuse(None, "payload_too_large", reason);
    }
    let read = match form {
        Form::Json if kind == Kind::Scan && json::is_plain(payload) => return json::plain_scan(mode, payload),
        Form::Json => json::fields(payload),
        Form::Protobuf => pb::fields(kind, payload, limits),
    };
    let fields = read.map_err(|why| Undecodable { id: None, why })?;
    let id = fields::request_id(&fields).map_err(|why| Undecodable { id: None, why })?;
    let device_ms = fields.get("at_ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let ask = match (kind, form) {
        (Kind::Scan, _) => moves::scan(fields, limits),
        (Kind::Sale, _) => moves::sale(fields, limits),
        (Kind::Move, _) => moves::movement(fields, limits),
        (Kind::Count, _) => moves::count(&fields),
        (Kind::Hold, _) => holds::hold(&fields, limits),
        (Kind::Item, _) => writes::item(fields),
        (Kind::Note, _) => writes::note(fields),
        (Kind::Setting, _) => writes::setting(fields),
        (Kind::Activity | Kind::Feedback, Form::Json) => keep(kind, payload.clone()),
        // Whoever reads it later reads JSON.
        (Kind::Activity | Kind::Feedback, Form::Protobuf) => {
            keep(kind, serde_json::Value::Object(fields).to_string().into())
        }
    };
    match ask {
        Ok(ask) => Ok(Request { id, device_ms, ask }),
        Err(why) => Err(Undecodable { id, why }),
    }
}

fn refuse(id: Option<RequestId>, code: &'static str, reason: impl Into<String>) -> Decoded {
    Err(Undecodable { id, why: Refused::new(code, reason) })
}

fn keep(kind: Kind, payload: Bytes) -> Result<Ask, Refused> {
    if payload.len() > VALUE_BYTES_MAX {
        let reason = format!("the message has {} bytes; at most {VALUE_BYTES_MAX} are taken here", payload.len());
        return Err(Refused::new("payload_too_large", reason));
    }
    Ok(Ask::Keep { kind: kind.as_str(), payload })
}
