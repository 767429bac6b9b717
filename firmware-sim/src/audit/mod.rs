//! Reads what stopped nodes have on disk and holds it against what the devices were told and what the oracle says.
//! No counter of any node is believed.

mod holdings;
mod judge;
#[cfg(test)]
mod tests;

pub use holdings::{Holdings, Hq, HqRegisters, Lost};
pub use judge::judge;

/// The outcome of the audit. All counts are of movement records unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub sent: u64,
    pub acked: u64,
    pub in_ledgers: u64,
    pub applied: u64,
    /// Refused lines and requests, as recorded in the ledgers.
    pub refused: u64,
    /// Records of any kind that a device was promised and that are not there, at its gateway or at HQ.
    pub lost: u64,
    /// Records applied more than once, and lines that left more than one record.
    pub doubled: u64,
    pub stock_cells: u64,
    pub stock_mismatches: u64,
    /// Records of any kind at HQ, and messages that devices had acknowledged.
    pub records_applied: u64,
    pub messages: u64,
    /// What is wrong, in words; empty if nothing is.
    pub faults: Vec<String>,
}
