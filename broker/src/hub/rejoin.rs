//! Lives of a site's ledger: what the hub tells a new one of those before it, and how one is closed for good.

use std::ops::ControlFlow;

use proto::chunk::ChainHash;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::down::Of as DownOf;
use proto::wire::record::Of;
use proto::wire::{
    Ancestor, Down, Followed, Follows, Loss, LossClass, Past, Recall, RetiredCell, SetAsideCell, SiteFollows,
};

use super::sync::watermark;
use super::tables::{ASIDE, EPOCH, RETIRED, WATERMARK, decode, replica_key, replica_of, seq_of};
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
    /// Only what is before this seq of our journal is wanted.
    pub fn from_below(&self) -> Seq {
        if self.below == Seq::ZERO { Seq(u64::MAX) } else { self.below }
    }

    pub fn answer(&self, past: Past) -> Effect {
        let of = Some(DownOf::Past(past));
        Effect::down(&self.site, &Down { session: self.nonce, incarnation: self.incarnation, of })
    }
}

/// Lives of a site that are named at once, the newest.
pub(super) const LINEAGE_MAX: usize = 16;

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

/// Lives of a site that are over, but for one: those that joined last, newest first.
fn lineage(site: &SiteName, but: Epoch, ledger: &dyn Read) -> Result<Vec<Ancestor>, LedgerError> {
    let (mut found, mut damaged) = (Vec::new(), None);
    let prefix = [site.as_str().as_bytes(), b"\0"].concat();
    ledger.scan_prefix(RETIRED, &prefix, &mut |key, value| {
        match (replica_of(key), decode::<RetiredCell>(RETIRED, value)) {
            (Some(replica), Ok(cell)) if replica.epoch != but => found.push((key.to_vec(), replica.epoch, cell)),
            (_, Err(error)) => damaged = Some(error),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    let mut joined = Vec::new();
    for (key, epoch, cell) in found {
        let named = ledger.get(EPOCH, &key)?.and_then(|value| seq_of(&value)).unwrap_or_default();
        joined.push((named, Ancestor { epoch: epoch.0, seq: cell.seq, hash: cell.hash }));
    }
    joined.sort_by_key(|(named, _)| std::cmp::Reverse(*named));
    let newest = joined.into_iter().take(LINEAGE_MAX).map(|(_, ancestor)| ancestor).collect();
    damaged.map_or(Ok(newest), Err)
}

/// What is held beyond the common position was set aside: its seq and hash are what its head claimed, and no other box
/// went on with that ledger.
fn claimed_only(common: &Ancestor, held: Seq, site: &SiteName, ledger: &dyn Read) -> Result<bool, LedgerError> {
    let Some(value) = ledger.get(ASIDE, site.as_str().as_bytes())? else { return Ok(false) };
    let aside: SetAsideCell = decode(ASIDE, &value)?;
    let run = aside.run_first.saturating_sub(1)..aside.last;
    Ok((aside.epoch, aside.last) == (common.epoch, held.0) && aside.run_first > 0 && run.contains(&common.seq))
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

    /// An earlier life is over. A hub that was restored hears of it with a Hello, and counts what it lacks of that life:
    /// its box is gone, so nobody sends it again. Up to `gone_to` the later life has nothing of it either.
    pub(super) fn retire(
        &mut self,
        by: &ReplicaId,
        over: &Ancestor,
        gone_to: u64,
        now: &Now,
        ledger: &dyn Read,
        step: &mut Step<Effect>,
    ) -> Result<(), LedgerError> {
        let (site, retired) = (&by.site, Epoch(over.epoch));
        if ChainHash::from_slice(&over.hash).is_none() || is_retired(site, retired, ledger)? {
            return Ok(());
        }
        let lacks = gone_to.saturating_sub(watermark(site, retired, ledger)?.seq.0);
        let record = SiteFollows {
            site: site.to_string(),
            epoch: by.epoch.0,
            retired: retired.0,
            seq: over.seq,
            hash: over.hash.clone(),
            lacks,
            lacks_to: if lacks > 0 { gone_to } else { 0 },
        };
        let draft = self.draft(vec![Of::SiteFollows(record)], now);
        step.events.push(draft);
        self.pools.ended(&ReplicaId { site: site.clone(), epoch: retired });
        tracing::info!(%site, %retired, by = %by.epoch, at = over.seq, lacks, "a ledger is closed");
        let say = format!("{site} goes on with ledger {}; {retired} is closed", by.epoch);
        step.then.push(Effect::tell(views::alert(site, "ledger_closed", say, now.wall.0)));
        if lacks > 0 {
            if let Some(view) = self.sites.get_mut(site) {
                view.losses.add(&[Loss { class: LossClass::Trimmed.into(), records: lacks }]);
            }
            let say = format!("this hub was restored and lacks {lacks} records of {site}'s ledger {retired} for good");
            tracing::warn!(%site, "{say}");
            step.then.push(Effect::tell(views::alert(site, "records_lost", say, now.wall.0)));
        }
        Ok(())
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
        let common = Ancestor { epoch: follows.epoch, seq: follows.seq, hash: follows.hash.clone() };
        self.retire(&replica, &common, common.seq.max(follows.begins_after), now, ledger, &mut step)?;
        for earlier in follows.lineage.iter().take(LINEAGE_MAX).filter(|earlier| earlier.epoch != replica.epoch.0) {
            self.retire(&replica, earlier, earlier.seq, now, ledger, &mut step)?;
        }
        let own_position = self.feed.own_head(&replica);
        let applied_seq = if claimed_only(&common, held.seq, site, ledger)? { common.seq } else { held.seq.0 };
        let lineage = lineage(site, retired, ledger)?;
        let followed = Followed { epoch: follows.epoch, applied_seq, own_position, lineage };
        let down = Down { session: nonce, incarnation: self.incarnation, of: Some(DownOf::Followed(followed)) };
        step.then.push(Effect::down(site, &down));
        Ok(step)
    }
}
