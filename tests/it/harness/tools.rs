//! Programs that a test needs and a machine may not have.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// True if all are there. If not, the test says so and is skipped, but not where `TILLSYNC_REQUIRE_TOOLS=1` is set.
pub(crate) fn has(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !runs(tool)).collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("TILLSYNC_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    assert!(!required, "{missing:?} are not installed, and TILLSYNC_REQUIRE_TOOLS=1 is set");
    println!("SKIPPED: {missing:?} are not installed");
    false
}

fn runs(tool: &str) -> bool {
    let tried = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    !matches!(tried, Err(error) if error.kind() == ErrorKind::NotFound)
}
