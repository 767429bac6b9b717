//! What a device hears on `dev/{device}/reply`, as JSON, and on `dev/{device}/reply/pb`, as protobuf.

use bytes::Bytes;
use prost::Message;
use proto::gtin::Gtin;
use proto::id::{HoldId, RequestId, Units};
use proto::pos;
use proto::wire::{LineRefusal, Outcome, Status};
use serde::Serialize;
use serde_json::value::RawValue;

/// One reply. Fields that say nothing are left out.
#[derive(Debug, Serialize)]
pub struct Reply<'a> {
    /// The request's id; `null` if it had none.
    pub id: Option<&'a str>,
    pub status: &'static str,
    /// What the request was answered the first time; on duplicates only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<&'static str>,
    /// The first record's seq in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// What each line did to the shelf.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<LineReply>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedLine<'a>>,
    /// On scans: the item as this store knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemReply>,
    /// Of requests about a hold, and of sales that name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldReply>,
}

/// How a hold stands after a request. What is not known or does not apply is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HoldReply {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gtin: Option<Gtin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<u64>,
    /// `open`, `committed`, `released`, `expired`, `collected`, or `unknown`: there is no such hold.
    pub state: &'static str,
    /// Open: for so many powered-on seconds more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// What may be held of the item here, now. Negative if more was sold in hand than there were rights for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// Sales: units of the sale that the hold had set aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct LineReply {
    pub line: u32,
    pub gtin: Gtin,
    pub on_hand: Units,
}

#[derive(Debug, Serialize)]
pub struct RefusedLine<'a> {
    pub line: u32,
    pub code: &'a str,
    pub reason: &'a str,
}

#[derive(Debug, Serialize)]
pub struct ItemReply {
    pub gtin: Gtin,
    pub on_hand: Units,
    pub name: Option<Box<RawValue>>,
    pub price_cents: Option<Box<RawValue>>,
}

impl<'a> Reply<'a> {
    fn blank(id: Option<&'a RequestId>, status: &'static str) -> Reply<'a> {
        Reply {
            id: id.map(RequestId::as_str),
            status,
            first: None,
            seq: None,
            code: None,
            reason: None,
            lines: vec![],
            refused: vec![],
            item: None,
            hold: None,
        }
    }

    pub fn of(id: Option<&'a RequestId>, outcome: &'a Outcome, seq: u64) -> Reply<'a> {
        let refused = outcome.refusals.iter().map(refused_line).collect();
        Reply { seq: Some(seq), refused, ..Reply::blank(id, status_text(outcome.status())) }
    }

    /// The same request again: what it was answered first.
    pub fn duplicate(id: &'a RequestId, outcome: &'a Outcome, seq: u64) -> Reply<'a> {
        Reply { status: "duplicate", first: Some(status_text(outcome.status())), ..Reply::of(Some(id), outcome, seq) }
    }

    pub fn refused(id: Option<&'a RequestId>, code: &'a str, reason: &'a str) -> Reply<'a> {
        Reply { code: Some(code), reason: Some(reason), ..Reply::blank(id, "refused") }
    }

    pub fn to_json(&self) -> Bytes {
        // Serializing plain fields into memory cannot fail; an empty reply would still be a reply.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// As `pos.proto` says it.
    pub fn to_pb(&self) -> Bytes {
        let line =
            |line: &LineReply| pos::LineReply { line: line.line, gtin: line.gtin.to_string(), on_hand: line.on_hand.0 };
        let refused = |line: &RefusedLine<'_>| pos::RefusedLine {
            line: line.line,
            code: line.code.into(),
            reason: line.reason.into(),
        };
        let reply = pos::Reply {
            id: self.id.unwrap_or_default().into(),
            status: pos_status(self.status).into(),
            first: self.first.map_or(pos::Status::Unspecified, pos_status).into(),
            seq: self.seq.unwrap_or_default(),
            code: self.code.unwrap_or_default().into(),
            reason: self.reason.unwrap_or_default().into(),
            lines: self.lines.iter().map(line).collect(),
            refused: self.refused.iter().map(refused).collect(),
            item: self.item.as_ref().map(ItemReply::to_pos),
            hold: self.hold.as_ref().map(HoldReply::to_pos),
        };
        reply.encode_to_vec().into()
    }
}

impl HoldReply {
    fn to_pos(&self) -> pos::HoldReply {
        pos::HoldReply {
            hold: self.hold.as_ref().map_or(String::new(), ToString::to_string),
            gtin: self.gtin.map_or(String::new(), |gtin| gtin.to_string()),
            units: self.units.unwrap_or_default(),
            state: self.state.into(),
            expires_s: self.expires_s,
            available: self.available,
            covered: self.covered,
        }
    }
}

impl ItemReply {
    fn to_pos(&self) -> pos::ItemReply {
        // A register holds what the decoder let in, here or at another site: what is of another type is not shown.
        fn of<T: serde::de::DeserializeOwned>(text: &Option<Box<RawValue>>) -> Option<T> {
            text.as_ref().and_then(|text| serde_json::from_str(text.get()).ok())
        }
        pos::ItemReply {
            gtin: self.gtin.to_string(),
            on_hand: self.on_hand.0,
            name: of(&self.name),
            price_cents: of(&self.price_cents),
        }
    }
}

fn pos_status(text: &str) -> pos::Status {
    match text {
        "ok" => pos::Status::Ok,
        "partial" => pos::Status::Partial,
        "duplicate" => pos::Status::Duplicate,
        "refused" => pos::Status::Refused,
        _ => pos::Status::Unspecified,
    }
}

fn refused_line(refusal: &LineRefusal) -> RefusedLine<'_> {
    RefusedLine { line: refusal.line, code: &refusal.code, reason: &refusal.reason }
}

pub fn status_text(status: Status) -> &'static str {
    match status {
        Status::Unspecified | Status::Ok => "ok",
        Status::Partial => "partial",
        Status::Refused => "refused",
    }
}
