//! Looks after the certificate of a running node's listeners: renews its own, reads yours again when it changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::PkiError;
use super::facts::Facts;
use super::own::Own;
use crate::front::Tls;
use crate::node::beside::{Answering, Beside};
use crate::node::show;
use crate::node::wall_ms;

/// Between two looks; each costs a few `stat`s and reading one small file.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate that the listeners show, and what goes wrong with it.
#[derive(Debug)]
pub struct Keeper {
    tls: Tls,
    /// With it the certificate is this node's own, and is renewed here.
    own: Option<Own>,
    valid_ms: u64,
    trouble: Mutex<Option<String>>,
}

impl Keeper {
    pub fn new(tls: Tls, own: Option<Own>, valid_ms: u64) -> Keeper {
        Keeper { tls, own, valid_ms, trouble: Mutex::default() }
    }

    /// Looks until the node stops.
    pub async fn run(self: Arc<Keeper>, mut stopping: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let keeper = self.clone();
            // A panic in it would be told by tokio; the next look is a new one.
            let _ = tokio::task::spawn_blocking(move || keeper.look(wall_ms())).await;
        }
    }

    fn look(&self, now_ms: u64) {
        let trouble = self.tend(now_ms).err().map(|error| error.to_string());
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = trouble.as_ref().filter(|_| trouble != *known) {
            tracing::error!(%error, "the listeners' certificate cannot be renewed; the one that is there goes on");
        }
        *known = trouble;
    }

    fn tend(&self, now_ms: u64) -> Result<(), PkiError> {
        if let Some(own) = &self.own
            && own.renew_server(&[], now_ms, self.valid_ms)?
        {
            tracing::info!("a new server certificate was made");
        }
        if self.tls.refresh().map_err(|why| PkiError::Request(why.to_string()))? {
            tracing::info!(not_after = %show::when(self.tls.facts().not_after_ms), "the listeners show a new certificate");
        }
        Ok(())
    }
}

/// A certificate as a status shows it.
pub fn shown(facts: &Facts, now_ms: u64) -> Value {
    let days = (facts.days_left(now_ms) * 100.0).round() / 100.0;
    json!({ "days_left": days, "not_after": show::when(facts.not_after_ms), "key": facts.key.to_string() })
}

impl Beside for Keeper {
    fn status(&self, status: &mut Value) {
        let mut listener = shown(&self.tls.facts(), wall_ms());
        listener["trouble"] = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().into();
        if let Some(own) = &self.own {
            listener["ca"] = own.paths.ca.display().to_string().into();
            listener["ca_key"] = own.authority.facts().key.to_string().into();
        }
        status["certificates"]["listener"] = listener;
    }

    fn question(&self, _: &[&str]) -> Option<Answering> {
        None
    }
}
