//! One gateway's session: what was agreed at Hello, and what must be said to it next.

use proto::chunk::Position;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::down::Of as DownOf;
use proto::wire::{Applied, Down, PresentCell};

use super::check::Verify;
use super::feed::Stream;
use super::forget::{Settling, Snapshot};
use super::present::Parts;

/// Records that a gateway may send beyond what is applied, and what all those that are behind share, so that hundreds
/// that come back at once are taken in turn.
const WINDOW_RECORDS: u64 = 20_000;
const WINDOW_RECORDS_ALL: u64 = 400_000;
const WINDOW_RECORDS_LEAST: u64 = 2_048;
/// What a site that is far behind may send of its journal while the present of one that came back is awaited: HQ sees
/// every site as it is before it sees what led there. A chunk always goes, so nobody who keeps us waiting holds up others.
const WINDOW_RECORDS_MEANWHILE: u64 = 128;
/// A present that does not come, or of which nothing more comes, is awaited for this long.
const PRESENT_WAIT_MS: u64 = 5_000;
/// Applied is said again after this long, so that nothing waits for a message that may have been lost.
const REPEAT_MS: u64 = 5_000;
/// What follows every site's stock looks at every site, so it is told less often.
const SITES_EVERY_MS: u64 = 100;
/// A feed that nobody acknowledged for this long is sent again.
const FEED_WAIT_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) nonce: u64,
    /// The nonce of the first Hello of its connection, which its will has.
    pub(super) connection: u64,
    pub(super) epoch: Epoch,
    pub(super) watermark: Position,
    /// What the gateway follows of the feed.
    pub(super) streams: Vec<Followed>,
    pub(super) settling: Settling,
    /// The gateway holds registers that are forgotten here: it takes them all anew before anything else.
    pub(super) snapshot: Option<Snapshot>,
    /// Register writes up to this seq are older than such a snapshot.
    pub(super) stale_to: Seq,
    /// What was said ahead of the journal.
    pub(super) present: PresentCell,
    pub(super) parts: Parts,
    /// The part of what the gateway holds of rights that comes next.
    rights_part: u32,
    /// The present is awaited up to this seq, until this moment.
    awaited: Option<(u64, u64)>,
    /// The latest values are to be said again, of what changed after this.
    pub(super) tell_since: Option<Seq>,
    /// A comparison key by key is under way.
    pub(super) verify: Option<Verify>,
    /// When digests last differed.
    pub(super) differed_ms: Option<u64>,
    window: u64,
    /// Applied must be said after this commit.
    pub(super) owes_applied: bool,
    /// The watermark at which a gap was reported: once is enough.
    gap_told: Option<Seq>,
    resend: bool,
    /// Up to here the gateway is to send one chunk at a time: something in company cannot be read.
    alone_up_to: Seq,
    applied_said_ms: u64,
    pub(super) heard_ms: u64,
}

impl Session {
    pub(super) fn new(nonce: u64, epoch: Epoch, watermark: Position, streams: Vec<Followed>, now_ms: u64) -> Session {
        Session {
            nonce,
            connection: nonce,
            epoch,
            watermark,
            streams,
            settling: Settling::default(),
            snapshot: None,
            stale_to: Seq::ZERO,
            present: PresentCell::default(),
            parts: Parts::default(),
            rights_part: 0,
            awaited: None,
            tell_since: None,
            verify: None,
            differed_ms: None,
            window: WINDOW_RECORDS,
            owes_applied: false,
            gap_told: None,
            resend: false,
            alone_up_to: Seq::ZERO,
            applied_said_ms: now_ms,
            heard_ms: now_ms,
        }
    }

    pub(super) fn replica(&self, site: &SiteName) -> ReplicaId {
        ReplicaId { site: site.clone(), epoch: self.epoch }
    }

    pub(super) fn send_up_to(&self) -> u64 {
        let window = if self.snapshot.is_some() { 0 } else { self.window };
        self.watermark.seq.0.saturating_add(window)
    }

    /// So many sites are far behind, perhaps this one too, and of some the present is awaited.
    pub(super) fn share_window(&mut self, behind: u64, far_behind: bool, awaited: bool) {
        let before = self.window;
        self.window = match awaited && far_behind {
            true => WINDOW_RECORDS_MEANWHILE,
            false => (WINDOW_RECORDS_ALL / behind.max(1)).clamp(WINDOW_RECORDS_LEAST, WINDOW_RECORDS),
        };
        // One that stands still for want of leave must hear of it.
        self.owes_applied |= self.window / 2 > before;
    }

