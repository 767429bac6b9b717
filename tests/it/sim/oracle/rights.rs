//! Promises counted once more, from the events that were ever durable: what channels promised, hold or sold with a right is
//! never more than the pool. What each event says of its ledger's rights is what its other records come to.

use std::collections::{BTreeMap, BTreeSet};

use proto::wire::record::Of;
use proto::wire::{Event, HoldEnd, MovementKind, Rights};

use super::super::disk::Decided;
use super::Rep;
use super::grants::HubRights;

/// How a hold of one ledger stands.
#[derive(Debug, Clone)]
struct HoldOf {
    gtin: u64,
    units: u64,
    inherited: bool,
    /// Only the hub showed it; the box's own journal may still say it for sure.
    unsure: bool,
    how: HoldEnd,
    /// Virtual time from which it may expire.
    due_ms: u64,
}

impl HoldOf {
    fn is_open(&self) -> bool {
        self.how == HoldEnd::Unspecified
    }

    fn is_kept(&self) -> bool {
        matches!(self.how, HoldEnd::Committed | HoldEnd::CommittedLate | HoldEnd::Collected)
    }
}

/// One ledger's rights as its journal says them.
#[derive(Debug, Clone, Default)]
struct Ledger {
    rights: BTreeMap<u64, Rights>,
    holds: BTreeMap<String, HoldOf>,
    /// Units that were ever promised or held anew or given back, in all: never less.
    spent: BTreeMap<u64, u64>,
}

/// All promises of a schedule.
#[derive(Debug, Default)]
pub(in super::super) struct Promises {
    ledgers: BTreeMap<Rep, Ledger>,
    /// What each ledger was after which of its events, for one that is restored. Kept if disks are.
    history: BTreeMap<Rep, Vec<(u64, Ledger)>>,
    pub(in super::super) keeps_history: bool,
    /// Of all ledgers and times, by item: committed holds, and sales in hand that a right covered.
    pub(in super::super) committed: BTreeMap<u64, u64>,
    pub(in super::super) covered: BTreeMap<u64, u64>,
    /// Sold in hand beyond the rights that were there, or by a site that did not know of the pool.
    pub(in super::super) beyond: BTreeMap<u64, u64>,
    /// Came back from buyers, each request once.
    refunds: BTreeMap<(u64, usize), u64>,
    /// What may be promised twice, by what is outside the promise: rights that were outstanding then.
    pub(in super::super) outside: BTreeMap<u64, u64>,
    /// The most that any hub ever granted a ledger, and asked of it.
    pub(in super::super) granted: BTreeMap<(Rep, u64), (u64, u64)>,
}

/// What one event does with an item, without what it says of rights.
#[derive(Debug, Clone, Copy, Default)]
struct Does {
    promised: u64,
    sold: i64,
    collected: u64,
    held: i64,
    asks_a_right: bool,
}

fn available(rights: &Rights) -> i64 {
    rights.granted as i64 - rights.returned as i64 - rights.promised as i64 - rights.held as i64
}

/// Units that a sale in hand took from a hold of which nobody knows what became of it: it spends a right, and is not refused
/// for want of one.
fn handed_over_late(event: &Event, gtin: u64) -> u64 {
    let ended = |how: HoldEnd| {
        event.records.iter().filter_map(move |record| match &record.of {
            Some(Of::HoldEnded(ended)) if ended.gtin == gtin && ended.how() == how => Some(ended),
            _ => None,
        })
    };
    let late = ended(HoldEnd::CommittedLate).filter(|late| ended(HoldEnd::Collected).any(|sold| sold.id == late.id));
    late.map(|late| late.units).sum()
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, units: u64) {
    *sums.entry(key).or_default() += units;
}

fn of(sums: &BTreeMap<u64, u64>, gtin: u64) -> u64 {
    sums.get(&gtin).copied().unwrap_or(0)
}

impl Ledger {
    fn kept(&self, id: &str) -> bool {
        self.holds.get(id).is_some_and(HoldOf::is_kept)
    }
}

