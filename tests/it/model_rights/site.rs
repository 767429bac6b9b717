//! A site's rules: its rights and its hold, what it takes of the hub, and how a new life begins.

use super::hub;
use super::rules::Rules;
use super::state::{Buyer, Chain, Down, Hold, Ledger, Life, Phase, Record, Seen, Session, Site, Up, What};

/// Something on a wire. What finds no room is lost.
pub(super) fn put<M: Ord>(wire: &mut Vec<M>, message: M, max: usize) {
    if let Err(at) = wire.binary_search(&message)
        && wire.len() < max
    {
        wire.insert(at, message);
    }
}

impl Site {
    fn write(&mut self, what: What, origin: Option<u8>) {
        let serial = self.written.len() as u8 + 1;
        let Ledger { rights, hold, .. } = self.ledger;
        self.written.push(Record { what, rights, hold, origin: origin.unwrap_or(serial) });
        self.ledger.journal = self.ledger.journal.then(serial);
    }

    /// To another channel, at once: a hold that is committed as soon as it is placed.
    pub(super) fn promise(&mut self) {
        self.ledger.rights.promised += 1;
        (self.ghost.sold, self.ghost.events) = (self.ghost.sold + 1, self.ghost.events + 1);
        self.write(What::Promised, None);
    }

    /// In hand: whatever is available.
    pub(super) fn sell(&mut self) {
        let beyond = self.ledger.rights.available() < 1;
        self.ledger.rights.promised += 1;
        (self.ghost.sold, self.ghost.events) = (self.ghost.sold + 1, self.ghost.events + 1);
        self.ghost.sales += 1;
        self.write(What::Sold, None);
        self.ghost.beyond |= u32::from(beyond) << self.written.len();
    }

    pub(super) fn refund(&mut self) {
        self.ledger.rights.refunded += 1;
        (self.ghost.refunded, self.ghost.events) = (self.ghost.refunded + 1, self.ghost.events + 1);
        self.write(What::Refunded, None);
    }

    pub(super) fn place(&mut self) {
        self.ledger.rights.held += 1;
        self.ledger.hold = Hold::Open;
        // A ledger that was rolled back forgot the buyer before.
        self.ghost.sold += u8::from(matches!(self.ghost.buyer, Buyer::Waits | Buyer::Has));
        (self.ghost.buyer, self.ghost.events) = (Buyer::Waits, self.ghost.events + 1);
        self.write(What::Placed, None);
    }

    pub(super) fn may_commit(&self, rules: &Rules) -> bool {
        match self.ledger.hold {
            Hold::Open | Hold::Inherited { covered: true } => true,
            Hold::Inherited { covered: false } => !rules.inherited_needs_right || self.ledger.rights.available() > 0,
            Hold::Expired => !rules.late_needs_right || self.ledger.rights.available() > 0,
            Hold::None | Hold::Committed => false,
        }
    }

    pub(super) fn commit(&mut self, rules: &Rules, seen: &mut Seen) {
        let rights = &mut self.ledger.rights;
        let mut what = What::Ended;
        match self.ledger.hold {
            Hold::Open => (rights.held, rights.promised) = (rights.held - 1, rights.promised + 1),
            Hold::Inherited { covered } => {
                seen.inherited = true;
                rights.promised += u8::from(!covered && rules.inherited_needs_right);
            }
            _ => {
                seen.late = true;
                rights.promised += 1;
                what = What::CommittedLate;
            }
        }
        self.ledger.hold = Hold::Committed;
        self.ghost.buyer = Buyer::Has;
        self.write(what, None);
    }

    pub(super) fn expire(&mut self) {
        if self.ledger.hold == Hold::Open {
            self.ledger.rights.held -= 1;
        }
        self.ledger.hold = Hold::Expired;
        if self.ghost.buyer == Buyer::Waits {
            self.ghost.buyer = Buyer::Ended;
        }
        self.write(What::Ended, None);
    }

