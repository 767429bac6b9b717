//! What the hub's copy of an earlier life and the journal that is kept of it have in common.

use proto::chunk::{self, Position};
use proto::id::ReplicaId;
use proto::remnant::Standing;
use proto::wire::Past;

use super::Chain;

/// The newest position in this part of the hub's copy that the journal `fork` of that life has too.
///
/// # Errors
/// The journal cannot be read.
pub fn in_common<C: Chain>(past: &Past, of: &ReplicaId, fork: &C) -> Result<Option<Position>, C::Error> {
    let heads = past.chunk.iter().filter_map(|bytes| chunk::head(bytes).ok());
    for head in heads.filter(|head| head.replica == *of) {
        let after = head.after();
        // As at every Hello: of a damaged span only its ends are known.
        if matches!(fork.standing(after)?, Standing::Ours | Standing::Untold) {
            return Ok(Some(after));
        }
    }
    Ok(None)
}
