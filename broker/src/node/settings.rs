//! Settings from a TOML file and flags: flags win over the file, the file over the defaults. All faults are shown at
//! once, each with its key, its value and what it must be.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

use crate::node::span::Span;

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub key: String,
    pub found: String,
    pub must_be: String,
}

/// Everything that is wrong, for one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for fault in &self.0 {
            write!(f, "\n  {} = {}: must be {}", fault.key, fault.found, fault.must_be)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A table being read: every key is asked for once, and what nobody asked for is a fault.
#[derive(Debug)]
pub struct Settings {
    table: Table,
    /// In front of the keys of a nested table, for messages.
    path: String,
    known: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Settings {
    pub fn parse(text: &str) -> Result<Settings, Faults> {
        let table = text.parse::<Table>().map_err(|error| {
            Faults(vec![Fault { key: "the file".into(), found: error.to_string(), must_be: "TOML".into() }])
        })?;
        Ok(Settings::of(table, String::new()))
    }

    pub fn load(file: Option<&Path>) -> Result<Settings, Faults> {
        let Some(path) = file else { return Settings::parse("") };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let found = format!("{} ({error})", path.display());
            Faults(vec![Fault { key: "--config".into(), found, must_be: "a readable file".into() }])
        })?;
        Settings::parse(&text)
    }

    fn of(table: Table, path: String) -> Settings {
        Settings { table, path, known: BTreeSet::new(), faults: Vec::new() }
    }

    /// A flag: it stands in for the file's value.
    pub fn flag(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.table.insert(key.to_owned(), value.into());
        }
    }

    pub fn fault(&mut self, key: &str, found: impl fmt::Display, must_be: impl Into<String>) {
        let key = format!("{}{key}", self.path);
        self.faults.push(Fault { key, found: found.to_string(), must_be: must_be.into() });
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.insert(key.to_owned());
        self.table.get(key).cloned()
    }

    /// A text that `T` can be read from.
    pub fn parsed<T: FromStr>(&mut self, key: &str, must_be: &str) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let value = self.take(key)?;
        match value.as_str().map(str::parse::<T>) {
            Some(Ok(parsed)) => return Some(parsed),
            Some(Err(error)) => self.fault(key, &value, format!("{must_be} ({error})")),
            None => self.fault(key, &value, must_be),
        }
        None
    }

    /// A key that is no longer read, and the command that does instead. Its value may be a secret: it is not shown.
    pub fn moved(&mut self, key: &str, command: &str) {
        if self.take(key).is_some() {
            self.fault(key, "(given)", format!("left out: no credentials stand in the configuration; use {command}"));
        }
    }

    /// A span of time within a range, such as "90d".
    pub fn span(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let (from, to) = (Span(*range.start()), Span(*range.end()));
        let must_be = format!("a span from {from} to {to}, such as \"90d\" or \"12h\"");
        match self.parsed::<Span>(key, &must_be) {
            Some(Span(span)) if range.contains(&span) => span,
            Some(span) => {
                self.fault(key, span, must_be);
                default
            }
            None => default,
        }
    }

    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.take(key) else { return default };
        let number = value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        number.unwrap_or_else(|| {
            self.fault(key, &value, format!("a whole number from {} to {}", range.start(), range.end()));
            default
        })
    }

    pub fn switch(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.take(key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.fault(key, &value, "true or false");
            default
        })
    }

    /// Reads the `[key]` table with `read`; its faults are gathered under `key`. `None` if there is no such table.
    pub fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Settings) -> T) -> Option<T> {
        let Value::Table(table) = self.take(key)? else {
            self.fault(key, "(no table)", format!("a [{key}] table"));
            return None;
        };
        let mut inner = Settings::of(table, format!("{}{key}.", self.path));
        let found = read(&mut inner);
        self.faults.extend(inner.close());
        Some(found)
    }

    /// Reads each `[[key]]` table with `each`; its faults are gathered under `key[n]`.
    pub fn tables<T>(&mut self, key: &str, mut each: impl FnMut(&mut Settings) -> Option<T>) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Value::Array(rows) = value else {
            self.fault(key, value, format!("one or more [[{key}]] tables"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (n, row) in rows.into_iter().enumerate() {
            let Value::Table(table) = row else {
                self.fault(key, row, format!("a [[{key}]] table"));
                continue;
            };
            let mut inner = Settings::of(table, format!("{}{key}[{n}].", self.path));
            found.extend(each(&mut inner));
            self.faults.extend(inner.close());
        }
        found
    }

    fn close(mut self) -> Vec<Fault> {
        let unknown: Vec<_> = self.table.keys().filter(|key| !self.known.contains(*key)).cloned().collect();
        for key in unknown {
            let value = self.table[&key].clone();
            self.fault(&key, value, format!("left out, or one of {}", listed(&self.known)));
        }
        self.faults
    }

    /// The last call: nothing is used unless everything is right.
    pub fn finish<T>(self, config: Option<T>) -> Result<T, Faults> {
        let faults = self.close();
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Faults(faults)),
        }
    }
}

fn listed(keys: &BTreeSet<String>) -> String {
    keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn shows_every_fault_at_once() {
        let text = "listen = \"nowhere\"\nwait_ms = -1\nopen = \"yes\"\nsurprise = 1\n[[device]]\nname = \"a b\"\n";
        let mut settings = Settings::parse(text).unwrap();
        let listen = settings.parsed::<SocketAddr>("listen", "an address such as 127.0.0.1:1883");
        settings.number("wait_ms", 0, 0..=1000);
        settings.switch("open", false);
        settings.tables("device", |device| device.parsed::<proto::id::DeviceName>("name", "a device's name"));
        let faults = settings.finish(listen).unwrap_err();
        let keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["listen", "wait_ms", "open", "device[0].name", "surprise"]);
        let shown = faults.to_string();
        assert!(shown.contains("wait_ms = -1: must be a whole number from 0 to 1000"), "{shown}");
        assert!(shown.contains("surprise = 1: must be left out, or one of device, listen, open, wait_ms"), "{shown}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut settings = Settings::parse("port = 1").unwrap();
        settings.flag("port", Some(2i64));
        settings.flag("other", None::<i64>);
        assert_eq!(settings.number("port", 3, 0..=9), 2);
        assert_eq!(settings.number("other", 3, 0..=9), 3);
        assert_eq!(settings.finish(Some(())), Ok(()));
    }
}
