//! The end of a connection: what the client is told, and what is left behind of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::codec::Version;
use super::connection::{Connection, GOODBYE_TIMEOUT};
use super::encode;
use super::end::End;
use super::intake::{Inbound, Intake};
use super::sessions::{Claim, Kick};
use super::shared::Shared;
use crate::mailbox::Change;

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    /// v5 clients are told why, unless that would land in the middle of a packet.
    pub(super) async fn say_goodbye(&mut self, end: &End) {
        if let Some(reason) = end.reason()
            && self.codec.version == Version::V5
            && self.out.is_empty()
        {
            encode::disconnect(reason, &mut self.out);
            let _ = timeout(GOODBYE_TIMEOUT, self.stream.write_all(&self.out)).await;
        }
        let _ = timeout(GOODBYE_TIMEOUT, self.stream.shutdown()).await;
    }

    pub(super) fn count(&self, end: &End) {
        let stats = &self.shared.stats;
        match end {
            End::Fault(fault) => fault.count(stats),
            End::KeepAlive => stats.keepalive_timeouts.inc(),
            End::Stalled => stats.stalled.inc(),
            End::RightsGone | End::Kicked(Kick::Revoked) => stats.revoked.inc(),
            _ => {}
        }
    }

    /// Leaves behind what the client asked for: its session, its will, or nothing.
    pub(super) async fn finish(self, end: End) {
        let Connection {
            shared, mut claim, share, link, live, mail, mut will, mut expiry, exactly_once, stream, ..
        } = self;
        drop(stream);
        drop((share, link, live, mail));
        if let End::Disconnected { will: wanted, expiry_s } = end {
            if !wanted {
                will = None;
            }
            // A session that was to end with the connection cannot be kept after all [MQTT-3.14.2-2].
            if let Some(seconds) = expiry_s.filter(|_| !expiry.is_zero()) {
                expiry = Duration::from_secs(seconds.into()).min(shared.config.session_expiry_max);
            }
        }
        let now = Instant::now();
        if let Some(will) = will.filter(|_| end.is_the_clients()) {
            let delay = will.delay.min(expiry);
            if delay.is_zero() {
                // Not awaited: whoever takes over waits for this connection, but not for the writer.
                let shared = shared.clone();
                tokio::spawn(async move { will.publish(&shared).await });
            } else {
                claim.will = Some((now + delay, will));
            }
        }
        if expiry.is_zero() {
            end_session(&mut claim, &shared, exactly_once).await;
        } else {
            claim.expires = Some(now + expiry);
            keep_for(&mut claim, expiry, &shared).await;
        }
    }
}

/// Tells the ledger how long the session outlives this connection, if that is news. Nobody waits for it: should it be
/// lost, the session is kept for as long as was asked for at first.
async fn keep_for<I: Intake>(claim: &mut Claim, expiry: Duration, shared: &Arc<Shared<I>>) {
    let expiry_s = seconds(expiry);
    if claim.kept && claim.expiry_s != expiry_s {
        claim.expiry_s = expiry_s;
        let change = Change::Open { owner: claim.owner.clone(), expiry_s };
        shared.tell(Inbound::Session { client: claim.client.clone(), change }).await;
    }
}

pub(super) fn seconds(expiry: Duration) -> u32 {
    u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)
}

/// Forgets a session here and in the intake.
pub(super) async fn end_session<I: Intake>(claim: &mut Claim, shared: &Arc<Shared<I>>, exactly_once: bool) {
    let kept = std::mem::take(&mut claim.kept);
    claim.expires = None;
    claim.filters.clear();
    if kept || exactly_once {
        // Fails only if the writer stopped; a clean start tells it again.
        shared.forget(&claim.client).await;
    }
}
