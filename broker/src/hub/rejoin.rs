//! Lives of a site's ledger: what the hub tells a new one of those before it, and how one is closed for good.

use std::ops::ControlFlow;

use proto::chunk::ChainHash;
use proto::id::{Epoch, Seq, SiteName};
use proto::wire::down::Of as DownOf;
use proto::wire::record::Of;
use proto::wire::{Down, Followed, Follows, Past, Recall, SiteFollows};

use super::sync::watermark;
use super::tables::{EPOCH, RETIRED, WATERMARK, replica_key, seq_of};
use super::{Effect, Hub, views};
use crate::ledger::{LedgerError, Now, Read, Step};

/// Request ids are kept for seven days; a day more, since clocks differ.
const RECALL_MS: u64 = 8 * 24 * 3600 * 1000;

/// What a new life of a ledger asks of those before it. Whoever has the journal answers; see `recall.rs` beside this folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub site: SiteName,
    /// The life that asks: it knows its own journal.
    pub epoch: Epoch,
    pub nonce: u64,
    pub incarnation: u64,
    /// Below this position of our journal; 0 for the newest.
    pub below: Seq,
    /// Nothing of the site's earlier lives is before this.
    pub from: Seq,
    /// What arrived before this does not matter. Hub time, milliseconds.
    pub since_ms: u64,
}

impl Question {
    pub(crate) fn answer(&self, past: Past) -> Effect {
        let of = Some(DownOf::Past(past));
        Effect::down(&self.site, &Down { session: self.nonce, incarnation: self.incarnation, of })
    }
}

/// What a gateway of a closed epoch is told.
pub(super) const RETIRED_ADVICE: &str = "a later ledger of this site has taken over from this one: if this box is an old copy, switch it off; if it is the \
     store's own, stop it and run `tillsync-gateway rejoin`";

pub(super) fn is_retired(site: &SiteName, epoch: Epoch, ledger: &dyn Read) -> Result<bool, LedgerError> {
    Ok(ledger.get(RETIRED, &replica_key(site.as_str(), epoch))?.is_some())
}

/// Our record that first named a life of this site other than `epoch`, the oldest of them.
fn earlier_lives_from(site: &SiteName, epoch: Epoch, ledger: &dyn Read) -> Result<Option<Seq>, LedgerError> {
    let (own, mut oldest) = (replica_key(site.as_str(), epoch), None::<Seq>);
    let prefix = [site.as_str().as_bytes(), b"\0"].concat();
    ledger.scan_prefix(EPOCH, &prefix, &mut |key, value| {
        if key != own {
            let named = seq_of(value).unwrap_or_default();
            oldest = Some(oldest.map_or(named, |oldest| oldest.min(named)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(oldest)
}

impl Hub {
    /// The journal is not read here: the writer has others to serve.
    pub(super) fn recall(
        &mut self,
        site: &SiteName,
        recall: &Recall,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let Some(session) = self.sessions.get(site) else { return Ok(Step::nothing()) };
        let from = earlier_lives_from(site, session.epoch, ledger)?;
        let question = Question {
            site: site.clone(),
            epoch: session.epoch,
            nonce: session.nonce,
            incarnation: self.incarnation,
            below: Seq(recall.below),
            from: from.unwrap_or_default(),
            since_ms: if recall.epoch == 0 { now.wall.0.saturating_sub(RECALL_MS) } else { 0 },
        };
        let effect = match from {
            Some(_) => Effect::Recall(question),
            None => question.answer(Past { below: recall.below, ..Past::default() }),
        };
        Ok(Step { then: vec![effect], ..Step::nothing() })
    }

    /// Closes an earlier life's journal. Said again it changes nothing.
    pub(super) fn follows(
        &mut self,
        site: &SiteName,
        follows: &Follows,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let Some(session) = self.sessions.get(site) else { return Ok(Step::nothing()) };
        let (nonce, replica, retired) = (session.nonce, session.replica(site), Epoch(follows.epoch));
        let mut step = Step::nothing();
        let held = watermark(site, retired, ledger)?;
        // An epoch that we never heard of had nothing here, so there is nothing to mistake it for.
        let known = ledger.get(WATERMARK, &replica_key(site.as_str(), retired))?.is_some() || follows.seq == 0;
        let hash = ChainHash::from_slice(&follows.hash);
        let reached =
            hash.is_some() && Seq(follows.seq) <= held.seq && (Seq(follows.seq) < held.seq || hash == Some(held.hash));
        if retired == replica.epoch || !known || !reached {
            let advice = format!(
                "the hub does not have {site}'s ledger {retired} up to {}: it is looked for again",
                follows.seq
            );
            step.then.push(self.turned(site, nonce, "follows_unknown", advice, now));
            return Ok(step);
        }
        if !is_retired(site, retired, ledger)? {
            let record = SiteFollows {
                site: site.to_string(),
                epoch: replica.epoch.0,
                retired: retired.0,
                seq: follows.seq,
                hash: follows.hash.clone(),
            };
            let draft = self.draft(vec![Of::SiteFollows(record)], now);
            step.events.push(draft);
            tracing::info!(%site, %retired, by = %replica.epoch, at = follows.seq, "a ledger is closed");
            let say = format!("{site} goes on with ledger {}; {retired} is closed", replica.epoch);
            step.then.push(Effect::tell(views::alert(site, "ledger_closed", say, now.wall.0)));
        }
        let own_position = self.feed.own_head(&replica);
        let followed = Followed { epoch: follows.epoch, applied_seq: held.seq.0, own_position };
        let down = Down { session: nonce, incarnation: self.incarnation, of: Some(DownOf::Followed(followed)) };
        step.then.push(Effect::down(site, &down));
        Ok(step)
    }
}
