//! A site's rules: `gateway/src/sync.rs`, the ledger's trimming, and what is planned of rejoin.

use super::rules::{Rules, WINDOW};
use super::state::{Chain, Content, Down, EPOCHS, Followed, Ledger, Mark, Phase, Session, Site, Up, records};

/// Something on a wire. What finds no room is lost.
pub(super) fn put<M: Ord>(wire: &mut Vec<M>, message: M, max: usize) -> bool {
    let Err(at) = wire.binary_search(&message) else { return false };
    let room = wire.len() < max;
    if room {
        wire.insert(at, message);
    }
    room
}

impl Site {
    /// A new connection, of a gateway that may have been started again. What the old one had under way to it is ignored.
    pub(super) fn connect(&mut self, rules: &Rules, wire: usize) {
        self.nonce += 1;
        self.down.clear();
        self.phase = Phase::Greeting;
        self.say_hello(rules, wire);
    }

    pub(super) fn say_hello(&mut self, rules: &Rules, wire: usize) -> bool {
        let ledger = &self.ledger;
        let mut follows = ledger.lineage;
        for (epoch, fork) in (0..).zip(&mut follows) {
            let last = ledger.follows.as_ref().is_some_and(|old| old.epoch == epoch);
            let told = ledger.welcomed && !rules.follows_again;
            if told || !(last || rules.follows_all) {
                *fork = None;
            }
        }
        let hello = Up::Hello {
            nonce: self.nonce,
            epoch: ledger.epoch,
            beginning: ledger.beginning,
            to: ledger.journal,
            follows,
        };
        put(&mut self.up, hello, wire)
    }

    /// What may be sent: in order, but any of it again at any time.
    pub(super) fn sendable(&self) -> Vec<Up> {
        let Phase::Streaming { applied, .. } = self.phase else { return Vec::new() };
        let (ledger, nonce) = (&self.ledger, self.nonce);
        let batch = |before, after, remnant| Up::Batch { nonce, epoch: ledger.epoch, before, after, remnant };
        let mut all = Vec::new();
        if applied.seq() < ledger.beginning {
            all.push(batch(applied, ledger.journal.upto(ledger.beginning), true));
        }
        let send_up_to = ledger.journal.seq().min(applied.seq().max(ledger.beginning) + WINDOW);
        for seq in applied.seq().max(ledger.beginning)..send_up_to {
            all.push(batch(ledger.journal.upto(seq), ledger.journal.upto(seq + 1), false));
        }
        all
    }

    pub(super) fn receive(&mut self, down: Down, rules: &Rules) {
        match (down, self.phase) {
            (_, Phase::Away | Phase::Turned { .. }) => {}
            (Down::Welcome { nonce, incarnation, life, applied }, Phase::Greeting) if nonce == self.nonce => {
                if disagreement(applied, &self.ledger, rules) {
                    self.phase = Phase::Turned { recalled: applied, retired: false };
                    return;
                }
                self.ghost.seen.went_back |= life < self.ghost.heard;
                self.ghost.heard = self.ghost.heard.max(life);
                self.phase = Phase::Streaming { incarnation, applied };
                self.ledger.welcomed = true;
                (self.ledger.applied, self.ledger.told_by) = (applied.seq(), life);
            }
            (Down::Turned { nonce, recalled, retired }, _) if nonce == self.nonce => {
                self.phase = Phase::Turned { recalled, retired };
            }
            (Down::Applied { nonce, incarnation: of, applied: now }, Phase::Streaming { incarnation, applied })
                if nonce == self.nonce =>
            {
                let ours = of == incarnation || !rules.incarnation_test;
                let sensible = (applied.seq()..=self.ledger.journal.seq()).contains(&now.seq());
                if ours && sensible {
                    self.phase = Phase::Streaming { incarnation, applied: now };
                    self.ledger.applied = now.seq();
                }
            }
            _ => {}
        }
    }

    /// Takes from the wires what can never mean anything any more: one state instead of many that go on alike.
    pub(super) fn sweep(&mut self, session: Option<&Session>, rules: &Rules) {
        let greets = |nonce| move |up: &Up| matches!(up, Up::Hello { nonce: of, .. } if *of == nonce);
        let (ours, theirs) = (self.nonce, session.map(|session| session.nonce));
        let alive: Vec<_> = (1..=ours).filter(|nonce| self.up.iter().any(greets(*nonce))).collect();
        self.up.retain(|up| match up {
            Up::Hello { .. } => true,
            Up::Batch { nonce, .. } => *nonce == ours || Some(*nonce) == theirs || alive.contains(nonce),
        });
        let phase = self.phase;
        self.down.retain(|down| match (down, phase) {
            (_, Phase::Away | Phase::Turned { .. }) => false,
            (Down::Welcome { .. }, Phase::Streaming { .. }) => !rules.fresh_nonce,
            _ => true,
        });
    }

    pub(super) fn record(&mut self, record: u8) {
        let content = Content::new(record, self.ghost.life);
        self.ledger.journal = self.ledger.journal.then(content);
        self.ghost.overwritten &= !content.record();
        self.ghost.given_up &= !content.record();
    }

