//! What a running node knows of who belongs, and what it does when an operator says otherwise.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::account::Account;
use super::audit::{AuditSender, SecurityEvent, What};
use super::book::{Book, SharedBook};
use super::change::{Change, ChangeError};
use super::door::Door;
use super::rights::{Rights, SharedRights};
use super::scheme::Scheme;
use crate::front::Disconnector;
use crate::node::settings::{Fault, Faults};
use crate::node::wall_ms;

/// Accounts, rights and the door of one node. What decides is shared with the node's policy.
pub struct Guard {
    pub dir: PathBuf,
    pub scheme: &'static Scheme,
    pub book: SharedBook,
    pub rights: SharedRights,
    pub audit: AuditSender,
    pub door: Door,
    policy: Option<PathBuf>,
}

impl Guard {
    /// Reads the accounts in `dir` and the policy file, if one is named; a relative one is looked for in `dir`.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn open(dir: &Path, scheme: &'static Scheme, policy: Option<&Path>) -> anyhow::Result<Guard> {
        let policy = policy.map(|path| dir.join(path));
        let rights = policy.as_deref().map(|path| Rights::load(path, scheme)).transpose()?.unwrap_or_default();
        let (book, audit) = (SharedBook::new(Book::load(dir)?), AuditSender::default());
        let door = Door::new(book.clone(), audit.clone()).context("prepare to look at passwords")?;
        if policy.is_some() {
            audit.tell(loaded(&rights, "start"));
        }
        let (dir, rights) = (dir.to_path_buf(), SharedRights::new(rights));
        Ok(Guard { dir, scheme, book, rights, audit, door, policy })
    }

    /// Looks at the accounts once more: a command may have changed them while this node was starting.
    pub(crate) fn look_again(&self) -> anyhow::Result<()> {
        self.book.reload(&self.dir)?;
        Ok(())
    }

    /// Carries a change out: on disk, then for everybody who connects, then for those who are connected. Blocks.
    pub(crate) fn change(
        &self,
        name: &str,
        change: &Change,
        by: &str,
        disconnector: &Disconnector,
    ) -> Result<(SecurityEvent, usize), ChangeError> {
        let now_ms = wall_ms();
        change.forget_codes(&self.dir, name, now_ms)?;
        let (_, event) = Book::edit(&self.dir, |book| change.apply(book, name, by, now_ms, self.scheme))?;
        // What is on disk now, whoever else changed it meanwhile.
        self.book.reload(&self.dir)?;
        let closed = match change.revokes() {
            true => disconnector.close_where(|who| who.name.as_deref() == Some(name)),
            false => 0,
        };
        tracing::info!(name, by, what = %event.what, closed, "account changed");
        Ok((event, closed))
    }

    /// Reads the policy file again. A faulty one changes nothing. Blocks.
    pub(crate) fn reload(&self, by: &str, disconnector: &Disconnector) -> Result<SecurityEvent, Faults> {
        let Some(path) = &self.policy else {
            let (found, must_be) = ("(not set)".into(), "the path of a file, for there to be one to load".into());
            return Err(Faults(vec![Fault { key: "policy".into(), found, must_be }]));
        };
        match Rights::load(path, self.scheme) {
            Ok(rights) => {
                let event = loaded(&rights, by);
                tracing::info!(by, digest = rights.digest(), rules = rights.rules(), "policy loaded");
                self.rights.replace(rights);
                disconnector.rights_changed();
                Ok(event)
            }
            Err(faults) => {
                tracing::error!(by, "the policy stays as it was: {faults}");
                let detail = format!("{} faults; {} stays", faults.0.len(), self.rights.now().digest());
                let (who, peer) = (String::new(), String::new());
                self.audit.tell(SecurityEvent { what: What::PolicyRefused, who, by: by.to_owned(), peer, detail });
                Err(faults)
            }
        }
    }

    pub(crate) fn status(&self) -> Value {
        let (book, rights) = (self.book.now(), self.rights.now());
        json!({
            "accounts": book.iter().count(),
            "disabled": book.iter().filter(|account| account.disabled).count(),
            "policy": { "file": self.policy, "digest": rights.digest(), "rules": rights.rules() },
            "audit": self.audit.to_json(),
            "door": self.door.to_json(),
        })
    }
}

fn loaded(rights: &Rights, by: &str) -> SecurityEvent {
    let detail = match rights.digest() {
        "" => "no policy file: each kind has its own rights".to_owned(),
        digest => format!("digest {digest}, {} rules", rights.rules()),
    };
    let (who, peer) = (String::new(), String::new());
    SecurityEvent { what: What::PolicyLoaded, who, by: by.to_owned(), peer, detail }
}

/// An account as it is shown: never its hash.
pub(super) fn shown(account: &Account) -> Value {
    json!({
        "name": account.name,
        "kind": account.kind,
        "password": account.password.is_some(),
        "keys": account.keys,
        "disabled": account.disabled,
        "since_ms": account.since_ms,
        "changed_ms": account.changed_ms,
    })
}
