//! Topic filters as a tree of their levels, so that finding who wants a topic costs by its levels and not by how many
//! filters there are (OASIS MQTT 3.1.1, section 4.7).

use std::collections::BTreeMap;

/// Filters, each with a value for everyone who has it. Filters are valid ones; `$` topics do not occur here, so
/// wildcards match everything.
#[derive(Debug)]
pub(crate) struct FilterTree<K, V> {
    root: Node<K, V>,
    entries: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    /// In order rather than hashed: most levels have few filters, and every message is looked up.
    children: BTreeMap<Box<str>, Node<K, V>>,
    plus: Option<Box<Node<K, V>>>,
    /// Filters that end here.
    here: BTreeMap<K, V>,
    /// Filters that end here with `#`.
    hash: BTreeMap<K, V>,
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Node { children: BTreeMap::new(), plus: None, here: BTreeMap::new(), hash: BTreeMap::new() }
    }
}

impl<K, V> Default for FilterTree<K, V> {
    fn default() -> Self {
        FilterTree { root: Node::default(), entries: 0 }
    }
}

impl<K: Ord + Copy, V> FilterTree<K, V> {
    /// Sets what `who` has under this filter.
    pub(crate) fn insert(&mut self, filter: &str, who: K, value: V) {
        let mut node = &mut self.root;
        let (path, hash) = split_hash(filter);
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            node = match level {
                "+" => node.plus.get_or_insert_default(),
                level => {
                    if !node.children.contains_key(level) {
                        node.children.insert(level.into(), Node::default());
                    }
                    match node.children.get_mut(level) {
                        Some(child) => child,
                        None => return debug_assert!(false, "just inserted"),
                    }
                }
            };
        }
        let ends = if hash { &mut node.hash } else { &mut node.here };
        if ends.insert(who, value).is_none() {
            self.entries += 1;
        }
    }

    /// Takes it away again, with every level that nobody else needs.
    pub(crate) fn remove(&mut self, filter: &str, who: K) {
        let (path, hash) = split_hash(filter);
        let mut levels = path.into_iter().flat_map(|path| path.split('/'));
        if self.root.remove(&mut levels, hash, who) {
            self.entries -= 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// One for each filter of each who has it.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Everyone whose filter matches the topic; once for each of their filters.
    pub(crate) fn each_match<'a>(&'a self, topic: &str, each: &mut dyn FnMut(K, &'a V)) {
        if self.is_empty() {
            return;
        }
        self.root.visit(Some(topic), &mut |who, value| {
            each(who, value);
            false
        });
    }

    /// Whether anybody's filter matches.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        !self.is_empty() && self.root.visit(Some(topic), &mut |_, _| true)
    }
}

impl<K: Ord + Copy, V> Node<K, V> {
    /// `levels` is what is left of the topic. Stops, and says so, once `each` has had enough.
    fn visit<'a>(&'a self, levels: Option<&str>, each: &mut dyn FnMut(K, &'a V) -> bool) -> bool {
        // `a/#` matches `a` too.
        if self.hash.iter().any(|(who, value)| each(*who, value)) {
            return true;
        }
        let Some(levels) = levels else {
            return self.here.iter().any(|(who, value)| each(*who, value));
        };
        if self.children.is_empty() && self.plus.is_none() {
            return false;
        }
        let (level, rest) = first_level(levels);
        self.children.get(level).is_some_and(|child| child.visit(rest, each))
            || self.plus.as_ref().is_some_and(|child| child.visit(rest, each))
    }

    /// True if it was there.
    fn remove(&mut self, levels: &mut dyn Iterator<Item = &str>, hash: bool, who: K) -> bool {
        match levels.next() {
            None => if hash { &mut self.hash } else { &mut self.here }.remove(&who).is_some(),
            Some("+") => {
                let Some(child) = &mut self.plus else { return false };
                let removed = child.remove(levels, hash, who);
                if child.is_empty() {
                    self.plus = None;
                }
                removed
            }
            Some(level) => {
                let Some(child) = self.children.get_mut(level) else { return false };
                let removed = child.remove(levels, hash, who);
                if child.is_empty() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.hash.is_empty()
    }
}

/// The levels before a `#` (none if it stands alone), and whether there is one.
fn split_hash(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix("/#") {
        Some(path) => (Some(path), true),
        None if filter == "#" => (None, true),
        None => (Some(filter), false),
    }
}

/// Every message is asked about, on the one thread that all wait for: levels are short, so this beats a searcher.
fn first_level(levels: &str) -> (&str, Option<&str>) {
    match levels.bytes().position(|byte| byte == b'/') {
        Some(at) => (&levels[..at], Some(&levels[at + 1..])),
        None => (levels, None),
    }
}

/// MQTT's rule for one filter, level by level, as it is told.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let (mut wanted, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("+")];
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_filter_map("not empty", |(levels, hash)| {
            let levels: Vec<&str> = levels.into_iter().chain(hash.then_some("#")).collect();
            Some(levels.join("/")).filter(|filter| !filter.is_empty())
        })
    }

    proptest! {
        #[test]
        fn the_tree_matches_as_the_rule_does(
            changes in prop::collection::vec((filter(), 0u8..4, any::<bool>()), 0..40),
            topic in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("")], 1..5),
        ) {
            let topic = topic.join("/");
            let (mut tree, mut plain) = (FilterTree::default(), BTreeMap::new());
            for (n, (filter, who, insert)) in changes.into_iter().enumerate() {
                if insert {
                    tree.insert(&filter, who, n);
                    plain.insert((filter, who), n);
                } else {
                    tree.remove(&filter, who);
                    plain.remove(&(filter, who));
                }
            }
            let mut found = Vec::new();
            tree.each_match(&topic, &mut |who, value| found.push((who, *value)));
            let mut wanted: Vec<_> =
                plain.iter().filter(|((f, _), _)| matches(f, &topic)).map(|((_, who), n)| (*who, *n)).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(tree.wants(&topic), !wanted.is_empty());
            prop_assert_eq!(tree.is_empty(), plain.is_empty());
            for (filter, who) in plain.keys() {
                tree.remove(filter, *who);
            }
            prop_assert!(tree.is_empty() && tree.root.is_empty(), "nothing stays behind");
        }
    }
}