    /// A new connection, of a gateway that may have been started again.
    pub(super) fn connect(&mut self, rules: &Rules, wire: usize) {
        self.nonce += 1;
        if rules.own_session {
            self.down.clear();
        }
        self.phase = Phase::Greeting;
        let ledger = &self.ledger;
        let lineage = (0..).zip(ledger.earlier).fold(0, |all, (n, of)| all | u8::from(of.is_some()) << n);
        let hello = Up::Hello { nonce: self.nonce, epoch: ledger.epoch, to: ledger.journal, lineage };
        put(&mut self.up, hello, wire);
    }

    /// Its journal, and what rights it has.
    pub(super) fn sendable(&self, rules: &Rules) -> Vec<Up> {
        let Phase::Streaming { incarnation } = self.phase else { return Vec::new() };
        let (ledger, nonce) = (&self.ledger, self.nonce);
        let earlier = if rules.report_earlier { ledger.earlier } else { Default::default() };
        vec![
            Up::Batch { nonce, epoch: ledger.epoch, to: ledger.journal },
            Up::Held { nonce, incarnation, granted: ledger.rights.granted, earlier },
        ]
    }

    pub(super) fn receive(&mut self, down: Down, rules: &Rules) {
        match (down, self.phase) {
            (Down::Welcome { nonce, incarnation, applied }, Phase::Greeting) if nonce == self.nonce => {
                let agrees = applied.begins(self.ledger.journal);
                self.phase = if agrees { Phase::Streaming { incarnation } } else { Phase::Turned };
            }
            (Down::Turned { nonce }, _) if nonce == self.nonce => self.phase = Phase::Turned,
            (Down::Grants { nonce, incarnation: of, granted, asked }, Phase::Streaming { incarnation })
                if !rules.own_session || (nonce == self.nonce && of == incarnation) =>
            {
                self.hear_grants(granted, asked, rules);
            }
            _ => {}
        }
    }

    fn hear_grants(&mut self, granted: u8, asked: u8, rules: &Rules) {
        let ledger = &mut self.ledger;
        let highest = ledger.rights.granted.max(granted);
        ledger.rights.granted = if rules.granted_grows { highest } else { granted };
        ledger.asked = ledger.asked.max(asked);
        let asked = if rules.answer_once { ledger.asked - ledger.rights.answered } else { asked };
        if asked == 0 {
            return;
        }
        let available = ledger.rights.available().max(0) as u8;
        ledger.rights.returned += asked.min(available);
        ledger.rights.answered = ledger.asked;
        self.write(What::Answered, None);
    }

    /// Whether a new life is called for: what the hub said may have been about a message that came late.
    pub(super) fn must_rejoin(&self, lives: &[Life]) -> bool {
        let life = lives.get(usize::from(self.ledger.epoch)).copied().unwrap_or_default();
        self.phase == Phase::Turned && (life.is_over() || !life.applied.begins(self.ledger.journal))
    }

    /// A new life that follows this one, whose ledger is at hand.
    pub(super) fn rejoin(&mut self, lives: &[Life], rules: &Rules) {
        let fork = self.ledger.clone();
        self.backup = Some(Box::new(fork.clone()));
        let shown = self.shown(lives);
        let mut hold = match (fork.hold, shown) {
            (Hold::Committed | Hold::Expired, Hold::Open) if !rules.fork_end_first => Hold::Inherited { covered: true },
            (ended @ (Hold::Committed | Hold::Expired), _) | (_, ended @ (Hold::Committed | Hold::Expired)) => ended,
            (Hold::Open, _) => Hold::Inherited { covered: true },
            (inherited @ Hold::Inherited { .. }, _) => inherited,
            (Hold::None, Hold::Open) => Hold::Inherited { covered: false },
            (Hold::None, shown) => shown,
        };
        let mut earlier = fork.earlier;
        earlier[usize::from(fork.epoch)] = Some(fork.rights.exposure());
        self.begin(&mut hold, earlier, rules);
        let known = lives.iter().fold(0, |all, life| all | self.origins(life.applied));
        let of = lives.get(usize::from(fork.epoch)).map(|life| life.applied).unwrap_or_default();
        for serial in fork.journal.serials().skip(fork.journal.common(of).into()) {
            self.again(serial, known, rules);
        }
        self.ledger.began = (hold, self.ledger.journal.seq());
        self.also_known(lives);
    }

