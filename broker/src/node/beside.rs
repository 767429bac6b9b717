//! What a process has beside its core and its ledger: certificates, accounts, joining.

use serde_json::Value;

/// Finds an answer. It may block: it runs on a thread for that.
pub type Answering = Box<dyn FnOnce() -> Value + Send>;

/// A part of the process as the status and the commands see it.
pub trait Beside: Send + Sync + 'static {
    /// Adds what it knows to a status; must not block.
    fn status(&self, status: &mut Value);
    /// How a question in words of its own is answered; `None` if it is not one. An answer with the key `error` is a failure.
    fn question(&self, words: &[&str]) -> Option<Answering>;
}
