//! Changes of accounts: the same whether a node runs or not.

use std::path::Path;

use super::account::{Account, Fingerprint, Kind};
use super::audit::{SecurityEvent, What};
use super::book::{Book, BookError};
use super::password;
use super::scheme::{Scheme, is_reserved};
use crate::join::JoinBook;

/// What is to become of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add {
        kind: Kind,
        proof: Proof,
    },
    /// Other credentials in the place of all that there were: who has a password or a key of before is nobody.
    Rotate(Proof),
    Disable,
    Enable,
    Remove,
}

/// How an account proves itself: an argon2id hash, keys of certificates, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    pub password: Option<String>,
    pub keys: Vec<Fingerprint>,
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error("there is no account {0:?}; `list` shows those that there are")]
    Unknown(String),
    #[error("{0:?} is there already: `rotate` gives it other credentials")]
    Taken(String),
    #[error("the name {0:?} is reserved: client ids that begin with it are the node's own")]
    Reserved(String),
    #[error("there are no accounts of kind {0} here")]
    Kind(Kind),
    #[error("an account needs a password or a certificate")]
    NoProof,
    #[error("write down what is done: {0}")]
    Audit(std::io::Error),
    #[error("forget its codes for joining: {0}")]
    Codes(String),
    #[error("the node has just been started: say it again")]
    Started,
}

impl Change {
    /// Whether connections of the account must end with it.
    pub fn revokes(&self) -> bool {
        matches!(self, Change::Rotate(_) | Change::Disable | Change::Remove)
    }

    /// First of all: a code that lets a site in must not undo it later.
    pub(super) fn forget_codes(&self, dir: &Path, name: &str, now_ms: u64) -> Result<(), ChangeError> {
        if !self.revokes() {
            return Ok(());
        }
        JoinBook::forget(dir, name, now_ms).map_err(|why| ChangeError::Codes(why.to_string()))
    }

    /// Carries it out in a book. Returns what to tell of it.
    ///
    /// # Errors
    /// It cannot be; the book is as it was.
    pub fn apply(
        &self,
        book: &mut Book,
        name: &str,
        by: &str,
        now_ms: u64,
        scheme: &Scheme,
    ) -> Result<SecurityEvent, ChangeError> {
        let held = book.get(name).cloned();
        let known = || held.clone().ok_or_else(|| ChangeError::Unknown(name.to_owned()));
        let (account, what, detail) = match self {
            Change::Add { .. } if held.is_some() => return Err(ChangeError::Taken(name.to_owned())),
            Change::Add { kind, proof } => {
                if !scheme.kinds.contains(kind) {
                    return Err(ChangeError::Kind(*kind));
                }
                if is_reserved(name) {
                    return Err(ChangeError::Reserved(name.to_owned()));
                }
                proof.check()?;
                let Proof { password, keys } = proof.clone();
                let (name, kind, disabled) = (name.to_owned(), *kind, false);
                let account = Account { name, kind, password, keys, disabled, since_ms: now_ms, changed_ms: now_ms };
                (Some(account), What::AccountAdded, format!("{kind} with {proof}"))
            }
            Change::Rotate(proof) => {
                proof.check()?;
                let Proof { password, keys } = proof.clone();
                (Some(Account { password, keys, ..known()? }), What::AccountChanged, format!("other: {proof}"))
            }
            Change::Disable => (Some(Account { disabled: true, ..known()? }), What::AccountDisabled, String::new()),
            Change::Enable => (Some(Account { disabled: false, ..known()? }), What::AccountEnabled, String::new()),
            Change::Remove => {
                let kind = known()?.kind;
                (None, What::AccountRemoved, kind.to_string())
            }
        };
        match account {
            Some(account) => book.put(Account { changed_ms: now_ms, ..account })?,
            None => drop(book.remove(name)),
        }
        Ok(SecurityEvent { what, who: name.to_owned(), by: by.to_owned(), peer: String::new(), detail })
    }

    /// The words of it on the admin socket, after the account's name and who asks.
    pub(super) fn to_words(&self) -> (&'static str, String) {
        match self {
            Change::Add { kind, proof } => ("add", format!(" {kind} {}", proof.to_words())),
            Change::Rotate(proof) => ("rotate", format!(" {}", proof.to_words())),
            Change::Disable => ("disable", String::new()),
            Change::Enable => ("enable", String::new()),
            Change::Remove => ("remove", String::new()),
        }
    }

