//! What this store takes for the time: its own clock if it was set, else the hub's, else nobody's.
//!
//! A box that does not know the time goes on selling. Its records say that, and how long its process ran; the anchor that
//! follows once it knows the time says when that was.

use broker::ledger::{Draft, LedgerError, Now, Put, Read, Step};
use proto::id::{Seq, WallMs};
use proto::wire::record::Of;
use proto::wire::{Event, Record, TimeAnchor};

use super::tables::{SYNC, SYNC_UNANCHORED};
use super::{Effect, Gateway};

#[derive(Debug, Default)]
pub(super) struct Time {
    /// Hub time when it was last heard, and our process time then.
    from_hub: Option<(u64, u64)>,
    /// Hub clock minus this box's own, milliseconds, when last heard.
    pub(super) skew_ms: Option<i64>,
    /// The seq with which this process began to write.
    run: Seq,
    /// There are records that no anchor covers yet.
    unanchored: bool,
    /// The box's own clock was set.
    own: bool,
}

impl Time {
    pub(super) fn resume(&mut self, ledger: &dyn Read) -> Result<(), LedgerError> {
        self.run = ledger.next_seq();
        self.unanchored = ledger.get(SYNC, SYNC_UNANCHORED)?.is_some();
        Ok(())
    }

    /// `now` is as the box's own clocks have it.
    pub(super) fn heard(&mut self, hub_ms: u64, now: &Now) {
        self.skew_ms = Some((hub_ms as i64).saturating_sub(now.wall.0 as i64));
        self.from_hub = Some((hub_ms, now.mono_ms));
    }

    /// The moment as it is believed here.
    pub(super) fn believed(&mut self, now: &Now) -> Now {
        self.own = now.synced;
        match self.from_hub {
            Some((hub_ms, mono_ms)) if !now.synced => {
                Now { wall: WallMs(hub_ms.saturating_add(now.mono_ms.saturating_sub(mono_ms))), synced: true, ..*now }
            }
            _ => *now,
        }
    }

    /// Whether the hub's clock stands in for the box's own.
    pub(super) fn by_hub(&self) -> bool {
        !self.own && self.from_hub.is_some()
    }

    /// Whose clock it is: `own`, `hub` or `nobody`.
    pub(super) fn quality(&self) -> &'static str {
        match (self.own, self.from_hub) {
            (true, _) => "own",
            (false, Some(_)) => "hub",
            (false, None) => "nobody",
        }
    }
}

impl Gateway {
    pub(super) fn draft(&mut self, event: Event, now: &Now) -> Draft {
        let (run, uptime_ms) = if now.synced { (0, 0) } else { (self.time.run.0, now.mono_ms) };
        let event = Event { unsynced: !now.synced, run, uptime_ms, ..event };
        Draft { stamp: self.clock.stamp(now.reading()), event }
    }

    /// Says with the step that there are records without a time, or, once it is known, what their time was.
    pub(super) fn anchor(&mut self, step: &mut Step<Effect>, now: &Now) {
        if !self.time.unanchored && step.events.iter().any(|draft| draft.event.unsynced && draft.event.rejoined_of == 0)
        {
            self.time.unanchored = true;
            step.puts.push(Put::set(SYNC, SYNC_UNANCHORED, self.time.run.0.to_be_bytes()));
        }
        if !self.time.unanchored || !now.synced || !step.events.is_empty() {
            return;
        }
        self.time.unanchored = false;
        let anchor = TimeAnchor {
            run: self.time.run.0,
            zero_ms: now.wall.0.saturating_sub(now.mono_ms),
            powered_on_s: now.powered_on_s,
            wall_ms: now.wall.0,
        };
        let records = vec![Record { of: Some(Of::TimeAnchor(anchor)) }];
        let draft = self.draft(Event { records, ..Event::default() }, now);
        step.events.push(draft);
        step.puts.push(Put::delete(SYNC, SYNC_UNANCHORED));
    }
}
