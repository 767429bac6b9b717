//! Names and passwords from the configuration, for nodes that are not open.

use std::collections::HashMap;
use std::sync::Arc;

use crate::front::{Credentials, Refusal};
use crate::node::settings::Settings;

/// Who may connect. Passwords stand in the configuration for now: keep that file to its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    passwords: HashMap<Arc<str>, String>,
}

impl Accounts {
    /// Adds one; false if the name is taken.
    pub fn add(&mut self, name: &str, password: String) -> bool {
        self.passwords.insert(name.into(), password).is_none()
    }

    pub fn has(&self, name: &str) -> bool {
        self.passwords.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.passwords.keys().map(|name| &**name)
    }

    pub fn is_empty(&self) -> bool {
        self.passwords.is_empty()
    }

    /// The name that a verified certificate carries, or else the one whose password was shown. A certificate and a
    /// user name that differ are nobody. Takes as long for a wrong password as for a right one.
    pub fn recognise(&self, offered: &Credentials<'_>) -> Result<Arc<str>, Refusal> {
        if let Some(certified) = offered.certificate.map(|certified| certified.name.as_str()) {
            if offered.username.is_some_and(|username| username != certified) {
                return Err(Refusal::NotAuthorized);
            }
            let known = self.passwords.get_key_value(certified).map(|(name, _)| name.clone());
            return known.ok_or(Refusal::NotAuthorized);
        }
        let (Some(username), Some(password)) = (offered.username, offered.password) else {
            return Err(Refusal::BadCredentials);
        };
        match self.passwords.get_key_value(username) {
            // blake3 hashes compare in constant time.
            Some((name, known)) if blake3::hash(known.as_bytes()) == blake3::hash(password.as_bytes()) => {
                Ok(name.clone())
            }
            _ => Err(Refusal::BadCredentials),
        }
    }
}

/// A `password` key of at least eight characters.
pub fn password(settings: &mut Settings, required: bool) -> Option<String> {
    match settings.parsed::<String>("password", "text of at least 8 characters") {
        Some(password) if password.chars().count() >= 8 => Some(password),
        Some(_) => {
            settings.fault("password", "(shorter)", "text of at least 8 characters");
            None
        }
        None if required => {
            settings.fault("password", "(missing)", "given: without it nobody could connect under this name");
            None
        }
        None => None,
    }
}
