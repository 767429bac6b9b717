//! Where the nodes put what: the fields of their status and of HQ's topics, read in this one place.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// What a gateway says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct GatewayStatus {
    pub ledger: LedgerStatus,
    pub uplink: UplinkStatus,
    #[serde(default)]
    pub rights: RightsStatus,
}

#[derive(Debug, Clone, Deserialize)]
pub struct LedgerStatus {
    pub last_seq: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct UplinkStatus {
    pub connected: bool,
    #[serde(default)]
    pub backlog_records: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct RightsStatus {
    /// By item number of 14 digits.
    #[serde(default)]
    pub items: BTreeMap<String, ItemRights>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ItemRights {
    pub granted: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct HubStatus {
    /// Where its HTTPS is, if it has one.
    #[serde(default)]
    pub api: Option<String>,
    #[serde(default)]
    pub sites: BTreeMap<String, HubSite>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct HubSite {
    pub online: bool,
    pub applied_seq: u64,
}

pub async fn gateway(dir: &Path) -> Result<GatewayStatus> {
    ask(dir).await
}

pub async fn hub(dir: &Path) -> Result<HubStatus> {
    ask(dir).await
}

async fn ask<T: for<'de> Deserialize<'de>>(dir: &Path) -> Result<T> {
    let path = dir.join("admin.sock");
    let asking = async {
        let mut socket = UnixStream::connect(&path).await?;
        socket.write_all(b"status\n").await?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).await?;
        anyhow::Ok(line)
    };
    let line = timeout(ANSWER_WAIT, asking).await.with_context(|| format!("{} did not answer", path.display()))?;
    let line = line.with_context(|| format!("asking {}", path.display()))?;
    serde_json::from_str(&line).with_context(|| format!("reading the status {:?}", shorten(&line)))
}

/// One item as HQ shows it on `hq/stock/{gtin}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HqStock {
    pub on_hand: i64,
    #[serde(default)]
    pub sites: BTreeMap<String, i64>,
}

pub fn hq_stock(payload: &[u8]) -> Option<HqStock> {
    serde_json::from_slice(payload).ok()
}

/// One conflict as HQ shows it on `hq/conflicts/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HqConflict {
    pub key: String,
    pub loser: HqValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HqValue {
    pub value: Value,
}

pub fn hq_conflict(payload: &[u8]) -> Option<HqConflict> {
    serde_json::from_slice(payload).ok()
}

/// Whether a store's document says `value` under the name `field`, however deep.
pub fn says(payload: &[u8], field: &str, value: &Value) -> bool {
    serde_json::from_slice(payload).is_ok_and(|document| finds(&document, field, value))
}

fn finds(document: &Value, field: &str, value: &Value) -> bool {
    match document {
        Value::Object(fields) => {
            fields.iter().any(|(name, held)| (name == field && is(held, value)) || finds(held, field, value))
        }
        Value::Array(held) => held.iter().any(|held| finds(held, field, value)),
        _ => false,
    }
}

/// A field may hold the value itself or an object that holds it beside who wrote it and when.
fn is(held: &Value, value: &Value) -> bool {
    held == value || held.get("value") == Some(value)
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_a_field_where_it_is() {
        let item = br#"{"gtin":"1","price_cents":1290,"notes":[{"author":"anna","text":"pear"}],"name":{"value":"x"}}"#;
        assert!(says(item, "price_cents", &json!(1290)));
        assert!(says(item, "text", &json!("pear")));
        assert!(says(item, "name", &json!("x")));
        assert!(!says(item, "price_cents", &json!(1291)));
        assert!(!says(b"", "price_cents", &json!(1290)));
    }

    #[test]
    fn reads_the_statuses_of_the_contract() {
        let text = r#"{"site":"harbour","ledger":{"last_seq":7},"uplink":{"connected":true,"applied_seq":5,"backlog_records":2}}"#;
        let status: GatewayStatus = serde_json::from_str(text).unwrap();
        assert_eq!((status.ledger.last_seq, status.uplink.backlog_records), (7, 2));
        let text = r#"{"sites":{"harbour":{"online":true,"applied_seq":5,"backlog_records":2}}}"#;
        let status: HubStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.sites["harbour"].applied_seq, 5);
        let stock = hq_stock(br#"{"gtin":"04006381333931","on_hand":22,"sites":{"harbour":22},"as_of":1}"#).unwrap();
        assert_eq!(stock.sites["harbour"], stock.on_hand);
    }
}
