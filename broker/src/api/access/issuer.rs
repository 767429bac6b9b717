//! An issuer whose tokens are taken: its keys, as fresh as they can be had, and what its tokens must say.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::caller::Caller;
use super::jwt::{Expected, Unverified};
use super::key::{Found, KeySet};
use super::refusal::Refusal;
use super::source::Source;
use crate::node::whole_file::{self, Seen};

/// Keys are asked for again this long after they were last had.
const FRESH: Duration = Duration::from_secs(600);
/// Between two tries, whoever wants them: a stranger's made-up key id must not become a flood at the issuer.
const BETWEEN_TRIES: Duration = Duration::from_secs(30);
/// Keys that cannot be had again are believed this long: an issuer that is away for a night must not lock people out, and
/// a key that it took back must not be good for ever.
const BELIEVED: Duration = Duration::from_secs(24 * 3_600);
/// Between two looks at what is due; of a file each costs one `stat`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the configuration says of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuerRules {
    pub(crate) source: Source,
    pub(crate) expected: Expected,
}

#[derive(Debug)]
pub(super) struct Issuer {
    rules: IssuerRules,
    state: RwLock<State>,
    /// One try at a time.
    trying: Mutex<()>,
}

/// What is known of the keys. Times are given, so that days can be tested in no time.
#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    had_at: Option<Instant>,
    tried_at: Option<Instant>,
    /// How a file looked when it was last tried.
    seen: Option<Seen>,
    tries: u64,
    failures: u64,
    trouble: Option<String>,
    /// It was said that the keys are too old.
    told_old: bool,
}

impl State {
    fn usable(&self, at: Instant) -> Option<Arc<KeySet>> {
        let fresh = self.had_at.is_some_and(|had_at| at.saturating_duration_since(had_at) < BELIEVED);
        self.keys.clone().filter(|_| fresh)
    }

    fn may_try(&self, at: Instant) -> bool {
        self.tried_at.is_none_or(|tried_at| at.saturating_duration_since(tried_at) >= BETWEEN_TRIES)
    }

    /// Whether it is time to try by itself; a changed file at once.
    fn due(&self, at: Instant, seen: Option<Seen>) -> bool {
        let aged = self.had_at.is_none_or(|had_at| at.saturating_duration_since(had_at) >= FRESH);
        seen != self.seen || (self.may_try(at) && (aged || self.trouble.is_some()))
    }

    fn begun(&mut self, at: Instant, seen: Option<Seen>) {
        (self.tried_at, self.seen) = (Some(at), seen);
        self.tries += 1;
    }

    /// Says whether its outcome is news for the log.
    fn ended(&mut self, at: Instant, outcome: Result<KeySet, String>) -> bool {
        match outcome {
            Ok(keys) => {
                let news = self.trouble.take().is_some() || self.keys.as_deref() != Some(&keys);
                (self.keys, self.had_at, self.told_old) = (Some(Arc::new(keys)), Some(at), false);
                news
            }
            Err(why) => {
                self.failures += 1;
                let news = self.trouble.is_none();
                self.trouble = Some(why);
                news
            }
        }
    }
}

impl Issuer {
    pub(super) fn new(rules: IssuerRules) -> Issuer {
        Issuer { rules, state: RwLock::default(), trying: Mutex::default() }
    }

