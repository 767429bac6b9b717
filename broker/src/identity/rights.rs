//! What a policy file adds to and takes from the rights that each kind has by itself.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::account::Kind;
use super::filters::{covers, overlap, within};

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Name(String),
    Kind(Kind),
}

/// Patterns of topics and filters, in which `{name}` stands for the name of who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Patterns {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

/// The rules of one policy file; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    pub(super) allow: HashMap<Subject, Patterns>,
    pub(super) deny: HashMap<Subject, Patterns>,
    pub(super) rules: usize,
    /// Of the file's bytes, 16 hex digits; empty without one.
    pub(super) digest: String,
}

/// What the rules say of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    Nothing,
    Allowed,
    Denied,
}

impl Rights {
    /// Of a topic to publish on. A rule that denies wins.
    pub fn publish(&self, name: &str, kind: Kind, topic: &str) -> Say {
        let any = |rules, of: fn(&Patterns) -> &Vec<String>| {
            patterns(rules, name, kind).any(|p| of(p).iter().any(|pattern| covers(pattern, topic, name)))
        };
        say(any(&self.allow, |p| &p.publish), any(&self.deny, |p| &p.publish))
    }

    /// Of a filter: allowed if it asks for nothing that is not, denied if it asks for anything that is.
    pub fn subscribe(&self, name: &str, kind: Kind, filter: &str) -> Say {
        let allowed =
            patterns(&self.allow, name, kind).any(|p| p.subscribe.iter().any(|pattern| within(filter, pattern, name)));
        let denied =
            patterns(&self.deny, name, kind).any(|p| p.subscribe.iter().any(|pattern| overlap(filter, pattern, name)));
        say(allowed, denied)
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn rules(&self) -> usize {
        self.rules
    }
}

fn say(allowed: bool, denied: bool) -> Say {
    match (allowed, denied) {
        (_, true) => Say::Denied,
        (true, false) => Say::Allowed,
        (false, false) => Say::Nothing,
    }
}

/// Whether a filter asks for nothing that the pattern does not, by the rules of containment.
pub fn is_within(filter: &str, pattern: &str, name: &str) -> bool {
    within(filter, pattern, name)
}

fn patterns<'a>(
    rules: &'a HashMap<Subject, Patterns>,
    name: &str,
    kind: Kind,
) -> impl Iterator<Item = &'a Patterns> + use<'a> {
    // No file is the usual case.
    let of_name = if rules.is_empty() { None } else { rules.get(&Subject::Name(name.to_owned())) };
    of_name.into_iter().chain(rules.get(&Subject::Kind(kind)))
}

/// The rules as the running node sees them, replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct SharedRights(Arc<RwLock<Arc<Rights>>>);

impl SharedRights {
    pub fn new(rights: Rights) -> SharedRights {
        SharedRights(Arc::new(RwLock::new(Arc::new(rights))))
    }

    pub fn now(&self) -> Arc<Rights> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, rights: Rights) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rights);
    }
}
