//! `DIR/privacy.keys`: one key a line, the newest last. Stores of one brand have the same, so that a customer is the same
//! at all of them; each key names itself in every pseudonym that it made.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use broker::node::whole_file;
use proto::pseudonym::Pseudonym;
use ring::hmac;

/// More are not believed; a yearly rotation lasts a while.
const KEYS_MAX: usize = 1_000;
const FILE: &str = "privacy.keys";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    #[error("{}, line {line}: not a key; each line must be 64 hex digits", path.display())]
    Content { path: PathBuf, line: usize },
    #[error("{}: {KEYS_MAX} keys already", path.display())]
    Full { path: PathBuf },
}

/// The keys of a brand, oldest first; the last one is used. Never printed.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.ids().join(", "))
    }
}

impl Keys {
    /// Reads them; none if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no key: nothing may go out under a key that is not the brand's.
    pub fn load(dir: &Path) -> Result<Keys, KeyError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Keys::default()),
            Err(why) => return Err(KeyError::File { path, why }),
        };
        let keys: Result<Vec<_>, _> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(n, line)| read(line).ok_or_else(|| KeyError::Content { path: path.clone(), line: n + 1 }))
            .collect();
        let keys = keys?;
        if keys.len() > KEYS_MAX { Err(KeyError::Full { path }) } else { Ok(Keys(keys)) }
    }

    /// Reads them, and draws the first one if there is none.
    ///
    /// # Errors
    /// Those of `load`, of writing, and of the system's randomness.
    pub fn load_or_draw(dir: &Path) -> Result<Keys, KeyError> {
        let mut keys = Keys::load(dir)?;
        if keys.0.is_empty() {
            keys.rotate(dir)?;
        }
        Ok(keys)
    }

    /// Draws a new key and uses it from now on.
    ///
    /// # Errors
    /// It could not be drawn or written; then all is as before.
    pub fn rotate(&mut self, dir: &Path) -> Result<(), KeyError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|why| KeyError::File { path: dir.join(FILE), why: why.into() })?;
        self.take(dir, key)
    }

    /// Uses a key of the brand's, as `newest` gave it elsewhere, from now on. One that is there already moves to the end.
    ///
    /// # Errors
    /// As for `rotate`, and if the text is no key.
    pub fn import(&mut self, dir: &Path, text: &str) -> Result<(), KeyError> {
        let key = read(text).ok_or_else(|| KeyError::Content { path: "the key given".into(), line: 1 })?;
        self.take(dir, key)
    }

    fn take(&mut self, dir: &Path, key: [u8; 32]) -> Result<(), KeyError> {
        let mut keys: Vec<[u8; 32]> = self.0.iter().copied().filter(|known| *known != key).collect();
        keys.push(key);
        let path = dir.join(FILE);
        if keys.len() > KEYS_MAX {
            return Err(KeyError::Full { path });
        }
        let text: String = keys.iter().map(|key| hex(key) + "\n").collect();
        let written = std::fs::create_dir_all(dir).and_then(|()| whole_file::replace(&path, &text, 0o600));
        written.map_err(|why| KeyError::File { path, why })?;
        self.0 = keys;
        Ok(())
    }

    /// The key in use as text, for the brand's other stores. Whoever has it can tell who a pseudonym stands for by trying
    /// all ids.
    pub fn newest(&self) -> Option<String> {
        self.0.last().map(|key| hex(key))
    }

    /// What the keys are called in pseudonyms, oldest first.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| hex(&id(key))).collect()
    }

    /// HMAC-SHA-256 (RFC 2104) of field and id under the newest key, cut to 16 bytes, behind the key's id. The same id in
    /// another field is somebody else: cashier 7 is not customer 7.
    pub(super) fn pseudonym(&self, field: &str, id_of_person: &str) -> Pseudonym {
        // Without a key nothing can be told apart, and nothing is told.
        let key = self.0.last().copied().unwrap_or_default();
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
        context.update(field.as_bytes());
        context.update(&[0]);
        context.update(id_of_person.as_bytes());
        let tag = context.sign();
        let mut of = [0; 19];
        of[..3].copy_from_slice(&id(&key));
        of[3..].copy_from_slice(&tag.as_ref()[..16]);
        of
    }
}

/// Says nothing of the key itself.
fn id(key: &[u8; 32]) -> [u8; 3] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"tillsync privacy key id");
    [tag.as_ref()[0], tag.as_ref()[1], tag.as_ref()[2]]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn read(line: &str) -> Option<[u8; 32]> {
    let line = line.trim();
    if line.len() != 64 || !line.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&line[at..at + 2], 16).ok()?;
    }
    Some(key)
}
