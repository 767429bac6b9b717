//! The ledger's journal, as the sync protocol asks about it.

use broker::ledger::{LedgerError, Reader};
use bytes::Bytes;
use proto::chunk::{Head, Position};
use proto::id::Seq;
use proto::remnant::Standing;

use crate::sync::Chain;

pub(crate) struct OurChain<'a>(pub(crate) &'a Reader);

impl Chain for OurChain<'_> {
    type Error = LedgerError;

    fn end(&self) -> Position {
        self.0.stats().durable
    }

    fn beginning(&self) -> Result<Position, LedgerError> {
        self.0.beginning()
    }

    fn standing(&self, at: Position) -> Result<Standing, LedgerError> {
        self.0.standing(at)
    }

    fn chunks(&self, first: Seq, last: Seq, bytes_max: usize) -> Result<Vec<(Head, Bytes)>, LedgerError> {
        self.0.chunks(first, last, bytes_max)
    }
}
