//! Who may ask the HTTPS listener what: bearer tokens (RFC 6750), signed by an issuer or given out by this hub.
//!
//! [`Gate`] is the only way to a handler behind a token: it takes routes together with the role that they need, and puts
//! all of them under the layer that finds out who asks. `jwt`, `key` and `local` decide and neither wait nor read a clock;
//! `issuer` keeps an issuer's keys fresh, from a file or by `fetch`.

mod caller;
mod commands;
mod fetch;
mod gate;
mod issuer;
mod jwt;
mod key;
mod local;
mod pace;
mod refusal;
mod settings;
mod source;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use caller::{Caller, Role};
pub(crate) use commands::{TokenCommand, run};
pub(super) use gate::{Gate, Known};
pub(crate) use issuer::IssuerRules;
pub(crate) use pace::RATE;
pub(crate) use settings::read;

use self::issuer::Issuer;
use self::local::TokenError;
#[cfg(not(test))]
use self::local::Tokens;
#[cfg(test)]
pub(super) use self::local::Tokens;
use self::pace::Pace;
use self::refusal::Refusal;
use crate::join::Throttle;
use crate::node::beside::{Answering, Beside};
use crate::node::whole_file::{self, Seen};

/// Between two looks at the local tokens: a removed one is refused within this.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What security events tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// `who` is empty unless the token was good and only its role too low.
    Refused {
        who: &'a str,
        from: IpAddr,
        why: Refusal,
    },
    /// A local token, by the name of its bearer; noticed in the file, so who did it is not known.
    Added(&'a str),
    Removed(&'a str),
}

/// Takes what is told; must not block.
pub(crate) type Tell = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// Finds out who asks.
pub(crate) struct Access {
    dir: PathBuf,
    issuer: Option<Arc<Issuer>>,
    local: RwLock<Local>,
    throttle: Mutex<Throttle>,
    pace: Mutex<Pace>,
    counts: Counts,
    tell: Tell,
}

struct Local {
    tokens: Arc<Tokens>,
    seen: Seen,
    trouble: Option<String>,
}

#[derive(Default)]
struct Counts {
    granted: AtomicU64,
    missing: AtomicU64,
    invalid: AtomicU64,
    no_keys: AtomicU64,
    role: AtomicU64,
    throttled: AtomicU64,
    too_fast: AtomicU64,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the local tokens.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn open(dir: &Path, issuer: Option<IssuerRules>, tell: Tell) -> Result<Access, TokenError> {
        // Before reading, so that what changes meanwhile is noticed at the next look.
        let seen = whole_file::look(&local::path(dir));
        let local = Local { tokens: Arc::new(Tokens::load(dir)?), seen, trouble: None };
        Ok(Access {
            dir: dir.into(),
            issuer: issuer.map(|rules| Arc::new(Issuer::new(rules))),
            local: RwLock::new(local),
            throttle: Mutex::default(),
            pace: Mutex::new(Pace::new(RATE, Instant::now())),
            counts: Counts::default(),
            tell,
        })
    }

    /// Requests a second that each caller may make.
    pub(crate) fn at_rate(self, rate: u32) -> Access {
        Access { pace: Mutex::new(Pace::new(rate, Instant::now())), ..self }
    }

    /// Notices changes until the node stops.
    pub(crate) async fn run(self: Arc<Access>, mut stopping: watch::Receiver<bool>) {
        if let Some(issuer) = &self.issuer {
            tokio::spawn(issuer.clone().run(stopping.clone()));
        }
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let access = self.clone();
            // A panic in it would be told by tokio; the next look is a new one.
            let _ = tokio::task::spawn_blocking(move || access.look()).await;
        }
    }

    /// Reads the local tokens again if their file changed; one that cannot be read changes nothing.
    fn look(&self) {
        let seen = whole_file::look(&local::path(&self.dir));
        if seen == self.local.read().unwrap_or_else(PoisonError::into_inner).seen {
            return;
        }
        let fresh = Tokens::load(&self.dir);
        let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
        local.seen = seen;
        local.trouble = None;
        match fresh {
            Ok(tokens) => {
                self.tell_of_change(&local.tokens, &tokens);
                local.tokens = Arc::new(tokens);
            }
            Err(error) => {
                tracing::error!(%error, "the local tokens cannot be read again; those from before stay");
                local.trouble = Some(error.to_string());
            }
        }
    }

    fn tell_of_change(&self, before: &Tokens, after: &Tokens) {
        for token in after.iter().filter(|token| !before.has(token)) {
            tracing::info!(name = %token.name, role = %token.role, "a local token was added");
            (self.tell)(Event::Added(&token.name));
        }
        for token in before.iter().filter(|token| !after.has(token)) {
            tracing::info!(name = %token.name, "a local token was removed");
            (self.tell)(Event::Removed(&token.name));
        }
    }

    /// Who asks, by what the request brings. Failures of one source are throttled: while it has to wait nothing of it is
    /// looked at.
    async fn identify(&self, headers: &HeaderMap, from: IpAddr, now_ms: u64) -> Result<Caller, Refusal> {
        let throttle = || self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let wait_ms = throttle().wait_ms(from, now_ms);
        let found = match (bearer(headers), wait_ms) {
            (Err(Refusal::Missing), _) => Err(Refusal::Missing),
            (_, Some(wait_ms)) => Err(Refusal::Throttled { wait_s: wait_ms.div_ceil(1_000) }),
            (Ok(token), None) => self.verify(token, now_ms).await,
            (Err(refusal), None) => Err(refusal),
        };
        let found = found.and_then(|caller| {
            let taken = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(&caller, Instant::now());
            taken.map(|()| caller).map_err(|wait_s| Refusal::TooFast { wait_s })
        });
        match &found {
            Ok(_) => drop(self.counts.granted.fetch_add(1, Ordering::Relaxed)),
            Err(refusal) => {
                if refusal.blames() {
                    throttle().failed(from, now_ms);
                }
                self.refused(*refusal, from, None);
            }
        }
        found
    }

    async fn verify(&self, token: &str, now_ms: u64) -> Result<Caller, Refusal> {
        if token.len() > jwt::TOKEN_BYTES_MAX {
            return Err(Refusal::Long);
        }
        if token.starts_with(local::PREFIX) {
            let tokens = self.local.read().unwrap_or_else(PoisonError::into_inner).tokens.clone();
            return tokens.caller(token, now_ms);
        }
        match &self.issuer {
            Some(issuer) => issuer.caller(token, now_ms).await,
            None => Err(Refusal::NoIssuer),
        }
    }

    /// Counts a refusal and tells of it, of what a throttle stops only by its count.
    fn refused(&self, refusal: Refusal, from: IpAddr, who: Option<&Caller>) {
        let count = match refusal {
            Refusal::Missing => &self.counts.missing,
            Refusal::Throttled { .. } => &self.counts.throttled,
            Refusal::TooFast { .. } => &self.counts.too_fast,
            Refusal::Role => &self.counts.role,
            Refusal::NoKeys => &self.counts.no_keys,
            _ => &self.counts.invalid,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let who = who.map_or("", |caller| caller.name.as_str());
        match refusal {
            Refusal::Missing | Refusal::Throttled { .. } | Refusal::TooFast { .. } | Refusal::NoKeys => {}
            why => {
                tracing::warn!(%from, who, %why, "an HTTPS request was refused");
                (self.tell)(Event::Refused { who, from, why });
            }
        }
    }
}

/// The token of the one Authorization header, if it is of that scheme; elsewhere it is not looked for.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Err(Refusal::Missing),
        (Some(value), None) => value.to_str().map_err(|_| Refusal::Form)?,
        (Some(_), Some(_)) => return Err(Refusal::Ambiguous),
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        None if value.eq_ignore_ascii_case("bearer") => Err(Refusal::Form),
        _ => Err(Refusal::Missing),
    }
}

impl Beside for Access {
    fn status(&self, status: &mut Value) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
        let Counts { granted, missing, invalid, no_keys, role, throttled, too_fast } = &self.counts;
        status["access"] = json!({
            "granted": count(granted),
            "refused": {
                "missing": count(missing),
                "invalid": count(invalid),
                "no_keys": count(no_keys),
                "role": count(role),
                "throttled": count(throttled),
                "too_fast": count(too_fast),
            },
            "local_tokens": local.tokens.len(),
            "local_trouble": local.trouble,
            "issuer": self.issuer.as_ref().map(|issuer| issuer.status()),
        });
    }

    fn question(&self, _: &[&str]) -> Option<Answering> {
        None
    }
}
