//! `DIR/accounts.json`: the accounts of a node, readable by its owner only, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use proto::id::NameError;
use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::node::whole_file;

/// More are refused. A hub has one for each site, a store one for each device.
pub const ACCOUNTS_MAX: usize = 20_000;
const FILE: &str = "accounts.json";
const FORMAT: u32 = 1;
/// A longer file is not one of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    #[error("{}: not a list of accounts ({why}); put a copy of it back, or remove it and add the accounts again", path.display())]
    Content { path: PathBuf, why: String },
    #[error("{}: format {found}; this version reads up to {FORMAT}: use the newer program", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("the name {name:?} {why}")]
    Name { name: String, why: NameError },
    #[error("there are {ACCOUNTS_MAX} accounts already; remove one first")]
    Full,
}

/// All accounts of a node, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    accounts: BTreeMap<String, Account>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    #[serde(default)]
    accounts: Vec<Account>,
}

impl Book {
    /// Reads the book of a data folder; an empty one if there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of a newer format.
    pub fn load(dir: &Path) -> Result<Book, BookError> {
        let path = dir.join(FILE);
        let text = match read(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
            Err(why) => return Err(BookError::File { path, why }),
        };
        let content = |why: serde_json::Error| BookError::Content { path: path.clone(), why: why.to_string() };
        let format = serde_json::from_str::<Format>(&text).map_err(content)?.format;
        if format > FORMAT {
            return Err(BookError::Newer { path, found: format });
        }
        let on_disk: OnDisk = serde_json::from_str(&text).map_err(content)?;
        let mut book = Book::default();
        for account in on_disk.accounts {
            book.put(account)?;
        }
        Ok(book)
    }

    pub fn get(&self, name: &str) -> Option<&Account> {
        self.accounts.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Adds or replaces one.
    ///
    /// # Errors
    /// The name is not one, or there is no room.
    pub fn put(&mut self, account: Account) -> Result<(), BookError> {
        proto::id::check_name(&account.name).map_err(|why| BookError::Name { name: account.name.clone(), why })?;
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&account.name) {
            return Err(BookError::Full);
        }
        self.accounts.insert(account.name.clone(), account);
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Option<Account> {
        self.accounts.remove(name)
    }

    /// Puts the book on disk in place of the one that is there. It is durable when this returns.
    ///
    /// # Errors
    /// Nothing of it is there, or all of it may be: look again.
    pub fn save(&self, dir: &Path) -> Result<(), BookError> {
        let on_disk = OnDisk { format: FORMAT, accounts: self.accounts.values().cloned().collect() };
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(&on_disk).map_err(io::Error::from);
        let saved = text.and_then(|text| whole_file::replace(&path, &text, 0o600));
        saved.map_err(|why| BookError::File { path, why })
    }

    /// Loads, changes and saves, alone among all processes that do so through this.
    ///
    /// # Errors
    /// Those of loading, of `change`, and of saving; nothing is changed then, but see [`Book::save`].
    pub fn edit<T, E: From<BookError>>(
        dir: &Path,
        change: impl FnOnce(&mut Book) -> Result<T, E>,
    ) -> Result<(Book, T), E> {
        let path = dir.join("accounts.lock");
        let _alone = whole_file::lock(&path).map_err(|why| BookError::File { path, why })?;
        let mut book = Book::load(dir)?;
        let outcome = change(&mut book)?;
        book.save(dir)?;
        Ok((book, outcome))
    }
}

/// The first thing to read: what else there is depends on it.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = io::Read::take(File::open(path)?, FILE_BYTES_MAX);
    io::Read::read_to_string(&mut { file }, &mut text)?;
    Ok(text)
}

/// The book as the running node sees it: whoever looks gets it whole, whoever changes it puts another in its place.
#[derive(Debug, Clone, Default)]
pub struct SharedBook(Arc<RwLock<Arc<Book>>>);

impl SharedBook {
    pub fn new(book: Book) -> SharedBook {
        SharedBook(Arc::new(RwLock::new(Arc::new(book))))
    }

    pub fn now(&self) -> Arc<Book> {
        // Only ever replaced as a whole, so there is nothing half-done behind a poisoned lock.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what is on disk now. Whoever changes the file says so by this, and then the latest change is what is seen,
    /// in whatever order they come.
    ///
    /// # Errors
    /// As [`Book::load`]; what was seen before stays.
    pub fn reload(&self, dir: &Path) -> Result<(), BookError> {
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *seen = Arc::new(Book::load(dir)?);
        Ok(())
    }

    pub fn replace(&self, book: Book) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Fingerprint, Kind};
    use super::*;

    fn account(name: &str) -> Account {
        let (since_ms, changed_ms) = (5, 7);
        let keys = vec![Fingerprint([9; 32])];
        Account { name: name.into(), kind: Kind::Pos, password: None, keys, disabled: false, since_ms, changed_ms }
    }

    #[test]
    fn what_is_saved_is_loaded_and_is_its_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Book::load(dir.path()).unwrap().is_empty());
        let (book, ()) = Book::edit(dir.path(), |book| book.put(account("pos-1"))).unwrap();
        assert_eq!(Book::load(dir.path()).unwrap(), book);
        assert_eq!(book.get("pos-1"), Some(&account("pos-1")));
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Book::edit(dir.path(), |book| book.put(account("pos-1"))).unwrap();
        let outcome = Book::edit(dir.path(), |book| {
            book.remove("pos-1");
            book.put(account("no/name"))
        });
        assert!(matches!(outcome, Err(BookError::Name { .. })));
        assert!(Book::load(dir.path()).unwrap().get("pos-1").is_some());
    }

    #[test]
    fn a_damaged_and_a_newer_book_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{\"format\":1,\"accounts\":[{").unwrap();
        assert!(matches!(Book::load(dir.path()), Err(BookError::Content { .. })));
        std::fs::write(dir.path().join(FILE), "{\"format\":2,\"people\":[]}").unwrap();
        assert!(matches!(Book::load(dir.path()), Err(BookError::Newer { found: 2, .. })));
    }

    #[test]
    fn two_who_edit_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    for n in 0..10 {
                        Book::edit(dir, |book| book.put(account(&format!("pos-{thread}-{n}")))).unwrap();
                    }
                });
            }
        });
        assert_eq!(Book::load(dir.path()).unwrap().iter().count(), 40);
    }
}
