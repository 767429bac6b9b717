//! The self-check: a site's digests against what the hub holds of it. Where the stock differs, the site says every total
//! anew and each key is compared; where registers differ, the hub says theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use prost::Message;
use proto::check::{Sums, register_bucket};
use proto::id::{Seq, SiteName};
use proto::wire::down::Of as DownOf;
use proto::wire::{Check, CounterCell, Down, Feed, FeedEntry, KeyRange, PresentTotal, RegisterCell};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::feed::{BYTES_MAX, ENTRIES_MAX};
use super::tables::{REGISTER, decode};
use super::{Effect, Hub, present, views};
use crate::ledger::{LedgerError, Now, Read, Step};
use crate::verify;

/// Buckets of registers that one check repairs; the next one repairs more. Past so many bytes no further one is begun.
const BUCKETS_MAX: usize = 16;
const REPAIR_BYTES_MAX: usize = 512 << 10;
/// Items that one comparison sets to nothing; the next one takes more.
const PHANTOMS_MAX: usize = 1_000;
/// So soon after one that differed, a site's next check is not looked at.
const CHECK_EVERY_MS: u64 = 10_000;
/// Differences that are named.
const NAMED_MAX: usize = 100;

/// A comparison key by key: what the site has said so far, and what differed.
#[derive(Debug, Default)]
pub(super) struct Verify {
    told: BTreeSet<u64>,
    from_start: bool,
    differs: Vec<Difference>,
    askers: Vec<oneshot::Sender<Value>>,
}

/// One item of which hub and site hold different totals.
#[derive(Debug)]
struct Difference {
    gtin: u64,
    hub: Option<i64>,
    site: i64,
}

/// What came of a site's last comparison.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Checked {
    at_ms: u64,
    keys: usize,
    differed: usize,
}

impl Checked {
    pub(super) fn json(&self) -> Value {
        match self.at_ms {
            0 => Value::Null,
            at_ms => json!({ "at_ms": at_ms, "keys": self.keys, "differed": self.differed }),
        }
    }
}

impl Verify {
    /// The first part of a present: from the beginning or not.
    pub(super) fn begin(&mut self, from_start: bool) {
        self.told.clear();
        self.differs.clear();
        self.from_start = from_start;
    }

    /// What was heard since names every item, once its last part has come.
    pub(super) fn names_all(&self) -> bool {
        self.from_start
    }

    /// What the site says of one item, against what the hub holds.
    pub(super) fn compare(&mut self, total: &PresentTotal, held: Option<&CounterCell>, watermark: Seq) {
        self.told.insert(total.gtin);
        let wrong = match held {
            // What is not applied yet cannot be here.
            None => total.seq <= watermark.0,
            Some(held) if held.seq < total.seq => total.seq <= watermark.0,
            Some(held) => held.seq == total.seq && held.units != total.units,
        };
        if wrong {
            let hub = held.map(|held| held.units);
            self.differs.push(Difference { gtin: total.gtin, hub, site: total.units });
        }
    }
}

