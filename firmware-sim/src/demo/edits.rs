//! One item's price and one tasting note, written at two cut-off sites at once: what is typed in, and what all must
//! agree on in the end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::HqRegisters;
use crate::monitor::{Monitor, Topics};
use crate::plan::{EDITING_SITES, KILLED_SITE, SITES, TABLET, Wine};
use crate::request::{Action, Quirk, Request};
use crate::status;

/// How long a screen is watched for changes before the stores are compared.
const LOOK: Duration = Duration::from_millis(100);
const AUTHOR: &str = "anna";
const FIRST: Version = Version { price_cents: 1290, text: "Pear, wet stone, a long finish.", score: Some(88) };
const SECOND: [Version; 2] = [
    Version { price_cents: 1190, text: "Opened up after an hour: apricot.", score: None },
    Version { price_cents: 1390, text: "Corked bottle, taste another one.", score: None },
];

struct Version {
    price_cents: i64,
    text: &'static str,
    score: Option<u32>,
}

pub(super) struct Edits {
    pub(super) wine: Wine,
}

impl Edits {
    /// What the shop knew before, written at one site.
    pub(super) fn before(&self) -> Vec<Request> {
        self.version(KILLED_SITE, 0, &FIRST, Some(self.wine.name.clone()))
    }

    /// The same registers, written at two sites that cannot hear each other.
    pub(super) fn apart(&self) -> Vec<Request> {
        let both = EDITING_SITES.iter().zip(&SECOND);
        both.flat_map(|(site, version)| self.version(*site, 1, version, None)).collect()
    }

    fn version(&self, site: usize, round: u32, version: &Version, name: Option<String>) -> Vec<Request> {
        let code = self.wine.code.clone();
        let request = |id: String, action| Request {
            site,
            device: TABLET.into(),
            id: Some(id),
            at_ms: None,
            due: Duration::ZERO,
            quirk: Quirk::None,
            action,
        };
        let item = Action::EditItem { code: code.clone(), name, price_cents: version.price_cents };
        let (author, text) = (AUTHOR.to_owned(), version.text.to_owned());
        let note = Action::WriteNote { code, author, text, score: version.score };
        vec![request(format!("item{round}"), item), request(format!("note{round}"), note)]
    }

    fn gtin14(&self) -> String {
        format!("{:0>14}", self.wine.code)
    }

    /// The two registers with the values that the two sites gave them.
    fn registers(&self) -> [(String, &'static str, [Value; 2]); 2] {
        let gtin = self.gtin14();
        let [a, b] = &SECOND;
        [
            (format!("item/{gtin}/price_cents"), "price_cents", [json!(a.price_cents), json!(b.price_cents)]),
            (format!("note/{gtin}/{AUTHOR}/text"), "text", [json!(a.text), json!(b.text)]),
        ]
    }

    /// Waits until all stores show the first version.
    pub(super) async fn await_before(&self, doors: &[SocketAddr], most: Duration) -> Result<Result<(), String>> {
        let topic = self.topic();
        for (screen, site) in self.screens(doors).iter_mut().zip(SITES) {
            let shown = screen.until(most, |topics| {
                let shown = topics.get(&topic).map(Bytes::as_ref).unwrap_or_default();
                let price = status::says(shown, "price_cents", &json!(FIRST.price_cents));
                let text = status::says(shown, "text", &json!(FIRST.text));
                if price && text { Ok(()) } else { Err(complaint(&topic, site, shown)) }
            });
            if let Err(complaint) = shown.await? {
                return Ok(Err(complaint));
            }
        }
        Ok(Ok(()))
    }

    /// Waits until all stores show the same of the two second versions: which one, for price and for note.
    pub(super) async fn await_agreed(
        &self,
        doors: &[SocketAddr],
        most: Duration,
    ) -> Result<Result<[usize; 2], String>> {
        let deadline = Instant::now() + most;
        let mut screens = self.screens(doors);
        loop {
            let mut shown = Vec::new();
            for (screen, site) in screens.iter_mut().zip(SITES) {
                // Takes in what changed since the last look, then waits for one of the second versions.
                let _ = screen.until(LOOK, |_| Err::<(), _>(String::new())).await?;
                let left = deadline.saturating_duration_since(Instant::now());
                match screen.until(left, |topics| self.versions(topics, site)).await? {
                    Ok(versions) => shown.push(versions),
                    Err(complaint) => return Ok(Err(complaint)),
                }
            }
            if shown.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(Ok(shown[0]));
            }
            if Instant::now() >= deadline {
                return Ok(Err(format!(
                    "the stores show different versions of {}: {shown:?} of {SITES:?}",
                    self.topic()
                )));
            }
        }
    }

    fn versions(&self, topics: &Topics, site: &str) -> Result<[usize; 2], String> {
        let topic = self.topic();
        let shown = topics.get(&topic).map(Bytes::as_ref).unwrap_or_default();
        let version = |(_, field, values): &(String, &str, [Value; 2])| {
            values
                .iter()
                .position(|value| status::says(shown, field, value))
                .ok_or_else(|| complaint(&topic, site, shown))
        };
        let [price, text] = &self.registers();
        Ok([version(price)?, version(text)?])
    }

    fn screens(&self, doors: &[SocketAddr]) -> Vec<Monitor> {
        doors.iter().map(|addr| Monitor::new("demo-screen", *addr, &[self.topic()])).collect()
    }

    fn topic(&self) -> String {
        format!("store/item/{}", self.gtin14())
    }

    /// Whether HQ's conflict topics tell of both losers.
    pub(super) fn losers_shown(&self, topics: &Topics, agreed: [usize; 2]) -> Result<(), String> {
        for ((key, _, values), winner) in self.registers().iter().zip(agreed) {
            let loser = &values[1 - winner];
            let shown = topics.iter().filter(|(topic, _)| topic.starts_with("hq/conflicts/"));
            let mut told = shown.filter_map(|(_, payload)| status::hq_conflict(payload));
            if !told.any(|conflict| conflict.key == *key && conflict.loser.value == *loser) {
                return Err(format!("no hq/conflicts topic tells that {loser} lost at {key}"));
            }
        }
        Ok(())
    }

    /// HQ's own ledger against what the stores agreed on. Gives the faults.
    pub(super) fn check_hq(&self, hq: &HqRegisters, agreed: [usize; 2]) -> Vec<String> {
        let mut faults = Vec::new();
        for ((key, _, values), winner) in self.registers().iter().zip(agreed) {
            let (won, lost) = (values[winner].to_string(), values[1 - winner].to_string());
            match hq.values.get(key) {
                Some(value) if same_json(value, &values[winner]) => {}
                value => faults.push(format!("{key} is {value:?} at HQ and {won} in the stores")),
            }
            let conflicts = hq.conflicts.iter().filter(|conflict| conflict.key == *key);
            let known = conflicts.filter(|conflict| {
                same_json(&conflict.winner, &values[winner]) && same_json(&conflict.loser, &values[1 - winner])
            });
            if known.count() != 1 {
                faults.push(format!(
                    "HQ's ledger does not have exactly one conflict at {key} that {won} won over {lost}"
                ));
            }
        }
        faults
    }
}

fn complaint(topic: &str, site: &str, shown: &[u8]) -> String {
    match shown {
        [] => format!("{topic} at {site} shows nothing"),
        shown => format!("{topic} at {site} shows {}", String::from_utf8_lossy(shown)),
    }
}

fn same_json(text: &str, value: &Value) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|held| held == *value)
}
