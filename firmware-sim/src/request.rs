//! What the people in a store do, before any device turns it into bytes. The oracle works from these alone.

use std::time::Duration;

/// Barcode, pieces, money of one line, as the device will claim them: nothing here was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub code: String,
    pub qty: i64,
    /// Line total in hundredths of the currency.
    pub cents: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A basket at a till.
    Sale { lines: Vec<Line> },
    /// A delivery, scanned with its quantity.
    Receive { code: String, qty: i64 },
    /// A price check with a scanner that sends bare barcode text.
    LookUp { code: String, ending: &'static str },
    /// New item data from a tablet.
    EditItem { code: String, name: Option<String>, price_cents: i64 },
    /// A tasting note from a tablet.
    WriteNote { code: String, author: String, text: String, score: Option<u32> },
}

/// What goes wrong on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quirk {
    #[default]
    None,
    /// The trigger bounced or the key was hit twice: the same request, same id, is sent twice.
    Twice,
    /// The link breaks right after sending, before the acknowledgement is read.
    LoseAck,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Index of the site.
    pub site: usize,
    pub device: String,
    /// Unique per device; bare barcode text has none.
    pub id: Option<String>,
    /// What the device's clock says, milliseconds since 1970, if it sends it.
    pub at_ms: Option<u64>,
    /// When it happens, from the start of the replay.
    pub due: Duration,
    pub quirk: Quirk,
    pub action: Action,
}
