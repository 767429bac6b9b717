//! The hub's own channel: promises, reservations and movements that callers of the HTTPS listener ask for, and items that
//! they write. On an item with a pool it spends what is free there; on any other it moves stock at a named site.
//!
//! `spend.rs` decrements, `reserve.rs` keeps holds of the hub's own, `items.rs` writes item registers, `look.rs` shows stock,
//! `answers.rs` remembers what a request with an idempotency key came to, in the same commit with what it did; `tally.rs` counts.

mod answers;
mod items;
mod look;
mod order;
mod reserve;
mod spend;
mod tally;

use proto::wire::Event;
use proto::wire::record::Of;
use tokio::sync::oneshot;

use self::answers::Answers;
pub use self::answers::{ANSWERS_MAX, KEEP_S};
pub use self::items::FIELDS_MAX;
pub use self::order::{Key, Line, LinesOf, OnlyIf, Order, Outcome, Reply, What};
use self::reserve::Reservations;
pub use self::reserve::{RESERVATION_S, RESERVATIONS_MAX, ReservationLimits};
use self::tally::Tally;
use super::{Effect, Hub};
use crate::ledger::{Draft, LedgerError, Now, Read, Step};

/// What the channel keeps in memory beside the state.
#[derive(Debug, Default)]
pub(super) struct Channel {
    reservations: Reservations,
    answers: Answers,
    tally: Tally,
}

impl Hub {
    /// How long reservations may last, and how many may be open.
    #[must_use]
    pub fn with_reservations(mut self, limits: ReservationLimits) -> Hub {
        self.channel.reservations.limits = limits;
        self
    }

    pub(super) fn recover_channel(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        self.channel.reservations.recover(ledger)?;
        self.channel.answers.recover(ledger)
    }

    /// What a caller asked for. What is due ends first, so that nobody is turned away for units that are free.
    pub(super) fn ordered(
        &mut self,
        order: &Order,
        answer: oneshot::Sender<Reply>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        self.expire(now, ledger, &mut step)?;
        let reply = match self.answered_before(order, ledger)? {
            Some(reply) => reply,
            None => {
                let reply = self.carry_out(order, now, ledger, &mut step)?;
                self.remember(order, &reply, now, &mut step);
                reply
            }
        };
        self.channel.tally.count(order, &reply);
        step.then.push(Effect::Reply(answer, reply));
        Ok(step)
    }

    fn carry_out(
        &mut self,
        order: &Order,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<Reply, LedgerError> {
        Ok(match &order.what {
            What::Decrement(lines) => self.decrement(order, lines, now, ledger, step),
            What::Reserve(lines) => self.reserve(order, lines, now, ledger, step),
            What::Commit(id) => self.commit_reservation(order, id, now, ledger, step)?,
            What::Release(id) => self.release_reservation(order, id, now, ledger, step)?,
            What::Reservation(id) => self.show_reservation(id, now, ledger)?,
            What::Stock(gtin) => self.show_stock(*gtin),
            What::Item(gtin) => items::show(*gtin, ledger)?,
            What::Write { gtin, fields, whole, only_if } => {
                let write = items::Write { gtin: *gtin, fields, whole: *whole, only_if };
                self.write_item(order, &write, now, ledger, step)?
            }
        })
    }

    /// What time ends, a bounded number at once.
    pub(super) fn tick_channel(
        &mut self,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        self.expire(now, ledger, step)?;
        step.lazy.extend(self.channel.reservations.forget(now));
        step.lazy.extend(self.channel.answers.sweep(now, ledger)?);
        Ok(())
    }

    /// One event of the caller's; all it did is in it, and so in one commit.
    fn draft_for(&mut self, order: &Order, records: Vec<Of>, now: &Now) -> Draft {
        let draft = self.draft(records, now);
        let (request, digest) = match &order.key {
            Some(key) => (key.text.clone(), key.digest as u32),
            None => (String::new(), 0),
        };
        Draft { event: Event { device: order.caller.clone(), request, digest, ..draft.event }, ..draft }
    }
}
