//! What stopped nodes have on disk. No counter of any node is believed.

use std::collections::BTreeMap;
use std::path::Path;

use broker::ledger::{LedgerError, read_stopped};
use proto::chunk::{self, Chunk};
use proto::id::{Dot, Seq};
use proto::wire::record::Of;
use proto::wire::{Conflict, Movement, Refusal, RegisterState};

/// One record with its name and the request that it is of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) dot: Dot,
    pub(crate) device: String,
    pub(crate) request: String,
    pub(crate) of: Of,
}

impl Row {
    pub(crate) fn movement(&self) -> Option<&Movement> {
        match &self.of {
            Of::Movement(movement) => Some(movement),
            _ => None,
        }
    }
}

/// A stopped gateway's journal, in order.
pub(crate) fn of_gateway(dir: &Path) -> Vec<Row> {
    try_gateway(dir).expect("read the gateway's ledger")
}

pub(crate) fn try_gateway(dir: &Path) -> Result<Vec<Row>, LedgerError> {
    let mut rows = Vec::new();
    read_stopped(dir, &mut |chunk| rows.extend(rows_of(chunk)))?;
    Ok(rows)
}

/// A stopped hub's journal.
#[derive(Debug, Default)]
pub(crate) struct Hq {
    /// What sites sent, in the order in which it was applied.
    pub(crate) rows: Vec<Row>,
    pub(crate) registers: BTreeMap<String, RegisterState>,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) refusals: Vec<Refusal>,
}

impl Hq {
    pub(crate) fn read(dir: &Path) -> Hq {
        let mut hq = Hq::default();
        read_stopped(dir, &mut |chunk| rows_of(chunk).into_iter().for_each(|row| hq.take(row.of)))
            .expect("read the hub's ledger");
        hq
    }

    fn take(&mut self, of: Of) {
        match of {
            Of::SiteChunk(embedded) => {
                let chunk = chunk::open(&embedded.chunk).expect("a site's chunk at HQ can be read");
                self.rows.extend(rows_of(&chunk));
            }
            Of::Merged(merged) => {
                self.registers.insert(merged.key, merged.state.expect("a merged register has a state"));
            }
            Of::Forgotten(forgotten) => drop(self.registers.remove(&forgotten.key)),
            Of::Conflict(conflict) => self.conflicts.push(conflict),
            Of::Refusal(refusal) => self.refusals.push(refusal),
            _ => {}
        }
    }

    /// What one site sent.
    pub(crate) fn of_site(&self, site: &str) -> Vec<Row> {
        self.rows.iter().filter(|row| row.dot.replica.site.as_str() == site).cloned().collect()
    }
}

fn rows_of(chunk: &Chunk) -> Vec<Row> {
    let mut rows = Vec::new();
    for (first, _, event) in chunk.events() {
        for (offset, record) in (0..).zip(&event.records) {
            let seq: Seq = first.plus(offset);
            rows.push(Row {
                dot: Dot { replica: chunk.head.replica.clone(), seq },
                device: event.device.clone(),
                request: event.request.clone(),
                of: record.of.clone().expect("a record says what it is"),
            });
        }
    }
    rows
}