    /// Keeps the keys fresh until the node stops.
    pub(super) async fn run(self: Arc<Issuer>, mut stopping: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            self.try_if(|state, seen| state.due(Instant::now(), seen)).await;
            self.tell_if_old();
        }
    }

    /// Whose token it is.
    pub(super) async fn caller(self: &Arc<Issuer>, token: &str, now_ms: u64) -> Result<Caller, Refusal> {
        let token = Unverified::parse(token)?;
        let kid = token.kid.as_deref();
        let mut keys = self.keys();
        if keys.as_deref().is_none_or(|keys| keys.find(token.alg, kid) == Found::Unknown) {
            let issuer = self.clone();
            // In a task of its own: whoever leaves does not end a try that others wait for.
            let _ = tokio::spawn(async move { issuer.try_if(|state, _| state.may_try(Instant::now())).await }).await;
            keys = self.keys();
        }
        match keys.ok_or(Refusal::NoKeys)?.find(token.alg, kid) {
            Found::Key(key) => self.rules.expected.caller(&token.verified_by(key)?, now_ms),
            Found::Unknown | Found::Unfit => Err(Refusal::Key),
        }
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.state().usable(Instant::now())
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        // Every change is of whole values.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a try that is under way, and makes one if it is wanted then.
    async fn try_if(&self, wanted: impl Fn(&State, Option<Seen>) -> bool) {
        let _alone = self.trying.lock().await;
        let seen = match &self.rules.source {
            Source::File(path) => Some(whole_file::look(path)),
            Source::Url(..) => None,
        };
        if !wanted(&self.state(), seen) {
            return;
        }
        self.change(|state| state.begun(Instant::now(), seen));
        let outcome = self.rules.source.load().await;
        let shown = match &outcome {
            Ok(keys) => Ok(keys.len()),
            Err(why) => Err(why.clone()),
        };
        let source = &self.rules.source;
        let news = self.change(|state| state.ended(Instant::now(), outcome));
        match shown {
            Ok(keys) if news => tracing::info!(%source, keys, "the keys of the tokens' issuer were read"),
            Err(error) if news => tracing::warn!(%source, %error, "the keys of the tokens' issuer cannot be had"),
            _ => {}
        }
    }

    fn tell_if_old(&self) {
        let newly_old = self.change(|state| {
            let old = state.had_at.is_some() && state.usable(Instant::now()).is_none();
            old && !std::mem::replace(&mut state.told_old, old)
        });
        if newly_old {
            tracing::error!(
                source = %self.rules.source,
                "the issuer's keys were last had a day ago: its tokens are refused until they can be had again"
            );
        }
    }

    pub(super) fn status(&self) -> Value {
        let (state, at) = (self.state(), Instant::now());
        json!({
            "source": self.rules.source.to_string(),
            "usable": state.usable(at).map_or(0, |keys| keys.len()),
            "age_ms": state.had_at.map(|had_at| at.saturating_duration_since(had_at).as_millis() as u64),
            "tries": state.tries,
            "failures": state.failures,
            "trouble": state.trouble,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(from: Instant, seconds: u64) -> Instant {
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_asked_for_every_ten_minutes_and_no_oftener_than_every_thirty_seconds() {
        let (start, mut state) = (Instant::now(), State::default());
        let due = |state: &State, seconds| state.due(later(start, seconds), None);
        assert!(due(&state, 0));
        state.begun(start, None);
        assert!(!due(&state, 29) && due(&state, 30), "a try that never ended is made again");
        state.ended(start, Ok(KeySet::default()));
        assert!(!due(&state, 599) && due(&state, 600));
        assert!(!state.may_try(later(start, 29)) && state.may_try(later(start, 30)));
        state.begun(later(start, 600), None);
        assert!(state.ended(later(start, 600), Err("away".into())), "the first failure is told");
        assert!(!due(&state, 629) && due(&state, 630));
        assert!(!state.ended(later(start, 630), Err("still away".into())), "the second is not");
        assert_eq!(state.failures, 2);
    }

    #[test]
    fn old_keys_are_believed_for_a_day() {
        let (start, mut state) = (Instant::now(), State::default());
        assert!(state.usable(start).is_none());
        state.ended(start, Ok(KeySet::default()));
        for hour in 1..24 {
            state.ended(later(start, hour * 3_600), Err("away".into()));
            assert!(state.usable(later(start, hour * 3_600)).is_some());
        }
        assert!(state.usable(later(start, 86_399)).is_some() && state.usable(later(start, 86_400)).is_none());
        assert!(state.ended(later(start, 90_000), Ok(KeySet::default())));
        assert!(state.usable(later(start, 90_000)).is_some());
    }

    #[test]
    fn a_file_that_changed_is_read_at_once() {
        let (start, mut state) = (Instant::now(), State::default());
        let (before, after) = (Some(Some((1, 2, 3, 4))), Some(Some((1, 2, 3, 5))));
        state.begun(start, before);
        state.ended(start, Ok(KeySet::default()));
        assert!(!state.due(later(start, 1), before) && state.due(later(start, 1), after));
    }
}
