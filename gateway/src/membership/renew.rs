//! Renews the site's certificate well before it ends, and for a while after.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::join::{Granted, RENEW_CONTEXT, RenewRequest};
use broker::node;
use broker::node::beside::{Answering, Beside};
use broker::node::show;
use broker::node::wall_ms;
use broker::pki::{Facts, OwnKey, PkiError, RETRY_MOST_MS, due_ms, shown};
use proto::backoff::Backoff;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::https::{PostError, post};
use super::{Joined, Membership};

/// The clock may be set, or the box wake up, in between.
const LOOK_MOST: Duration = Duration::from_secs(600);
const RETRY_LEAST_MS: u64 = 1_000;
const RETRY_FIRST_MOST_MS: u64 = 300_000;

/// The certificate of a running gateway, and what goes wrong with it.
#[derive(Debug)]
pub(crate) struct Renewal {
    dir: PathBuf,
    joined: watch::Receiver<Joined>,
    trouble: Mutex<Option<String>>,
}

impl Renewal {
    pub(crate) fn new(dir: PathBuf, joined: watch::Receiver<Joined>) -> Renewal {
        Renewal { dir, joined, trouble: Mutex::default() }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(self: Arc<Renewal>, mut stopping: watch::Receiver<bool>) {
        let mut joined = self.joined.clone();
        let mut backoff = None;
        loop {
            let membership = joined.borrow_and_update().clone();
            let wait = match membership {
                None => LOOK_MOST,
                Some(membership) => self.tend(&membership, &mut backoff).await,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = joined.changed() => if changed.is_err() { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Renews if it is due; how long to wait then.
    async fn tend(&self, membership: &Membership, backoff: &mut Option<Backoff>) -> Duration {
        // What is in memory was checked when it was read.
        let Ok(facts) = membership.facts() else { return LOOK_MOST };
        let mark = facts.key.0.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let due = Duration::from_millis(due_ms(&facts, mark).saturating_sub(wall_ms()));
        if !due.is_zero() {
            return due.min(LOOK_MOST);
        }
        let backoff = backoff.get_or_insert_with(|| backoff_of(&facts));
        let outcome = renew(&self.dir, membership).await;
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match outcome {
            Ok(until_ms) => {
                tracing::info!(until = %show::when(until_ms), "this site's certificate is renewed");
                (*trouble, *backoff) = (None, backoff_of(&facts));
                // The file that was written is noticed, and wakes us.
                return Duration::from_millis(RETRY_LEAST_MS);
            }
            Err(why) => why,
        };
        match &why {
            RenewError::Refused(why) => tracing::error!(%why, "the hub will not renew this site's certificate"),
            RenewError::Away(why) => tracing::warn!(%why, "this site's certificate cannot be renewed just now"),
            RenewError::Own(why) => tracing::error!(%why, "this site's certificate cannot be renewed"),
        }
        *trouble = Some(why.to_string());
        backoff.next_wait(node::random().unwrap_or(0))
    }
}

/// Why there is no new certificate, by who must do something.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// Nobody: it is tried again.
    #[error("{0}")]
    Away(String),
    /// Whoever runs the hub.
    #[error("{0}")]
    Refused(String),
    /// Whoever looks after this box.
    #[error("{0}")]
    Own(#[from] PkiError),
}

impl From<PostError> for RenewError {
    fn from(error: PostError) -> RenewError {
        match error {
            PostError::Away(why) => RenewError::Away(why),
            PostError::Refused { detail, .. } => RenewError::Refused(detail),
        }
    }
}

async fn renew(dir: &std::path::Path, membership: &Membership) -> Result<u64, RenewError> {
    let (old, next) = (OwnKey::of_pem(&membership.key)?, OwnKey::draw()?);
    let request = next.request_pem()?;
    let signature = old.sign(&format!("{RENEW_CONTEXT}{request}"))?;
    let asked = RenewRequest { certificate: membership.certificate.clone(), request, signature };
    let api = (membership.api_host.as_str(), membership.api_port);
    let granted: Granted = post(api, membership.renewing_config()?, "/renew", &asked).await?;
    let renewed = Membership::of(granted, &next, api)?;
    let until_ms = renewed.facts()?.not_after_ms;
    let dir = dir.to_owned();
    let saved = tokio::task::spawn_blocking(move || renewed.save(&dir)).await;
    saved.map_err(|died| RenewError::Away(died.to_string()))??;
    Ok(until_ms)
}

/// Tries are as far apart as the certificate's life is long: for 90 days from minutes to hours.
fn backoff_of(facts: &Facts) -> Backoff {
    let life = facts.valid_ms();
    let first = (life / 200).clamp(RETRY_LEAST_MS, RETRY_FIRST_MOST_MS);
    let most = (life / 20).clamp(RETRY_LEAST_MS, RETRY_MOST_MS);
    Backoff::new(Duration::from_millis(first), Duration::from_millis(most))
}

impl Beside for Renewal {
    fn status(&self, status: &mut Value) {
        let Some(membership) = self.joined.borrow().clone() else { return };
        let Ok(facts) = membership.facts() else { return };
        let mut site = shown(&facts, wall_ms());
        site["trouble"] = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().into();
        site["hub"] = json!(format!("{}:{}", membership.api_host, membership.api_port));
        status["certificates"]["site"] = site;
    }

    fn question(&self, _: &[&str]) -> Option<Answering> {
        None
    }
}
