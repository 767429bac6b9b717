//! Waiting on a condition. The only place of the tests that sleeps without a seed having said so.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The most that any one thing may take on a busy machine; past it the test fails and says what it last saw.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` is content; `Err` is what it saw instead.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}; last seen: {seen}"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `Ok` if it holds, else what was seen.
pub(crate) fn holds(holds: bool, seen: impl std::fmt::Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}
