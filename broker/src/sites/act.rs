//! What the `site` commands do: by the running hub, which sees it at once, or on the files of a stopped one.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::identity::audit::What;
use crate::identity::{Account, AuditSender, Book, BookError, Kind, SecurityEvent, SharedBook};
use crate::join::{Code, Cut, Invitation, JoinBook, JoinBookError, Pin, Secret};
use crate::node::beside::{Answering, Beside};
use crate::node::note::{of_word, to_word};
use crate::node::wall_ms;
use crate::pki::{self, Facts, OwnPaths, PkiError};

/// Why a command did nothing, for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum SiteError {
    #[error(transparent)]
    Accounts(#[from] BookError),
    #[error(transparent)]
    Joins(#[from] JoinBookError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("{0}")]
    Not(String),
}

/// One command, and by whom, as the words cross the admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) act: Act,
    pub(super) by: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Add { site: String, valid_ms: u64, replace: bool },
    List,
    Disable(String),
    Enable(String),
    Remove(String),
}

impl Act {
    pub(super) fn site(&self) -> Option<&str> {
        match self {
            Act::List => None,
            Act::Add { site, .. } | Act::Disable(site) | Act::Enable(site) | Act::Remove(site) => Some(site),
        }
    }

    /// Whose connections end by it.
    fn cuts(&self) -> Option<&str> {
        match self {
            Act::Disable(site) | Act::Remove(site) => Some(site),
            _ => None,
        }
    }

    /// Does it on the files of a data folder.
    pub(super) fn carry_out(&self, dir: &Path, now_ms: u64) -> Result<Value, SiteError> {
        match self {
            Act::Add { site, valid_ms, replace } => add(dir, site, *valid_ms, *replace, now_ms),
            Act::List => list(dir, now_ms),
            Act::Disable(site) => set_disabled(dir, site, true, now_ms),
            Act::Enable(site) => set_disabled(dir, site, false, now_ms),
            Act::Remove(site) => remove(dir, site, now_ms),
        }
    }
}

impl Order {
    pub(super) fn words(&self) -> String {
        let by = to_word('b', &self.by);
        match &self.act {
            Act::Add { site, valid_ms, replace } => format!("site add {site} {valid_ms} {replace} {by}"),
            Act::List => format!("site list {by}"),
            Act::Disable(site) => format!("site disable {site} {by}"),
            Act::Enable(site) => format!("site enable {site} {by}"),
            Act::Remove(site) => format!("site remove {site} {by}"),
        }
    }

    pub(super) fn of_words(words: &[&str]) -> Option<Order> {
        let (by, words) = words.split_last()?;
        let act = match *words {
            ["site", "add", site, valid_ms, replace] => {
                Act::Add { site: site.into(), valid_ms: valid_ms.parse().ok()?, replace: replace.parse().ok()? }
            }
            ["site", "list"] => Act::List,
            ["site", "disable", site] => Act::Disable(site.into()),
            ["site", "enable", site] => Act::Enable(site.into()),
            ["site", "remove", site] => Act::Remove(site.into()),
            _ => return None,
        };
        Some(Order { act, by: of_word('b', by)? })
    }

    /// What the journal is told of it.
    pub(super) fn event(&self) -> Option<SecurityEvent> {
        let (what, detail) = match &self.act {
            Act::List => return None,
            Act::Add { .. } => (What::AccountAdded, "a code was made"),
            Act::Disable(_) => (What::AccountDisabled, ""),
            Act::Enable(_) => (What::AccountEnabled, ""),
            Act::Remove(_) => (What::AccountRemoved, ""),
        };
        let (who, by, peer) = (self.act.site()?.to_owned(), self.by.clone(), String::new());
        Some(SecurityEvent { what, who, by, peer, detail: detail.into() })
    }
}

fn add(dir: &Path, site: &str, valid_ms: u64, replace: bool, now_ms: u64) -> Result<Value, SiteError> {
    proto::id::check_name(site).map_err(|why| SiteError::Not(format!("the name {site:?} {why}")))?;
    match Book::load(dir)?.get(site) {
        Some(account) if account.kind != Kind::Site => {
            return Err(SiteError::Not(format!("{site} is the name of a {}", account.kind)));
        }
        Some(account) if account.disabled && !replace => {
            let why =
                format!("{site} is disabled; `site enable {site}` first, or --replace for another box in its place");
            return Err(SiteError::Not(why));
        }
        Some(account) if (!account.keys.is_empty() || account.password.is_some()) && !replace => {
            let why = format!("{site} has joined already; with --replace another box takes its place when it joins");
            return Err(SiteError::Not(why));
        }
        _ => {}
    }
    let paths = OwnPaths::of(dir);
    let trusted = paths.trusted()?.ok_or_else(|| {
        SiteError::Not(format!("there is no {}: `tillsync-broker init` makes it", paths.ca.display()))
    })?;
    let secret = Secret::draw().map_err(|why| SiteError::Not(format!("draw a code: {why}")))?;
    let expires_ms = now_ms.saturating_add(valid_ms);
    let hash = secret.hash().to_hex().to_string();
    let invitation = Invitation { site: site.into(), hash, expires_ms, replaces: replace, taken: None };
    JoinBook::edit(dir, now_ms, |book| book.add(invitation))?;
    let code = Code { secret, pin: Pin::of(&Facts::of_pem(&trusted)?.key) };
    Ok(json!({ "site": site, "code": code.to_string(), "expires_ms": expires_ms }))
}