    /// A device sends again what it had no answer for.
    pub(super) fn again(&mut self) {
        let Some(record) = self.unacknowledged.take() else { return };
        let bit = Content::new(record, 0).record();
        if self.ledger.ids() & bit == 0 {
            self.record(record);
        }
        self.ghost.acknowledged |= bit;
    }

    pub(super) fn trimmable(&self, rules: &Rules) -> bool {
        let sent = matches!(self.phase, Phase::Streaming { .. }) && !rules.trim_applied;
        let upto = if sent { self.ledger.journal.seq() } else { self.ledger.applied };
        self.ledger.beginning < upto
    }

    /// The oldest chunk goes.
    pub(super) fn trim(&mut self, hub: &[Mark], hub_restores: u8) {
        self.ledger.beginning += 1;
        let content = self.ledger.journal.at(self.ledger.beginning);
        if content.is_lost() {
            return;
        }
        let unheard = if self.ledger.told_by < hub_restores { self.ghost.taken_back } else { 0 };
        self.ghost.seen.trimmed_too_much |= (records(hub) | unheard) & content.record() == 0;
        self.ghost.given_up |= content.record();
    }

    /// Whether a new ledger is called for.
    pub(super) fn must_rejoin(&self, rules: &Rules) -> bool {
        let Phase::Turned { recalled, retired } = self.phase else { return false };
        if usize::from(self.ghost.epochs) + 1 == EPOCHS {
            return false;
        }
        !rules.own_check || retired || disagreement(recalled, &self.ledger, rules)
    }

    /// A new ledger that follows this one.
    pub(super) fn rejoin(&mut self, rules: &Rules) {
        let Phase::Turned { recalled, retired } = self.phase else { return };
        self.ghost.seen.needless |= !retired && recalled.begins(self.ledger.journal);
        let old = std::mem::take(&mut self.ledger);
        let fork = old.journal.fork(recalled);
        self.backup = Some(Box::new(old.clone()));
        self.was_written(&old);
        self.ghost.given_up |= old.journal.upto(fork.seq()).records_after(0);
        self.ghost.epochs += 1;
        self.ledger.epoch = if rules.fresh_epoch { self.ghost.epochs } else { old.epoch + 1 };
        self.ledger.lineage = old.lineage;
        self.ledger.lineage[usize::from(old.epoch)] = Some(fork);
        self.ledger.follows = Some(Followed {
            epoch: old.epoch,
            journal: old.journal,
            beginning: old.beginning,
            recalled,
            fork,
            next: fork.seq(),
        });
        self.phase = Phase::Away;
        self.down.clear();
    }

    /// The next record of the fork, journalled again; a trimmed one as lost. Progress is in the same commit.
    pub(super) fn carry_over(&mut self) {
        let Some(old) = &mut self.ledger.follows else { return };
        old.next += 1;
        let content = old.journal.at(old.next);
        let content = if old.next > old.beginning { content } else { content.lost() };
        self.ledger.journal = self.ledger.journal.then(content);
    }

    pub(super) fn carrying(&self) -> bool {
        self.ledger.follows.as_ref().is_some_and(|old| old.next < old.journal.seq())
    }

    fn was_written(&mut self, ledger: &Ledger) {
        let written = &mut self.ghost.written;
        if !written.iter().any(|(epoch, chain)| *epoch == ledger.epoch && ledger.journal.begins(*chain)) {
            written.push((ledger.epoch, ledger.journal));
            written.sort_unstable();
        }
    }

    /// The box goes back to `ledger`.
    pub(super) fn restore(&mut self, ledger: Ledger) {
        let old = std::mem::replace(&mut self.ledger, ledger);
        self.was_written(&old);
        self.ghost.overwritten |= old.holds() & !self.ledger.holds();
        self.ghost.rolled_back |= 1 << self.ledger.epoch;
        self.ghost.life += 1;
        self.phase = Phase::Away;
        self.down.clear();
    }
}

impl Ledger {
    /// As it was when it had `seq` records.
    pub(super) fn upto(&self, seq: u8) -> Ledger {
        let mut earlier = self.clone();
        earlier.journal = self.journal.upto(seq);
        earlier.applied = self.applied.min(seq);
        if let Some(old) = &mut earlier.follows {
            let carried = old.journal.records_after(old.fork.seq());
            let done = earlier.journal.contents().filter(|content| carried & content.record() != 0).count();
            old.next = old.fork.seq() + done as u8;
        }
        earlier
    }
}

/// What stands between our chain and what the hub holds of it: `ledger_behind` or `chain_differs`. That the hub is
/// behind what we trimmed (`hub_behind`) is bridged.
fn disagreement(held: Chain, ledger: &Ledger, rules: &Rules) -> bool {
    if held.seq() > ledger.journal.seq() {
        return true;
    }
    let ours = match ledger.standing_at(held.seq()) {
        Some(ours) => Some(ours),
        None if rules.remember_hashes => Some(ledger.journal.upto(held.seq())),
        None => None,
    };
    rules.hash_test && ours.is_some_and(|ours| ours != held)
}
