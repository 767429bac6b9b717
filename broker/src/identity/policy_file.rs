//! The policy file: TOML, read whole, with every fault at its line.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::account::Kind;
use super::filters::NAME;
use super::rights::{Patterns, Rights, Subject};
use super::scheme::Scheme;
use crate::front::topic_rules;
use crate::node::settings::{Fault, Faults};

/// A longer file is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;
const RULES_MAX: usize = 1_000;
const PATTERNS_MAX: usize = 100;
const DIGEST_HEX: usize = 16;

impl Rights {
    /// Reads a policy file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path, scheme: &Scheme) -> Result<Rights, Faults> {
        let unreadable = |why: String| {
            let fault =
                Fault { key: path.display().to_string(), found: why, must_be: "a readable file of TOML".into() };
            Faults(vec![fault])
        };
        let bytes = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(unreadable(format!("{bytes} bytes, which are more than {FILE_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        Rights::parse(&text, &path.display().to_string(), scheme)
    }

    /// `file` stands in front of each fault's line.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str, file: &str, scheme: &Scheme) -> Result<Rights, Faults> {
        let mut reader = Reader { text, file, scheme, faults: Vec::new(), rights: Rights::default() };
        let (table, mut broken) = DeTable::parse_recoverable(text);
        broken.sort_by_key(|error| error.span().unwrap_or_default().start);
        for error in broken {
            let span = error.span().unwrap_or_default();
            reader.fault(span, "", error.message(), "TOML");
        }
        // What is left of a broken file is not worth judging.
        if reader.faults.is_empty() {
            reader.file(table.get_ref());
        }
        if !reader.faults.is_empty() {
            return Err(Faults(reader.faults));
        }
        let digest = blake3::hash(text.as_bytes()).to_hex()[..DIGEST_HEX].to_owned();
        Ok(Rights { digest, ..reader.rights })
    }
}

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    scheme: &'a Scheme,
    faults: Vec<Fault>,
    rights: Rights,
}

impl Reader<'_> {
    fn fault(&mut self, at: Range<usize>, place: &str, found: impl ToString, must_be: impl Into<String>) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let place = if place.is_empty() { String::new() } else { format!(": {place}") };
        let key = format!("{}:{line}{place}", self.file);
        self.faults.push(Fault { key, found: found.to_string(), must_be: must_be.into() });
    }

    fn file(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref().as_array()) {
                (what @ ("allow" | "deny"), Some(rules)) => self.rules(what, rules, value.span()),
                (what @ ("allow" | "deny"), None) => {
                    self.fault(value.span(), what, shown(value), format!("one or more [[{what}]] tables"));
                }
                (other, _) => self.fault(key.span(), other, shown(value), "left out, or [[allow]] or [[deny]]"),
            }
        }
    }

    fn rules(&mut self, what: &str, rules: &DeArray<'_>, at: Range<usize>) {
        if self.rights.rules + rules.len() > RULES_MAX {
            return self.fault(at, what, rules.len(), format!("rules, of which one file has {RULES_MAX} at most"));
        }
        for (n, rule) in rules.iter().enumerate() {
            let place = format!("{what}[{n}]");
            let Some(table) = rule.get_ref().as_table() else {
                self.fault(rule.span(), &place, shown(rule), format!("a [[{what}]] table"));
                continue;
            };
            let patterns = self.patterns(what, &place, table);
            let Some(subject) = self.subject(&place, table, rule.span()) else { continue };
            if patterns.publish.is_empty() && patterns.subscribe.is_empty() {
                self.fault(rule.span(), &place, "(no topics)", "a rule with `publish`, `subscribe` or both");
            }
            let of = if what == "allow" { &mut self.rights.allow } else { &mut self.rights.deny };
            let all = of.entry(subject).or_default();
            all.publish.extend(patterns.publish);
            all.subscribe.extend(patterns.subscribe);
            self.rights.rules += 1;
        }
    }

    fn subject(&mut self, place: &str, rule: &DeTable<'_>, at: Range<usize>) -> Option<Subject> {
        let scheme = self.scheme;
        let kinds = scheme.kinds.iter().map(|kind| format!("{:?}", kind.to_string())).collect::<Vec<_>>().join(", ");
        match (rule.get("who"), rule.get("kind")) {
            (Some(who), None) => match who.get_ref().as_str().filter(|name| proto::id::check_name(name).is_ok()) {
                Some(name) => return Some(Subject::Name(name.to_owned())),
                None => self.fault(who.span(), &format!("{place}.who"), shown(who), "an account's name"),
            },
            (None, Some(kind)) => match kind.get_ref().as_str().and_then(|text| kind_of(text, scheme)) {
                Some(kind) => return Some(Subject::Kind(kind)),
                None => self.fault(kind.span(), &format!("{place}.kind"), shown(kind), format!("one of {kinds}")),
            },
            _ => self.fault(at, place, "(whom is it about?)", "a rule with either `who` or `kind`"),
        }
        None
    }

    fn patterns(&mut self, what: &str, place: &str, rule: &DeTable<'_>) -> Patterns {
        let mut patterns = Patterns::default();
        for (key, value) in rule {
            let at = format!("{place}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "who" | "kind" => {}
                "publish" => patterns.publish = self.list(&at, value, what == "allow"),
                "subscribe" => patterns.subscribe = self.list(&at, value, false),
                _ => self.fault(key.span(), &at, shown(value), "left out, or who, kind, publish, subscribe"),
            }
        }
        patterns
    }

    fn list(&mut self, place: &str, value: &Spanned<DeValue<'_>>, may_publish: bool) -> Vec<String> {
        let Some(array) = value.get_ref().as_array().filter(|array| array.len() <= PATTERNS_MAX) else {
            self.fault(
                value.span(),
                place,
                shown(value),
                format!("a list of at most {PATTERNS_MAX} topics or filters"),
            );
            return vec![];
        };
        let mut patterns = Vec::new();
        for (n, pattern) in array.iter().enumerate() {
            let wrong = pattern.get_ref().as_str().map_or(Some("text".into()), |text| self.wrong(text, may_publish));
            match (wrong, pattern.get_ref().as_str()) {
                (None, Some(text)) => patterns.push(text.to_owned()),
                (wrong, _) => {
                    let must_be = wrong.unwrap_or_default();
                    self.fault(pattern.span(), &format!("{place}[{n}]"), shown(pattern), must_be);
                }
            }
        }
        patterns
    }

    /// What the pattern must be, if it is not.
    fn wrong(&self, pattern: &str, may_publish: bool) -> Option<String> {
        let half_a_name = |level: &str| level != NAME && level.contains(['{', '}']);
        if !topic_rules::filter(pattern) || pattern.split('/').any(half_a_name) {
            return Some("a topic filter of MQTT; {name} stands for the account's name, as a whole level".into());
        }
        match self.scheme.publish_below {
            _ if !may_publish => None,
            Some(below) if pattern.starts_with(below) => None,
            Some(below) => Some(format!("below {below}: nothing else is taken in here")),
            None => Some("left out: only sites write here, each its own topic".into()),
        }
    }
}

