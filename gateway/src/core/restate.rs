//! A hub that was restored may have lost what this life said of its rights, and the journal here is trimmed: a hub that
//! believes an ask to be open would grant nothing for ever. So each item's numbers are journalled once more for each
//! incarnation. They are the same numbers, so saying them twice changes nothing.

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use proto::gtin::Gtin;
use proto::wire::record::Of;
use proto::wire::{Event, Record};

use super::rights::EVENT_RECORDS;
use super::tables::{RIGHTS, SYNC, SYNC_RIGHTS_TOLD, counter_key};
use super::{Effect, Gateway};

/// Items that one tick looks at; the others follow at the next.
const AT_ONCE: usize = 4 * EVENT_RECORDS;

/// How far this has come.
#[derive(Debug, Default)]
pub(super) struct Restate {
    /// The incarnation that was told all, as far as is on disk.
    told: Option<u64>,
    /// The one that is being told, and the last item that it was told of.
    at: Option<(u64, Option<Gtin>)>,
}

impl Restate {
    pub(super) fn resume(ledger: &dyn Read) -> Result<Restate, LedgerError> {
        let held = ledger.get(SYNC, SYNC_RIGHTS_TOLD)?;
        let told = held.and_then(|held| Some(u64::from_be_bytes(held.as_slice().try_into().ok()?)));
        Ok(Restate { told, at: None })
    }
}

impl Gateway {
    /// A life that never knew of a pool has used nothing that a hub could have lost.
    pub(super) fn no_rights_used(&mut self, incarnation: u64) -> Option<Put> {
        let nothing = self.rights.restate.told.is_none() && self.rights.pools.is_empty();
        nothing.then(|| {
            self.rights.restate.told = Some(incarnation);
            Put::set(SYNC, SYNC_RIGHTS_TOLD, incarnation.to_be_bytes())
        })
    }

    /// Every tick: once the hub was told what is held here, so that it knows the grants before it hears how they were used.
    pub(super) fn say_rights_anew(
        &mut self,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let Some(incarnation) = self.rights.report.is_said() else { return Ok(()) };
        // What else this step journals of rights is newer than what the ledger shows.
        if self.rights.restate.told == Some(incarnation) || !step.events.is_empty() {
            return Ok(());
        }
        let after = self.rights.restate.at.filter(|(of, _)| *of == incarnation).and_then(|(_, after)| after);
        let items: Vec<Gtin> = self.rights.items_after(after).take(AT_ONCE).collect();
        let mut records = Vec::new();
        for gtin in items.iter().copied() {
            if ledger.get(RIGHTS, &counter_key(gtin))?.is_some() {
                records.push(Record { of: Some(Of::Rights(self.rights.rights(gtin, ledger)?)) });
            }
        }
        for records in records.chunks(EVENT_RECORDS) {
            let draft = self.draft(Event { records: records.to_vec(), ..Event::default() }, now);
            step.events.push(draft);
        }
        self.rights.restate.at = Some((incarnation, items.last().copied()));
        if items.len() < AT_ONCE {
            self.rights.restate = Restate { told: Some(incarnation), at: None };
            step.puts.push(Put::set(SYNC, SYNC_RIGHTS_TOLD, incarnation.to_be_bytes()));
        }
        Ok(())
    }
}