impl Hub {
    /// A site's digests. They mean something only if both sides stand at the same place.
    pub(super) fn checked(
        &mut self,
        site: &SiteName,
        check: &Check,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let Some(session) = self.sessions.get_mut(site) else { return Ok(step) };
        let (replica, nonce) = (session.replica(site), session.nonce);
        if now.mono_ms < session.differed_ms.map_or(0, |checked| checked + CHECK_EVERY_MS) {
            return Ok(step);
        }
        if session.watermark.seq.0 == check.as_of {
            let (mut sums, mut keys) = (Sums::default(), 0);
            for gtin in self.feed.stock.items_of(&replica) {
                if let Some(held) = present::held(gtin, &replica, ledger)?.filter(|held| held.seq > 0) {
                    sums.add_stock(gtin, held.units, held.seq);
                    keys += 1;
                }
            }
            if sums.differ(&check.stock).is_empty() {
                self.note_check(site, Checked { at_ms: now.wall.0, keys, differed: 0 });
            } else {
                session.differed_ms = Some(now.mono_ms);
                session.verify.get_or_insert_default();
                session.tell_since = Some(Seq::ZERO);
                session.owes_applied = true;
            }
        }
        if check.feed_cursor != self.feed.registers_head() || check.feed_cursor == 0 {
            return Ok(step);
        }
        let sums = self.register_sums(check.feed_cursor, ledger)?;
        let wanted: Vec<usize> = sums.differ(&check.registers).into_iter().take(BUCKETS_MAX).collect();
        if let Some(session) = self.sessions.get_mut(site).filter(|_| !wanted.is_empty()) {
            session.differed_ms = Some(now.mono_ms);
        }
        let mut said = 0;
        for (bucket, entries) in registers_in(&wanted, ledger)? {
            if said > REPAIR_BYTES_MAX {
                break;
            }
            tracing::warn!(%site, bucket, "the site holds other registers than the hub: they are said again");
            for (entries, range) in ranges(entries) {
                said += entries.iter().map(FeedEntry::encoded_len).sum::<usize>();
                let (prev, upto) = (check.feed_cursor, check.feed_cursor);
                let feed = Feed { prev, upto, entries, bucket: Some(bucket as u32), range, ..Feed::default() };
                let down = Down { session: nonce, incarnation: self.incarnation, of: Some(DownOf::Feed(feed)) };
                step.then.push(Effect::down(site, &down));
            }
        }
        Ok(step)
    }

    /// An operator asks for a comparison key by key; answered when the site has said all.
    pub(super) fn verify(&mut self, site: &SiteName, answer: oneshot::Sender<Value>) -> Option<Effect> {
        let Some(session) = self.sessions.get_mut(site) else {
            let known = self.sites.contains_key(site);
            let why = if known { "is not connected" } else { "is not known here" };
            return Some(Effect::Answer(answer, json!({ "error": format!("{site} {why}") })));
        };
        session.verify.get_or_insert_default().askers.push(answer);
        session.tell_since = Some(Seq::ZERO);
        session.owes_applied = true;
        None
    }