impl Promises {
    /// A ledger's event became durable at this moment.
    pub(in super::super) fn wrote(&mut self, life: &Rep, decided: &Decided, now_ms: u64) {
        let Decided { first, event, moment, .. } = decided;
        let matters =
            |of: &Option<Of>| matches!(of, Some(Of::Rights(_) | Of::Hold(_) | Of::HoldEnded(_) | Of::Movement(_)));
        if !event.records.iter().any(|record| matters(&record.of)) {
            return;
        }
        let mut ledger = self.ledgers.remove(life).unwrap_or_default();
        let does = self.does(life, &mut ledger, event, now_ms);
        let mut said = BTreeSet::new();
        for record in &event.records {
            let Some(Of::Rights(rights)) = &record.of else { continue };
            assert!(said.insert(rights.gtin), "rights to {} twice in one event of {life:?}", rights.gtin);
            let does = does.get(&rights.gtin).copied().unwrap_or_default();
            self.said(life, &mut ledger, rights, &does, event, moment.request);
        }
        let unsaid = does.iter().find(|(gtin, does)| (does.promised > 0 || does.held != 0) && !said.contains(gtin));
        assert!(unsaid.is_none(), "{first} of {life:?} says nothing of rights: {event:?}");
        // Who did not know of the pool yet sold from the shelf.
        for (gtin, does) in does.iter().filter(|(gtin, does)| !said.contains(gtin) && does.collected == 0) {
            add(&mut self.beyond, *gtin, if event.rejoined_of == 0 { does.sold.max(0) as u64 } else { 0 });
        }
        if self.keeps_history {
            self.history.entry(life.clone()).or_default().push((first.0, ledger.clone()));
        }
        self.ledgers.insert(life.clone(), ledger);
    }

    /// What an event's records other than `Rights` do, by item.
    fn does(&mut self, life: &Rep, ledger: &mut Ledger, event: &Event, now_ms: u64) -> BTreeMap<u64, Does> {
        let (mut does, again) = (BTreeMap::<u64, Does>::new(), event.rejoined_of > 0);
        for record in &event.records {
            match &record.of {
                Some(Of::Movement(moved)) if matches!(moved.kind(), MovementKind::Sale | MovementKind::Refund) => {
                    does.entry(moved.gtin).or_default().sold -= moved.units;
                }
                Some(Of::Hold(hold)) => {
                    let due_ms = now_ms + hold.seconds * 1_000;
                    let how = HoldEnd::Unspecified;
                    let (gtin, units, inherited, unsure) = (hold.gtin, hold.units, hold.inherited, hold.unsure);
                    // What the hub shows of an earlier life has been cut short by nobody; when it began is not known.
                    let due_ms = if inherited { 0 } else { due_ms };
                    let held = HoldOf { gtin, units, inherited, unsure, how, due_ms };
                    let before = ledger.holds.insert(hold.id.clone(), held);
                    let surer = |before: HoldOf| before.is_open() && before.unsure && inherited && !unsure;
                    assert!(before.is_none_or(surer), "{life:?} has two holds {}", hold.id);
                    if !inherited {
                        let does = does.entry(gtin).or_default();
                        does.held += units as i64;
                        does.asks_a_right = true;
                        add(&mut ledger.spent, gtin, units);
                    }
                }
                // What an earlier life did is noted here, and counted there.
                Some(Of::HoldEnded(ended)) if again || self.is_noted(life, ledger, &ended.id, event) => {
                    let (gtin, units, how) = (ended.gtin, ended.units, ended.how());
                    let held = HoldOf { gtin, units, how, inherited: true, unsure: false, due_ms: 0 };
                    ledger.holds.insert(ended.id.clone(), held);
                }
                Some(Of::HoldEnded(ended)) => {
                    let does = does.entry(ended.gtin).or_default();
                    self.ends(life, ledger, &ended.id, (ended.how(), ended.units), does, now_ms);
                }
                _ => {}
            }
        }
        does
    }

    /// An end that a ledger takes over of a hold that an earlier one of its site had.
    fn is_noted(&self, life: &Rep, ledger: &Ledger, id: &str, event: &Event) -> bool {
        let follows = self.ledgers.keys().any(|other| other.0 == life.0 && other != life);
        event.device.is_empty() && follows && !ledger.holds.contains_key(id)
    }

