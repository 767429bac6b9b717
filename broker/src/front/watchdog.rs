//! Looks whether the router lives, and builds a new one if not.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rumqttd::protocol::{Packet, PingReq};
use tokio::time::Instant;

use super::router::{FromRouter, Link, LinkFor, Router, RouterGone};
use super::stats::FrontStats;

/// A router that dies sooner than this is not replaced at once: it may be the input that kills it.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until dropped. A thread that died closes the watchdog's link, which is noticed at once; one that hangs leaves
/// a probe unanswered for `timeout`. Ports that stay open over a dead router are the worst failure.
pub(super) async fn watch(router: Arc<Router>, stats: Arc<FrontStats>, timeout: Duration) {
    loop {
        let began = Instant::now();
        let died = tokio::select! {
            Err(RouterGone) = probe(&router, timeout) => true,
            () = router.spent() => false,
        };
        if died {
            tracing::error!("the router died: a new one takes over, connections attach again, what it held is lost");
            stats.router_restarts.inc();
        } else {
            tracing::info!("the router holds too much: a new one takes over, connections attach again");
            stats.router_renewals.inc();
            // Should it hang, it is left behind.
            let _ = tokio::time::timeout(timeout, router.end()).await;
        }
        router.restart();
        if began.elapsed() < SHORT_LIFE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn probe(router: &Arc<Router>, timeout: Duration) -> Result<Infallible, RouterGone> {
    let mut link = router.link(LinkFor::Process("watchdog")).await?;
    let mut probes = tokio::time::interval(timeout / 5);
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            answer = link.next() => asked = answered(&link, answer?, asked).await?,
            now = probes.tick() => match asked {
                Some(then) if now.duration_since(then) > timeout => return Err(RouterGone),
                Some(_) => {}
                None => {
                    asked = Some(now);
                    link.send(&mut vec![Packet::PingReq(PingReq)])?;
                }
            },
        }
    }
}

/// The link subscribes to nothing, so all it can hear is the answer to its probe.
async fn answered(link: &Link, answer: FromRouter, asked: Option<Instant>) -> Result<Option<Instant>, RouterGone> {
    match answer {
        FromRouter::Packet(Packet::PingResp(_)) => Ok(None),
        FromRouter::Packet(_) | FromRouter::Publish(..) => Ok(asked),
        FromRouter::Unscheduled => link.wake().await.map(|()| asked),
    }
}