    /// One event of the fork, journalled again.
    fn again(&mut self, serial: u8, known: u32, rules: &Rules) {
        let Record { what, rights, origin, .. } = *self.record(serial);
        if what == What::Answered || (rules.once && known >> origin & 1 == 1) {
            return;
        }
        let new = &mut self.ledger.rights;
        let uncovered = what == What::Sold && rights.available() < 0;
        new.promised += u8::from(uncovered && rules.uncovered_again);
        new.refunded += u8::from(what == What::Refunded);
        self.write(what, Some(origin));
    }

    /// The box is gone, another takes its place. It has what the hub holds.
    pub(super) fn swap(&mut self, lives: &[Life], rules: &Rules) {
        self.backup = None;
        let mut hold = match self.shown(lives) {
            Hold::Open => Hold::Inherited { covered: false },
            shown => shown,
        };
        self.begin(&mut hold, Default::default(), rules);
        for known in self.ledger.earlier.iter_mut().take(lives.len()) {
            *known = Some(0);
        }
        self.ledger.began = (hold, 0);
        self.also_known(lives);
    }

    fn begin(&mut self, hold: &mut Hold, earlier: [Option<u8>; super::state::EPOCHS], rules: &Rules) {
        self.ghost.epochs += 1;
        self.ledger = Ledger { epoch: self.ghost.epochs, earlier, ..Ledger::default() };
        if !rules.inherited_no_right && matches!(hold, Hold::Inherited { .. }) {
            *hold = Hold::Open;
            (self.ledger.rights.granted, self.ledger.rights.held) = (1, 1);
        }
        self.ledger.hold = *hold;
        self.phase = Phase::Away;
    }

    /// Of the lives before, the hub may know more: what was granted and never heard.
    fn also_known(&mut self, lives: &[Life]) {
        let known: Vec<u8> = lives.iter().map(|life| hub::had(self, life)).collect();
        for (earlier, known) in self.ledger.earlier.iter_mut().zip(known) {
            *earlier = earlier.map(|own| own.max(known));
        }
    }

    /// The hold as the hub's chunks show it, newest first.
    fn shown(&self, lives: &[Life]) -> Hold {
        let holds = |chain: Chain| chain.serials().map(|serial| self.record(serial).hold).collect::<Vec<_>>();
        let newest_first = lives.iter().rev().flat_map(|life| holds(life.applied).into_iter().rev());
        newest_first.into_iter().find(|hold| *hold != Hold::None).unwrap_or_default()
    }

    /// The ledger as it was when it had `seq` records: as soon as it had, or just before the next one.
    pub(super) fn earlier_ledger(&self, seq: u8, just_before_next: bool) -> Ledger {
        let ledger = &self.ledger;
        let journal = ledger.journal.upto(seq);
        let mut rights = self.rights(journal);
        if just_before_next {
            rights.granted = self.rights(ledger.journal.upto(seq + 1)).granted;
        }
        let hold = journal.last().map_or(ledger.began.0, |serial| self.record(serial).hold);
        Ledger { journal, rights, hold, asked: rights.answered, ..ledger.clone() }
    }

    pub(super) fn restore(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        self.phase = Phase::Away;
    }

    /// Takes from the wires what can never mean anything any more: one state instead of many that go on alike.
    pub(super) fn sweep(&mut self, session: Option<&Session>, rules: &Rules) {
        let greets = |nonce| move |up: &Up| matches!(up, Up::Hello { nonce: of, .. } if *of == nonce);
        let (ours, theirs) = (self.nonce, session.map(|session| session.nonce));
        let alive: Vec<_> = (1..=ours).filter(|nonce| self.up.iter().any(greets(*nonce))).collect();
        self.up.retain(|up| match up {
            Up::Hello { .. } => true,
            Up::Batch { nonce, .. } | Up::Held { nonce, .. } => {
                *nonce == ours || Some(*nonce) == theirs || alive.contains(nonce)
            }
        });
        let phase = self.phase;
        self.down.retain(|down| match (down, phase) {
            (_, Phase::Away | Phase::Turned) => !rules.own_session,
            (Down::Welcome { .. }, Phase::Streaming { .. }) => false,
            _ => true,
        });
    }
}
