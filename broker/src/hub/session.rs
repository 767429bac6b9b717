//! One gateway's session: what was agreed at Hello, and what must be said to it next.

use proto::chunk::Position;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::down::Of as DownOf;
use proto::wire::{Applied, Down};

/// Records that a gateway may send beyond what is applied.
const WINDOW_RECORDS: u64 = 20_000;
/// Applied is said again after this long, so that nothing waits for a message that may have been lost.
const REPEAT_MS: u64 = 5_000;
/// A feed that nobody acknowledged for this long is sent again.
const FEED_WAIT_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) nonce: u64,
    pub(super) epoch: Epoch,
    pub(super) watermark: Position,
    /// How far the gateway has taken over the feed.
    pub(super) cursor: u64,
    /// A feed up to here is on its way, since this moment.
    pub(super) feed_out: Option<(u64, u64)>,
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
    pub(super) fn new(nonce: u64, epoch: Epoch, watermark: Position, cursor: u64, now_ms: u64) -> Session {
        Session {
            nonce,
            epoch,
            watermark,
            cursor,
            feed_out: None,
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
        self.watermark.seq.0.saturating_add(WINDOW_RECORDS)
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

    pub(super) fn say_applied(&mut self, incarnation: u64, hub_ms: u64, now_ms: u64) -> Down {
        self.owes_applied = false;
        self.applied_said_ms = now_ms;
        let of = DownOf::Applied(Applied {
            seq: self.watermark.seq.0,
            hash: self.watermark.hash.0.to_vec().into(),
            send_up_to: self.send_up_to(),
            hub_ms,
            resend: std::mem::take(&mut self.resend),
            one_by_one: self.watermark.seq < self.alone_up_to,
        });
        Down { session: self.nonce, incarnation, of: Some(of) }
    }

    /// True if the next part of the feed may be sent.
    pub(super) fn feed_due(&mut self, now_ms: u64) -> bool {
        match self.feed_out {
            Some((_, since_ms)) if now_ms < since_ms + FEED_WAIT_MS => false,
            _ => {
                self.feed_out = None;
                true
            }
        }
    }

    pub(super) fn feed_acknowledged(&mut self, cursor: u64, resend: bool) {
        self.cursor = cursor;
        if resend || self.feed_out.is_some_and(|(upto, _)| cursor >= upto) {
            self.feed_out = None;
        }
    }
}
