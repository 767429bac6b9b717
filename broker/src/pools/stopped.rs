//! Pools of a hub that does not run, from its journal.

use std::path::Path;

use proto::gtin::Gtin;
use serde_json::{Value, json};

use crate::hub::Pools;
use crate::ledger::{LedgerError, read_stopped};

fn pools(dir: &Path) -> Result<Pools, LedgerError> {
    let mut pools = Pools::default();
    read_stopped(dir, &mut |chunk| {
        for (first, stamp, event) in chunk.events() {
            pools.replay(first, stamp.ms().0, event);
        }
    })?;
    Ok(pools)
}

pub(super) fn list(dir: &Path) -> Result<Value, LedgerError> {
    let pools = pools(dir)?;
    let lines: Vec<Value> = pools.pooled().filter_map(|gtin| pools.line(gtin)).collect();
    Ok(json!({ "pools": lines }))
}

pub(super) fn show(dir: &Path, gtin: Gtin) -> Result<Option<Value>, LedgerError> {
    Ok(pools(dir)?.json(gtin.number()))
}
