//! What callers ask of the hub's channel, and what they are told.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::SiteName;
use serde_json::Value;

/// One caller's request, checked as far as that needs no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Who asks: 1 to 256 bytes.
    pub caller: String,
    /// Under which a repeat gets the first answer. None for what changes nothing.
    pub key: Option<Key>,
    pub what: What,
}

/// An idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Of the caller and the key's text; no two callers have one in common.
    pub id: [u8; 16],
    /// As the caller said it, up to 64 characters.
    pub text: String,
    /// Of all that the request asks for.
    pub digest: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Decrement(LinesOf),
    Reserve(LinesOf),
    Commit(String),
    Release(String),
    Reservation(String),
    Stock(Gtin),
    Item(Gtin),
    Write {
        gtin: Gtin,
        /// Fields of the item's registers and their JSON text; `None` deletes one.
        fields: BTreeMap<String, Option<Bytes>>,
        /// Fields that are not named are deleted.
        whole: bool,
        only_if: OnlyIf,
    },
}

/// Done all together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinesOf {
    One(Line),
    /// 1 to 100. They are answered as a list.
    Many(Vec<Line>),
}

impl LinesOf {
    pub fn lines(&self) -> &[Line] {
        match self {
            LinesOf::One(line) => std::slice::from_ref(line),
            LinesOf::Many(lines) => lines,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub gtin: Gtin,
    /// From 1 to 1,000,000.
    pub units: u32,
    /// Where stock moves, of an item without a pool. Decrements only.
    pub site: Option<SiteName>,
    /// Reservations only.
    pub seconds: Option<u64>,
    pub reference: String,
    pub channel: String,
}

/// When an item may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnlyIf {
    /// It is of one of these versions.
    Version(Vec<String>),
    /// There is one.
    Exists,
    /// There is none.
    Absent,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub outcome: Outcome,
    /// JSON text of an object: the answer, or members of a problem, of which `detail` is for people.
    pub body: Bytes,
    /// Of the item, if it shows one.
    pub version: Option<String>,
    /// The request was answered before.
    pub replayed: bool,
}

impl Reply {
    pub(super) fn new(outcome: Outcome, body: &Value) -> Reply {
        Reply { outcome, body: body.to_string().into(), version: None, replayed: false }
    }
}

/// Codes are on disk and in the interface: one keeps its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Done,
    Created,
    NotEnough,
    NotPooled,
    Pooled,
    SiteMissing,
    SiteUnknown,
    SecondsTooLong,
    ReservationUnknown,
    ReservationEnded,
    ReservationExpired,
    TooManyReservations,
    RightsUnsure,
    KeyReused,
    KeysFull,
    ItemUnknown,
    VersionDiffers,
    ItemTooLarge,
}

impl Outcome {
    pub const ALL: [Outcome; 18] = [
        Outcome::Done,
        Outcome::Created,
        Outcome::NotEnough,
        Outcome::NotPooled,
        Outcome::Pooled,
        Outcome::SiteMissing,
        Outcome::SiteUnknown,
        Outcome::SecondsTooLong,
        Outcome::ReservationUnknown,
        Outcome::ReservationEnded,
        Outcome::ReservationExpired,
        Outcome::TooManyReservations,
        Outcome::RightsUnsure,
        Outcome::KeyReused,
        Outcome::KeysFull,
        Outcome::ItemUnknown,
        Outcome::VersionDiffers,
        Outcome::ItemTooLarge,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Created => "created",
            Outcome::NotEnough => "not_enough",
            Outcome::NotPooled => "not_pooled",
            Outcome::Pooled => "pooled",
            Outcome::SiteMissing => "site_missing",
            Outcome::SiteUnknown => "site_unknown",
            Outcome::SecondsTooLong => "seconds_too_long",
            Outcome::ReservationUnknown => "reservation_unknown",
            Outcome::ReservationEnded => "reservation_ended",
            Outcome::ReservationExpired => "reservation_expired",
            Outcome::TooManyReservations => "too_many_reservations",
            Outcome::RightsUnsure => "rights_unsure",
            Outcome::KeyReused => "key_reused",
            Outcome::KeysFull => "keys_full",
            Outcome::ItemUnknown => "item_unknown",
            Outcome::VersionDiffers => "version_differs",
            Outcome::ItemTooLarge => "item_too_large",
        }
    }

    pub(super) fn of_code(code: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.code() == code)
    }

    /// What passes by itself, or says something of the key: asked again it may come out otherwise.
    pub fn is_passing(self) -> bool {
        matches!(self, Outcome::TooManyReservations | Outcome::RightsUnsure | Outcome::KeyReused | Outcome::KeysFull)
    }
}