    /// Whether this part of what it holds of rights continues those before.
    pub(super) fn rights_go_on(&mut self, part: u32) -> bool {
        let goes_on = part == 0 || part == self.rights_part;
        if goes_on {
            self.rights_part = part.saturating_add(1);
        }
        goes_on
    }

    /// A gateway that is far behind says the present first: up to here at least.
    pub(super) fn await_present(&mut self, journal_to: u64, now_ms: u64) {
        self.awaited = Some((journal_to, now_ms + PRESENT_WAIT_MS));
    }

    /// A part of it came.
    pub(super) fn present_goes_on(&mut self, now_ms: u64) {
        self.awaited = self.awaited.map(|(journal_to, _)| (journal_to, now_ms + PRESENT_WAIT_MS));
    }

    pub(super) fn awaits_present(&mut self, now_ms: u64) -> bool {
        let known = self.present.complete.max(self.watermark.seq.0);
        self.awaited = self.awaited.filter(|(journal_to, until_ms)| known < *journal_to && now_ms < *until_ms);
        self.awaited.is_some()
    }

    /// Something beyond the watermark came: ask for what is missing, once per watermark.
    pub(super) fn gap(&mut self) {
        if self.gap_told != Some(self.watermark.seq) {
            self.gap_told = Some(self.watermark.seq);
            self.resend = true;
            self.owes_applied = true;
        }
    }

    /// What came cannot be read: ask for it again, each time.
    pub(super) fn ask_again(&mut self) {
        self.gap_told = None;
        self.gap();
    }

    /// Ask for it again in parts.
    pub(super) fn one_by_one(&mut self, last: Seq) {
        // At least the next chunk, and never beyond what may come.
        self.alone_up_to = last.max(self.watermark.seq.next()).min(Seq(self.send_up_to()));
        self.ask_again();
    }

    pub(super) fn applied_due(&self, now_ms: u64) -> bool {
        self.owes_applied || now_ms >= self.applied_said_ms + REPEAT_MS
    }

    pub(super) fn say_applied(&mut self, incarnation: u64, awaits_rights: bool, hub_ms: u64, now_ms: u64) -> Down {
        self.owes_applied = false;
        self.applied_said_ms = now_ms;
        let of = DownOf::Applied(Applied {
            seq: self.watermark.seq.0,
            hash: self.watermark.hash.0.to_vec().into(),
            send_up_to: self.send_up_to(),
            hub_ms,
            resend: std::mem::take(&mut self.resend),
            one_by_one: self.watermark.seq < self.alone_up_to,
            present: self.present.complete,
            tell_since: self.tell_since.map(|since| since.0),
            awaits_rights,
        });
        Down { session: self.nonce, incarnation, of: Some(of) }
    }
}

/// One stream of the feed, for one gateway.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) stream: Stream,
    /// How far the gateway has taken it over.
    pub(super) cursor: u64,
    /// Nothing of it is between the cursor and here.
    looked: u64,
    /// A message up to here is on its way, since this moment.
    out: Option<(u64, u64)>,
    not_before_ms: u64,
}

impl Followed {
    pub(super) fn new(stream: Stream, cursor: u64) -> Followed {
        Followed { stream, cursor, looked: cursor, out: None, not_before_ms: 0 }
    }

    /// True if the next part may be sent and there may be one.
    pub(super) fn due(&mut self, head: u64, now_ms: u64) -> bool {
        if self.looked >= head || now_ms < self.not_before_ms {
            return false;
        }
        match self.out {
            Some((_, since_ms)) if now_ms < since_ms + FEED_WAIT_MS => false,
            _ => {
                self.out = None;
                true
            }
        }
    }

    pub(super) fn sent(&mut self, upto: u64, now_ms: u64) {
        self.out = Some((upto, now_ms));
        if self.stream == Stream::Sites {
            self.not_before_ms = now_ms + SITES_EVERY_MS;
        }
    }

    pub(super) fn nothing_until(&mut self, head: u64) {
        self.looked = head;
    }

    pub(super) fn acknowledged(&mut self, cursor: u64, resend: bool) {
        self.cursor = cursor;
        self.looked = cursor;
        if resend || self.out.is_some_and(|(upto, _)| cursor >= upto) {
            self.out = None;
        }
    }
}