    fn ends(
        &mut self,
        life: &Rep,
        ledger: &mut Ledger,
        id: &str,
        (how, units): (HoldEnd, u64),
        does: &mut Does,
        now_ms: u64,
    ) {
        let hold = ledger.holds.get_mut(id).unwrap_or_else(|| panic!("{life:?} ends hold {id}, which it has not"));
        let before = std::mem::replace(&mut hold.how, how);
        let may = match how {
            HoldEnd::Committed | HoldEnd::Released | HoldEnd::Expired => before == HoldEnd::Unspecified,
            HoldEnd::CommittedLate => matches!(before, HoldEnd::Expired) || hold.inherited,
            HoldEnd::Collected => matches!(before, HoldEnd::Committed | HoldEnd::CommittedLate),
            HoldEnd::Unspecified => false,
        };
        assert!(may, "hold {id} of {life:?} was {before:?} and is {how:?} now");
        assert!(units <= hold.units, "more of hold {id} than was held: {units}");
        assert!(how != HoldEnd::Expired || now_ms >= hold.due_ms, "hold {id} of {life:?} is cut short");
        let (gtin, own) = (hold.gtin, !hold.inherited);
        if before == HoldEnd::Unspecified && own {
            does.held -= hold.units as i64;
        }
        match how {
            HoldEnd::Committed => {
                does.promised += if own { units } else { 0 };
                // Its buyer has that promise already if an earlier life gave it, and the hub did not hear of it.
                if own || !self.ledgers.iter().any(|((site, _), other)| *site == life.0 && other.kept(id)) {
                    add(&mut self.committed, gtin, units);
                }
            }
            HoldEnd::CommittedLate => {
                does.promised += units;
                does.asks_a_right = true;
                add(&mut self.committed, gtin, units);
                add(&mut ledger.spent, gtin, units);
            }
            HoldEnd::Collected => does.collected += units,
            _ => {}
        }
        if before == HoldEnd::Unspecified && !own {
            // It is no longer open in the life that it came from.
            for (_, other) in self.ledgers.iter_mut().filter(|((site, _), _)| *site == life.0) {
                other.holds.retain(|of, hold| of != id || !hold.is_open());
            }
        }
    }

    /// What an event says of an item's rights, beside what it did.
    fn said(
        &mut self,
        life: &Rep,
        ledger: &mut Ledger,
        rights: &Rights,
        does: &Does,
        event: &Event,
        request: Option<usize>,
    ) {
        let gtin = rights.gtin;
        let before = ledger.rights.insert(gtin, *rights).unwrap_or_default();
        let grown = [
            (before.granted, rights.granted),
            (before.returned, rights.returned),
            (before.promised, rights.promised),
            (before.refunded, rights.refunded),
            (before.answered, rights.answered),
        ];
        assert!(grown.iter().all(|(before, now)| before <= now), "{life:?} went back from {before:?} to {rights:?}");
        let most = self.granted.get(&(life.clone(), gtin)).copied().unwrap_or_default();
        assert!(
            rights.granted <= most.0 && rights.answered <= most.1 && rights.returned <= rights.answered,
            "{life:?} was granted and asked {most:?} at most and says {rights:?}"
        );
        add(&mut ledger.spent, gtin, rights.returned - before.returned);
        if event.rejoined_of > 0 {
            return;
        }
        let sold = (does.sold.max(0) as u64).saturating_sub(does.collected);
        let back = (-does.sold).max(0) as u64;
        let due = (before.promised + does.promised + sold, before.held as i64 + does.held, before.refunded + back);
        let found = (rights.promised, rights.held as i64, rights.refunded);
        assert_eq!(found, due, "promised, held and refunded of {gtin} at {life:?} after {event:?}");
        let left = available(rights);
        let late = handed_over_late(event, gtin);
        assert!(!does.asks_a_right || late > 0 || left >= 0, "{life:?} promised what it had no right to: {rights:?}");
        let beyond = ((-left).max(0) as u64).min(sold + late);
        add(&mut self.beyond, gtin, beyond);
        let (beyond, of_holds) = (beyond.min(sold), beyond.saturating_sub(sold));
        add(&mut self.covered, gtin, sold - beyond);
        *self.committed.entry(gtin).or_default() -= of_holds;
        add(&mut ledger.spent, gtin, sold);
        if let Some(uid) = request.filter(|_| back > 0) {
            self.refunds.insert((gtin, uid), back);
        }
    }