    pub(crate) fn of_words(verb: &str, words: &[&str]) -> Option<Change> {
        Some(match (verb, words) {
            ("add", [kind, password, keys]) => {
                let kind = clap::ValueEnum::from_str(kind, false).ok()?;
                Change::Add { kind, proof: Proof::of_words(password, keys)? }
            }
            ("rotate", [password, keys]) => Change::Rotate(Proof::of_words(password, keys)?),
            ("disable", []) => Change::Disable,
            ("enable", []) => Change::Enable,
            ("remove", []) => Change::Remove,
            _ => return None,
        })
    }
}

impl Proof {
    fn check(&self) -> Result<(), ChangeError> {
        let usable = self.password.as_deref().is_none_or(password::is_hash);
        if usable && (self.password.is_some() || !self.keys.is_empty()) { Ok(()) } else { Err(ChangeError::NoProof) }
    }

    fn to_words(&self) -> String {
        let keys = self.keys.iter().map(Fingerprint::to_string).collect::<Vec<_>>().join(",");
        format!("{} {}", self.password.as_deref().unwrap_or("-"), if keys.is_empty() { "-" } else { &keys })
    }

    fn of_words(password: &str, keys: &str) -> Option<Proof> {
        let keys = keys.split(',').filter(|key| *key != "-").map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Proof { password: (password != "-").then(|| password.to_owned()), keys })
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.password.is_some(), self.keys.is_empty()) {
            (true, true) => "a password",
            (true, false) => "a password and a certificate",
            (false, _) => "a certificate",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEME: Scheme =
        Scheme { command: "device", kinds: &[Kind::Pos], publish_below: None, makes_ca: true, example: "" };

    fn with_password() -> Proof {
        Proof { password: Some(password::hash("x").unwrap()), keys: vec![] }
    }

    #[test]
    fn an_account_is_added_changed_and_removed_and_each_is_told() {
        let mut book = Book::default();
        let mut say = |change: Change| change.apply(&mut book, "pos-1", "root", 5, &SCHEME).map(|event| event.what);
        assert!(matches!(say(Change::Disable), Err(ChangeError::Unknown(_))));
        let add = Change::Add { kind: Kind::Pos, proof: with_password() };
        assert_eq!(say(add.clone()).unwrap(), What::AccountAdded);
        assert!(matches!(say(add), Err(ChangeError::Taken(_))));
        assert_eq!(say(Change::Rotate(with_password())).unwrap(), What::AccountChanged);
        assert!(matches!(say(Change::Rotate(Proof::default())), Err(ChangeError::NoProof)));
        let plain = Proof { password: Some("plain".into()), keys: vec![] };
        assert!(matches!(say(Change::Rotate(plain)), Err(ChangeError::NoProof)), "never in the clear");
        assert_eq!(say(Change::Disable).unwrap(), What::AccountDisabled);
        assert_eq!(say(Change::Remove).unwrap(), What::AccountRemoved);
        let kind = Change::Add { kind: Kind::Site, proof: with_password() };
        assert!(matches!(say(kind), Err(ChangeError::Kind(Kind::Site))));
        for reserved in ["gateway", "hub", "gateway:x", "tillsync-1", "auto-1"] {
            let add = Change::Add { kind: Kind::Pos, proof: with_password() };
            let outcome = add.apply(&mut book, reserved, "root", 5, &SCHEME);
            assert!(matches!(outcome, Err(ChangeError::Reserved(_))), "{reserved}");
        }
        assert!(book.is_empty());
    }

    #[test]
    fn changes_survive_the_admin_socket() {
        let keys = vec![Fingerprint([1; 32]), Fingerprint([2; 32])];
        for change in [
            Change::Add { kind: Kind::Scanner, proof: Proof { keys: keys.clone(), ..with_password() } },
            Change::Rotate(Proof { password: None, keys }),
            Change::Rotate(with_password()),
            Change::Disable,
            Change::Enable,
            Change::Remove,
        ] {
            let (verb, rest) = change.to_words();
            let words: Vec<&str> = rest.split_whitespace().collect();
            assert_eq!(Change::of_words(verb, &words), Some(change));
        }
    }
}
