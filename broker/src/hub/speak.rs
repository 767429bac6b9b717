//! What gateways are told after a commit: what is applied, how much they may send, and the next part of the feed.

use proto::wire::Down;
use proto::wire::down::Of as DownOf;

use super::feed::Stream;
use super::views::SiteView;
use super::{Effect, Hub};
use crate::ledger::{LedgerError, Now, Read};

impl Hub {
    /// After a commit: watermarks that moved, and the next part of the feed.
    pub(super) fn speak_to_sites(&mut self, now: &Now, ledger: &dyn Read) -> Result<Vec<Effect>, LedgerError> {
        let mut effects = Vec::new();
        let (behind, awaited) = self.behind(now);
        for (site, session) in &mut self.sessions {
            session.share_window(behind, self.sites.get(site).is_some_and(SiteView::far_behind), awaited);
            if session.applied_due(now.mono_ms) {
                let awaits_rights = self.pools.awaited.contains(site);
                let down = session.say_applied(self.incarnation, awaits_rights, now.wall.0, now.mono_ms);
                effects.push(Effect::down(site, &down));
            }
            let (nonce, replica) = (session.nonce, session.replica(site));
            for followed in &mut session.streams {
                if followed.stream == Stream::Registers
                    && let Some(snapshot) = &mut session.snapshot
                {
                    let part = snapshot.next(followed.cursor, now.mono_ms, ledger)?.map(DownOf::Feed);
                    let down = part.map(|of| Down { session: nonce, incarnation: self.incarnation, of: Some(of) });
                    effects.extend(down.map(|down| Effect::down(site, &down)));
                    continue;
                }
                let head = self.feed.head(&followed.stream, &self.pools);
                if !followed.due(head, now.mono_ms) {
                    continue;
                }
                let Some(feed) = self.feed.after(&followed.stream, &replica, followed.cursor, &self.pools, ledger)?
                else {
                    followed.nothing_until(head);
                    continue;
                };
                followed.sent(feed.upto, now.mono_ms);
                let of = Some(DownOf::Feed(feed));
                effects.push(Effect::down(site, &Down { session: nonce, incarnation: self.incarnation, of }));
            }
        }
        Ok(effects)
    }

    /// How many sites have much to send, and whether the present of one is awaited.
    pub(super) fn behind(&mut self, now: &Now) -> (u64, bool) {
        let (mut behind, mut awaited) = (0, false);
        for (site, session) in &mut self.sessions {
            behind += u64::from(self.sites.get(site).is_some_and(SiteView::far_behind));
            awaited |= session.awaits_present(now.mono_ms);
        }
        (behind, awaited)
    }
}