    /// A ledger's disk is replaced by a copy that ends at `seq`: what it then had left it may promise once more, as far as
    /// it did since or, of a life that was over, as far as it had.
    pub(in super::super) fn rolled_back(&mut self, life: &Rep, seq: u64, was_over: bool) {
        let now = self.ledgers.get(life).cloned().unwrap_or_default();
        let history = self.history.entry(life.clone()).or_default();
        history.retain(|(first, _)| *first <= seq);
        let then = history.last().map(|(_, ledger)| ledger.clone()).unwrap_or_default();
        for gtin in self.granted.keys().filter(|(of, _)| of == life).map(|(_, gtin)| *gtin).collect::<Vec<_>>() {
            let rights = then.rights.get(&gtin).copied().unwrap_or_default();
            let granted = self.granted[&(life.clone(), gtin)].0.max(rights.granted);
            let left = available(&Rights { granted, ..rights }).max(0) as u64 + rights.held;
            let since = of(&now.spent, gtin) - of(&then.spent, gtin) + rights.held;
            add(&mut self.outside, gtin, if was_over { left } else { left.min(since) });
        }
        self.ledgers.insert(life.clone(), then);
    }

    /// Units in open holds of sites. One that a later life took over is the same hold, and as open as in the life that it is
    /// from: the later one may not know yet that it ended there, and promises nothing with it before it does.
    fn held(&self, gtin: u64) -> u64 {
        let all = |inherited: bool| {
            self.ledgers.iter().flat_map(move |((site, _), ledger)| {
                let holds = ledger.holds.iter();
                let of_item = holds.filter(move |(_, hold)| hold.gtin == gtin && hold.inherited == inherited);
                of_item.map(move |(id, hold)| ((site.as_str(), id.as_str()), hold))
            })
        };
        let origins: BTreeSet<_> = all(false).map(|(name, _)| name).collect();
        let open = all(false).chain(all(true).filter(|(name, _)| !origins.contains(name)));
        let open = open.filter(|(_, hold)| hold.is_open()).map(|(name, hold)| (name, hold.units));
        open.collect::<BTreeMap<_, _>>().values().sum()
    }

    /// All that was promised with a right, and is not forgotten by a hub that was restored.
    pub(in super::super) fn in_all(&self, gtin: u64, hub: &HubRights) -> u64 {
        of(&self.committed, gtin) + of(&self.covered, gtin) + self.held(gtin) + hub.own(gtin)
    }

    /// What may be promised in all.
    pub(in super::super) fn there_is(&self, gtin: u64, hub: &HubRights) -> u64 {
        let refunds = self.refunds.iter().filter(|((of, _), _)| *of == gtin).map(|(_, units)| *units);
        hub.units(gtin) + hub.refunded(gtin) + refunds.sum::<u64>() + of(&self.outside, gtin)
    }

    /// The claim: no schedule ever comes to more promises than there are units.
    pub(in super::super) fn check(&self, hub: &HubRights) {
        for gtin in hub.pooled() {
            let (promised, units) = (self.in_all(gtin, hub), self.there_is(gtin, hub));
            assert!(
                promised <= units,
                "OVERSOLD: {promised} of {gtin} are promised, there are {units}, {} of them only by what is outside; \
                 committed {:?}, sold {:?}, held {}, by the hub {}",
                of(&self.outside, gtin),
                self.committed.get(&gtin),
                self.covered.get(&gtin),
                self.held(gtin),
                hub.own(gtin),
            );
        }
    }

    /// What a ledger's journal says of an item.
    pub(in super::super) fn rights(&self, life: &Rep, gtin: u64) -> Rights {
        let none = Rights { gtin, ..Rights::default() };
        self.ledgers.get(life).and_then(|ledger| ledger.rights.get(&gtin)).copied().unwrap_or(none)
    }
}
