//! `DIR/joins.json`: the codes that were given out, by their hash, until a day after they end.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::Fingerprint;
use crate::join::code::Secret;
use crate::pki::{self, PkiError};

/// Codes that are remembered. More are refused until some have ended.
const CODES_MAX: usize = 1_000;
/// How long a code that ended is remembered, to say of it that it ended.
const REMEMBERED_MS: u64 = 24 * 3_600_000;
const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinBookError {
    #[error(transparent)]
    File(#[from] PkiError),
    #[error("there are {CODES_MAX} codes that have not ended; wait, or remove sites that will not join")]
    Full,
}

/// One code, of which the hub knows no more than its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invitation {
    pub(crate) site: String,
    /// BLAKE3 of the secret, 64 hex digits.
    pub(crate) hash: String,
    pub(crate) expires_ms: u64,
    /// The site may have joined before: this box takes the other one's place.
    #[serde(default)]
    pub(crate) replaces: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<Taken>,
}

/// Who used the code, and what was answered: the answer may have been lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) key: Fingerprint,
    pub(crate) certificate: String,
    pub(crate) at_ms: u64,
}

/// All codes of a hub.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct JoinBook {
    format: u32,
    codes: Vec<Invitation>,
}

/// How a site stands that has not joined yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invited {
    pub(crate) site: String,
    pub(crate) expires_ms: u64,
}

impl JoinBook {
    /// Reads, changes and writes, alone among all processes and threads. It is durable when this returns; nothing is
    /// written if `change` fails.
    ///
    /// # Errors
    /// Those of the file and of `change`.
    pub(crate) fn edit<T, E: From<JoinBookError>>(
        dir: &Path,
        now_ms: u64,
        change: impl FnOnce(&mut JoinBook) -> Result<T, E>,
    ) -> Result<T, E> {
        JoinBook::edit_then(dir, now_ms, change, Ok)
    }

    /// As [`JoinBook::edit`], and does something with the outcome before anybody else may edit: the change is on disk then.
    ///
    /// # Errors
    /// Those of the file, of `change` and of `then`.
    pub(crate) fn edit_then<T, U, E: From<JoinBookError>>(
        dir: &Path,
        now_ms: u64,
        change: impl FnOnce(&mut JoinBook) -> Result<T, E>,
        then: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<U, E> {
        let _alone = pki::lock(&dir.join("joins.lock")).map_err(JoinBookError::from)?;
        let mut book = JoinBook::load(dir)?;
        book.codes.retain(|code| code.expires_ms.saturating_add(REMEMBERED_MS) > now_ms);
        let outcome = change(&mut book)?;
        let text = serde_json::to_string_pretty(&book).map_err(|why| PkiError::content(&path(dir), why));
        pki::write_private(&path(dir), &text.map_err(JoinBookError::from)?).map_err(JoinBookError::from)?;
        then(outcome)
    }

    /// Forgets all codes of a site, where there are any: none that is used later may undo what is done to its account.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn forget(dir: &Path, site: &str, now_ms: u64) -> Result<(), JoinBookError> {
        if !path(dir).exists() {
            return Ok(());
        }
        JoinBook::edit(dir, now_ms, |book| {
            book.remove(site);
            Ok(())
        })
    }

    pub(crate) fn load(dir: &Path) -> Result<JoinBook, JoinBookError> {
        let Some(text) = pki::read_bounded(&path(dir))? else {
            return Ok(JoinBook { format: FORMAT, codes: Vec::new() });
        };
        let book: JoinBook = serde_json::from_str(&text).map_err(|why| PkiError::content(&path(dir), why))?;
        if book.format > FORMAT {
            let why = format!("format {}; this version reads up to {FORMAT}: use the newer program", book.format);
            return Err(PkiError::content(&path(dir), why).into());
        }
        Ok(book)
    }

    /// Adds a code; an unused one of the same site ends by it.
    pub(crate) fn add(&mut self, invitation: Invitation) -> Result<(), JoinBookError> {
        self.codes.retain(|code| code.site != invitation.site || code.taken.is_some());
        if self.codes.len() >= CODES_MAX {
            return Err(JoinBookError::Full);
        }
        self.codes.push(invitation);
        Ok(())
    }

    /// The code with this secret. All are compared, each in constant time.
    pub(crate) fn find(&mut self, secret: &Secret) -> Option<&mut Invitation> {
        let hash = secret.hash();
        let mut found = None;
        for code in &mut self.codes {
            // blake3 hashes compare in constant time.
            if blake3::Hash::from_hex(&code.hash).is_ok_and(|known| known == hash) {
                found = Some(code);
            }
        }
        found
    }

    /// Forgets all codes of a site.
    pub(crate) fn remove(&mut self, site: &str) -> bool {
        let before = self.codes.len();
        self.codes.retain(|code| code.site != site);
        self.codes.len() < before
    }

    /// Those whose code is not used and has not ended.
    pub(crate) fn open(&self, now_ms: u64) -> impl Iterator<Item = Invited> + '_ {
        let open = self.codes.iter().filter(move |code| code.taken.is_none() && code.expires_ms > now_ms);
        open.map(|code| Invited { site: code.site.clone(), expires_ms: code.expires_ms })
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("joins.json")
}
