//! Taking over what earlier lives of this site's ledger left: which requests they answered, from the hub; and the records
//! that the life before, on this box, had and the hub did not, from its journal.
//!
//! Stock and registers come by the feed (`feed.rs`); ids come with `Past`, newest first. If a journal was set apart (the
//! *fork*), those answers also show the newest position that it and the hub have in common. The hub then closes that
//! life, and what the fork has after that position is journalled again (`rejournal.rs`). How far all this is stands in the
//! ledger, so a crash or a lost link only interrupts it. What an answer of the hub shows is in `takeover/recalled.rs`.

mod recalled;
mod told;

use broker::ledger::{LedgerError, Now, Put, Read, Step};
use bytes::Bytes;
use prost::Message;
use proto::id::{Epoch, Seq};
use proto::wire::up::Of as UpOf;
use proto::wire::{Ancestor, Closed, Followed, Follows, Recall, TakeoverCell};
use serde_json::{Value, json};

use super::hub::LinkState;
use super::tables::{REJOINED, SYNC, SYNC_TAKEOVER, decode};
use super::{Effect, Gateway};
use crate::sync::OWN_PAST;

/// A question that was not answered is asked again after this long.
const RECALL_AGAIN_MS: u64 = 10_000;
const FOLLOWS_AGAIN_MS: u64 = 1_000;
/// Earlier lives that every Hello names. Of older ones a restored hub hears nothing: it takes more of their journals, if
/// somebody has them, and does not say what it lacks of them.
const LINEAGE_MAX: usize = 16;

/// What whoever reads the fork says.
#[derive(Debug)]
pub enum ForkSays {
    /// There is one, of this life, set apart for this reason; its journal ends here. Said before anything else.
    /// `lineage` is what it knew of lives before it; `others` if more wait behind it.
    Here { epoch: Epoch, why: String, begins_after: Seq, end: Seq, lineage: Vec<Ancestor>, others: bool },
    /// It cannot be read: nothing is taken from it, and it is kept.
    Unreadable(String),
    /// The chunks after this seq, as it stored them; none at the end.
    Part { after: Seq, chunks: Vec<Bytes> },
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    cell: TakeoverCell,
    pub(super) fork: Option<Fork>,
    /// Forks wait behind it, or behind the one that was just read.
    others: bool,
    unreadable: Option<String>,
    /// The hub was asked something at this moment of the process's time.
    asked_ms: Option<u64>,
    /// Nothing is left in the tables of origins.
    swept: bool,
}

/// The journal of the life before.
#[derive(Debug)]
pub(super) struct Fork {
    pub(super) epoch: Epoch,
    why: String,
    /// Its journal no longer reaches back to what is up to here.
    begins_after: Seq,
    end: Seq,
    /// Up to where its records are journalled again; beyond this the next part is being read.
    pub(super) at: Seq,
}

impl Takeover {
    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        if let Some(value) = ledger.get(SYNC, SYNC_TAKEOVER)? {
            self.cell = decode(SYNC, &value)?;
        }
        Ok(())
    }

    /// A journal of an earlier life is not read to its end, so it may say more than is known here.
    pub(super) fn reads_on(&self) -> bool {
        self.fork.is_some() || self.others
    }

    /// Whether what is in common was looked for in another fork than the one of which it is not known: nothing comes of such
    /// an answer, and it is asked again.
    pub(super) fn is_of_another(&self, looked_in: Option<Epoch>) -> bool {
        self.cell.common.is_none() && self.fork.as_ref().is_some_and(|fork| looked_in != Some(fork.epoch))
    }

    /// Of this life all is taken over: only its folder is left.
    fn has_ended(&self, epoch: Epoch) -> bool {
        self.cell.done && self.cell.lineage.first().is_some_and(|ended| ended.epoch == epoch.0)
    }

    /// The hub's journal must be looked through.
    fn recalls(&self) -> bool {
        !self.cell.recalled || (self.fork.is_some() && self.cell.common.is_none())
    }

    fn question(&self) -> Option<UpOf> {
        if self.cell.done {
            return None;
        }
        if self.recalls() {
            let fork = self.fork.as_ref().filter(|_| self.cell.common.is_none());
            let below = if self.cell.recalled { 0 } else { self.cell.below };
            return Some(UpOf::Recall(Recall { below, epoch: fork.map_or(0, |fork| fork.epoch.0) }));
        }
        let (fork, common) = (self.fork.as_ref()?, self.cell.common.as_ref()?);
        let follows = Follows {
            epoch: fork.epoch.0,
            seq: common.seq,
            hash: common.hash.clone(),
            begins_after: fork.begins_after.0,
            lineage: self.cell.lineage.iter().filter(|over| over.epoch != fork.epoch.0).cloned().collect(),
        };
        self.cell.closed.is_none().then_some(UpOf::Follows(follows))
    }

    /// What to ask the hub now, if anything.
    fn ask(&mut self, now: &Now) -> Option<Effect> {
        let question = self.question()?;
        let again_ms = if matches!(question, UpOf::Recall(_)) { RECALL_AGAIN_MS } else { FOLLOWS_AGAIN_MS };
        if self.asked_ms.is_some_and(|asked| now.mono_ms < asked + again_ms) {
            return None;
        }
        self.asked_ms = Some(now.mono_ms);
        Some(Effect::Say(question))
    }

    fn put(&self) -> Put {
        Put::set(SYNC, SYNC_TAKEOVER, self.cell.encode_to_vec())
    }

    fn end_if_all_is_done(&mut self) {
        let nothing_else = self.fork.is_none() && self.unreadable.is_none();
        self.cell.done |= self.cell.recalled && nothing_else;
    }

    /// Up to where the hub had the fork's journal when it was closed, if it was.
    pub(super) fn closed(&self) -> Option<(Seq, Seq)> {
        let (common, closed) = (self.cell.common.as_ref()?, self.cell.closed.as_ref()?);
        Some((Seq(common.seq), Seq(closed.applied_seq)))
    }

    /// All of the fork is journalled again: from now on every Hello says that its life is over.
    pub(super) fn end(&mut self) -> (Put, [Effect; 2]) {
        self.cell.done = true;
        if let (Some(fork), Some(common)) = (self.fork.take(), self.cell.common.clone()) {
            let seq = common.seq.max(fork.begins_after.0);
            let ended = Ancestor { epoch: fork.epoch.0, seq, hash: common.hash };
            self.cell.lineage.retain(|ancestor| ancestor.epoch != ended.epoch);
            self.cell.lineage.insert(0, ended);
            self.cell.lineage.truncate(LINEAGE_MAX);
        }
        (self.put(), [Effect::Lineage(self.cell.lineage.clone()), Effect::ForkDone])
    }

    pub(super) fn status(&self, has_hub: bool) -> Value {
        let state = match (has_hub, self.cell.done, self.asked_ms) {
            (false, false, _) if self.fork.is_none() => "none",
            (_, true, _) if !self.others => "done",
            (_, false, None) if self.cell.closed.is_none() => "waiting",
            _ => "taking over",
        };
        let fork = self.fork.as_ref().map(|fork| {
            json!({
                "ledger": fork.epoch.to_string(),
                "why": fork.why,
                "common_seq": self.cell.common.as_ref().map(|common| common.seq),
                "at_seq": fork.at.0,
                "end_seq": fork.end.0,
            })
        });
        json!({
            "state": state,
            "ids": self.cell.ids,
            "fork": fork,
            "others_wait": self.others,
            "fork_unreadable": self.unreadable,
        })
    }
}