/// The kind, if there are accounts of it here.
fn kind_of(text: &str, scheme: &Scheme) -> Option<Kind> {
    scheme.kinds.iter().copied().find(|kind| kind.to_string() == text)
}

fn shown(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("{text:?}"),
        other => format!("({})", other.type_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rights::Say;
    use super::*;

    const STORE: Scheme = Scheme {
        command: "device",
        kinds: &[Kind::Scanner, Kind::Pos, Kind::Monitor, Kind::Integrator],
        publish_below: Some("dev/"),
        makes_ca: true,
        example: "",
    };

    #[test]
    fn every_fault_is_shown_with_its_place() {
        let text = r##"
surprise = 1
[[allow]]
who = "erp"
publish = ["dev/erp/item", "store/x", "dev/#/x"]
[[allow]]
kind = "site"
subscribe = ["a/{nam}/b", 7]
[[deny]]
who = "erp"
kind = "pos"
publish = "dev/#"
[[deny]]
who = "a b"
"##;
        let Faults(faults) = Rights::parse(text, "p.toml", &STORE).unwrap_err();
        let mut places: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                "p.toml:12: deny[0].publish",
                "p.toml:14: deny[1].who",
                "p.toml:2: surprise",
                "p.toml:5: allow[0].publish[1]",
                "p.toml:5: allow[0].publish[2]",
                "p.toml:7: allow[1].kind",
                "p.toml:8: allow[1].subscribe[0]",
                "p.toml:8: allow[1].subscribe[1]",
                "p.toml:9: deny[0]",
            ]
        );
        let Faults(broken) = Rights::parse("[[allow]]\nwho = \nsubscribe = [\n", "p.toml", &STORE).unwrap_err();
        assert!(broken[0].key.starts_with("p.toml:2"), "{broken:?}");
    }

    #[test]
    fn rules_add_and_take_away_by_name_and_by_kind() {
        let text = r##"
allow = [
    { who = "erp", publish = ["dev/erp/+"], subscribe = ["store/#", "dev/{name}/reply"] },
    { kind = "monitor", subscribe = ["dev/+/reply"] },
]
deny = [
    { kind = "scanner", publish = ["dev/{name}/sale"], subscribe = ["store/setting/#"] },
]
"##;
        let rights = Rights::parse(text, "p", &STORE).unwrap();
        let (erp, scanner) = (Kind::Integrator, Kind::Scanner);
        assert_eq!(rights.publish("erp", erp, "dev/erp/item"), Say::Allowed);
        assert_eq!(rights.publish("other", erp, "dev/erp/item"), Say::Nothing);
        assert_eq!(rights.publish("s-1", scanner, "dev/s-1/sale"), Say::Denied);
        assert_eq!(rights.publish("s-1", scanner, "dev/s-1/scan"), Say::Nothing);
        assert_eq!(rights.subscribe("erp", erp, "dev/erp/reply"), Say::Allowed);
        assert_eq!(rights.subscribe("erp", erp, "dev/+/reply"), Say::Nothing);
        assert_eq!(rights.subscribe("office", Kind::Monitor, "dev/+/reply"), Say::Allowed);
        assert_eq!(rights.subscribe("s-1", scanner, "store/#"), Say::Denied, "it asks for what is denied, too");
        assert_eq!((rights.rules(), rights.digest().len()), (3, 16));
    }
}
