//! What a store shows of registers, read from its cells: its own write until the hub's value covers it, then that.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::wire::RegisterState;
use proto::wire::record::Of;

use super::super::disk::{Decided, Disk};
use super::{Rep, dot_of, seen_of};

/// The gateway's tables, by their numbers on disk.
const OWN: u8 = 4;
const HUB: u8 = 5;

/// Every register as this gateway shows it.
pub(in super::super) fn visible(disk: &Disk) -> BTreeMap<String, RegisterState> {
    let read = |table| {
        let cell = |(key, value): (&[u8], &[u8])| {
            let key = String::from_utf8(key.to_vec()).expect("keys are text");
            (key, RegisterState::decode(value).expect("a cell of a gateway"))
        };
        disk.table(table).map(cell).collect::<BTreeMap<_, _>>()
    };
    let (own, hub) = (read(OWN), read(HUB));
    let keys: BTreeSet<&String> = own.keys().chain(hub.keys()).collect();
    let shown = |key: &&String| match (own.get(*key), hub.get(*key)) {
        (Some(own), Some(hub)) => {
            let (of, seq) = dot_of(own.dot.as_ref());
            let covered = seen_of(hub.seen.as_ref()).get(&of).is_some_and(|seen| *seen >= seq);
            if covered { hub.clone() } else { own.clone() }
        }
        (own, hub) => own.or(hub).expect("one of them has it").clone(),
    };
    keys.iter().map(|key| ((*key).clone(), shown(key))).collect()
}

/// A write is above what it replaced, and says that it had seen that and all before it.
pub(in super::super) fn check_writes(shown: &BTreeMap<String, RegisterState>, decided: &Decided, of: &Rep) {
    for (offset, record) in (0..).zip(&decided.event.records) {
        let Some(Of::Register(write)) = &record.of else { continue };
        let mut due = BTreeMap::from([(of.clone(), decided.first.0 + offset)]);
        let mut floor = 0;
        if let Some(replaced) = shown.get(&write.key) {
            floor = replaced.stamp;
            seen_of(replaced.seen.as_ref()).into_iter().filter(|(other, _)| other != of).for_each(|(other, seq)| {
                due.insert(other, seq);
            });
        }
        assert!(write.stamp > floor, "{write:?} is not above the {floor} that it replaced");
        let synced = !decided.event.unsynced;
        assert!(synced || write.stamp == floor + 1, "a clock in 1970 takes exactly the tick above {floor}: {write:?}");
        assert_eq!(seen_of(write.seen.as_ref()), due, "what {} had seen", write.key);
    }
}