impl Gateway {
    /// Called every tick: nothing waits for an answer that may have been lost.
    pub(super) fn ask_for_the_past(&mut self, now: &Now) -> Option<Effect> {
        let connected = self.rules.has_hub && self.hub.link == LinkState::Connected;
        if connected { self.takeover.ask(now) } else { None }
    }

    /// The link changed: what was asked over the old one is not answered any more.
    pub(super) fn link_changed(&mut self, state: LinkState) -> Step<Effect> {
        let mut step = Step::nothing();
        // The store may have joined while it runs.
        self.rules.has_hub = true;
        self.takeover.asked_ms = None;
        if matches!(&state, LinkState::Turned { code, .. } if code == "follows_unknown")
            && self.takeover.cell.closed.is_none()
        {
            // The hub was restored since it told us: what it has in common with the fork must be found anew.
            self.takeover.begin_anew();
            step.puts.push(self.takeover.put());
        }
        self.begin_rights(&state);
        self.hub.link = state;
        step
    }

    /// The hub has closed the fork's life. Its figures are final once all of them have come by the feed; until then it is
    /// asked again.
    pub(super) fn followed(
        &mut self,
        incarnation: u64,
        followed: &Followed,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        let own = self.hub.cursors.get(OWN_PAST).copied().unwrap_or_default();
        let has_own =
            followed.own_position == 0 || (own.incarnation == incarnation && own.position >= followed.own_position);
        let asked = matches!(self.takeover.question(), Some(UpOf::Follows(follows)) if follows.epoch == followed.epoch);
        if asked && has_own {
            self.takeover.cell.closed = Some(Closed { applied_seq: followed.applied_seq });
            self.takeover.of_lineage(&followed.lineage, ledger.replica().epoch);
            step.puts.push(self.takeover.put());
            step.then.extend(self.begin_rejournal(ledger)?);
        }
        Ok(step)
    }

    pub(super) fn fork_says(
        &mut self,
        says: ForkSays,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        match says {
            ForkSays::Unreadable(why) => {
                self.takeover.unreadable = Some(why);
                Ok(Step::nothing())
            }
            ForkSays::Here { epoch, others, .. } if self.takeover.has_ended(epoch) => {
                self.takeover.others = others;
                Ok(Step { then: vec![Effect::ForkDone], ..Step::nothing() })
            }
            ForkSays::Here { epoch, why, begins_after, end, lineage, others } => {
                let mut step = Step::nothing();
                self.takeover.others = others;
                if self.takeover.cell.done {
                    // It waited behind the one that is taken over. What that one had of it is known by its origin.
                    self.takeover.begin_anew();
                    step.puts.push(self.takeover.put());
                }
                self.takeover.of_lineage(&lineage, ledger.replica().epoch);
                self.takeover.fork = Some(Fork { epoch, why, begins_after, end, at: Seq::ZERO });
                step.then.extend(self.begin_rejournal(ledger)?);
                Ok(step)
            }
            ForkSays::Part { after, chunks } => self.rejournal(after, &chunks, now, ledger),
        }
    }

    /// Reads the fork from where its records are not journalled again yet, if the hub has closed it.
    fn begin_rejournal(&mut self, ledger: &dyn Read) -> Result<Option<Effect>, LedgerError> {
        let Some((common, _)) = self.takeover.closed() else { return Ok(None) };
        let Some(fork) = &mut self.takeover.fork else { return Ok(None) };
        let done = ledger.get(REJOINED, b"")?.and_then(|value| value.try_into().ok()).map(u64::from_be_bytes);
        // What is left out by mistake of a part that was journalled again would be lost; what is not is known by its origin.
        fork.at = if self.takeover.cell.anew { common } else { Seq(done.unwrap_or(0)).max(common) };
        Ok(Some(Effect::ReadFork { after: fork.at }))
    }
}