    /// The site has said all: what it did not name is nothing, and the outcome is told.
    pub(super) fn verified(
        &mut self,
        site: &SiteName,
        as_of: u64,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Vec<PresentTotal>, LedgerError> {
        let Some(session) = self.sessions.get_mut(site) else { return Ok(vec![]) };
        let replica = session.replica(site);
        let Some(verify) = session.verify.take() else { return Ok(vec![]) };
        // Items that are held here and were not named: the site never moved them. What moved after the site looked is not
        // meant. A true total has a seq, so it wins against this one.
        let mut phantoms = Vec::new();
        for gtin in self.feed.stock.items_of(&replica).filter(|gtin| !verify.told.contains(gtin)) {
            let held = present::held(gtin, &replica, ledger)?;
            if held.is_some_and(|held| (1..=as_of).contains(&held.seq)) && phantoms.len() < PHANTOMS_MAX {
                phantoms.push(PresentTotal { gtin, units: 0, seq: 0 });
            }
        }
        let differed = verify.differs.len() + phantoms.len();
        let checked = Checked { at_ms: now.wall.0, keys: verify.told.len(), differed };
        let named = verify.differs.iter().map(
            |differs| json!({ "gtin": format!("{:014}", differs.gtin), "hub": differs.hub, "site": differs.site }),
        );
        let unknown = phantoms.iter().map(|total| json!({ "gtin": format!("{:014}", total.gtin), "site": null }));
        let named: Vec<Value> = named.chain(unknown).take(NAMED_MAX).collect();
        if differed > 0 {
            let say = format!(
                "{differed} of {} items differed and were set to what {site} says: {}",
                checked.keys,
                json!(named)
            );
            tracing::error!(%site, "{say}");
            step.then.push(Effect::tell(views::alert(site, "state_differs", say, now.wall.0)));
        }
        let outcome = json!({ "site": site.as_str(), "keys": checked.keys, "differed": differed, "items": named });
        step.then.extend(verify.askers.into_iter().map(|asker| Effect::Answer(asker, outcome.clone())));
        self.note_check(site, checked);
        Ok(phantoms)
    }

    /// Every total of a site, of all lives of its ledger.
    pub(super) fn totals(&self, site: &SiteName, ledger: &dyn Read) -> Result<Value, LedgerError> {
        let mut totals = serde_json::Map::new();
        for (replica, _) in self.feed.stock.lives_of(site) {
            for gtin in self.feed.stock.items_of(replica) {
                if let Some(held) = present::held(gtin, replica, ledger)? {
                    totals.insert(verify::name(gtin, replica.epoch.0), held.units.into());
                }
            }
        }
        Ok(json!({ "seq": ledger.next_seq().0 - 1, "totals": totals }))
    }

    fn note_check(&mut self, site: &SiteName, checked: Checked) {
        if let Some(view) = self.sites.get_mut(site) {
            view.checked = checked;
        }
        self.site_changed.insert(site.clone());
    }

    /// Sums over all registers, kept until one changes.
    fn register_sums(&mut self, head: u64, ledger: &dyn Read) -> Result<&Sums, LedgerError> {
        if self.register_sums.as_ref().is_none_or(|(at, _)| *at != head) {
            let mut sums = Sums::default();
            each_register(ledger, &mut |key, cell| {
                // One side may have forgotten what is deleted.
                if let Some(state) = cell.state.filter(|state| !state.deleted) {
                    sums.add_register(key, &state.encode_to_vec());
                }
            })?;
            self.register_sums = Some((head, sums));
        }
        Ok(&self.register_sums.get_or_insert_with(Default::default).1)
    }
}

/// All that the hub holds in these buckets, in one scan.
fn registers_in(wanted: &[usize], ledger: &dyn Read) -> Result<BTreeMap<usize, Vec<FeedEntry>>, LedgerError> {
    let mut found: BTreeMap<usize, Vec<FeedEntry>> = wanted.iter().map(|bucket| (*bucket, Vec::new())).collect();
    if found.is_empty() {
        return Ok(found);
    }
    each_register(ledger, &mut |key, cell| {
        if let Some(entries) = found.get_mut(&register_bucket(key)) {
            entries.push(FeedEntry { key: key.to_owned(), state: cell.state });
        }
    })?;
    Ok(found)
}

/// What goes down in one message each, in order of the keys, with the range of keys that it is all of: none if it is the
/// whole bucket.
fn ranges(entries: Vec<FeedEntry>) -> Vec<(Vec<FeedEntry>, Option<KeyRange>)> {
    let mut parts: Vec<(Vec<FeedEntry>, usize)> = vec![(Vec::new(), 0)];
    for entry in entries {
        if parts.last().is_none_or(|(part, bytes)| part.len() == ENTRIES_MAX || *bytes > BYTES_MAX) {
            parts.push((Vec::new(), 0));
        }
        if let Some((part, bytes)) = parts.last_mut() {
            *bytes += entry.encoded_len();
            part.push(entry);
        }
    }
    let (count, mut after) = (parts.len(), String::new());
    let ranged = |(n, (part, _)): (usize, (Vec<FeedEntry>, usize))| {
        let last = part.last().filter(|_| n + 1 < count).map(|entry| entry.key.clone());
        let to = last.unwrap_or_default();
        let range = KeyRange { after: std::mem::replace(&mut after, to.clone()), to };
        (part, (count > 1).then_some(range))
    };
    parts.into_iter().enumerate().map(ranged).collect()
}

fn each_register(ledger: &dyn Read, each: &mut dyn FnMut(&str, RegisterCell)) -> Result<(), LedgerError> {
    let mut damaged = None;
    ledger.scan_prefix(REGISTER, &[], &mut |key, value| {
        match decode::<RegisterCell>(REGISTER, value) {
            Ok(cell) => each(&String::from_utf8_lossy(key), cell),
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(()), Err)
}