fn list(dir: &Path, now_ms: u64) -> Result<Value, SiteError> {
    let (accounts, joins) = (Book::load(dir)?, JoinBook::load(dir)?);
    let invited: Vec<_> = joins.open(now_ms).collect();
    let until = |site: &str| invited.iter().find(|open| open.site == site).map(|open| open.expires_ms);
    let mut sites = Vec::new();
    for account in accounts.iter().filter(|account| account.kind == Kind::Site) {
        sites.push(json!({
            "site": account.name,
            "state": if account.disabled { "disabled" } else { "joined" },
            "since_ms": account.since_ms,
            "keys": account.keys,
            "invited_until_ms": until(&account.name),
        }));
    }
    for open in invited.iter().filter(|open| accounts.get(&open.site).is_none()) {
        sites.push(json!({ "site": open.site, "state": "invited", "invited_until_ms": open.expires_ms }));
    }
    Ok(json!({ "sites": sites }))
}

fn set_disabled(dir: &Path, site: &str, disabled: bool, now_ms: u64) -> Result<Value, SiteError> {
    Book::edit(dir, |book| {
        let account = site_of(book, site)?.clone();
        Ok::<_, SiteError>(book.put(Account { disabled, changed_ms: now_ms, ..account })?)
    })?;
    if disabled {
        JoinBook::edit(dir, now_ms, |book| Ok::<_, SiteError>(book.remove(site)))?;
    }
    Ok(json!({ "site": site, "state": if disabled { "disabled" } else { "joined" } }))
}

fn remove(dir: &Path, site: &str, now_ms: u64) -> Result<Value, SiteError> {
    // Its codes first: one that is used meanwhile must not bring it back.
    let invited = JoinBook::edit(dir, now_ms, |book| Ok::<_, SiteError>(book.remove(site)))?;
    let removed = Book::edit(dir, |book| match site_of(book, site) {
        Ok(_) => Ok(book.remove(site).is_some()),
        Err(_) if invited => Ok(false),
        Err(not) => Err(not),
    });
    removed.map(|_| json!({ "site": site, "state": "removed" }))
}

fn site_of<'a>(book: &'a Book, site: &str) -> Result<&'a Account, SiteError> {
    let found = book.get(site).filter(|account| account.kind == Kind::Site);
    found.ok_or_else(|| SiteError::Not(format!("no site {site} has joined; `site list` shows who has")))
}

/// The commands as a running hub carries them out.
pub(crate) struct SiteOffice {
    pub(crate) dir: PathBuf,
    pub(crate) accounts: SharedBook,
    pub(crate) audit: AuditSender,
    /// Ends the live connections of a site.
    pub(crate) cut: Cut,
}

impl fmt::Debug for SiteOffice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteOffice").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Beside for SiteOffice {
    fn status(&self, _: &mut Value) {}

    fn question(&self, words: &[&str]) -> Option<Answering> {
        let order = Order::of_words(words)?;
        let (dir, accounts, cut) = (self.dir.clone(), self.accounts.clone(), self.cut.clone());
        let audit = self.audit.clone();
        Some(Box::new(move || {
            let done = order.act.carry_out(&dir, wall_ms()).and_then(|done| {
                accounts.reload(&dir)?;
                Ok(done)
            });
            if done.is_ok() {
                order.event().into_iter().for_each(|event| audit.tell(event));
                order.act.cuts().into_iter().for_each(|site| cut(site));
            }
            done.unwrap_or_else(|why| json!({ "error": why.to_string() }))
        }))
    }
}

/// The host that gateways are told to join at.
pub(super) fn host(dir: &Path) -> Option<String> {
    let server = pki::read_bounded(&OwnPaths::of(dir).server).ok().flatten()?;
    let hosts = Facts::of_pem(&server).ok()?.hosts;
    hosts.into_iter().next().map(|host| if host.contains(':') { format!("[{host}]") } else { host })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Own, SERVER_VALID_MS};

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn words_there_and_back() {
        for act in [
            Act::Add { site: "harbour".into(), valid_ms: 3_600_000, replace: true },
            Act::List,
            Act::Disable("a".into()),
            Act::Enable("b".into()),
            Act::Remove("c".into()),
        ] {
            let order = Order { act, by: "anna".into() };
            let words = order.words();
            assert_eq!(Order::of_words(&words.split(' ').collect::<Vec<_>>()), Some(order));
        }
        for other in ["", "site", "site add x", "site lost x", "site list", "site disable x", "status"] {
            assert_eq!(Order::of_words(&other.split(' ').collect::<Vec<_>>()), None);
        }
    }

    #[test]
    fn a_stopped_hub_invites_lists_and_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let add = || Act::Add { site: "harbour".into(), valid_ms: 1_000, replace: false }.carry_out(dir, NOW);
        assert!(add().unwrap_err().to_string().contains("init"));
        Own::create(dir, Authority::create("ca", NOW).unwrap(), &["h.example".into()], NOW, SERVER_VALID_MS).unwrap();
        let code: Code = add().unwrap()["code"].as_str().unwrap().parse().unwrap();
        assert_eq!(code.pin, Pin::of(&Own::open(dir).unwrap().authority.facts().key));
        let state = |now| Act::List.carry_out(dir, now).unwrap()["sites"][0]["state"].clone();
        assert_eq!((state(NOW), state(NOW + 1_000)), ("invited".into(), Value::Null));
        assert!(Act::Disable("harbour".into()).carry_out(dir, NOW).is_err(), "it has not joined");
        Act::Remove("harbour".into()).carry_out(dir, NOW).unwrap();
        assert_eq!(state(NOW), Value::Null);
        assert!(Act::Remove("harbour".into()).carry_out(dir, NOW).is_err());
        let wrong = Act::Add { site: "har bour".into(), valid_ms: 1, replace: false };
        assert!(wrong.carry_out(dir, NOW).is_err());
        assert_eq!(host(dir).as_deref(), Some("h.example"));
    }
}
