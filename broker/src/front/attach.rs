//! A clean session's link to the router: made with the first subscription, made again when the router dies.

use rumqttd::protocol::Packet;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, End, OUT_BYTES_HIGH};
use super::deliver::Delivered;
use super::intake::Intake;
use super::router::{FromRouter, Link, LinkFor, RouterGone};

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    /// Takes what the router has without waiting. True if there may be more, once there is room for it.
    pub(super) fn hand_over(&mut self) -> bool {
        while self.out.len() < OUT_BYTES_HIGH {
            match self.link.as_mut().map(Link::try_next) {
                None | Some(Ok(None)) => return false,
                Some(Ok(Some(from_router))) => self.deliver(from_router),
                Some(Err(RouterGone)) => self.lose_link(),
            }
        }
        true
    }

    pub(super) fn deliver_or_lose(&mut self, from_router: Result<FromRouter, RouterGone>) {
        match from_router {
            Ok(from_router) => self.deliver(from_router),
            Err(RouterGone) => self.lose_link(),
        }
    }

    fn deliver(&mut self, from_router: FromRouter) {
        match from_router {
            FromRouter::Publish(publish, properties, offset) => {
                let subscriptions = self.claim.filters.len();
                let lost = offset.map_or(0, |offset| self.overflow.lost_before(offset, subscriptions));
                self.shared.stats.overflow_lost.add(lost);
                let Connection { outbound, codec, out, to_router, .. } = self;
                match outbound.publish(codec, publish, properties, out, to_router) {
                    Delivered::Yes => self.shared.stats.delivered.inc(),
                    Delivered::TooLarge => self.shared.stats.oversize_dropped.inc(),
                }
            }
            FromRouter::Packet(Packet::PubRel(pubrel, _)) => {
                self.outbound.pubrel(pubrel.pkid, &mut self.out, &mut self.to_router);
            }
            FromRouter::Packet(Packet::SubAck(..)) => self.router_subscribed(),
            FromRouter::Unscheduled => self.asleep = true,
            // UNSUBACK is ours to give; there is nothing else that it says.
            FromRouter::Packet(_) => {}
        }
        self.tell_router();
    }

    /// Hands over what is gathered for the router.
    pub(super) fn tell_router(&mut self) {
        if self.link.as_mut().is_some_and(|link| link.send(&mut self.to_router).is_err()) {
            self.lose_link();
        }
    }

    /// A link, waiting for the next router if this one has just died.
    pub(super) async fn ensure_link(&mut self) -> Result<(), End> {
        if self.link.is_some() {
            return Ok(());
        }
        let linked = tokio::select! {
            biased;
            linked = self.shared.router.link_soon(LinkFor::Client) => linked?,
            kick = self.claim.kicked.wait() => return Err(End::Kicked(kick)),
        };
        self.link = Some(linked);
        Ok(())
    }

    pub(super) fn lose_link(&mut self) {
        self.link = None;
        self.to_router.clear();
        (self.asleep, self.unlinked) = (false, true);
    }

    /// A client that did not read does so again. Its link was given up, and with it what the router held for it.
    pub(super) fn rise(&mut self) {
        self.live.rise();
        if self.mail.is_none() {
            self.lose_link();
            // What was retained meanwhile is what it would show last.
            self.replay_all();
        }
    }

    /// The router died. What it had for this connection is lost; its subscriptions are made again in the new one, and
    /// the client need not know.
    pub(super) async fn attach_again(&mut self) -> Result<(), End> {
        self.outbound.router_lost();
        self.overflow.reset();
        if self.mail.is_none() && (self.pending.is_some() || !self.claim.filters.is_empty()) {
            self.resubscribe().await?;
        }
        Ok(())
    }
}

/// Waits for the router, for ever where there is no link. Cancel-safe.
pub(super) async fn next_of(link: Option<&mut Link>) -> Result<FromRouter, RouterGone> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}
