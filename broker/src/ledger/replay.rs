//! Brings a state up to date with its log.

use proto::id::Seq;
use proto::wire::LossClass;

use super::core::{Core, Placed};
use super::error::LedgerError;
use super::log::Log;
use super::state::State;
use super::store::{Folded, Pace, Store};

/// More dirty cells are written out on the way: a state that is made anew must fit into memory.
const DIRTY_CELLS_MAX: usize = 16_384;
const DIRTY_BYTES_MAX: usize = 8 << 20;

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Replayed {
    pub(super) records: u64,
    /// Commits were missing among those that the state does not hold: it lacks what they changed.
    pub(super) holes: bool,
}

/// Folds every frame that the state on disk does not hold.
pub(super) fn replay<C: Core>(
    log: &Log,
    store: &Store,
    core: &mut C,
    state: &mut State,
) -> Result<Replayed, LedgerError> {
    let mut replayed = Replayed::default();
    let mut folded = store.folded();
    log.frames_after(folded.frame, &mut |frame, chunks, puts| {
        let mut position = folded.position;
        replayed.holes |= frame > folded.frame + 1;
        for stored in chunks {
            let chunk = stored.open()?;
            replayed.records += chunk.head.records();
            replayed.holes |= chunk.body.losses.iter().any(|loss| loss.class() == LossClass::Damaged);
            let powered_on_s = chunk.body.powered_on_s;
            for (first, stamp, event) in chunk.events() {
                let placed = Placed { replica: &store.replica, first, stamp, event, powered_on_s };
                core.fold(&placed, &mut |put| state.put(frame, put));
            }
            let first: Seq = chunk.head.first;
            for total in &chunk.body.totals {
                core.fold_total(total, first, &mut |put| state.put(frame, put));
            }
            position = chunk.head.after();
        }
        for put in puts {
            state.put(frame, put);
        }
        folded = Folded { frame, position };
        while state.dirty() > DIRTY_CELLS_MAX || state.dirty_bytes() > DIRTY_BYTES_MAX {
            let (cells, written_to) = state.take(frame);
            // Only the last of them may say that this frame is folded.
            let upto = if written_to == frame { folded } else { store.folded() };
            let cells = cells.iter().map(|((table, key), value)| (*table, key.as_slice(), value.as_deref()));
            store.checkpoint(cells, upto, Pace::Hurried)?;
            state.written();
        }
        Ok(())
    })?;
    Ok(replayed)
}
