//! What a device can ask for, after the decoder: nothing in here is invalid any more.

use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::{Cents, DeviceName, HoldId, RequestId, SiteName, Units};
use proto::register::RegisterKey;
use proto::wire::MovementKind;

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Option<RequestId>,
    /// The device's own clock, milliseconds since 1970, if it said.
    pub device_ms: u64,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A scan that moves nothing: what is this, how many are there?
    Lookup(Gtin),
    Move(Moves),
    /// `counted` pieces were on the shelf when the count began.
    Count {
        gtin: Gtin,
        counted: Units,
        began_ms: Option<u64>,
    },
    Hold(HoldAsk),
    /// Each value is JSON text; `None` deletes.
    Write {
        gtin: Gtin,
        registers: Vec<(RegisterKey, Option<Bytes>)>,
    },
    /// Settings of a device of this store, as `Write` has values.
    Set {
        device: DeviceName,
        values: Vec<(String, Option<Bytes>)>,
    },
    /// Activity or feedback, kept as it came.
    Keep {
        kind: &'static str,
        payload: Bytes,
    },
}

/// What is asked of units that are set aside for a buyer.
#[derive(Debug, Clone, PartialEq)]
pub enum HoldAsk {
    Begin(NewHold),
    /// They are promised for good.
    Commit(HoldId),
    Release(HoldId),
}

#[derive(Debug, Clone, PartialEq)]
pub struct NewHold {
    /// `None`: named after the request.
    pub hold: Option<HoldId>,
    pub gtin: Gtin,
    /// More than 0.
    pub units: Units,
    /// Powered-on seconds.
    pub seconds: u64,
    pub reference: String,
}

/// Movements of one kind; the lines that could not be read stand beside the good ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Moves {
    pub kind: MovementKind,
    pub lines: Vec<Line>,
    pub bad: Vec<BadLine>,
    pub reference: String,
    /// The other site of a transfer.
    pub peer: Option<SiteName>,
    /// The hold whose goods a sale hands over.
    pub hold: Option<HoldId>,
}

/// One good line. `units` has the sign of its effect on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// 1-based place in the request.
    pub number: u32,
    pub gtin: Gtin,
    pub units: Units,
    pub cents: Cents,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    pub number: u32,
    pub why: Refused,
}

/// A refusal: a code for software, a reason that a cashier's screen can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: &'static str,
    pub reason: String,
}

/// A reason quotes what was sent; past this it is cut, so that a record of it stays small.
const REASON_CHARS_MAX: usize = 300;

impl Refused {
    pub fn new(code: &'static str, reason: impl Into<String>) -> Refused {
        let mut reason: String = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
            reason.truncate(end);
        }
        Refused { code, reason }
    }
}

/// A request that is refused as a whole, with its id if that much could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    pub id: Option<RequestId>,
    pub why: Refused,
}
