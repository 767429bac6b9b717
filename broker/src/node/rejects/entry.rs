//! One thing that was refused or set aside.

use bytes::Bytes;
use proto::clock::Stamp;
use proto::id::Seq;
use proto::wire::record::Of;
use proto::wire::{Event, Record};
use serde_json::{Value, json};

use super::hex;

#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    pub seq: Seq,
    pub at_ms: u64,
    /// Who sent it; at the hub the site whose journal it is of, if it is of one.
    pub device: String,
    pub code: String,
    pub reason: String,
    pub topic: String,
    /// 1-based line of the request; 0 if it is about the whole.
    pub line: u32,
    /// Something of the same request was applied.
    pub partly_applied: bool,
    /// As much of the bytes as was kept, of `full_bytes`.
    pub payload: Bytes,
    pub full_bytes: u64,
    /// Of something set aside: the records of the site's journal that it stands for.
    pub span: Option<(u64, u64)>,
    /// Of a request that was handed in again: the refusal before this one.
    pub retry_of: Option<Seq>,
    /// What came of handing it in again, the last time.
    pub retried: Option<Retried>,
    /// False if the journal was not looked at as far as would be needed to know that.
    pub retries_known: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    pub seq: Seq,
    pub status: &'static str,
}

impl Retried {
    /// What an event says of the refusal that it hands in again.
    pub(super) fn of_event(first: Seq, event: &Event) -> Option<(Seq, Retried)> {
        let status = match (event.records.iter().all(is_refusal), event.records.iter().any(is_refusal)) {
            (true, _) => "refused",
            (false, true) => "partial",
            (false, false) => "ok",
        };
        (event.retry_of > 0).then_some((Seq(event.retry_of), Retried { seq: first, status }))
    }

    /// It moved something: a second time would move it twice.
    pub fn done(&self) -> bool {
        self.status != "refused"
    }
}

fn is_refusal(record: &Record) -> bool {
    matches!(record.of, Some(Of::Refusal(_)))
}

/// All rejects of one event, in order.
pub(super) fn of_event(first: Seq, stamp: Stamp, event: &Event) -> Vec<Reject> {
    let partly_applied = !event.records.iter().all(is_refusal);
    // The payload of a request is kept once, with its first bad line.
    let payload = event.records.iter().find_map(|record| match &record.of {
        Some(Of::Refusal(refusal)) => Some(refusal.payload.clone()),
        _ => None,
    });
    let one = |(offset, record): (u64, &Record)| {
        let blank = Reject {
            seq: first.plus(offset),
            at_ms: stamp.ms().0,
            device: event.device.clone(),
            code: String::new(),
            reason: String::new(),
            topic: String::new(),
            line: 0,
            partly_applied,
            payload: Bytes::new(),
            full_bytes: 0,
            span: None,
            retry_of: (event.retry_of > 0).then_some(Seq(event.retry_of)),
            retried: None,
            retries_known: true,
        };
        match &record.of {
            Some(Of::Refusal(refusal)) => Some(Reject {
                code: refusal.code.clone(),
                reason: refusal.reason.clone(),
                topic: refusal.topic.clone(),
                line: refusal.line,
                payload: payload.clone().unwrap_or_default(),
                full_bytes: refusal.payload_bytes.into(),
                ..blank
            }),
            Some(Of::SetAside(aside)) => Some(Reject {
                device: aside.site.clone(),
                code: aside.code.clone(),
                reason: aside.reason.clone(),
                topic: format!("up/{}", aside.site),
                payload: aside.bytes.clone(),
                full_bytes: aside.full_bytes,
                span: Some((aside.first, aside.last)),
                ..blank
            }),
            _ => None,
        }
    };
    (0..).zip(&event.records).filter_map(one).collect()
}

impl Reject {
    /// How much of the bytes is not here.
    pub fn cut_bytes(&self) -> u64 {
        self.full_bytes.saturating_sub(self.payload.len() as u64)
    }

    /// Without its bytes.
    pub fn summary(&self) -> Value {
        json!({
            "seq": self.seq.0,
            "at_ms": self.at_ms,
            "device": self.device,
            "code": self.code,
            "reason": self.reason,
            "topic": self.topic,
            "line": self.line,
            "bytes": self.full_bytes,
            "bytes_kept": self.payload.len(),
            "span": self.span,
            "retry_of": self.retry_of.map(|seq| seq.0),
            "retried": self.retried.map(|retried| json!({ "seq": retried.seq.0, "status": retried.status })),
        })
    }

    /// All of it: `text` if the bytes are text, else `hex`.
    pub fn whole(&self) -> Value {
        let mut shown = self.summary();
        match std::str::from_utf8(&self.payload) {
            Ok(text) => shown["text"] = text.into(),
            Err(_) => shown["hex"] = hex::encode(&self.payload).into(),
        }
        shown["cut_bytes"] = self.cut_bytes().into();
        shown["retries_known"] = self.retries_known.into();
        shown["partly_applied"] = self.partly_applied.into();
        shown
    }
}
